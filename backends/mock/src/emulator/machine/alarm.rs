//! Deadlines that stand still with the guest.

use std::time::{Duration, Instant};

/// A deadline in the guest's own time: it stands still while the guest does.
#[derive(Debug)]
pub(super) struct Alarm {
    left: Duration,
    pub(super) due: Option<Instant>,
}

impl Alarm {
    /// Rings after so many milliseconds of running.
    pub(super) fn new(ms: u64) -> Self {
        Self { left: Duration::from_millis(ms), due: None }
    }

    /// The guest runs.
    pub(super) fn go(&mut self, now: Instant) {
        self.due.get_or_insert(now + self.left);
    }

    /// The guest stands still.
    pub(super) fn stop(&mut self, now: Instant) {
        if let Some(due) = self.due.take() {
            self.left = due.saturating_duration_since(now);
        }
    }

    /// Whether its time has come.
    pub(super) fn rang(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Milliseconds of running that are left.
    pub(super) fn left_ms(&self, now: Instant) -> u64 {
        let left = self.due.map_or(self.left, |due| due.saturating_duration_since(now));
        u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
    }
}
