//! The lifecycle table: what each verb does to a domain, from where, and what is left when it
//! fails. The engine, crash recovery, the man page and the tests all read [`RULES`].

use std::fmt;

use thiserror::Error;

use crate::capability::Capability;
use crate::state::{Op, Reason, State, Status, words};

words! {
    /// A lifecycle verb; the row key of [`RULES`].
    pub enum Verb {
        /// Register a domain without starting it.
        New = "new",
        /// Remove a registered domain.
        Delete = "delete",
        /// Start a registered domain.
        Start = "start",
        /// Define and start a transient domain.
        Create = "create",
        /// Stop the virtual CPUs.
        Pause = "pause",
        /// Let them go on.
        Unpause = "unpause",
        /// Write the state to a named file.
        Save = "save",
        /// Make a domain from such a file.
        Restore = "restore",
        /// Write the state to the managed store.
        Suspend = "suspend",
        /// Come back from the managed store.
        Resume = "resume",
        /// Write the state to an image and go on.
        Checkpoint = "checkpoint",
        /// Ask the guest to switch off.
        Shutdown = "shutdown",
        /// Ask the guest to reboot.
        Reboot = "reboot",
        /// Restart in place, without asking.
        Reset = "reset",
        /// Take the power away.
        Destroy = "destroy",
        /// Stand still in memory, with everything written on the disks.
        Sleep = "sleep",
        /// Wake from sleep.
        Wake = "wake",
        /// Dump the guest's memory.
        DumpCore = "dump-core",
        /// Change the name.
        Rename = "rename",
        /// Send to another host.
        MigrateOut = "migrate-out",
        /// Receive from another host.
        MigrateIn = "migrate-in",
    }
}

/// One line of the lifecycle table.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// The verb.
    pub verb: Verb,
    /// States the verb acts on.
    pub from: &'static [State],
    /// States in which the wish is already met: success, nothing done.
    pub already: &'static [State],
    /// Resting state after success; `None` = the state it came from. A transient domain that
    /// comes to rest in [`State::Halted`] or [`State::Failed`] is removed.
    pub to: Option<State>,
    /// Resting state after failure; `None` = the state it came from.
    pub fail: Option<State>,
    /// What the backend has to offer.
    pub needs: Option<Capability>,
    /// The operation recorded while it runs.
    pub op: Option<Op>,
    /// Whether the step list of this build carries it out; the others are refused by name.
    pub built: bool,
    /// After which event the verb can no longer be undone.
    pub no_return: &'static str,
}

use Capability as C;
use State::{Absent, Asleep, Failed, Halted, Paused, Running, Shutdown, Suspended};

const LIVE: &[State] = &[Running, Paused, Asleep, Shutdown];

#[rustfmt::skip]
#[allow(clippy::too_many_arguments, reason = "one argument for each column of the table")]
const fn rule(
    verb: Verb, from: &'static [State], already: &'static [State], to: Option<State>, fail: Option<State>,
    needs: Option<Capability>, op: Option<Op>, built: bool, no_return: &'static str,
) -> Rule {
    Rule { verb, from, already, to, fail, needs, op, built, no_return }
}

