//! What follows when a guest ends: event × configured action → what the engine does.
//!
//! The action words are Xen's (xl.cfg `on_poweroff` and its siblings).

use crate::state::{Reason, words};

words! {
    /// How a guest can end.
    pub enum GuestEvent {
        /// It switched itself off.
        Poweroff = "poweroff",
        /// It asked for a reboot.
        Reboot = "reboot",
        /// It panicked or triple-faulted, or its emulator died.
        Crash = "crash",
        /// Its watchdog fired.
        Watchdog = "watchdog",
    }
}

impl GuestEvent {
    /// The reason recorded for a domain that ended this way.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Poweroff => Reason::Poweroff,
            Self::Reboot => Reason::Reboot,
            Self::Crash => Reason::Crash,
            Self::Watchdog => Reason::Watchdog,
        }
    }

    /// The event that leaves this reason behind, if it was a guest's end.
    #[must_use]
    pub fn of(reason: Reason) -> Option<Self> {
        Self::ALL.iter().copied().find(|event| event.reason() == reason)
    }
}

words! {
    /// Xen's seven action words.
    pub enum Action {
        /// Clear the domain away.
        Destroy = "destroy",
        /// Start it again: new domid, same name and uuid.
        Restart = "restart",
        /// Keep the old one under another name and start a new one.
        RenameRestart = "rename-restart",
        /// Keep it as it is, for inspection.
        Preserve = "preserve",
        /// Dump its memory, then destroy.
        CoredumpDestroy = "coredump-destroy",
        /// Dump its memory, then restart.
        CoredumpRestart = "coredump-restart",
        /// Rebuild in place.
        SoftReset = "soft-reset",
    }
}

words! {
    /// What the engine does about an ended guest.
    pub enum Then {
        /// End the process, record the domain as halted (or forget a transient one).
        Destroy = "destroy",
        /// End the process and launch anew with a new domid.
        Restart = "restart",
        /// Rename what is left, give it a new uuid, and launch anew under the old ones.
        RenameRestart = "rename-restart",
        /// Leave the process standing in state shutdown.
        Preserve = "preserve",
        /// Reset the machine in place.
        Reset = "reset",
    }
}

/// One line of the event-policy table.
#[derive(Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// The configured action.
    pub action: Action,
    /// What is done while the emulator still stands.
    pub standing: Then,
    /// What is done when the emulator is gone: a corpse cannot be kept, dumped or reset.
    pub gone: Then,
    /// Whether a core dump is asked for first.
    pub dump: bool,
}

/// The event-policy table. The event chooses which key's action applies ([`default_action`]
/// where the configuration names none); the action chooses the row.
#[rustfmt::skip]
pub const POLICY: &[PolicyRule] = &[
    PolicyRule { action: Action::Destroy,         standing: Then::Destroy,       gone: Then::Destroy, dump: false },
    PolicyRule { action: Action::Restart,         standing: Then::Restart,       gone: Then::Restart, dump: false },
    PolicyRule { action: Action::RenameRestart,   standing: Then::RenameRestart, gone: Then::Restart, dump: false },
    PolicyRule { action: Action::Preserve,        standing: Then::Preserve,      gone: Then::Destroy, dump: false },
    PolicyRule { action: Action::CoredumpDestroy, standing: Then::Destroy,       gone: Then::Destroy, dump: true },
    PolicyRule { action: Action::CoredumpRestart, standing: Then::Restart,       gone: Then::Restart, dump: true },
    PolicyRule { action: Action::SoftReset,       standing: Then::Reset,         gone: Then::Restart, dump: false },
];

/// Xen's default action for an event.
#[must_use]
pub const fn default_action(event: GuestEvent) -> Action {
    match event {
        GuestEvent::Reboot => Action::Restart,
        GuestEvent::Poweroff | GuestEvent::Crash | GuestEvent::Watchdog => Action::Destroy,
    }
}

/// The row of an action.
///
/// # Panics
/// Never: a test checks that every action has its row.
#[must_use]
pub fn policy_of(action: Action) -> &'static PolicyRule {
    POLICY.iter().find(|rule| rule.action == action).expect("every action has a row")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_exactly_one_row() {
        for action in Action::ALL {
            assert_eq!(POLICY.iter().filter(|rule| rule.action == *action).count(), 1, "{action}");
        }
    }

    #[test]
    fn nothing_is_kept_dumped_or_reset_once_the_emulator_is_gone() {
        for rule in POLICY {
            assert!(matches!(rule.gone, Then::Destroy | Then::Restart), "{}", rule.action);
        }
    }

    #[test]
    fn the_default_of_a_reboot_is_to_restart_and_of_the_rest_to_destroy() {
        assert_eq!(default_action(GuestEvent::Reboot), Action::Restart);
        assert_eq!(default_action(GuestEvent::Crash), Action::Destroy);
    }
}
