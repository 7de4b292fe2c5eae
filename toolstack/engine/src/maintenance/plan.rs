//! What emptying a host is going to do to each domain: a function of facts, and of nothing else.

use std::path::PathBuf;
use std::time::Duration;

use kxl_domain::{DomId, DomainName, DomainUuid, State, Wanted};
use serde::Serialize;

use super::order::{Circle, Rank, waves};

/// Bytes that an image takes beside the memory: device state, manifest, the file system's own.
const BESIDE: u64 = 8 << 20;

/// What stays free on the disk that images go to.
const SPARE: u64 = 64 << 20;

/// What a save takes however small it is.
const LEAST: Duration = Duration::from_millis(200);

/// A way to get a domain out of the way, or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Its state goes into an image.
    Save,
    /// The guest is asked to switch itself off, by the power button or by its stop command.
    Shutdown,
    /// The power is taken away.
    Destroy,
    /// It comes back from its image.
    Restore,
    /// It is started.
    Start,
}

impl Way {
    /// The ways that a policy can name.
    pub const POLICY: &'static [Self] = &[Self::Save, Self::Shutdown, Self::Destroy];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Save => "save",
            Self::Shutdown => "shutdown",
            Self::Destroy => "destroy",
            Self::Restore => "restore",
            Self::Start => "start",
        }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A domain, as far as host maintenance is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Durable identity.
    pub uuid: DomainUuid,
    /// Name.
    pub name: DomainName,
    /// Live number; `None` = it has no process.
    pub domid: Option<DomId>,
    /// Whether it is registered.
    pub managed: bool,
    /// The last wish.
    pub wanted: Wanted,
    /// Where it rests.
    pub state: State,
    /// Its start failed and it waits for its next try: it has no process.
    pub waits: bool,
    /// Its backend.
    pub backend: String,
    /// Its memory in bytes.
    pub memory: u64,
    /// Bytes of it that an image would hold, as far as can be told.
    pub touched: u64,
    /// Whether its backend can save it.
    pub can_save: bool,
    /// Whether its backend has a power button to press.
    pub can_shutdown: bool,
    /// `priority=`.
    pub priority: u32,
    /// `after=`.
    pub after: Vec<DomainName>,
    /// `stop_command=`, else its stop script.
    pub stop_command: Vec<String>,
    /// How long its stop script has, where it is that.
    pub script_time: Option<Duration>,
}

impl Member {
    /// Its rank among the others.
    #[must_use]
    pub fn rank(&self) -> Rank<'_> {
        Rank { name: &self.name, priority: self.priority, after: &self.after }
    }
}

/// In which order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By `priority=` and `after=`.
    #[default]
    Priority,
    /// All in one wave.
    None,
    /// These first, one by one; then the others by `priority=` and `after=`.
    First(Vec<DomainName>),
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The ways to try, in order.
    pub policy: Vec<Way>,
    /// When all has to be over, from the beginning on.
    pub deadline: Option<Duration>,
    /// How long a guest may take to switch itself off.
    pub patience: Duration,
    /// In which order.
    pub order: Order,
}

/// The disk that images go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// The directory.
    pub place: PathBuf,
    /// Bytes that may be used on it.
    pub free: u64,
    /// Bytes that it writes in a second.
    pub bandwidth: u64,
    /// Whether that was measured, and is not assumed.
    pub measured: bool,
}

impl Disk {
    /// One that nothing is going to be written to.
    #[must_use]
    pub fn unused(place: &std::path::Path) -> Self {
        Self { place: place.to_path_buf(), free: 0, bandwidth: 0, measured: false }
    }
}

/// What is going to be done to one domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Task {
    /// Its name.
    pub name: DomainName,
    /// The ways that will be tried, in order; empty = it is left as it is.
    pub ways: Vec<Way>,
    /// Why not the first way of the policy; why nothing; empty when there is nothing to explain.
    pub why: String,
    /// Nothing can be done to it although something should be.
    pub stuck: bool,
    /// Bytes that its image takes.
    pub bytes: u64,
}

/// The plan for a host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// What is done to each domain, in the order of the members.
    pub tasks: Vec<Task>,
    /// Places in `tasks`: those of a wave at once, wave after wave.
    pub waves: Vec<Vec<usize>>,
    /// Bytes that the images take.
    pub bytes: u64,
    /// How long the saves take, in seconds, by the bandwidth.
    pub seconds: f64,
    /// The disk they go to.
    pub disk: Disk,
}

