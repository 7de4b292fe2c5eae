//! What happened, a line each step, and the oddities with what a person would look at.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::excuse::Excuse;
use crate::error::BenchError;

/// The journal of one soak, shared by its drivers.
#[derive(Debug)]
pub(crate) struct Journal {
    start: Instant,
    dir: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    odd: Vec<String>,
    tally: BTreeMap<String, Tally>,
    excused: BTreeMap<Excuse, Vec<Duration>>,
}

#[derive(Clone, Debug, Default)]
struct Tally {
    times: u32,
    odd: u32,
    took: Vec<Duration>,
    ends: BTreeMap<String, u32>,
}

impl Journal {
    /// A journal in a new directory that stays.
    ///
    /// # Errors
    /// When the directory or the file cannot be made.
    pub(crate) fn new(dir: PathBuf) -> Result<Self, BenchError> {
        fs::create_dir_all(&dir).map_err(BenchError::io(format!("make {}", dir.display())))?;
        let path = dir.join("soak.log");
        let file = File::create(&path);
        let file = file.map_err(BenchError::io(format!("make {}", path.display())))?;
        let (tally, excused) = (BTreeMap::new(), BTreeMap::new());
        let inner = Inner { file, odd: Vec::new(), tally, excused };
        Ok(Self { start: Instant::now(), dir, inner: Mutex::new(inner) })
    }

    /// How long the soak has been going on.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// How many oddities there are.
    pub(crate) fn oddities(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).odd.len()
    }

    /// A step that was done; `end` says what it came to.
    pub(crate) fn step(&self, who: &str, step: &str, took: Duration, end: &str, note: &str) {
        let line = format!("{who:<8} {step:<34} {end:<10} {:>6} ms  {note}", took.as_millis());
        self.line(&line);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = inner.tally.entry(format!("{who} {step}")).or_default();
        tally.times += 1;
        tally.took.push(took);
        *tally.ends.entry(end.to_owned()).or_default() += 1;
    }

    /// Looks that did not count, and how long they lasted.
    pub(super) fn excused(&self, excused: &[(Excuse, Duration)]) {
        for (excuse, lasted) in excused {
            self.line(&format!("excused for {} ms: {}", lasted.as_millis(), excuse.name()));
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.excused.entry(*excuse).or_default().push(*lasted);
        }
    }

    /// A step that went wrong; `evidence` is written into a file of its own.
    pub(crate) fn odd(&self, who: &str, step: &str, what: &str, evidence: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let number = inner.odd.len() + 1;
        let head = format!("{who} {step}: {what}");
        inner.odd.push(head.clone());
        inner.tally.entry(format!("{who} {step}")).or_default().odd += 1;
        drop(inner);
        self.line(&format!("ODDITY {number}: {head}"));
        let path = self.dir.join(format!("oddity-{number:02}.txt"));
        let text = format!("{head}\nat {:.3} s\n\n{evidence}", self.elapsed().as_secs_f64());
        if let Err(error) = fs::write(&path, text) {
            self.line(&format!("cannot write {}: {error}", path.display()));
        }
    }

    /// A line with the time, into the file and onto the terminal.
    #[allow(clippy::print_stderr, reason = "progress is kept apart from the summary")]
    pub(crate) fn line(&self, text: &str) {
        let line = format!("[{:9.3}] {text}", self.elapsed().as_secs_f64());
        eprintln!("{line}");
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writeln!(inner.file, "{line}") {
            eprintln!("the journal is not written any more: {error}");
        }
    }

    /// What was done how often, how long it took, and the oddities.
    pub(crate) fn summary(&self) -> String {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let steps: u32 = inner.tally.values().map(|tally| tally.times + tally.odd).sum();
        let mut text = format!(
            "{steps} steps in {:.0} s, {} oddities\n",
            self.elapsed().as_secs_f64(),
            inner.odd.len()
        );
        for (what, tally) in &inner.tally {
            let mut took = tally.took.clone();
            took.sort();
            let at = |part: usize| {
                took.get(took.len() * part / 100).or(took.last()).map_or(0, Duration::as_millis)
            };
            let ends: Vec<String> =
                tally.ends.iter().map(|(end, times)| format!("{end} {times}")).collect();
            let odd = if tally.odd > 0 { format!("  ODD {}", tally.odd) } else { String::new() };
            let _never_fails = writeln!(
                text,
                "  {what:<42} {:>4} times, median {:>5} ms, longest {:>6} ms: {}{odd}",
                tally.times,
                at(50),
                at(100),
                ends.join(", ")
            );
        }
        for (excuse, lasted) in &inner.excused {
            let _never_fails = writeln!(
                text,
                "excused {} times, longest {} ms of {} s: {}",
                lasted.len(),
                lasted.iter().max().map_or(0, Duration::as_millis),
                excuse.within().as_secs(),
                excuse.name()
            );
        }
        if inner.excused.is_empty() {
            text.push_str("excused: nothing\n");
        }
        for (number, odd) in inner.odd.iter().enumerate() {
            let _never_fails = writeln!(text, "oddity {}: {odd}", number + 1);
        }
        let _never_fails = writeln!(text, "journal: {}", self.dir.display());
        text
    }
}
