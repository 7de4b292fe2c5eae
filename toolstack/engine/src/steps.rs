//! The steps that the engine goes through, as a list, and the place where tests make a process
//! die between two of them.
//!
//! Each step is reached exactly where the code calls [`reach`]. `KXL_FAULT=WHAT@STEP` in the
//! environment, with WHAT one of `kill` (this process), `kill-client` (the command that started
//! this monitor) and `kill-emulator`, sends SIGKILL at that moment. The crash tests enumerate
//! [`Step::ALL`]: a step that no test covers fails the suite.

use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid};

use kxl_domain::Verb;

/// One step of a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The command holds the domain's lock.
    Locked,
    /// The command has written the claim: live row, domid, op `starting`.
    Claimed,
    /// The monitor runs and listens.
    MonitorUp,
    /// The child exists and its identity is committed; it has not been let go.
    Recorded,
    /// The backend has answered.
    Launched,
    /// The row says running (or paused) and no operation is left.
    Started,
    /// What a person asked of the guest is written.
    Asked,
    /// The guest has been asked.
    Sent,
    /// The guest's end is written.
    EndSeen,
    /// Op `stopping` is written.
    Stopping,
    /// The emulator is gone.
    Killed,
    /// A restart has its new domid and op `starting`.
    Renewed,
    /// The registry says halted; the live row is still there.
    Resting,
    /// The live row is gone.
    Removed,
    /// Op `saving` or `suspending` is written, and the image journalled; nothing is stopped.
    Saving,
    /// The state is in the image's files and the guest stands still; nothing is committed.
    Streamed,
    /// The image is complete and has its name.
    Committed,
    /// The image that the domain comes back from is marked as spent; the guest stands still.
    Spent,
    /// The guest goes on: from an image, or after one was made.
    WentOn,
}

impl Step {
    /// Every step.
    pub const ALL: &'static [Self] = &[
        Self::Locked,
        Self::Claimed,
        Self::MonitorUp,
        Self::Recorded,
        Self::Launched,
        Self::Started,
        Self::Asked,
        Self::Sent,
        Self::EndSeen,
        Self::Stopping,
        Self::Killed,
        Self::Renewed,
        Self::Resting,
        Self::Removed,
        Self::Saving,
        Self::Streamed,
        Self::Committed,
        Self::Spent,
        Self::WentOn,
    ];

    /// Its name in `KXL_FAULT`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Claimed => "claimed",
            Self::MonitorUp => "monitor-up",
            Self::Recorded => "recorded",
            Self::Launched => "launched",
            Self::Started => "started",
            Self::Asked => "asked",
            Self::Sent => "sent",
            Self::EndSeen => "end-seen",
            Self::Stopping => "stopping",
            Self::Killed => "killed",
            Self::Renewed => "renewed",
            Self::Resting => "resting",
            Self::Removed => "removed",
            Self::Saving => "saving",
            Self::Streamed => "streamed",
            Self::Committed => "committed",
            Self::Spent => "spent",
            Self::WentOn => "went-on",
        }
    }

    /// The steps that a verb goes through from its command to the domain's rest, for a guest that
    /// obeys. Empty for verbs that are one write.
    #[must_use]
    pub const fn of(verb: Verb) -> &'static [Self] {
        match verb {
            Verb::Create | Verb::Start => &[
                Self::Locked,
                Self::Claimed,
                Self::MonitorUp,
                Self::Recorded,
                Self::Launched,
                Self::Started,
            ],
            Verb::Shutdown => &[
                Self::Asked,
                Self::Sent,
                Self::EndSeen,
                Self::Stopping,
                Self::Killed,
                Self::Resting,
                Self::Removed,
            ],
            Verb::Reboot => &[
                Self::Asked,
                Self::Sent,
                Self::EndSeen,
                Self::Stopping,
                Self::Killed,
                Self::Renewed,
                Self::Recorded,
                Self::Launched,
                Self::Started,
            ],
            Verb::Save | Verb::Suspend => &[
                Self::Saving,
                Self::Streamed,
                Self::Committed,
                Self::Killed,
                Self::Resting,
                Self::Removed,
            ],
            Verb::Checkpoint => &[Self::Saving, Self::Streamed, Self::WentOn, Self::Committed],
            Verb::Restore | Verb::Resume => &[
                Self::Locked,
                Self::Claimed,
                Self::MonitorUp,
                Self::Recorded,
                Self::Launched,
                Self::Spent,
                Self::WentOn,
                Self::Started,
            ],
            Verb::Destroy => &[Self::Stopping, Self::Killed, Self::Resting, Self::Removed],
            _ => &[],
        }
    }
}

enum Victim {
    Own,
    Client,
    Emulator,
}

struct Fault {
    victim: Victim,
    step: String,
    /// The command: this process, or the one that started this monitor, read before it can have
    /// died.
    client: Pid,
}

static FAULT: OnceLock<Option<Fault>> = OnceLock::new();

/// Which process this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A command.
    Client,
    /// A monitor, started by a command.
    Monitor,
}

/// Reads the fault that a test asked for. Called at the start of a process, while the parent of a
/// monitor is still the command that made it.
pub fn arm(role: Role) {
    FAULT.get_or_init(|| {
        let text = std::env::var("KXL_FAULT").ok()?;
        let (what, step) = text.split_once('@')?;
        let victim = match what {
            "kill" => Victim::Own,
            "kill-client" => Victim::Client,
            "kill-emulator" => Victim::Emulator,
            _ => return None,
        };
        let client = if role == Role::Client { getpid() } else { getppid() };
        Some(Fault { victim, step: step.to_owned(), client })
    });
}

/// Marks that `step` was reached; `emulator` is the emulator's pid where there is one.
pub fn reach(step: Step, emulator: Option<i32>) {
    tracing::trace!(step = step.as_str(), "step");
    let Some(Some(fault)) = FAULT.get() else { return };
    if fault.step != step.as_str() {
        return;
    }
    let victim = match fault.victim {
        Victim::Own => Some(getpid()),
        Victim::Client => Some(fault.client).filter(|pid| pid.as_raw() > 1),
        Victim::Emulator => emulator.map(Pid::from_raw),
    };
    if let Some(pid) = victim {
        // The victim may be gone already; the test looks at the outcome, not at this call.
        let _gone = kill(pid, Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_belongs_to_a_verb() {
        for step in Step::ALL {
            let used = Verb::ALL.iter().any(|verb| Step::of(*verb).contains(step));
            assert!(used, "{} is reached by no verb", step.as_str());
        }
    }

    #[test]
    fn step_names_are_distinct() {
        let mut names: Vec<_> = Step::ALL.iter().map(|step| step.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Step::ALL.len());
    }
}