/// Plans how a host is emptied.
///
/// Space and time go to those that start first, as the more important ones; what does not fit
/// takes the next way of the policy, and so does at once whatever its backend cannot save.
///
/// # Errors
/// [`Circle`] when `after=` of some domains runs in one.
pub fn plan(members: &[Member], disk: Disk, request: &Request) -> Result<Plan, Circle> {
    let starting = in_order(members, &request.order)?;
    let mut left = disk.free.saturating_sub(SPARE);
    let mut time = request.deadline;
    let mut tasks: Vec<Option<Task>> = vec![None; members.len()];
    let (mut bytes, mut seconds) = (0, Duration::ZERO);
    for index in starting.iter().flatten() {
        let member = &members[*index];
        let mut task = ways(member, &request.policy);
        if task.ways.first() == Some(&Way::Save) {
            let takes = duration(task.bytes, disk.bandwidth) + LEAST;
            let refusal = if task.bytes > left {
                let (need, left, spare) = (mib(task.bytes), mib(left), mib(SPARE));
                Some(format!("its image needs {need}, and {left} are left beside {spare} to spare"))
            } else if time.is_some_and(|time| takes > time) {
                Some(format!(
                    "saving it takes {:.1} s, and the deadline leaves {:.1} s",
                    takes.as_secs_f64(),
                    time.unwrap_or_default().as_secs_f64()
                ))
            } else {
                None
            };
            match refusal {
                None => {
                    left -= task.bytes;
                    time = time.map(|time| time.saturating_sub(takes));
                    bytes += task.bytes;
                    seconds += takes;
                }
                Some(why) => {
                    task.ways.remove(0);
                    task.bytes = 0;
                    task.stuck = task.ways.is_empty();
                    task.why = why;
                }
            }
        }
        tasks[*index] = Some(task);
    }
    let mut waves = starting;
    if !matches!(request.order, Order::First(_)) {
        waves.reverse();
    }
    Ok(Plan {
        tasks: tasks.into_iter().flatten().collect(),
        waves,
        bytes,
        seconds: seconds.as_secs_f64(),
        disk,
    })
}

/// The waves of starting. With names to be dealt with first the waves are those of stopping.
///
/// # Errors
/// [`Circle`].
pub fn in_order(members: &[Member], order: &Order) -> Result<Vec<Vec<usize>>, Circle> {
    let ranks: Vec<_> = members.iter().map(Member::rank).collect();
    match order {
        Order::Priority => waves(&ranks),
        Order::None => Ok(vec![(0..members.len()).collect()]),
        Order::First(names) => {
            let place = |name: &DomainName| members.iter().position(|member| member.name == *name);
            let first: Vec<usize> = names.iter().filter_map(place).collect();
            let mut rest = waves(&ranks)?;
            rest.reverse();
            for wave in &mut rest {
                wave.retain(|index| !first.contains(index));
            }
            rest.retain(|wave| !wave.is_empty());
            Ok(first.into_iter().map(|index| vec![index]).chain(rest).collect())
        }
    }
}

/// The ways that are open for a domain, space and time aside.
fn ways(member: &Member, policy: &[Way]) -> Task {
    let mut task = Task {
        name: member.name.clone(),
        ways: Vec::new(),
        why: String::new(),
        stuck: false,
        bytes: 0,
    };
    if member.domid.is_none() {
        task.why = format!("it is {}", member.state);
        return task;
    }
    if member.waits {
        // There is nothing to be saved and nobody to be asked; nothing is lost with the wait.
        task.ways.push(Way::Destroy);
        "it waits for its next try, without a process".clone_into(&mut task.why);
        return task;
    }
    let ended = member.state == State::Shutdown;
    for way in policy {
        let refusal = match way {
            Way::Save if ended => Some("its guest has ended".to_owned()),
            Way::Save if member.state == State::Asleep => Some("it is asleep".to_owned()),
            Way::Save if !member.can_save => {
                Some(format!("backend \"{}\" does not offer save-state", member.backend))
            }
            Way::Shutdown if ended => Some("its guest has ended".to_owned()),
            Way::Shutdown if member.state != State::Running => {
                Some(format!("it is {}, and its guest cannot hear", member.state))
            }
            Way::Shutdown if !member.can_shutdown && member.stop_command.is_empty() => {
                Some(format!("backend \"{}\" has no power button", member.backend))
            }
            _ => None,
        };
        match refusal {
            None => task.ways.push(*way),
            // What explains the plan is why it begins as it does.
            Some(why) if task.ways.is_empty() => {
                let between = if task.why.is_empty() { "" } else { "; " };
                task.why.push_str(between);
                task.why.push_str(&why);
            }
            Some(_) => {}
        }
    }
    if task.ways.first() == Some(&Way::Save) {
        task.bytes = member.touched.min(member.memory) + BESIDE;
    }
    // What is only kept for inspection stops nobody.
    task.stuck = task.ways.is_empty() && !ended;
    task
}

/// How long so many bytes take.
#[must_use]
pub fn duration(bytes: u64, bandwidth: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / bandwidth.max(1))
}

/// A size for people.
#[must_use]
pub fn mib(bytes: u64) -> String {
    match bytes.div_ceil(1 << 20) {
        mib if mib < 10 * 1024 => format!("{mib} MiB"),
        mib => format!("{} GiB", mib.div_ceil(1024)),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
