//! Emptying: the work on single domains, and the journal around it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kxl_control::client::{Client, Step};
use kxl_control::{After, Answer, Call, Moved, Save, Until};
use kxl_domain::image::{ImagePlace, Purpose};
use kxl_domain::{DomainConfig, DomainName, Failure, Kind, Reason, State, Verb, Wanted};
use kxl_store::ListRow;
use kxl_store::image::Image;

use super::facts::{file_in, is_safe};
use super::journal::{Entry, Journal, Left};
use super::plan::{Member, Plan, Way};
use super::run::{Course, Desk, Done, Errand, Hands, News, Outcome, Pace, run};
use crate::host::{Host, stored};
use crate::script::Script;
use crate::service::{kept, rests_as};
use crate::stop_script::{self, Shutting};

/// How many images of one domain may wait in a directory.
const MOST_FILES: u32 = 99;

/// How long a domain that another command is busy with is waited for.
const BUSY: Duration = Duration::from_secs(10);

/// How long the power may take to be taken away.
const DESTROY: Duration = Duration::from_secs(30);

/// How often it is looked what has become of a domain that changes.
const LOOK: Duration = Duration::from_millis(50);

/// How often a stop script is looked at: it cannot be waited for together with its guest.
const TURN: Duration = Duration::from_millis(250);

/// How a host is emptied.
#[derive(Clone, Debug)]
pub struct Stopping {
    /// The directory that images go to as files; `None` = the store.
    pub to: Option<PathBuf>,
    /// How many saves are in flight at once.
    pub jobs: usize,
    /// How long a guest may take to switch itself off.
    pub patience: Duration,
    /// When all has to be over.
    pub until: Option<Instant>,
    /// The text at the head of a file that tells other programs what is in it
    /// ([`Save::header`]).
    pub header: fn(&DomainConfig) -> String,
}

/// Gives up what is in flight when it is dropped: the writing end of a pipe whose other end every
/// request watches.
#[derive(Debug)]
pub struct Stopper(Mutex<Option<OwnedFd>>);

impl Stopper {
    pub(super) fn new() -> Result<(Self, OwnedFd), Failure> {
        let (sign, pull) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
            .map_err(|error| Failure::because(Kind::Internal, "cannot make a pipe", &error))?;
        Ok((Self(Mutex::new(Some(pull))), sign))
    }

