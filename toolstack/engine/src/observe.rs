//! What the host shows of domains at this moment: rows, `/proc`, and the monitors' own words,
//! gathered under one time budget so that no hung domain delays the others.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use kxl_backend::process::{Identity, RunState, Stat};
use kxl_control::client::Client;
use kxl_control::{Answer, Body, Call, MonitorStatus};
use kxl_domain::state::{Activity, Status, letters};
use kxl_domain::supervision::{Word, word};
use kxl_domain::{DomId, Reason, State};
use kxl_store::{DomainLock, ListRow, Paths, socket};
use nix::libc::{EMFILE, ENFILE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::recorder::identity_of;

/// Why a domain does not answer whose emulator is dead and whose record does not say so yet.
const JUST_ENDED: &str = "its emulator has just ended";

/// Why an emulator does not answer that a signal has stopped.
const STOPPED: &str = "its emulator is stopped by a signal";

/// Whether a live domain can be talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// No process: nothing to ask.
    Resting,
    /// Monitor and emulator answer.
    Yes,
    /// It does not, and this is why.
    No(&'static str),
    /// Its monitor has died; the next command about it brings a new one.
    NoMonitor,
    /// Monitor and emulator are gone; the next command about it settles the record.
    Lost,
}

/// One domain as the host shows it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its row.
    pub row: ListRow,
    /// State and operation.
    pub status: Status,
    /// Why it is in that state.
    pub reason: Option<Reason>,
    /// Live number.
    pub domid: Option<DomId>,
    /// Whether it can be talked to.
    pub answering: Answering,
    /// Pid of the process that listens as its monitor, asked of the kernel at this moment.
    pub monitor: Option<i32>,
    /// CPU time of the emulator in seconds.
    pub cpu_seconds: f64,
    /// A thread of the emulator is on a CPU or waits for one.
    pub on_cpu: bool,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs on line.
    pub vcpus: u32,
}

impl Seen {
    /// Its state in Supervisor's words: what the record says, unless that is of a process that is
    /// gone with its monitor.
    #[must_use]
    pub fn word(&self) -> Word {
        match word(self.status.state, self.status.op, self.reason, &self.row.supervision) {
            Word::Starting | Word::Running | Word::Stopping
                if self.answering == Answering::Lost =>
            {
                Word::Unknown
            }
            word => word,
        }
    }

    /// xl's six letters.
    #[must_use]
    pub fn letters(&self) -> String {
        let dying = self.status.op == Some(kxl_domain::Op::Stopping);
        letters(self.status.state, self.reason, Activity { on_cpu: self.on_cpu, dying })
    }
}

/// Looks at the domains of these rows, in their order. Takes `budget` at most when some monitor
/// does not answer.
#[must_use]
pub fn observe(paths: &Paths, rows: Vec<ListRow>, budget: Duration) -> Vec<Seen> {
    let mut seen: Vec<Seen> = rows.into_iter().map(from_host).collect();
    make_room(seen.iter().filter(|domain| domain.domid.is_some()).count());
    ask_monitors(paths, &mut seen, budget);
    seen
}

/// The same from rows, locks and `/proc` alone: nobody is asked, and a monitor or an emulator that
/// hangs is not noticed unless a signal has stopped it.
#[must_use]
pub fn observe_recorded(paths: &Paths, rows: Vec<ListRow>) -> Vec<Seen> {
    let look = |row: ListRow| {
        let mut seen = unseen(row);
        if seen.domid.is_some() {
            let identity = seen.row.process.as_ref().map(identity_of);
            let stat = identity.as_ref().and_then(Identity::stat);
            let held = DomainLock::is_held(paths, seen.row.uuid);
            seen.answering = recorded(&seen, stat.map(|stat| stat.state), held);
        }
        seen
    };
    rows.into_iter().map(look).collect()
}

/// Whether all is well with a live domain, by the state of its emulator, if that lives, and by
/// whether somebody is in charge.
fn recorded(seen: &Seen, emulator: Option<RunState>, held: bool) -> Answering {
    match (emulator, held) {
        (Some(RunState::Stopped), true) if seen.status.state == State::Running => {
            Answering::No(STOPPED)
        }
        (None, true) if seen.row.process.is_some() && seen.status.op.is_none() => {
            Answering::No(JUST_ENDED)
        }
        (_, true) => Answering::Yes,
        (Some(_), false) => Answering::NoMonitor,
        (None, false) => Answering::Lost,
    }
}

/// One connection for each of so many live domains may be more than the usual soft limit of 1024
/// descriptors.
pub fn make_room(live: usize) {
    if live < 500 {
        return;
    }
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, "the limit of open files stays");
    }
}

