//! Whether a guest's counter went as it has to.

use crate::console::{Heard, Said};

/// By how much a count may be beyond the one before where nobody was deaf: a line that is cut in two
/// by the end of a monitor is not heard.
pub(super) const SLACK: u64 = 3;

/// What has to be seen of a counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    /// The place in the transcript of the first line.
    pub(super) from: usize,
    /// The guest may boot anew.
    pub(super) boots: bool,
    /// Between what the first count has to lie.
    pub(super) at: (u64, u64),
    /// Nobody listened for a while.
    pub(super) deaf: bool,
    /// It says when it has booted.
    pub(super) linux: bool,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) first: u64,
    pub(super) last: u64,
    /// The place in the transcript where it booted, if it did.
    pub(super) boot: Option<usize>,
}

impl Course {
    /// Follows the counter along these lines; what is wrong with it.
    pub(super) fn follow(&self, lines: &[Heard]) -> Result<Seen, String> {
        let (mut first, mut last, mut boot) = (None, None, None);
        for (number, heard) in lines.iter().enumerate() {
            let Some(count) = heard.said.count() else {
                if heard.said == Said::Ready {
                    if !self.boots {
                        return Err("the guest has booted".into());
                    }
                    (last, boot) = (None, Some(self.from + number));
                }
                continue;
            };
            // Counts begin at 1; that of a guest which does not say READY begins with its boot.
            let fresh = !self.linux && self.boots && count <= 3 && last.is_none_or(|l| l >= count);
            match last {
                _ if fresh && (last.is_some() || count < self.at.0) => {
                    boot = Some(self.from + number);
                }
                Some(before) if count <= before => {
                    return Err(format!("the counter went back from {before} to {count}"));
                }
                Some(before) if count > before + SLACK && !self.deaf => {
                    return Err(format!("the counter jumped from {before} to {count}"));
                }
                None if boot.is_none() => self.begins(count)?,
                _ => {}
            }
            first = first.or(Some(count));
            last = Some(count);
        }
        match (first, last) {
            (Some(first), Some(last)) => Ok(Seen { first, last, boot }),
            _ => Err("the counter is not heard".into()),
        }
    }

    fn begins(&self, count: u64) -> Result<(), String> {
        let (low, high) = self.at;
        if count < low {
            return Err(format!("the counter went back to {count}, it has to be {low} at least"));
        }
        if count > high && !self.deaf {
            return Err(format!("the counter is at {count}, it has to be {high} at most"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn lines(counts: &[u64]) -> Vec<Heard> {
        let said = |count: &u64| if *count == 0 { Said::Ready } else { Said::Count(*count) };
        counts.iter().map(|count| Heard { at: Instant::now(), said: said(count) }).collect()
    }

    fn course(linux: bool, boots: bool) -> Course {
        Course { from: 100, boots, at: (11, 13), deaf: false, linux }
    }

    #[test]
    fn a_counter_goes_on_where_it_was_and_never_back() {
        let still = course(true, false);
        let seen = still.follow(&lines(&[11, 12, 14])).unwrap();
        assert_eq!(seen, Seen { first: 11, last: 14, boot: None });
        for wrong in [&[10][..], &[14], &[11, 11], &[12, 11], &[11, 15], &[], &[0, 1], &[1]] {
            still.follow(&lines(wrong)).unwrap_err();
        }
        let deaf = Course { deaf: true, ..still };
        assert_eq!(deaf.follow(&lines(&[40, 90])).unwrap().last, 90);
        deaf.follow(&lines(&[40, 39])).unwrap_err();
    }

    #[test]
    fn a_boot_begins_the_count_anew_where_it_is_allowed() {
        let seen = course(true, true).follow(&lines(&[11, 12, 0, 1, 2])).unwrap();
        assert_eq!(seen, Seen { first: 11, last: 2, boot: Some(102) });
        course(true, true).follow(&lines(&[11, 1])).unwrap_err();
        let seen = course(false, true).follow(&lines(&[11, 1, 2])).unwrap();
        assert_eq!((seen.last, seen.boot), (2, Some(101)));
        assert_eq!(course(false, true).follow(&lines(&[1, 2])).unwrap().boot, Some(100));
        course(false, false).follow(&lines(&[11, 1])).unwrap_err();
    }
}