    pub(super) fn pull(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    pub(super) fn is_pulled(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

impl Host {
    /// Empties the host as planned. What has to come back is on the disk before anything is done;
    /// what became of each domain is in its course, in the order of `members`.
    ///
    /// Killed at any moment, it can be begun again: what is saved or off stays so and is found by
    /// [`Host::left`].
    ///
    /// # Errors
    /// When nothing was begun: the directory cannot be used, or the journal cannot be written and
    /// something was to be saved.
    pub fn empty(
        &mut self,
        members: &[Member],
        plan: &Plan,
        how: &Stopping,
        desk: &Desk,
        news: &mut dyn FnMut(News<'_>),
    ) -> Result<Vec<Course>, Failure> {
        if let Some(directory) = &how.to {
            is_safe(directory)?;
        }
        let mut journal =
            Journal::read(&self.paths)?.unwrap_or_else(|| Journal::new(self.store.boot_id()));
        for (member, task) in members.iter().zip(&plan.tasks) {
            if !task.ways.is_empty() {
                let mut entry = self.entry(member, how)?;
                // Asked to shut down before, and not gone yet: its wish is the one of then.
                if let Some(earlier) = journal.find(member.uuid) {
                    entry.wanted = earlier.wanted;
                }
                journal.put_entry(entry);
            }
        }
        if let Err(failure) = journal.write(&self.paths) {
            // A full disk must not keep a host from being shut down.
            if plan.tasks.iter().any(|task| task.ways.contains(&Way::Save)) {
                return Err(failure.hint("nothing was done; make room, or use --policy shutdown"));
            }
            tracing::warn!(%failure, "what has to come back is not written down");
        }
        let (stopper, sign) = Stopper::new()?;
        let hands =
            Emptying { members, how, journal: &journal.clone(), stopper: &stopper, sign: &sign };
        let errands: Vec<_> =
            plan.tasks.iter().map(|task| Errand { ways: task.ways.clone() }).collect();
        let pace = Pace { jobs: how.jobs.max(1), until: how.until };
        let paths = self.paths.clone();
        let mut record = |one: News<'_>| {
            if let News::Ended(index, course) = &one {
                write_down(&mut journal, &members[*index], course);
                if let Err(failure) = journal.write(&paths) {
                    tracing::warn!(%failure, "what was done is not written down");
                }
            }
            news(one);
        };
        Ok(run(&errands, &plan.waves, pace, desk, &hands, &mut record))
    }

    /// A name in a directory of images that nothing has but an image from which a guest went on.
    fn free_file(&mut self, directory: &Path, name: &DomainName) -> Result<PathBuf, Failure> {
        for count in 0..=MOST_FILES {
            let file = file_in(directory, name, count);
            let spent = match Image::open_file(&file) {
                Ok(image) => self.store.file_spent(image.id()).map_err(|error| {
                    stored(format!("cannot look at {}", file.display()), &error)
                })?,
                Err(_) => None,
            };
            if spent.is_some() || !file.exists() {
                return Ok(file);
            }
        }
        let text = format!("{} is full of images of \"{name}\"", directory.display());
        Err(Failure::new(Kind::Failed, text).hint("move away those that are not needed any more"))
    }

    fn entry(&mut self, member: &Member, how: &Stopping) -> Result<Entry, Failure> {
        let row = self.find(&member.uuid.to_string())?;
        let config = if member.managed { None } else { self.config_of(&row)?.map(Box::new) };
        Ok(Entry {
            uuid: member.uuid,
            name: member.name.clone(),
            managed: member.managed,
            wanted: member.wanted,
            state: member.state,
            config,
            file: match &how.to {
                Some(directory) => Some(self.free_file(directory, &member.name)?),
                None => None,
            },
            left: Left::Begun,
        })
    }
}

/// A domain that failed keeps its entry as begun: asked to shut down, it may still do so.
fn write_down(journal: &mut Journal, member: &Member, course: &Course) {
    let Some(mut entry) = journal.find(member.uuid).cloned() else { return };
    let left = match &course.outcome {
        Outcome::Done(_, Done::Saved(saved)) => {
            let place = entry.file.clone().map_or(ImagePlace::Store, ImagePlace::File);
            Left::Image(saved.image, place)
        }
        Outcome::Done(_, Done::Off) => Left::Off,
        Outcome::Done(_, Done::Destroyed) => Left::Destroyed,
        _ => return,
    };
    entry.left = left;
    journal.put_entry(entry);
}

/// What a thread needs to get one domain out of the way.
struct Emptying<'a> {
    members: &'a [Member],
    how: &'a Stopping,
    journal: &'a Journal,
    stopper: &'a Stopper,
    sign: &'a OwnedFd,
}

impl Hands for Emptying<'_> {
    fn act(&self, index: usize, way: Way, moved: &mut dyn FnMut(Moved)) -> Result<Done, Failure> {
        let member = &self.members[index];
        let mut host = Host::open()?;
        let row = match host.find(&member.uuid.to_string()) {
            Ok(row) if row.domid.is_some() => row,
            Ok(_) => return Ok(Done::Already),
            Err(failure) if failure.kind == Kind::NoSuchDomain => return Ok(Done::Already),
            Err(failure) => return Err(failure),
        };
        let done = match way {
            Way::Save => self.save(&mut host, row, member, moved)?,
            Way::Shutdown => self.shut_down(&mut host, &row, member)?,
            Way::Destroy => {
                host.verb(&row, Verb::Destroy, DESTROY, |_| ())?;
                Done::Destroyed
            }
            Way::Restore | Way::Start => {
                let text = format!("emptying a host does not {way}");
                return Err(Failure::new(Kind::Internal, text));
            }
        };
        // The journal has the wish as well, should this not come to its end.
        if let Some(entry) = self.journal.find(member.uuid)
            && let Err(failure) = host.keep_wish(entry)
        {
            tracing::warn!(%failure, "the next host restore does it");
        }
        Ok(done)
    }

    fn give_up(&self) {
        self.stopper.pull();
    }
}

impl Emptying<'_> {
    fn client(&self, host: &mut Host, row: &ListRow) -> Result<Client, Failure> {
        let mut client = host.connect(row)?;
        let sign = self
            .sign
            .try_clone()
            .map_err(|error| Failure::because(Kind::Internal, "cannot watch for an end", &error))?;
        client.take_back_on(sign);
        Ok(client)
    }