/// What the row tells.
fn unseen(row: ListRow) -> Seen {
    Seen {
        status: Status { state: row.state, op: row.op },
        reason: row.reason,
        domid: row.domid,
        answering: Answering::Resting,
        monitor: None,
        cpu_seconds: 0.0,
        on_cpu: false,
        memory_mib: row.memory_mib,
        vcpus: row.vcpus,
        row,
    }
}

/// What row and `/proc` tell.
fn from_host(row: ListRow) -> Seen {
    let mut seen = unseen(row);
    if seen.domid.is_none() {
        return seen;
    }
    seen.answering = Answering::Lost;
    let identity = seen.row.process.as_ref().map(identity_of);
    if let Some(stat) = identity.as_ref().and_then(Identity::stat) {
        seen.answering = Answering::NoMonitor;
        // USER_HZ is 100 on every Linux architecture that kxl runs on.
        #[allow(clippy::cast_precision_loss, reason = "2^52 ticks are a million years")]
        let seconds = stat.cpu_ticks as f64 / 100.0;
        seen.cpu_seconds = seconds;
        seen.on_cpu = seen.status.state == State::Running
            && stat.state != RunState::Stopped
            && (stat.state == RunState::Running
                || (stat.threads > 1 && a_thread_runs(seen.row.process.as_ref())));
    }
    seen
}

fn a_thread_runs(process: Option<&kxl_store::ProcessRow>) -> bool {
    let Some(process) = process else { return false };
    let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", process.pid)) else { return false };
    tasks.flatten().any(|task| {
        fs::read_to_string(task.path().join("stat"))
            .is_ok_and(|text| text.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" R")))
    })
}

struct Asked {
    index: usize,
    client: Client,
    /// `/proc` has shown no living emulator before the monitor was asked.
    emulator_gone: bool,
}

/// Asks every monitor at once and takes the answers as they come.
fn ask_monitors(paths: &Paths, seen: &mut [Seen], budget: Duration) {
    let until = Instant::now() + budget;
    let mut asked = Vec::new();
    for (index, domain) in seen.iter_mut().enumerate() {
        if domain.domid.is_none() {
            continue;
        }
        let emulator_gone = domain.answering == Answering::Lost;
        match ask(paths, &domain.row, budget) {
            Ok(client) => {
                domain.answering = Answering::No("its monitor does not answer");
                domain.monitor = socket::peer_pid(client.stream()).ok();
                asked.push(Asked { index, client, emulator_gone });
            }
            Err(error) if matches!(error.raw_os_error(), Some(EMFILE | ENFILE)) => {
                domain.answering = Answering::No("kxl has no descriptor left to ask it");
            }
            // A full backlog means that it is there and busy.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                domain.answering = Answering::No("its monitor is busy");
            }
            Err(_) => {}
        }
    }
    while !asked.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds: Vec<PollFd> = asked
            .iter()
            .map(|one| PollFd::new(one.client.stream().as_fd(), PollFlags::POLLIN))
            .collect();
        // Rounded up: a timeout of 0 ms before the budget is over would spin.
        let timeout = PollTimeout::try_from(left + Duration::from_micros(999));
        match poll(&mut fds, timeout.unwrap_or(PollTimeout::ZERO)) {
            Ok(0) => return,
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return,
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        let mut position = 0;
        asked.retain_mut(|one| {
            position += 1;
            !ready[position - 1] || !heard(one, seen)
        });
    }
}

fn ask(paths: &Paths, row: &ListRow, budget: Duration) -> io::Result<Client> {
    let stream = socket::connect(&paths.control_socket(row.uuid))?;
    stream.set_nonblocking(true)?;
    let mut client = Client::new(stream);
    client.send(Call::Status { probe: true }, Some(budget))?;
    Ok(client)
}

/// Whether this monitor needs no more waiting for.
fn heard(one: &mut Asked, seen: &mut [Seen]) -> bool {
    let domain = &mut seen[one.index];
    match one.client.fill().and_then(|()| one.client.take()) {
        Ok(None) => false,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Ok(Some(reply)) => {
            if let Body::Done(Answer::Status(status)) = reply.body {
                take(domain, &status, one.emulator_gone);
            }
            true
        }
        Err(_) => {
            domain.answering = Answering::NoMonitor;
            domain.monitor = None;
            true
        }
    }
}

