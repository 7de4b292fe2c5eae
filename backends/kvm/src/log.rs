//! What the process tells whoever reads its standard error.

use std::io::Write;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One line on standard error; nothing where nobody can read it.
pub fn line(text: &str) {
    let line = format!("kxl-vmm: {text}\n");
    let _nobody_reads = std::io::stderr().write_all(line.as_bytes());
}

/// An error and what caused it, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A place that can fail as often as a guest likes: at most [`Self::BURST`] lines a minute come of it,
/// and a count of the others.
#[derive(Debug)]
pub struct Bounded {
    began: std::sync::Mutex<Option<Instant>>,
    lines: AtomicU32,
    dropped: AtomicU64,
}

impl Default for Bounded {
    fn default() -> Self {
        Self::new()
    }
}

impl Bounded {
    /// Lines a minute.
    pub const BURST: u32 = 5;
    const MINUTE: Duration = Duration::from_secs(60);

    /// Nothing said yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            began: std::sync::Mutex::new(None),
            lines: AtomicU32::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Says it, or counts it.
    pub fn line(&self, text: &str) {
        let mut began = self.began.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if began.is_none_or(|began| began.elapsed() >= Self::MINUTE) {
            *began = Some(Instant::now());
            self.lines.store(0, Ordering::Relaxed);
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                line(&format!("{dropped} more lines of this kind were left out"));
            }
        }
        drop(began);
        if self.lines.fetch_add(1, Ordering::Relaxed) < Self::BURST {
            line(text);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were left out since the last that were not.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_becomes_some_lines_and_a_number() {
        let place = Bounded::new();
        for _ in 0..1000 {
            place.line("a test of a flood");
        }
        assert_eq!(place.dropped(), 1000 - u64::from(Bounded::BURST));
    }
}
