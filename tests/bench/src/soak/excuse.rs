//! Looks at a domain that do not count: why, for how long at most, and that they were.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Why a look is repeated before it counts. Every other thing about the domain has to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Excuse {
    /// The list waits for 150 ms for an answer; on a host where three guests are emulated at a time
    /// that may be too few, but not again and again.
    Late,
    /// An emulator that was killed is shown as if it were there: between the signal and its end it
    /// is a process like any other.
    Dying,
    /// An emulator that was killed is known to have ended, and its domain is not settled yet: one
    /// that is not the monitor's child has to be reaped first, for which it is given 5 s.
    Ended,
}

impl Excuse {
    /// For people.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Late => "the answer to a look came late",
            Self::Dying => "a killed emulator was still shown as answering",
            Self::Ended => "the end of a killed emulator was not settled yet",
        }
    }

    /// After how long it is none any more.
    pub(super) const fn within(self) -> Duration {
        Duration::from_secs(match self {
            Self::Late | Self::Dying => 5,
            Self::Ended => 20,
        })
    }
}

/// The looks of one wait that did not count: the first and the last of each kind.
#[derive(Debug, Default)]
pub(super) struct Excused(BTreeMap<Excuse, (Instant, Instant)>);

impl Excused {
    /// Excuses one more look; what it was when that was one too many.
    pub(super) fn once_more(&mut self, excuse: Excuse, now: Instant) -> Result<(), String> {
        let (first, last) = self.0.entry(excuse).or_insert((now, now));
        *last = now;
        if last.duration_since(*first) <= excuse.within() {
            return Ok(());
        }
        Err(format!("for more than {:?} {}", excuse.within(), excuse.name()))
    }

    /// How long each of them lasted, from its first look to its last.
    pub(super) fn lasted(&self) -> Vec<(Excuse, Duration)> {
        let lasted = |(first, last): &(Instant, Instant)| last.duration_since(*first);
        self.0.iter().map(|(excuse, looks)| (*excuse, lasted(looks))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_excuse_has_an_end_of_its_own_and_is_counted() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        for excuse in [Excuse::Late, Excuse::Dying, Excuse::Ended] {
            let mut excused = Excused::default();
            excused.once_more(excuse, start).unwrap();
            excused.once_more(excuse, start + excuse.within()).unwrap();
            assert_eq!(excused.lasted(), [(excuse, excuse.within())]);
            let text = excused.once_more(excuse, start + excuse.within() + second).unwrap_err();
            assert!(text.contains(excuse.name()), "{text}");
        }
        let mut both = Excused::default();
        both.once_more(Excuse::Dying, start).unwrap();
        // What comes after it has its own time.
        both.once_more(Excuse::Ended, start + 6 * second).unwrap();
        both.once_more(Excuse::Ended, start + 9 * second).unwrap();
        let lasted = [(Excuse::Dying, Duration::ZERO), (Excuse::Ended, 3 * second)];
        assert_eq!(both.lasted(), lasted);
    }
}