    fn save(
        &self,
        host: &mut Host,
        mut row: ListRow,
        member: &Member,
        moved: &mut dyn FnMut(Moved),
    ) -> Result<Done, Failure> {
        let since = Instant::now();
        let mut order = self.order(member);
        if let ImagePlace::File(_) = order.place {
            order.header = host.config_of(&row)?.as_ref().map(self.how.header);
        }
        loop {
            let call = Call::Save(Box::new(order.clone()));
            let steps = |step: Step<'_>| {
                if let Step::Moved(step) = step {
                    moved(step);
                }
            };
            match self.client(host, &row)?.call(call, None, steps) {
                Ok(Answer::Saved(saved)) => return Ok(Done::Saved(saved)),
                Ok(_) => return Ok(Done::Already),
                Err(failure) if failure.kind == Kind::Denied && since.elapsed() < BUSY => {
                    row = host.find(&member.uuid.to_string())?;
                    // Another command is in the middle of something that ends by itself.
                    if row.op.is_none() || self.stopper.is_pulled() {
                        return Err(failure);
                    }
                    std::thread::sleep(LOOK * 4);
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    fn order(&self, member: &Member) -> Save {
        let file = self.journal.find(member.uuid).and_then(|entry| entry.file.clone());
        Save {
            verb: if file.is_some() { Verb::Save } else { Verb::Suspend },
            place: file.map_or(ImagePlace::Store, ImagePlace::File),
            purpose: Purpose::Maintenance,
            after: After::End,
            live: true,
            config: None,
            snapshot: false,
            replace: true,
            keep_domid: false,
            header: None,
        }
    }

    /// Asks the guest to switch itself off and waits until it has.
    fn shut_down(&self, host: &mut Host, row: &ListRow, member: &Member) -> Result<Done, Failure> {
        // Of a command only the end of its guest counts; the status of a script counts as well, and
        // it has the time that any stop of its domain has.
        let wished = self.how.patience.max(member.script_time.unwrap_or_default());
        let late = self.how.until.map(|until| until.saturating_duration_since(Instant::now()));
        let patience = late.unwrap_or(wished).min(wished);
        let mut asking = Asking {
            until: Instant::now() + patience,
            counts: member.script_time.is_some(),
            kept: host.config_of(row)?.as_ref().map(kept).unwrap_or_default(),
            shutting: None,
        };
        if member.stop_command.is_empty() {
            host.verb(row, Verb::Shutdown, patience.min(DESTROY), |_| ())?;
        } else {
            asking.shutting = Some(stop_command(host, member, patience)?);
        }
        let ended = self.wait(host, row, &mut asking);
        let why = asking.end();
        match ended {
            Ok(()) => Ok(Done::Off),
            Err(failure) if failure.kind == Kind::TimedOut => {
                let text = format!(
                    "domain \"{}\" has not shut down within {} s; it runs on",
                    member.name,
                    patience.as_secs()
                );
                let hint = format!("kxl destroy {} takes the power away", member.name);
                let mut failure = Failure::new(Kind::TimedOut, text).hint(hint);
                failure.causes.extend(why);
                Err(failure)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Waits until the run is over. A domain that is kept after its end counts as ended.
    fn wait(&self, host: &mut Host, row: &ListRow, asking: &mut Asking) -> Result<(), Failure> {
        let what = if asking.kept.is_empty() { Until::Gone } else { Until::Shutdown };
        loop {
            let mut client = match self.client(host, row) {
                Ok(client) => client,
                // It has ended already.
                Err(failure) if matches!(failure.kind, Kind::Denied | Kind::NoSuchDomain) => {
                    return Ok(());
                }
                Err(failure) => return Err(failure),
            };
            match client.call(Call::Wait(what), Some(asking.turn()), |_| ()) {
                Ok(_) if asking.kept.is_empty() => return Ok(()),
                // What becomes of it now is its policy's; a look tells.
                Ok(_) => {}
                // The monitor went, with its domain or without: a look tells.
                Err(failure) if failure.kind == Kind::Failed && !self.stopper.is_pulled() => {}
                Err(failure) if failure.kind == Kind::TimedOut && !self.stopper.is_pulled() => {}
                Err(failure) => return Err(failure),
            }
            match host.find(&row.uuid.to_string()) {
                Ok(now) if now.domid != row.domid || rests_as(&now, &asking.kept) => {
                    return Ok(());
                }
                Ok(_) => {}
                Err(gone) if gone.kind == Kind::NoSuchDomain => return Ok(()),
                Err(other) => return Err(other),
            }
            if let Some(why) = asking.failed() {
                let text = format!("cannot shut the guest of domain \"{}\" down", row.name);
                let mut failure = Failure::new(Kind::Failed, text)
                    .hint("it runs on; kxl stop-script check tells about the script");
                failure.causes.push(why);
                return Err(failure);
            }
            if Instant::now() >= asking.until {
                return Err(Failure::new(Kind::TimedOut, "the time is up"));
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// A guest that was asked to end.
struct Asking {
    until: Instant,
    /// The ends after which it is kept.
    kept: Vec<Reason>,
    /// The program that asks it, where it is not the monitor.
    shutting: Option<Shutting>,
    /// Whether a failure of that program is the failure of the stop.
    counts: bool,
}

impl Asking {
    /// How long to wait until the next look at the program.
    fn turn(&self) -> Duration {
        let left = self.until.saturating_duration_since(Instant::now());
        if self.counts { left.min(TURN) } else { left }
    }

    fn failed(&mut self) -> Option<String> {
        if self.counts { self.shutting.as_mut()?.failed() } else { None }
    }

    /// Leaves no program behind: one that is not over when its guest is, or its time, is ended.
    /// Gives why it had failed.
    fn end(self) -> Option<String> {
        let mut shutting = self.shutting?;
        let why = shutting.failed();
        shutting.end();
        why
    }
}

/// Starts the program that shuts a guest down.
fn stop_command(host: &Host, member: &Member, patience: Duration) -> Result<Shutting, Failure> {
    let mut words = member.stop_command.iter();
    let program = words.next().cloned().unwrap_or_default();
    let script = Script {
        program: program.clone().into(),
        args: words.map(Into::into).collect(),
        env: stop_script::environment(&member.name, member.domid, member.uuid),
        patience,
        output: Some(host.paths.rundir(member.uuid).join(stop_script::OUTPUT)),
        cancel: Arc::default(),
    };
    Shutting::begin(script).map_err(|error| {
        let text = format!("cannot run {program}, the stop_command of \"{}\"", member.name);
        Failure::because(Kind::Failed, text, &error)
    })
}

/// Whether a domain of this wish is left standing when it comes back.
pub(super) const fn stands(wanted: Wanted, state: State) -> bool {
    matches!(wanted, Wanted::Paused) || matches!(state, State::Paused)
}
