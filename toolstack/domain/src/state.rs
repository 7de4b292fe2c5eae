//! Where a domain rests, what is being done to it, and what somebody wants of it.

use std::fmt;

/// Gives an enum of words its stable spelling: display, parse, the list of all.
macro_rules! words {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        $vis enum $name { $($(#[$vmeta])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// Every value, in the order of the glossary.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable spelling, as stored and printed.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The value of this spelling, if there is one.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// The last wish of a person or of a completed policy. Host maintenance and crashes never
    /// change it.
    pub enum Wanted {
        /// Should be running.
        Running = "running",
        /// Should be there, standing still.
        Paused = "paused",
        /// Should be off.
        Halted = "halted",
    }
}

words! {
    /// The last resting place of a domain.
    pub enum State {
        /// Not known to kxl.
        Absent = "absent",
        /// Its virtual CPUs may run.
        Running = "running",
        /// Stopped by the toolstack; memory stays resident.
        Paused = "paused",
        /// Stands still in memory, its disks flushed, or is in S3 of its own accord; woken by
        /// `wake`.
        Asleep = "asleep",
        /// The guest has ended and its emulator is kept (`preserve`); see [`Reason`].
        Shutdown = "shutdown",
        /// Off; no process.
        Halted = "halted",
        /// No process; its state is an image in the managed store.
        Suspended = "suspended",
        /// No process; the last start did not succeed.
        Failed = "failed",
    }
}

impl State {
    /// Whether a process of the backend exists in this state.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Asleep | Self::Shutdown)
    }
}

words! {
    /// An operation in flight; written before acting, cleared after.
    pub enum Op {
        /// `create`, `start`, and the start of a restart.
        Starting = "starting",
        /// `save`.
        Saving = "saving",
        /// `restore`.
        Restoring = "restoring",
        /// `suspend`.
        Suspending = "suspending",
        /// `resume`.
        Resuming = "resuming",
        /// `reset`.
        Resetting = "resetting",
        /// `destroy` and the clean-up after a guest has ended.
        Stopping = "stopping",
        /// `dump-core`.
        Dumping = "dumping",
        /// `rename`.
        Renaming = "renaming",
        /// The receiving side of a migration.
        MigratingIn = "migrating-in",
        /// The sending side of a migration.
        MigratingOut = "migrating-out",
    }
}

words! {
    /// Why a domain is in its state.
    pub enum Reason {
        /// Defined and never started.
        New = "new",
        /// The guest switched itself off.
        Poweroff = "poweroff",
        /// The guest asked for a reboot.
        Reboot = "reboot",
        /// The guest crashed, or its emulator died.
        Crash = "crash",
        /// A watchdog fired.
        Watchdog = "watchdog",
        /// Somebody took the power away.
        Destroyed = "destroyed",
        /// Its state was written to a file (`save`).
        Saved = "saved",
        /// Its state is in the store (`suspend`, `host save`).
        Suspended = "suspended",
        /// The start did not succeed.
        StartFailed = "start-failed",
        /// The host went down with the domain running.
        LostAtHostReboot = "lost-at-host-reboot",
        /// Nobody saw how it ended.
        Unknown = "unknown",
    }
}

impl Reason {
    /// Xen's shutdown reason code, for the logs and tables that show one.
    #[must_use]
    pub const fn xen_code(self) -> u32 {
        match self {
            Self::New | Self::Poweroff | Self::Destroyed => 0,
            Self::Reboot => 1,
            Self::Saved | Self::Suspended => 2,
            Self::Crash | Self::StartFailed | Self::LostAtHostReboot | Self::Unknown => 3,
            Self::Watchdog => 4,
        }
    }
}

/// What the host shows of a live domain at this moment; the input of [`letters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// A thread of the emulator is on a CPU or waits for one.
    pub on_cpu: bool,
    /// The tear-down is in progress.
    pub dying: bool,
}

/// The six letters of `xl list`: r, b, p, s, the reason of a shutdown, d.
///
/// The position of the reason is used only together with `s`.
#[must_use]
pub fn letters(state: State, reason: Option<Reason>, activity: Activity) -> String {
    let mut out = ['-'; 6];
    match state {
        State::Running | State::Asleep | State::Absent => {
            out[if activity.on_cpu { 0 } else { 1 }] = if activity.on_cpu { 'r' } else { 'b' };
        }
        State::Paused => out[2] = 'p',
        State::Shutdown => {
            out[3] = 's';
            out[4] = match reason {
                Some(Reason::Reboot) => 'r',
                Some(Reason::Crash) => 'c',
                Some(Reason::Watchdog) => 'w',
                Some(Reason::Poweroff) => '-',
                _ => '?',
            };
        }
        State::Halted | State::Suspended | State::Failed => {}
    }
    if state == State::Asleep {
        out = ['-', '-', '-', 's', 's', '-'];
    }
    if activity.dying {
        out[5] = 'd';
    }
    out.iter().collect()
}

/// What `kxl list` calls a domain: a function of its resting state and of what is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Resting state.
    pub state: State,
    /// Operation in flight.
    pub op: Option<Op>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.op.map_or(self.state.as_str(), Op::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Activity = Activity { on_cpu: false, dying: false };

    #[test]
    fn letters_are_those_of_xl() {
        let running = Activity { on_cpu: true, dying: false };
        assert_eq!(letters(State::Running, None, running), "r-----");
        assert_eq!(letters(State::Running, None, QUIET), "-b----");
        assert_eq!(letters(State::Paused, None, QUIET), "--p---");
        assert_eq!(letters(State::Shutdown, Some(Reason::Poweroff), QUIET), "---s--");
        assert_eq!(letters(State::Shutdown, Some(Reason::Crash), QUIET), "---sc-");
        assert_eq!(letters(State::Shutdown, Some(Reason::Reboot), QUIET), "---sr-");
        assert_eq!(letters(State::Shutdown, Some(Reason::Watchdog), QUIET), "---sw-");
        assert_eq!(letters(State::Asleep, None, QUIET), "---ss-");
        let dying = Activity { on_cpu: true, dying: true };
        assert_eq!(letters(State::Running, None, dying), "r----d");
    }

    #[test]
    fn words_read_back_as_what_they_are() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(*state));
        }
        assert_eq!(Op::parse("dancing"), None);
    }
}
