//! What a guest does wrong: counted always, said a few times a minute.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines about one device within a [`WINDOW`].
const LINES: u32 = 5;

/// The time that they are counted over.
const WINDOW: Duration = Duration::from_secs(60);

/// Where messages go. Called from the threads of devices.
#[derive(Clone)]
pub struct Log(Arc<dyn Fn(&str) + Send + Sync>);

impl Log {
    /// Messages go to `write`.
    pub fn new(write: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(write))
    }

    /// Messages go nowhere.
    #[must_use]
    pub fn none() -> Self {
        Self::new(|_| ())
    }

    fn write(&self, line: &str) {
        (self.0)(line);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

/// What the machine is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The guest does without so many bytes now.
    Given(u64),
    /// The host could not read or write a disk. At most once a second for each.
    DiskError {
        /// The disk's id.
        disk: String,
        /// It was to be written.
        write: bool,
        /// The system's words.
        reason: String,
    },
}

/// Who is told. Called from the threads of devices.
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn(Told) + Send + Sync>);

impl Observer {
    /// `hear` is told.
    pub fn new(hear: impl Fn(Told) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    /// Nobody is told.
    #[must_use]
    pub fn none() -> Self {
        Self::new(|_| ())
    }

    pub(super) fn tell(&self, what: Told) {
        (self.0)(what);
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

#[derive(Debug)]
struct Window {
    since: Option<Instant>,
    said: u32,
    unsaid: u64,
}

/// The errors of one device.
#[derive(Debug)]
pub struct Errors {
    name: String,
    log: Log,
    count: AtomicU64,
    window: Mutex<Window>,
}

impl Errors {
    /// Those of the device of this name.
    #[must_use]
    pub fn new(name: &str, log: Log) -> Self {
        let window = Mutex::new(Window { since: None, said: 0, unsaid: 0 });
        Self { name: name.to_owned(), log, count: AtomicU64::new(0), window }
    }

    /// One more. `what` is asked for only if it is said.
    pub fn report(&self, what: impl FnOnce() -> String) {
        self.report_at(Instant::now(), what);
    }

    fn report_at(&self, now: Instant, what: impl FnOnce() -> String) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            if window.unsaid > 0 {
                self.log.write(&format!("{}: {} more errors", self.name, window.unsaid));
            }
            *window = Window { since: Some(now), said: 0, unsaid: 0 };
        }
        if window.said < LINES {
            window.said += 1;
            self.log.write(&format!("{}: {}", self.name, what()));
        } else {
            window.unsaid += 1;
        }
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_said_in_a_few_lines_a_minute() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = lines.clone();
        let log = Log::new(move |line| written.lock().unwrap().push(line.to_owned()));
        let errors = Errors::new("disk0", log);
        let start = Instant::now();
        for number in 0..1000 {
            errors.report_at(start, || format!("error {number}"));
        }
        assert_eq!(errors.count(), 1000);
        assert_eq!(lines.lock().unwrap().len(), 5);
        errors.report_at(start + WINDOW, || "again".to_owned());
        let said = lines.lock().unwrap().split_off(5);
        assert_eq!(said, ["disk0: 995 more errors", "disk0: again"]);
    }
}