fn take(domain: &mut Seen, status: &MonitorStatus, emulator_gone: bool) {
    // Of an emulator that is not its child a monitor learns only after the reaper how it ended,
    // and shows until then what was. One that has another emulator by now, or is about to, knows.
    let unnoticed = emulator_gone
        && status.op.is_none()
        && status.pid.is_some()
        && status.pid == domain.row.process.as_ref().map(|process| process.pid);
    domain.status = status.status();
    domain.reason = status.reason;
    domain.domid = Some(status.domid);
    domain.row.started_ms = i64::try_from(status.started_ms).ok().filter(|ms| *ms > 0);
    domain.row.supervision = status.supervision.clone();
    domain.memory_mib = status.memory_mib;
    domain.vcpus = status.vcpus;
    domain.answering = if unnoticed {
        Answering::No(JUST_ENDED)
    } else if status.answering == Some(false) {
        Answering::No(why_silent(domain))
    } else {
        Answering::Yes
    };
}

fn why_silent(domain: &Seen) -> &'static str {
    let pid = domain.row.process.as_ref().map(|process| process.pid);
    match pid.and_then(|pid| Stat::read(pid).ok()).map(|stat| stat.state) {
        Some(RunState::Stopped) => STOPPED,
        Some(RunState::Waiting) => "its emulator is frozen or waits for a device",
        Some(RunState::Dead) | None => JUST_ENDED,
        Some(RunState::Running | RunState::Sleeping) => "its emulator does not answer",
    }
}

#[cfg(test)]
mod tests {
    use kxl_domain::supervision::Record;
    use kxl_domain::{DomainName, DomainUuid, Op, Wanted};
    use kxl_store::ProcessRow;

    use super::*;

    fn paused(pid: i32) -> (Seen, MonitorStatus) {
        let uuid: DomainUuid = "00000001-0000-4000-8000-000000000000".parse().unwrap();
        let name = DomainName::new("web").unwrap();
        // Of no boot that ever was: no process is this one.
        let process = ProcessRow { pid, start_time: 1, boot_id: "another".into() };
        let row = ListRow {
            uuid,
            name: name.clone(),
            domid: Some(DomId(4)),
            managed: true,
            backend: "simh".into(),
            memory_mib: 4,
            vcpus: 1,
            wanted: Wanted::Paused,
            state: State::Paused,
            reason: None,
            detail: String::new(),
            op: None,
            process: Some(process),
            started_ms: Some(1_000),
            supervision: Record::assumed(),
        };
        let status = MonitorStatus {
            uuid,
            name,
            domid: DomId(4),
            wanted: Wanted::Paused,
            state: State::Paused,
            op: None,
            reason: None,
            pid: Some(pid),
            answering: Some(true),
            memory_mib: 4,
            vcpus: 1,
            started_ms: 1_000,
            vnc: None,
            supervision: Record::assumed(),
        };
        (from_host(row), status)
    }

    fn taken(change: impl FnOnce(&mut MonitorStatus)) -> Answering {
        let (mut seen, mut status) = paused(1);
        assert_eq!(seen.answering, Answering::Lost, "its emulator is not there");
        assert_eq!(seen.word(), Word::Unknown, "whatever its record says");
        change(&mut status);
        take(&mut seen, &status, true);
        seen.answering
    }

    #[test]
    fn a_dead_emulator_does_not_answer_though_its_monitor_has_not_noticed() {
        assert_eq!(taken(|_| {}), Answering::No(JUST_ENDED));
    }

    #[test]
    fn without_a_question_the_lock_tells_of_the_monitor_and_proc_of_the_emulator() {
        let (mut seen, _) = paused(1);
        let (stopped, sleeps) = (Some(RunState::Stopped), Some(RunState::Sleeping));
        assert_eq!(recorded(&seen, stopped, true), Answering::Yes, "it is paused by that");
        assert_eq!(recorded(&seen, sleeps, false), Answering::NoMonitor);
        assert_eq!(recorded(&seen, None, false), Answering::Lost);
        assert_eq!(recorded(&seen, None, true), Answering::No(JUST_ENDED));
        seen.status.state = State::Running;
        assert_eq!(recorded(&seen, stopped, true), Answering::No(STOPPED));
        assert_eq!(recorded(&seen, sleeps, true), Answering::Yes);
        seen.status.op = Some(Op::Starting);
        assert_eq!(recorded(&seen, None, true), Answering::Yes, "it has none yet");
    }

    #[test]
    fn a_monitor_that_has_another_emulator_or_is_about_to_is_believed() {
        assert_eq!(taken(|status| status.pid = Some(2)), Answering::Yes);
        assert_eq!(taken(|status| status.pid = None), Answering::Yes);
        assert_eq!(taken(|status| status.op = Some(Op::Starting)), Answering::Yes);
        let (mut seen, status) = paused(1);
        take(&mut seen, &status, false);
        assert_eq!(seen.answering, Answering::Yes);
    }
}
