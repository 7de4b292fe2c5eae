//! The one timer that a domain may have. None runs while nothing is pending.

use super::Record;
use crate::config::model::Supervision;

/// What a timer stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The wait for the next try is over.
    Retry,
    /// It has been up for `startsecs`.
    Settled,
    /// It has not started in time.
    Late,
    /// A person has stopped it, and it is not off in time.
    Stop,
}

/// The limit of a managed start that names none, in seconds.
const START_TIMEOUT: u32 = 300;

impl Supervision {
    /// Seconds that a start may take, if there is a limit.
    #[must_use]
    pub const fn limit(&self) -> Option<u32> {
        match self.start_timeout {
            None if self.managed_start => Some(START_TIMEOUT),
            limit => limit,
        }
    }
}

/// In how many milliseconds a domain that a person has stopped has to be off, if anybody holds it to
/// that; `wait_secs` is its `stopwaitsecs`.
#[must_use]
pub fn stop_timer(record: &Record, wait_secs: u32, now_ms: i64) -> Option<u64> {
    record.stop_by_ms.map(|by| wait(by.saturating_sub(now_ms), i64::from(wait_secs) * 1000))
}

/// The next timer of a domain: in how many milliseconds, and what for.
///
/// `now_ms` is of the clock that counts from the host's boot. No wait is longer than its rule.
#[must_use]
pub fn next_timer(rules: &Supervision, record: &Record, now_ms: i64) -> Option<(u64, Timer)> {
    if let Some(ms) = record.retry_in_ms(now_ms) {
        return Some((wait(ms, ms), Timer::Retry));
    }
    if record.ready || record.stopped_by_person || record.since_ms.is_none() {
        return None;
    }
    let elapsed = record.elapsed_ms(now_ms);
    let after = |seconds: u32, elapsed: i64| {
        let whole = i64::from(seconds) * 1000;
        wait(whole.saturating_sub(elapsed), whole)
    };
    let settled = (!rules.managed_start).then(|| (after(rules.startsecs, elapsed), Timer::Settled));
    let late = match &record.maintenance {
        Some(work) => {
            let interval = i64::from(rules.progress_interval) * 1000;
            Some(wait(work.at_ms + interval - now_ms, interval))
        }
        None => rules.limit().map(|limit| after(limit, elapsed.saturating_add(record.earlier_ms))),
    };
    let late = late.map(|ms| (ms, Timer::Late));
    // Both at once: it was up for as long as it had to be.
    [settled, late].into_iter().flatten().min_by_key(|(ms, _)| *ms)
}

fn wait(ms: i64, longest: i64) -> u64 {
    u64::try_from(ms.min(longest)).unwrap_or(0)
}
