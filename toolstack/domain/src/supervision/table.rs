//! The table: where a domain is × what happens × under which condition → what follows.

use std::fmt::Write as _;

use super::Word;
use crate::state::words;

words! {
    /// Where a domain is, as far as its supervision is concerned.
    pub enum Phase {
        /// It is off: STOPPED, EXITED or FATAL.
        Off = "off",
        /// It is being launched: there is no process yet.
        Launching = "launching",
        /// It waits for its next try.
        Waiting = "waiting",
        /// It has a process and does not count as started.
        Starting = "starting",
        /// It counts as started.
        Running = "running",
        /// A person wants it off, and it is not yet.
        Stopping = "stopping",
    }
}

words! {
    /// What can happen.
    pub enum What {
        /// Somebody starts it, or the host's start does.
        Start = "a start is asked for",
        /// Somebody stops it.
        Stop = "a person stops it",
        /// Its process is there and its backend has answered.
        Launched = "its process is there",
        /// It could not be launched.
        LaunchFailed = "the launch fails",
        /// The wait for the next try is over.
        RetryDue = "the gap has passed",
        /// It has been up for `startsecs`.
        Settled = "startsecs have passed",
        /// `start_timeout`, or the interval of a maintenance start, has passed.
        Late = "its deadline passes",
        /// The guest says that it has started.
        SaysStarted = "its guest says started",
        /// The guest says that it cannot start.
        SaysFailed = "its guest says failed",
        /// The guest says that it is at work before it can start.
        SaysProgress = "its guest says progress",
        /// It ended, in any way but a reboot.
        Ended = "it ends",
    }
}

words! {
    /// Under which condition a row applies.
    pub enum If {
        /// None.
        Always = "",
        /// `startsecs=0`, and the guest need not say anything.
        AtOnce = "startsecs=0",
        /// `managed_start=1`.
        Managed = "managed_start=1",
        /// The launch fails the same way next time: configuration, missing file, lacking ability.
        ForGood = "it can never succeed",
        /// Fewer starts than `startretries` have failed before this one.
        TriesLeft = "tries are left",
        /// `autorestart` wants another start after this end.
        Restarts = "autorestart says so",
    }
}

words! {
    /// What follows.
    pub enum Then {
        /// Nothing.
        Nothing = "nothing",
        /// It is launched; the counter of failed starts is as it was.
        Launch = "launched",
        /// Its start takes time: the timers run.
        Begin = "timers run",
        /// It counts as started; the counter begins anew.
        Up = "counter 0",
        /// The work of its guest is noted; the deadline is now one interval ahead.
        Note = "deadline moved on",
        /// A failed start: its process is ended, and the next try comes after as many seconds as
        /// starts have failed.
        Retry = "counter +1, process ended",
        /// A failed start too many: its process is ended, and nothing follows but an alert.
        Fatal = "alert, process ended",
        /// It ended and stays so.
        Exited = "stays off",
        /// It ended and is started again at once.
        Restart = "launched at once",
        /// It is asked to end.
        Stopping = "asked to end",
        /// It is off because a person wants it so.
        Stopped = "kept off",
    }
}

/// One row of the table. Of the rows for a phase and what happens the first applies whose condition
/// holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRow {
    /// Where the domain is.
    pub phase: Phase,
    /// What happens.
    pub what: What,
    /// The condition.
    pub when: If,
    /// What follows.
    pub then: Then,
    /// The word for the domain after that.
    pub word: Word,
}

const fn row(phase: Phase, what: What, when: If, then: Then, word: Word) -> TableRow {
    TableRow { phase, what, when, then, word }
}

use Phase::{Launching, Off, Running, Starting, Stopping, Waiting};

/// The table of supervision. What it does not name changes nothing.
#[rustfmt::skip]
pub const TABLE: &[TableRow] = &[
    row(Off,       What::Start,        If::Always,    Then::Launch,   Word::Starting),
    row(Launching, What::Launched,     If::AtOnce,    Then::Up,       Word::Running),
    row(Launching, What::Launched,     If::Always,    Then::Begin,    Word::Starting),
    row(Launching, What::LaunchFailed, If::ForGood,   Then::Fatal,    Word::Fatal),
    row(Launching, What::LaunchFailed, If::TriesLeft, Then::Retry,    Word::Backoff),
    row(Launching, What::LaunchFailed, If::Always,    Then::Fatal,    Word::Fatal),
    row(Launching, What::Stop,         If::Always,    Then::Stopped,  Word::Stopped),
    row(Waiting,   What::RetryDue,     If::Always,    Then::Launch,   Word::Starting),
    row(Waiting,   What::Stop,         If::Always,    Then::Stopped,  Word::Stopped),
    row(Starting,  What::Settled,      If::Managed,   Then::Nothing,  Word::Starting),
    row(Starting,  What::Settled,      If::Always,    Then::Up,       Word::Running),
    row(Starting,  What::SaysStarted,  If::Managed,   Then::Up,       Word::Running),
    row(Starting,  What::SaysProgress, If::Managed,   Then::Note,     Word::Starting),
    row(Starting,  What::SaysFailed,   If::TriesLeft, Then::Retry,    Word::Backoff),
    row(Starting,  What::SaysFailed,   If::Always,    Then::Fatal,    Word::Fatal),
    row(Starting,  What::Late,         If::TriesLeft, Then::Retry,    Word::Backoff),
    row(Starting,  What::Late,         If::Always,    Then::Fatal,    Word::Fatal),
    row(Starting,  What::Ended,        If::TriesLeft, Then::Retry,    Word::Backoff),
    row(Starting,  What::Ended,        If::Always,    Then::Fatal,    Word::Fatal),
    row(Starting,  What::Stop,         If::Always,    Then::Stopping, Word::Stopping),
    row(Running,   What::Ended,        If::Restarts,  Then::Restart,  Word::Starting),
    row(Running,   What::Ended,        If::Always,    Then::Exited,   Word::Exited),
    row(Running,   What::Stop,         If::Always,    Then::Stopping, Word::Stopping),
    row(Stopping,  What::Ended,        If::Always,    Then::Stopped,  Word::Stopped),
];

/// Renders the table for the manual.
#[must_use]
pub fn table() -> String {
    let mut out =
        format!("{:<9} {:<24} {:<20} {:<9} {}\n", "it is", "what happens", "if", "becomes", "then");
    for row in TABLE {
        let TableRow { phase, what, when, then, word } = row;
        // Writing to a String does not fail.
        let _ = writeln!(out, "{phase:<9} {what:<24} {when:<20} {word:<9} {then}");
    }
    out
}
