//! What a guest has said about its start and nobody has taken up yet.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kxl_domain::guest::GuestWord;

use super::bucket::Bucket;

/// How many words may wait. Guests say one or two.
const WAITING: usize = 8;
/// How many who said the same are told that it was heard.
const TOLD: usize = 8;
/// Words taken up at once, and one more after each interval.
const BURST: u32 = 5;
const INTERVAL: Duration = Duration::from_millis(250);

/// Words in the order in which they were said. Of several about progress in a row the last one
/// counts; the same word said again is one word.
#[derive(Debug)]
pub(super) struct Words {
    waiting: VecDeque<(GuestWord, Vec<String>)>,
    bucket: Bucket,
}

impl Words {
    pub(super) const fn new() -> Self {
        Self { waiting: VecDeque::new(), bucket: Bucket::new(BURST, INTERVAL) }
    }

    /// Adds a word; whether there was room for it.
    pub(super) fn push(&mut self, word: GuestWord, reference: Option<String>) -> bool {
        let is_progress = |word: &GuestWord| matches!(word, GuestWord::Progress { .. });
        if let Some((last, references)) = self.waiting.back_mut()
            && (*last == word || (is_progress(last) && is_progress(&word)))
        {
            *last = word;
            references.extend(reference.filter(|_| references.len() < TOLD));
            return true;
        }
        if self.waiting.len() == WAITING {
            // Room is made by what matters least: progress before something else.
            let Some(at) = self.waiting.iter().position(|(word, _)| is_progress(word)) else {
                return false;
            };
            self.waiting.remove(at);
        }
        self.waiting.push_back((word, reference.into_iter().collect()));
        true
    }

    /// The next word, if it is time for one.
    pub(super) fn next(&mut self, now: Instant) -> Option<(GuestWord, Vec<String>)> {
        if self.waiting.is_empty() || !self.bucket.take(now) {
            return None;
        }
        self.waiting.pop_front()
    }

    /// When the next word may be taken, if one waits.
    pub(super) fn timer(&self, now: Instant) -> Option<Instant> {
        if self.waiting.is_empty() { None } else { Some(self.bucket.wait(now).unwrap_or(now)) }
    }

    pub(super) fn forget(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(percent: u8) -> GuestWord {
        GuestWord::Progress { percent, text: String::new() }
    }

    fn failed(text: &str) -> GuestWord {
        GuestWord::Failed { text: text.to_owned() }
    }

    fn all(words: &mut Words) -> Vec<GuestWord> {
        let start = Instant::now();
        let seconds = (0..100).map(|second| start + Duration::from_secs(second));
        seconds.filter_map(|now| words.next(now)).map(|(word, _)| word).collect()
    }

    #[test]
    fn of_many_words_the_last_about_progress_and_every_other_one_count() {
        let mut words = Words::new();
        (0..100).for_each(|percent| assert!(words.push(progress(percent), None)));
        (0..100).for_each(|_| assert!(words.push(GuestWord::Started, None)));
        assert_eq!(all(&mut words), [progress(99), GuestWord::Started]);
    }

    #[test]
    fn a_flood_of_different_words_waits_in_little_room_and_loses_no_verdict_to_progress() {
        let mut words = Words::new();
        words.push(GuestWord::Started, None);
        for number in 0..1000 {
            words.push(progress(5), None);
            words.push(failed(&number.to_string()), None);
            assert!(words.waiting.len() <= WAITING);
        }
        let left = all(&mut words);
        assert_eq!(left[0], GuestWord::Started);
        assert_eq!(left[1], failed("0"));
    }

    #[test]
    fn everybody_who_said_a_word_is_told_within_bounds() {
        let mut words = Words::new();
        (0..100).for_each(|n| assert!(words.push(GuestWord::Started, Some(n.to_string()))));
        let (_, references) = words.next(Instant::now()).unwrap();
        assert_eq!(references.len(), TOLD);
    }

    #[test]
    fn words_are_taken_up_some_times_a_second() {
        let (mut words, start) = (Words::new(), Instant::now());
        let mut taken = 0;
        for ms in 0..2000 {
            let word = if ms % 2 == 0 { GuestWord::Started } else { failed("x") };
            words.push(word, None);
            taken += u32::from(words.next(start + Duration::from_millis(ms)).is_some());
        }
        assert_eq!(taken, BURST + 7);
        assert!(words.timer(start + Duration::from_secs(2)).is_some());
    }
}
