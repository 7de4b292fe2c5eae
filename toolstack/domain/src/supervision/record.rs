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
    /// Since when the time of this start runs, in milliseconds since 1970; `None` while it stands
    /// still, with the domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
    /// Milliseconds of this start before that.
    #[serde(skip_serializing_if = "is_zero_ms")]
    pub spent_ms: i64,
    /// When the next try begins, after one that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at_ms: Option<i64>,
    /// The guest says that it is at work before it can start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<MaintenanceStart>,
    /// How the last run ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<LastExit>,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<i64>,
    /// A person wants it off: nothing undoes that but a person's start.
    #[serde(skip_serializing_if = "is_false")]
    pub stopped_by_person: bool,
    /// Why its guest could not be shut down, so that the power was taken away; until it is started
    /// again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_failed: Option<String>,
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
    /// When it said so, in milliseconds since 1970.
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

    /// Milliseconds of this start until now.
    #[must_use]
    pub fn elapsed_ms(&self, now_ms: i64) -> i64 {
        self.spent_ms + self.since_ms.map_or(0, |since| (now_ms - since).max(0))
    }
}
