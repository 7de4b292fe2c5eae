//! What is remembered of a domain's starts and ends.

use serde::{Deserialize, Serialize};

/// What supervision remembers of a domain; kept beside its state, and over the death of its
/// monitor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Starts that failed, one after the other, since it was up last or somebody started it.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed_starts: u32,
    /// This run counts as started.
    #[serde(skip_serializing_if = "is_false")]
    pub ready: bool,
    /// Since when the time of this start runs, in milliseconds of this boot of the host, which no
    /// setting of a clock moves; `None` while it stands still, with the domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
    /// Milliseconds of this start before that.
    #[serde(skip_serializing_if = "is_zero_ms")]
    pub spent_ms: i64,
    /// Milliseconds of this start in runs that its guest has ended by a reboot of its own.
    #[serde(skip_serializing_if = "is_zero_ms")]
    pub earlier_ms: i64,
    /// When the next try begins, after one that failed, in milliseconds of this boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at_ms: Option<i64>,
    /// The guest says that it is at work before it can start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<MaintenanceStart>,
    /// How the last run ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<LastExit>,
    /// When that was, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<i64>,
    /// A person wants it off: nothing undoes that but a person's start.
    #[serde(skip_serializing_if = "is_false")]
    pub stopped_by_person: bool,
    /// Why its guest could not be shut down, so that the power was taken away; until it is started
    /// again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_failed: Option<String>,
    /// When the power is taken away, if it is not off by then, in milliseconds of this boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_by_ms: Option<i64>,
    /// Why the last start failed, or why nothing follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What a guest says of its work before it can start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceStart {
    /// How far it is, 0 to 100.
    pub percent: u8,
    /// With what; may be empty.
    pub text: String,
    /// When it said so, in milliseconds of this boot.
    pub at_ms: i64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// The exit code; 0 for a guest that switched itself off.
    pub code: Option<i32>,
    /// The signal that ended the process.
    pub signal: Option<i32>,
    /// The rules expected it.
    pub expected: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde asks for")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde asks for")]
const fn is_zero_ms(number: &i64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde asks for")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Record {
    /// The record of a live domain from before there were records: it runs.
    #[must_use]
    pub fn assumed() -> Self {
        Self { ready: true, ..Self::default() }
    }

    /// The record of a domain that somebody starts: with a fresh counter. How it ended before is
    /// remembered.
    #[must_use]
    pub fn fresh(before: &Self) -> Self {
        Self { last_exit: before.last_exit, ended_ms: before.ended_ms, ..Self::default() }
    }

    /// The record as somebody takes it over at this moment: no time of it is later than the rules
    /// can have made it. One of a version that wrote the time of day has such times.
    #[must_use]
    pub fn taken_over(mut self, stop_wait_secs: u32, now_ms: i64) -> Self {
        let within = |at: &mut i64, ms: i64| *at = (*at).min(now_ms.saturating_add(ms));
        if let Some(since) = &mut self.since_ms {
            within(since, 0);
        }
        if let Some(work) = &mut self.maintenance {
            within(&mut work.at_ms, 0);
        }
        if let Some(at) = &mut self.retry_at_ms {
            within(at, i64::from(self.failed_starts) * 1000);
        }
        if let Some(by) = &mut self.stop_by_ms {
            within(by, i64::from(stop_wait_secs) * 1000);
        }
        self
    }

    /// Milliseconds until the next try.
    #[must_use]
    pub fn retry_in_ms(&self, now_ms: i64) -> Option<i64> {
        let longest = i64::from(self.failed_starts) * 1000;
        self.retry_at_ms.map(|at| at.saturating_sub(now_ms).clamp(0, longest))
    }

    /// The time of this start stands still: its domain does.
    #[must_use]
    pub fn standing(mut self, now_ms: i64) -> Self {
        if let Some(since) = self.since_ms.take() {
            self.spent_ms += (now_ms - since).max(0);
        }
        self
    }

    /// The time of this start goes on. A guest that was at work has all of its interval again.
    #[must_use]
    pub fn going_on(mut self, now_ms: i64) -> Self {
        if self.since_ms.is_none() {
            self.since_ms = Some(now_ms);
            if let Some(work) = &mut self.maintenance {
                work.at_ms = now_ms;
            }
        }
        self
    }

    /// Its guest reboots in the middle of this start: the limit of the start goes on, while the run
    /// that follows has to stay up for all of `startsecs`. One that was up begins anew.
    #[must_use]
    pub fn rebooting(mut self, now_ms: i64) -> Self {
        let earlier_ms = self.earlier_ms.saturating_add(self.elapsed_ms(now_ms));
        self.earlier_ms = if self.ready { 0 } else { earlier_ms };
        self.ready = false;
        self.since_ms = None;
        self.spent_ms = 0;
        self
    }

    /// Milliseconds of this run's start until now.
    #[must_use]
    pub fn elapsed_ms(&self, now_ms: i64) -> i64 {
        self.spent_ms + self.since_ms.map_or(0, |since| (now_ms - since).max(0))
    }
}
