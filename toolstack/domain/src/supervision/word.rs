//! One state in Supervisor's words.

use super::Record;
use crate::state::{Op, Reason, State, words};

words! {
    /// The states of Supervisor.
    pub enum Word {
        /// It is on its way up, and does not count as started yet.
        Starting = "STARTING",
        /// It counts as started.
        Running = "RUNNING",
        /// A start failed, and the next try is waited for.
        Backoff = "BACKOFF",
        /// It is on its way down.
        Stopping = "STOPPING",
        /// It is off, and somebody wanted it so, or it was never started.
        Stopped = "STOPPED",
        /// It ended by itself, and nothing follows.
        Exited = "EXITED",
        /// It could not be started, and nothing is tried any more.
        Fatal = "FATAL",
        /// Nobody saw what became of it.
        Unknown = "UNKNOWN",
    }
}

/// The word for a domain, supervised or not.
#[must_use]
pub fn word(state: State, op: Option<Op>, reason: Option<Reason>, record: &Record) -> Word {
    match op {
        Some(Op::Stopping) => return Word::Stopping,
        Some(Op::Starting) if record.retry_at_ms.is_some() => return Word::Backoff,
        Some(Op::Starting | Op::Restoring | Op::Resuming | Op::MigratingIn) => {
            return Word::Starting;
        }
        _ => {}
    }
    match state {
        State::Running | State::Paused | State::Asleep => match record {
            Record { stopped_by_person: true, .. } => Word::Stopping,
            Record { ready: true, .. } => Word::Running,
            _ => Word::Starting,
        },
        State::Shutdown => Word::Exited,
        State::Failed => Word::Fatal,
        State::Suspended => Word::Stopped,
        State::Absent => Word::Unknown,
        State::Halted if record.stopped_by_person => Word::Stopped,
        State::Halted => match reason {
            Some(Reason::Poweroff | Reason::Reboot | Reason::Crash | Reason::Watchdog) => {
                Word::Exited
            }
            Some(Reason::StartFailed) => Word::Fatal,
            Some(Reason::Unknown) => Word::Unknown,
            Some(
                Reason::New
                | Reason::Destroyed
                | Reason::Saved
                | Reason::Suspended
                | Reason::LostAtHostReboot,
            )
            | None => Word::Stopped,
        },
    }
}
