//! What can be done to a domain in which state, and how often it is.

use kxl_domain::State;

use super::guest::Kind;

/// One thing that is done to a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// `suspend`.
    Suspend,
    /// `resume`.
    Resume,
    /// `resume -p`.
    ResumePaused,
    /// `save` into a file; the domain ends.
    SaveAway,
    /// `save -c`: it goes on.
    SaveOn,
    /// `save -p --live`: it stays paused, and the file is compared with its memory.
    SavePaused,
    /// `restore` of one of the files.
    Restore,
    /// `image verify` of a suspended domain.
    Verify,
    /// `pause`.
    Pause,
    /// `unpause`.
    Unpause,
    /// `reboot`, by the guest itself.
    Reboot,
    /// `reset`, in place.
    Reset,
    /// `start`.
    Start,
    /// `destroy`.
    Destroy,
    /// The guest writes all its memory anew, while the next step is done to it.
    Rewrite,
    /// The monitor is killed.
    KillMonitor,
    /// The emulator is killed.
    KillEmulator,
    /// Monitor and emulator are killed.
    KillBoth,
}

impl Step {
    /// Its name in the journal.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::ResumePaused => "resume -p",
            Self::SaveAway => "save",
            Self::SaveOn => "save -c",
            Self::SavePaused => "save -p",
            Self::Restore => "restore",
            Self::Verify => "image verify",
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Reboot => "reboot",
            Self::Reset => "reset",
            Self::Start => "start",
            Self::Destroy => "destroy",
            Self::Rewrite => "rewrite memory",
            Self::KillMonitor => "kill -9 monitor",
            Self::KillEmulator => "kill -9 emulator",
            Self::KillBoth => "kill -9 monitor and emulator",
        }
    }

    /// Whether somebody may be killed while it is done: it moves a state.
    pub(crate) const fn breakable(self) -> bool {
        matches!(
            self,
            Self::Suspend
                | Self::Resume
                | Self::ResumePaused
                | Self::SaveAway
                | Self::SaveOn
                | Self::Restore
        )
    }

    /// Steps for a domain in that state, with their weights.
    pub(crate) fn of(state: State, kind: Kind, files: bool) -> Vec<(u64, Self)> {
        let qemu = u64::from(kind.is_linux());
        let files = u64::from(files);
        match state {
            State::Running => vec![
                (10, Self::Suspend),
                (4, Self::SaveAway),
                (4, Self::SaveOn),
                (4, Self::SavePaused),
                (2, Self::Pause),
                (qemu, Self::Reboot),
                (qemu, Self::Reset),
                (1, Self::Destroy),
                (2 * qemu, Self::Rewrite),
                (3, Self::KillMonitor),
                (1, Self::KillEmulator),
                (1, Self::KillBoth),
            ],
            State::Paused => vec![
                (5, Self::Unpause),
                (3, Self::Suspend),
                (2, Self::SaveAway),
                (1, Self::SavePaused),
                (2, Self::KillMonitor),
            ],
            State::Suspended => {
                vec![(10, Self::Resume), (2, Self::ResumePaused), (1, Self::Verify)]
            }
            State::Halted | State::Failed => vec![(6 * files, Self::Restore), (1, Self::Start)],
            _ => Vec::new(),
        }
    }
}

/// Who is killed in the middle of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// The `kxl` that does it.
    Command,
    /// The domain's monitor.
    Monitor,
    /// Its emulator.
    Emulator,
    /// The monitor, and then the emulator.
    Both,
}

impl Victim {
    /// All of them, with their weights.
    pub(crate) const ALL: &[(u64, Self)] =
        &[(3, Self::Command), (3, Self::Monitor), (3, Self::Emulator), (1, Self::Both)];

    /// Its name in the journal.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Monitor => "monitor",
            Self::Emulator => "emulator",
            Self::Both => "monitor and emulator",
        }
    }
}

/// Who was killed in the middle of a step: not everybody who should is there at that moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fell {
    /// The command or the monitor: nobody may be left who settles what became of it.
    pub(crate) toolstack: bool,
    /// This emulator. The guest's memory dies with it: its end is a crash, after which the guest
    /// boots anew.
    pub(crate) emulator: Option<Struck>,
}

/// An emulator that was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Struck {
    pub(crate) pid: i32,
    /// When; milliseconds since 1970.
    pub(crate) at_ms: i64,
}

impl Fell {
    /// Whether somebody was killed at all.
    pub(crate) const fn anybody(self) -> bool {
        self.toolstack || self.emulator.is_some()
    }

    /// Whether a state of that moment is that of a guest which booted after the kill: a command goes
    /// on with the next monitor, and by then the domain has been restarted.
    pub(crate) fn is_of_a_boot_after(self, stopped_ms: i64) -> bool {
        self.emulator.is_some_and(|struck| stopped_ms > struck.at_ms)
    }

    /// Where a step that was to lead from `before` to `then` may have led.
    pub(crate) fn allowed(self, before: State, then: State) -> Vec<State> {
        if self.emulator.is_some() {
            // On one side of its point of no return the domain is at rest, and nowhere is there a
            // guest that goes on.
            let mut states = vec![State::Running];
            states.extend([then, before].into_iter().filter(|state| !state.is_live()));
            return states;
        }
        if self.toolstack { vec![then, before] } else { vec![then] }
    }
}

#[cfg(test)]
mod tests {
    use State::{Halted, Paused, Running, Suspended};

    use super::*;

    #[test]
    fn a_step_in_which_nobody_fell_leads_where_it_has_to() {
        assert_eq!(Fell::default().allowed(Running, Suspended), [Suspended]);
        let command = Fell { toolstack: true, emulator: None };
        assert_eq!(command.allowed(Paused, Suspended), [Suspended, Paused]);
        assert_eq!(command.allowed(Suspended, Paused), [Paused, Suspended]);
        assert!(!command.is_of_a_boot_after(i64::MAX));
    }

    #[test]
    fn a_guest_whose_emulator_was_killed_boots_or_rests_and_never_stays_paused() {
        for toolstack in [false, true] {
            let emulator = Fell { toolstack, emulator: Some(Struck { pid: 40, at_ms: 1_000 }) };
            assert_eq!(emulator.allowed(Paused, Suspended), [Running, Suspended]);
            assert_eq!(emulator.allowed(Paused, Halted), [Running, Halted]);
            assert_eq!(emulator.allowed(Suspended, Paused), [Running, Suspended]);
            assert_eq!(emulator.allowed(Running, Running), [Running]);
            assert!(emulator.is_of_a_boot_after(1_001) && !emulator.is_of_a_boot_after(1_000));
        }
    }
}
