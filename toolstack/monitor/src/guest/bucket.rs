//! How often something may happen.

use std::time::{Duration, Instant};

/// So many at once, and one more after each interval.
#[derive(Debug)]
pub(super) struct Bucket {
    burst: u32,
    interval: Duration,
    /// When it would be full again; it is full where that is past.
    full_at: Option<Instant>,
}

impl Bucket {
    pub(super) const fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval, full_at: None }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let then = self.after(now);
        if self.wait(now).is_some() {
            return false;
        }
        self.full_at = Some(then + self.interval);
        true
    }

    /// When there is one again; `None` = now.
    pub(super) fn wait(&self, now: Instant) -> Option<Instant> {
        let next = self.after(now) + self.interval;
        next.checked_sub(self.interval * self.burst).filter(|at| *at > now)
    }

    fn after(&self, now: Instant) -> Instant {
        self.full_at.map_or(now, |at| at.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_passes_and_then_one_for_each_interval() {
        let (mut bucket, start) = (Bucket::new(3, SECOND), Instant::now());
        let mut passed = |ms| bucket.take(start + Duration::from_millis(ms));
        assert_eq!(
            [0, 1, 2, 3, 500, 1000, 1001, 1999, 2000].map(&mut passed),
            [true, true, true, false, false, true, false, false, true]
        );
        assert_eq!([60_000; 5].map(passed), [true, true, true, false, false]);
    }

    #[test]
    fn the_wait_ends_when_there_is_one() {
        let (mut bucket, start) = (Bucket::new(1, SECOND), Instant::now());
        assert_eq!(bucket.wait(start), None);
        assert!(bucket.take(start));
        assert_eq!(bucket.wait(start), Some(start + SECOND));
        assert!(bucket.take(start + SECOND));
    }
}
