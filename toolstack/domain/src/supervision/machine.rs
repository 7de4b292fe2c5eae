//! What follows from what happens: the row of the table that applies, and the record after it.

use super::record::{LastExit, MaintenanceStart, Record};
use super::table::{If, Phase, TABLE, Then, What};
use crate::config::model::{Autorestart, Supervision};
use crate::guest::GuestWord;
use crate::policy::GuestEvent;

/// How a run ended. A reboot is no end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What it meant.
    pub event: GuestEvent,
    /// The exit code of the process, where the process itself ended.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The same for people.
    pub text: String,
}

impl Ended {
    /// The code by which `exitcodes=` is asked. A guest that switched itself off counts as 0. What
    /// its backend knows to be a crash is none of the codes, even if the process ended well.
    #[must_use]
    pub const fn code(&self) -> Option<i32> {
        match (self.event, self.code, self.signal) {
            (_, _, Some(_)) | (GuestEvent::Watchdog, ..) => None,
            (GuestEvent::Crash, Some(0) | None, _) => None,
            (GuestEvent::Crash, Some(code), _) => Some(code),
            (GuestEvent::Poweroff | GuestEvent::Reboot, Some(code), _) => Some(code),
            (GuestEvent::Poweroff | GuestEvent::Reboot, None, _) => Some(0),
        }
    }

    /// Whether the rules expect this end.
    #[must_use]
    pub fn is_expected(&self, rules: &Supervision) -> bool {
        let has = |code: i32| rules.exitcodes.iter().any(|expected| i32::from(*expected) == code);
        let off = self.event == GuestEvent::Poweroff && self.signal.is_none();
        self.code().is_some_and(has) || (off && has(0))
    }

    /// What is remembered of it.
    #[must_use]
    pub fn last_exit(&self, rules: &Supervision) -> LastExit {
        let code = self.code().or(self.code);
        LastExit { code, signal: self.signal, expected: self.is_expected(rules) }
    }
}

/// What happened to a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// Somebody starts it.
    Start,
    /// A person stops it.
    Stop,
    /// Its process is there and its backend has answered.
    Launched,
    /// It could not be launched.
    LaunchFailed {
        /// The same would happen at the next try.
        for_good: bool,
        /// Why.
        why: String,
    },
    /// The wait for the next try is over.
    RetryDue,
    /// It has been up for `startsecs`.
    Settled,
    /// It has not started in time.
    Late,
    /// Its guest says something.
    Guest(GuestWord),
    /// It ended, in any way but a reboot.
    Ended(Ended),
}

impl Happened {
    const fn what(&self) -> What {
        match self {
            Self::Start => What::Start,
            Self::Stop => What::Stop,
            Self::Launched => What::Launched,
            Self::LaunchFailed { .. } => What::LaunchFailed,
            Self::RetryDue => What::RetryDue,
            Self::Settled => What::Settled,
            Self::Late => What::Late,
            Self::Guest(GuestWord::Started) => What::SaysStarted,
            Self::Guest(GuestWord::Failed { .. }) => What::SaysFailed,
            Self::Guest(GuestWord::Progress { .. }) => What::SaysProgress,
            Self::Ended(_) => What::Ended,
        }
    }
}

/// What follows, and the record from then on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What follows.
    pub then: Then,
    /// The record after it.
    pub record: Record,
}

/// What follows from `happened`, for a domain in `phase`, at this moment.
#[must_use]
pub fn follow(
    rules: &Supervision,
    phase: Phase,
    record: &Record,
    happened: &Happened,
    now_ms: i64,
) -> Step {
    let what = happened.what();
    let applies = |when| holds(when, rules, record, happened);
    let row = TABLE.iter().find(|row| row.phase == phase && row.what == what && applies(row.when));
    let then = row.map_or(Then::Nothing, |row| row.then);
    Step { then, record: after(then, rules, record, happened, now_ms) }
}