/// The lifecycle table, one row for each verb.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    //   verb              acts on             already so     then             on failure     needs                op                       built  point of no return
    rule(Verb::New,        &[Absent, Halted, Failed], &[],    Some(Halted),    None,          None,                None,                    true,  "the record is committed"),
    rule(Verb::Delete,     &[Halted, Failed],  &[],           Some(Absent),    None,          None,                None,                    true,  "the record is removed"),
    rule(Verb::Start,      &[Halted, Failed],  &[],           Some(Running),   Some(Failed),  None,                Some(Op::Starting),      true,  "the backend answers"),
    rule(Verb::Create,     &[Absent, Halted, Failed], &[],    Some(Running),   Some(Failed),  None,                Some(Op::Starting),      true,  "the backend answers"),
    rule(Verb::Pause,      &[Running],         &[Paused],     Some(Paused),    None,          Some(C::Pause),      None,                    true,  "none: unpause undoes it"),
    rule(Verb::Unpause,    &[Paused],          &[Running],    Some(Running),   None,          Some(C::Pause),      None,                    true,  "none: pause undoes it"),
    rule(Verb::Save,       &[Running, Paused], &[],           Some(Halted),    None,          Some(C::SaveState),  Some(Op::Saving),        true,  "the file is linked under its name"),
    rule(Verb::Restore,    &[Absent, Halted, Failed], &[],    Some(Running),   None,          Some(C::SaveState),  Some(Op::Restoring),     true,  "the guest goes on"),
    rule(Verb::Suspend,    &[Running, Paused], &[Suspended],  Some(Suspended), None,          Some(C::SaveState),  Some(Op::Suspending),    true,  "the image is committed"),
    rule(Verb::Resume,     &[Suspended],       &[],           Some(Running),   None,          Some(C::SaveState),  Some(Op::Resuming),      true,  "the guest goes on"),
    rule(Verb::Checkpoint, &[Running, Paused], &[],           None,            None,          Some(C::SaveState),  Some(Op::Saving),        true,  "the image is committed"),
    rule(Verb::Shutdown,   &[Running],         &[Halted],     None,            None,          Some(C::Powerdown),  None,                    true,  "the guest obeys"),
    rule(Verb::Reboot,     &[Running],         &[],           None,            None,          Some(C::Powerdown),  None,                    true,  "the guest obeys"),
    rule(Verb::Reset,      &[Running, Paused], &[],           Some(Running),   None,          Some(C::Reset),      Some(Op::Resetting),     true,  "the machine is reset"),
    rule(Verb::Destroy,    LIVE,               &[Halted, Failed], Some(Halted), None,         None,                Some(Op::Stopping),      true,  "the emulator is signalled"),
    rule(Verb::Sleep,      &[Running],         &[Asleep],     Some(Asleep),    None,          Some(C::Sleep),      None,                    true,  "none: wake undoes it"),
    rule(Verb::Wake,       &[Asleep],          &[Running],    Some(Running),   None,          Some(C::Sleep),      None,                    true,  "none: sleep undoes it"),
    rule(Verb::DumpCore,   LIVE,               &[],           None,            None,          Some(C::DumpCore),   Some(Op::Dumping),       false, "the file is linked under its name"),
    rule(Verb::Rename,     &[Running, Paused, Asleep, Shutdown, Halted, Suspended, Failed], &[], None, None, None,  Some(Op::Renaming),      false, "the record is committed"),
    rule(Verb::MigrateOut, &[Running, Paused], &[],           Some(Absent),    None,          Some(C::Migrate),    Some(Op::MigratingOut),  false, "the receiver may start"),
    rule(Verb::MigrateIn,  &[Absent],          &[],           Some(Running),   Some(Absent),  Some(C::Migrate),    Some(Op::MigratingIn),   false, "the sender lets go"),
];

/// The rule of a verb.
///
/// # Panics
/// Never: a test checks that every verb has its row.
#[must_use]
pub fn rule_of(verb: Verb) -> &'static Rule {
    RULES.iter().find(|rule| rule.verb == verb).expect("every verb has a row")
}

/// What a verb means for a domain at this moment.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Act as the rule says.
    Go(&'static Rule),
    /// The wish is met; nothing to do.
    Already,
    /// Not from here.
    Denied(Denied),
}

/// Why a verb was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// The domain's state does not allow it.
    #[error("it is {state}")]
    State {
        /// Where it rests.
        state: State,
        /// What was asked.
        verb: Verb,
    },
    /// Another operation is in flight.
    #[error("it is busy ({op})")]
    Busy {
        /// That operation.
        op: Op,
        /// What was asked.
        verb: Verb,
    },
    /// This build of kxl does not carry the verb out.
    #[error("{verb} is not built yet")]
    NotBuilt {
        /// What was asked.
        verb: Verb,
    },
}

impl Denied {
    /// The command that would help, with `NAME` to be filled in, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::State { state: Suspended, verb: Verb::Delete } => {
                Some("kxl resume NAME, or kxl delete --with-image NAME to throw its state away")
            }
            Self::State { state: Suspended, verb: Verb::Destroy | Verb::New } => {
                Some("kxl resume NAME, or kxl image rm NAME to throw its state away")
            }
            Self::State { state: Suspended, .. } => Some("kxl resume NAME"),
            Self::State { state: Halted | Failed, verb } => match verb {
                Verb::New | Verb::Delete | Verb::Start | Verb::Create | Verb::Restore => None,
                _ => Some("kxl start NAME"),
            },
            Self::State { state: Running, verb: Verb::Delete | Verb::New } => {
                Some("kxl shutdown NAME, or kxl destroy NAME, then again")
            }
            Self::State { state: Paused, verb: Verb::Shutdown | Verb::Reboot } => {
                Some("kxl unpause NAME, then again")
            }
            Self::State { state: Paused | Shutdown | Asleep, verb: Verb::Delete | Verb::New } => {
                Some("kxl destroy NAME, then again")
            }
            Self::State { state: Shutdown, .. } => Some("kxl destroy NAME clears it away"),
            Self::State { state: Asleep, verb: Verb::Unpause | Verb::Resume } => {
                Some("kxl wake NAME")
            }
            Self::State { state: Asleep, .. } => Some("kxl wake NAME, then again"),
            Self::State { state: Paused, verb: Verb::Sleep | Verb::Wake | Verb::Resume } => {
                Some("kxl unpause NAME")
            }
            Self::State { .. } | Self::NotBuilt { .. } => None,
            Self::Busy { .. } => Some("kxl list NAME shows when it is done"),
        }
    }
}

/// Decides what `verb` means for a domain with this status.
///
/// An operation in flight refuses every verb but `destroy`, which ends any of them.
#[must_use]
pub fn decide(status: Status, verb: Verb) -> Verdict {
    let rule = rule_of(verb);
    if !rule.built {
        return Verdict::Denied(Denied::NotBuilt { verb });
    }
    if let Some(op) = status.op.filter(|_| verb != Verb::Destroy) {
        return Verdict::Denied(Denied::Busy { op, verb });
    }
    if rule.from.contains(&status.state) || (verb == Verb::Destroy && status.op.is_some()) {
        Verdict::Go(rule)
    } else if rule.already.contains(&status.state) {
        Verdict::Already
    } else {
        Verdict::Denied(Denied::State { state: status.state, verb })
    }
}

/// What is known of a domain whose operation was cut off, read off the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The emulator lives and its state is known.
    Alive(State),
    /// There is no emulator process.
    Gone,
}

/// What became of the image of an operation that was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageSeen {
    /// There is none, or an unfinished one.
    Nothing,
    /// It is committed, and no guest went on from it.
    Complete,
    /// A guest may have gone on from it.
    Spent,
}

/// Where a domain comes to rest after a crash of kxl: the same rows, read backwards.
///
/// `op` is what was in flight and `before` the state recorded under it; `image` is what became of
/// the image that the operation was writing or reading.
#[must_use]
pub fn recover(
    op: Option<Op>,
    before: State,
    seen: Seen,
    image: ImageSeen,
) -> (State, Option<Reason>) {
    match (seen, op) {
        // The image is complete: the domain is that image, whatever became of its process.
        (_, Some(Op::Suspending)) if image == ImageSeen::Complete => {
            (Suspended, Some(Reason::Suspended))
        }
        (Seen::Gone, Some(Op::Saving)) if image == ImageSeen::Complete => {
            (Halted, Some(Reason::Saved))
        }
        // The guest never went on: the image still is the domain, and can be tried again.
        (Seen::Gone, Some(Op::Resuming)) if image != ImageSeen::Spent => {
            (Suspended, Some(Reason::Suspended))
        }
        // Cut off after the gate was opened: the process is the truth, the start is finished.
        (Seen::Alive(state), _) => (state, None),
        (Seen::Gone, Some(op)) => {
            let row = RULES.iter().find(|rule| rule.op == Some(op));
            match op {
                Op::Stopping => (Halted, Some(Reason::Destroyed)),
                Op::Starting | Op::MigratingIn => {
                    (row.and_then(|rule| rule.fail).unwrap_or(Halted), Some(Reason::StartFailed))
                }
                // What the guest did after it went on is gone with its process.
                Op::Restoring | Op::Resuming if image == ImageSeen::Spent => {
                    (Halted, Some(Reason::Crash))
                }
                Op::Restoring | Op::Resuming => (Halted, Some(Reason::StartFailed)),
                Op::Saving
                | Op::Suspending
                | Op::Resetting
                | Op::Dumping
                | Op::Renaming
                | Op::MigratingOut => (Halted, Some(Reason::Crash)),
            }
        }
        (Seen::Gone, None) if before.is_live() => (Halted, Some(Reason::Unknown)),
        (Seen::Gone, None) => (before, None),
    }
}