fn holds(when: If, rules: &Supervision, record: &Record, happened: &Happened) -> bool {
    match when {
        If::Always => true,
        If::AtOnce => rules.startsecs == 0 && !rules.managed_start,
        If::Managed => rules.managed_start,
        If::ForGood => matches!(happened, Happened::LaunchFailed { for_good: true, .. }),
        If::TriesLeft => record.failed_starts < rules.startretries,
        If::Restarts => match (rules.autorestart, happened) {
            (Autorestart::Never, _) => false,
            (Autorestart::Always, _) => true,
            (Autorestart::Unexpected, Happened::Ended(ended)) => !ended.is_expected(rules),
            (Autorestart::Unexpected, _) => false,
        },
    }
}

/// The record after what follows.
fn after(
    then: Then,
    rules: &Supervision,
    before: &Record,
    happened: &Happened,
    now_ms: i64,
) -> Record {
    let mut record = before.clone();
    if let Happened::Ended(ended) = happened {
        record.last_exit = Some(ended.last_exit(rules));
    }
    match then {
        Then::Nothing => return before.clone(),
        Then::Note => {
            if let Happened::Guest(GuestWord::Progress { percent, text }) = happened {
                let (percent, text) = ((*percent).min(100), text.clone());
                record.maintenance = Some(MaintenanceStart { percent, text, at_ms: now_ms });
            }
            return record;
        }
        Then::Stopping => {
            record.stopped_by_person = true;
            return record;
        }
        Then::Begin => {
            record.spent_ms = 0;
            record.since_ms = Some(now_ms);
            record.retry_at_ms = None;
            record.maintenance = None;
            record.ready = false;
            return record;
        }
        Then::Launch if *happened == Happened::Start => return Record::fresh(before),
        Then::Launch
        | Then::Up
        | Then::Retry
        | Then::Fatal
        | Then::Exited
        | Then::Restart
        | Then::Stopped => {}
    }
    let why = why(rules, before, happened);
    // Nothing of this run or of this wait is left.
    record.spent_ms = 0;
    record.earlier_ms = 0;
    record.stop_by_ms = None;
    record.since_ms = None;
    record.retry_at_ms = None;
    record.maintenance = None;
    record.ready = then == Then::Up;
    match then {
        Then::Retry | Then::Fatal => {
            record.failed_starts = record.failed_starts.saturating_add(1);
            record.why = why;
            if then == Then::Retry {
                let gap = i64::from(record.failed_starts) * 1000;
                record.retry_at_ms = Some(now_ms.saturating_add(gap));
            }
        }
        Then::Up | Then::Restart | Then::Exited => {
            record.failed_starts = 0;
            record.why = None;
        }
        Then::Stopped => {
            record.stopped_by_person = true;
            record.failed_starts = 0;
            record.why = None;
        }
        _ => {}
    }
    record
}

/// Why a start failed. The same failure is told in the same words each time, so that an alert about
/// it is one alert.
fn why(rules: &Supervision, before: &Record, happened: &Happened) -> Option<String> {
    match happened {
        Happened::LaunchFailed { why, .. } => Some(why.clone()),
        Happened::Ended(ended) if rules.managed_start => {
            Some(format!("{} before its guest said that it had started", ended.text))
        }
        Happened::Ended(ended) => Some(format!(
            "{} before the {} s were over that make a start",
            ended.text, rules.startsecs
        )),
        Happened::Guest(GuestWord::Failed { text }) if text.is_empty() => {
            Some("its guest says that it cannot start".to_owned())
        }
        Happened::Guest(GuestWord::Failed { text }) => Some(format!("its guest says: {text}")),
        Happened::Late => Some(match &before.maintenance {
            Some(work) => format!(
                "hung at {} % of its maintenance start: nothing was heard for {} s",
                work.percent, rules.progress_interval
            ),
            None => format!("hung: it has not started within {} s", rules.limit().unwrap_or(0)),
        }),
        _ => None,
    }
}