/// Renders the table for the man page and ARCHITECTURE.md.
#[must_use]
pub fn table() -> String {
    let mut out = String::from(
        "verb          acts on                        already so   then        on failure  needs\n",
    );
    for rule in RULES {
        out.push_str(&format!(
            "{:<13} {:<30} {:<12} {:<11} {:<11} {}{}\n",
            rule.verb,
            if rule.from.len() == LIVE.len() && rule.from == LIVE {
                "(any live)".to_owned()
            } else if rule.from.len() > LIVE.len() {
                "(any)".to_owned()
            } else {
                list(rule.from)
            },
            list(rule.already),
            rule.to.map_or("(same)", State::as_str),
            rule.fail.map_or("(same)", State::as_str),
            rule.needs.map_or("-", Capability::as_str),
            if rule.built { "" } else { " (not built yet)" },
        ));
    }
    out
}

fn list(states: &[State]) -> String {
    if states.is_empty() {
        return "-".into();
    }
    states.iter().map(|state| state.as_str()).collect::<Vec<_>>().join(",")
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Go(rule) => write!(f, "{}", rule.to.map_or("(same)", State::as_str)),
            Self::Already => f.write_str("already"),
            Self::Denied(denied) => write!(f, "denied: {denied}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_exactly_one_row() {
        for verb in Verb::ALL {
            assert_eq!(RULES.iter().filter(|rule| rule.verb == *verb).count(), 1, "{verb}");
        }
        assert_eq!(RULES.len(), Verb::ALL.len());
    }

    #[test]
    fn no_state_is_both_acted_on_and_already_so() {
        for rule in RULES {
            assert!(!rule.from.iter().any(|s| rule.already.contains(s)), "{}", rule.verb);
        }
    }

    #[test]
    fn every_state_but_absent_can_be_left() {
        for state in State::ALL {
            let leaves = RULES
                .iter()
                .any(|rule| rule.from.contains(state) && rule.to.is_some_and(|to| to != *state));
            assert!(leaves, "nothing leads out of {state}");
        }
    }

    /// The whole matrix in one text, so that a review sees each edge that changes.
    #[test]
    fn the_matrix_of_states_and_verbs() {
        let mut text = String::new();
        for verb in Verb::ALL {
            for state in State::ALL {
                let verdict = decide(Status { state: *state, op: None }, *verb);
                text.push_str(&format!("{verb:<11} {state:<10} {verdict}\n"));
            }
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn an_operation_in_flight_refuses_everything_but_destroy() {
        for verb in Verb::ALL.iter().filter(|v| rule_of(**v).built) {
            let verdict = decide(Status { state: Running, op: Some(Op::Starting) }, *verb);
            match verb {
                Verb::Destroy => assert!(matches!(verdict, Verdict::Go(_))),
                _ => assert!(matches!(verdict, Verdict::Denied(Denied::Busy { .. })), "{verb}"),
            }
        }
    }

    #[test]
    fn recovery_never_invents_a_running_domain() {
        for op in Op::ALL.iter().map(|op| Some(*op)).chain([None]) {
            for before in State::ALL {
                for image in [ImageSeen::Nothing, ImageSeen::Complete, ImageSeen::Spent] {
                    let (state, _) = recover(op, *before, Seen::Gone, image);
                    assert!(!state.is_live(), "{op:?} {before} came to rest as {state}");
                }
            }
        }
    }

    #[test]
    fn a_complete_image_is_the_domain_until_a_guest_went_on_from_it() {
        let rests = |op, seen, image| recover(Some(op), Running, seen, image).0;
        let alive = Seen::Alive(Paused);
        assert_eq!(rests(Op::Suspending, alive, ImageSeen::Complete), Suspended);
        assert_eq!(rests(Op::Suspending, alive, ImageSeen::Nothing), Paused);
        assert_eq!(rests(Op::Suspending, Seen::Gone, ImageSeen::Nothing), Halted);
        assert_eq!(rests(Op::Resuming, Seen::Gone, ImageSeen::Complete), Suspended);
        assert_eq!(rests(Op::Resuming, Seen::Gone, ImageSeen::Spent), Halted);
    }

    #[test]
    fn recovery_believes_a_living_emulator_whatever_was_in_flight() {
        for op in Op::ALL {
            assert_eq!(
                recover(Some(*op), Halted, Seen::Alive(Paused), ImageSeen::Nothing).0,
                Paused
            );
        }
    }
}
