//! The words by which a test makes a mock domain misbehave.
//!
//! They come from two places, read in this order, the later word winning: the configuration's
//! `device_model_args`, fixed at launch, and the file [`FILE`] in the domain's runtime directory,
//! read again at every step. Words are separated by blanks or line ends; in the file `#` starts a
//! comment.
//!
//! | word | effect |
//! |---|---|
//! | `delay=STEP:MS` | the step takes this long before anything else happens |
//! | `refuse=STEP` | the emulator refuses the step; nothing changes |
//! | `die=STEP` | the emulator exits with status 1 instead of answering |
//! | `hang=STEP` | the step is never answered |
//! | `hold=STEP` | the step is not asked for before the file takes this back (not destroy) |
//! | `ignore=STEP` | the step is accepted and has no effect (pause, unpause, powerdown, reset) |
//! | `ok=STEP` | takes back every earlier word about the step |
//! | `tick=MS` | the guest counts on its console; 0 = it does not (default) |
//! | `end=EVENT[:MS]` | the guest ends by itself after this much running time |
//! | `end=never` | takes an `end=` back |
//! | `exit=STATUS[:MS]` | the emulator exits by itself, running or not |
//! | `exit=never` | takes an `exit=` back |
//! | `unsupported=CAPABILITY` | not declared (configuration only) |
//! | `memory=SIZE` | memory is kept apart from the device state, this much (configuration only) |
//! | `touched=PERCENT` | how much of it the guest has written, 75 by default (configuration only) |
//! | `dirty=PAGES` | a running guest writes so many pages in each pass of a live save |
//! | `passes=N` | passes of a live save before the guest stands still (default 2) |
//! | `device=SIZE` | the device stream is longer by so much |
//! | `version=N.N` | the version that this emulator says it has |
//! | `foreign=WHY` | no state fits this host |
//! | `verify=no` | memory that comes back is not compared with what was saved (`yes` by default) |
//!
//! A save goes through the steps `save`, `save-pass` (each pass of a live save), `save-stop` (the
//! guest stands still) and `save-end` (all is in the sink); then `go-on` or `destroy`. A restore is
//! `launch` and then `restore`. SIZE is a number of bytes, or with K, M or G behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kxl_backend::BackendError;
use kxl_domain::image::PAGE;
use kxl_domain::{Capability, CapabilitySet, DomainConfig, GuestEvent};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Name of the script file in the runtime directory.
pub const FILE: &str = "mock.script";

/// A place where a script can interfere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The emulator getting ready.
    Launch,
    /// A monitor taking up an emulator that runs already.
    Adopt,
    /// `pause`.
    Pause,
    /// `unpause`.
    Unpause,
    /// `powerdown`.
    Powerdown,
    /// `reset`.
    Reset,
    /// `query`.
    Status,
    /// `destroy`.
    Destroy,
    /// `save_state`, its beginning.
    Save,
    /// Each pass over the memory of a guest that runs.
    SavePass,
    /// The guest standing still, its state taken.
    SaveStop,
    /// Everything is in the sink.
    SaveEnd,
    /// `go_on`.
    GoOn,
    /// The state getting into an emulator that was launched for it.
    Restore,
    /// `set_clock`.
    SetClock,
    /// `sleep`.
    Sleep,
    /// `wake`.
    Wake,
}

impl Step {
    /// Every step and its word.
    pub const ALL: &'static [(Self, &'static str)] = &[
        (Self::Launch, "launch"),
        (Self::Adopt, "adopt"),
        (Self::Pause, "pause"),
        (Self::Unpause, "unpause"),
        (Self::Powerdown, "powerdown"),
        (Self::Reset, "reset"),
        (Self::Status, "status"),
        (Self::Destroy, "destroy"),
        (Self::Save, "save"),
        (Self::SavePass, "save-pass"),
        (Self::SaveStop, "save-stop"),
        (Self::SaveEnd, "save-end"),
        (Self::GoOn, "go-on"),
        (Self::Restore, "restore"),
        (Self::SetClock, "set-clock"),
        (Self::Sleep, "sleep"),
        (Self::Wake, "wake"),
    ];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(step, _)| *step == self).map_or("", |(_, word)| word)
    }

    /// The step of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == word).map(|(step, _)| *step)
    }

    /// Whether the step asks something of the guest that it could ignore.
    const fn can_be_ignored(self) -> bool {
        matches!(self, Self::Pause | Self::Unpause | Self::Powerdown | Self::Reset)
    }
}

/// What becomes of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is carried out.
    #[default]
    Obey,
    /// It is refused.
    Refuse,
    /// The emulator exits with status 1.
    Die,
    /// It is never answered.
    Hang,
    /// It is accepted and has no effect.
    Ignore,
}

/// How one step is interfered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Milliseconds before the outcome.
    pub delay_ms: u64,
    /// The outcome.
    pub outcome: Outcome,
}

/// What the guest does of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Milliseconds between two counter lines; `None` = silent, and then it never wakes up.
    pub tick_ms: Option<u64>,
    /// How it ends and after how many milliseconds of running time since launch, reset or the
    /// change of this word.
    pub end: Option<(GuestEvent, u64)>,
    /// Status the emulator exits with and after how many milliseconds since the same moments.
    pub exit: Option<(u8, u64)>,
    /// Pages that it writes in each pass of a live save, while it runs.
    pub dirty: u64,
}

/// A whole script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    faults: BTreeMap<Step, Fault>,
    held: BTreeSet<Step>,
    /// The guest's own doings.
    pub guest: Guest,
    lacking: Vec<Capability>,
    /// How its state is kept.
    pub saving: Saving,
}

/// How the state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saving {
    /// Bytes of memory kept apart from the device state.
    pub memory: Option<u64>,
    /// How much of them the guest has touched, in percent.
    pub touched: u64,
    /// Passes of a live save before the guest stands still.
    pub passes: u64,
    /// Bytes by which the device stream is longer than it need be.
    pub padding: u64,
    /// Version of the emulator.
    pub version: String,
    /// Why no state fits this host.
    pub foreign: Option<String>,
    /// Memory that comes back is compared with what was saved.
    pub verify: bool,
}

impl Default for Saving {
    fn default() -> Self {
        Self {
            memory: None,
            touched: 75,
            passes: 2,
            padding: 0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            foreign: None,
            verify: true,
        }
    }
}

/// A word that is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{word}\" is not a word of the mock's script: {expected}")]
pub struct BadWord {
    word: String,
    expected: String,
}

const KINDS: &str = "expected delay=, refuse=, die=, hang=, hold=, ignore=, ok=, tick=, end=, exit=, \
                     unsupported=, memory=, touched=, dirty=, passes=, device=, version=, foreign= \
                     or verify=";

impl Script {
    /// The script of a configuration.
    ///
    /// # Errors
    /// [`BackendError::Config`] for the key `device_model_args`.
    pub fn of(config: &DomainConfig) -> Result<Self, BackendError> {
        let mut script = Self::default();
        for text in &config.emulator_args {
            script
                .read(text)
                .map_err(|error| BackendError::config("device_model_args", error.to_string()))?;
        }
        Ok(script)
    }

    /// This script with the words of the runtime directory's file on top; an absent file has none.
    ///
    /// # Errors
    /// [`BackendError::Config`] for the key `mock.script`.
    pub fn with_file(&self, rundir: &Path) -> Result<Self, BackendError> {
        let text = match std::fs::read_to_string(rundir.join(FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(self.clone()),
            Err(error) => return Err(BackendError::config(FILE, error.to_string())),
        };
        let mut script = self.clone();
        for line in text.lines() {
            let words = line.split('#').next().unwrap_or_default();
            script.read(words).map_err(|error| BackendError::config(FILE, error.to_string()))?;
        }
        if script.lacking.len() > self.lacking.len() {
            let why = "unsupported= belongs into the configuration: what a backend offers is fixed";
            return Err(BackendError::config(FILE, why));
        }
        let fixed = |saving: &Saving| (saving.memory, saving.touched);
        if fixed(&script.saving) != fixed(&self.saving) {
            let why =
                "memory= and touched= belong into the configuration: a guest's memory is fixed";
            return Err(BackendError::config(FILE, why));
        }
        Ok(script)
    }

    /// What is to happen to a step.
    #[must_use]
    pub fn fault(&self, step: Step) -> Fault {
        self.faults.get(&step).copied().unwrap_or_default()
    }

    /// Whether a step has to wait.
    pub(crate) fn holds(&self, step: Step) -> bool {
        self.held.contains(&step)
    }

    /// What is left of what the backend offers.
    #[must_use]
    pub fn offered(&self) -> CapabilitySet {
        let left = crate::OFFERED.iter().copied().filter(|cap| !self.lacking.contains(cap));
        CapabilitySet::of(&left.collect::<Vec<_>>())
    }

    /// Takes a delay back that has passed already.
    pub(crate) fn clear_delay(&mut self, step: Step) {
        self.faults.entry(step).or_default().delay_ms = 0;
    }

    fn read(&mut self, text: &str) -> Result<(), BadWord> {
        for word in text.split_whitespace() {
            self.word(word).map_err(|expected| BadWord { word: word.to_owned(), expected })?;
        }
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<(), String> {
        let (kind, value) = word.split_once('=').ok_or(KINDS)?;
        match kind {
            "delay" => {
                let (name, ms) = value.split_once(':').ok_or("expected delay=STEP:MS")?;
                self.faults.entry(step(name)?).or_default().delay_ms = number(ms)?;
            }
            "refuse" => self.outcome(value, Outcome::Refuse)?,
            "die" => self.outcome(value, Outcome::Die)?,
            "hang" => self.outcome(value, Outcome::Hang)?,
            "hold" if step(value)? == Step::Destroy => return Err("a destroy never waits".into()),
            "hold" => drop(self.held.insert(step(value)?)),
            "ignore" if step(value)?.can_be_ignored() => self.outcome(value, Outcome::Ignore)?,
            "ignore" => return Err("only pause, unpause, powerdown and reset can be".into()),
            "ok" => {
                self.faults.remove(&step(value)?);
                self.held.remove(&step(value)?);
            }
            "tick" => self.guest.tick_ms = Some(number(value)?).filter(|ms| *ms > 0),
            "end" if value == "never" => self.guest.end = None,
            "end" => {
                let (event, ms) = timed(value)?;
                let expected = || words("end", GuestEvent::ALL.iter().map(|e| e.as_str()));
                self.guest.end = Some((GuestEvent::parse(event).ok_or_else(expected)?, ms));
            }
            "exit" if value == "never" => self.guest.exit = None,
            "exit" => {
                let (status, ms) = timed(value)?;
                let status = status.parse().map_err(|_| "expected exit=0..255[:MS]")?;
                self.guest.exit = Some((status, ms));
            }
            "unsupported" => {
                let known = crate::OFFERED.iter().copied().find(|cap| cap.as_str() == value);
                let names = || words("unsupported", crate::OFFERED.iter().map(|c| c.as_str()));
                self.lacking.push(known.ok_or_else(names)?);
            }
            _ => return self.saving_word(kind, value),
        }
        Ok(())
    }

    fn saving_word(&mut self, kind: &str, value: &str) -> Result<(), String> {
        let saving = &mut self.saving;
        match kind {
            "memory" => {
                let bytes = size(value)?;
                if bytes == 0 || bytes % PAGE != 0 {
                    return Err(format!("expected a multiple of {PAGE} bytes"));
                }
                saving.memory = Some(bytes);
            }
            "touched" => {
                let percent = value.parse().ok().filter(|percent| *percent <= 100);
                saving.touched = percent.ok_or("expected 0..100")?;
            }
            "dirty" => {
                self.guest.dirty = value.parse().map_err(|_| "expected a number of pages")?;
            }
            "passes" => saving.passes = value.parse().map_err(|_| "expected a number")?,
            "device" => saving.padding = size(value)?,
            "version" if crate::state::version(value).is_some() => saving.version = value.into(),
            "version" => return Err("expected numbers with dots between them".into()),
            "foreign" => saving.foreign = Some(value.into()).filter(|why: &String| why != "no"),
            "verify" if matches!(value, "yes" | "no") => saving.verify = value == "yes",
            "verify" => return Err("expected yes or no".into()),
            _ => return Err(KINDS.into()),
        }
        Ok(())
    }

    fn outcome(&mut self, name: &str, outcome: Outcome) -> Result<(), String> {
        self.faults.entry(step(name)?).or_default().outcome = outcome;
        Ok(())
    }
}

fn step(name: &str) -> Result<Step, String> {
    Step::parse(name).ok_or_else(|| {
        let names: Vec<_> = Step::ALL.iter().map(|(_, word)| *word).collect();
        format!("the step is one of {}", names.join(", "))
    })
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected a number of milliseconds".to_owned())
}

/// Bytes, by a number and K, M or G.
fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    number.ok_or_else(|| "expected a size like 64K, 8M or 1G".to_owned())
}

fn timed(text: &str) -> Result<(&str, u64), String> {
    match text.split_once(':') {
        Some((what, ms)) => Ok((what, number(ms)?)),
        None => Ok((text, 0)),
    }
}

fn words<'a>(kind: &str, list: impl Iterator<Item = &'a str>) -> String {
    format!("{kind}= takes one of {}", list.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kxl_domain::DomainName;

    fn script(words: &[&str]) -> Result<Script, BackendError> {
        let mut config = DomainConfig::new(DomainName::new("web").unwrap());
        config.emulator_args = words.iter().map(|word| (*word).to_owned()).collect();
        Script::of(&config)
    }

    #[test]
    fn every_step_takes_every_fault() {
        for (step, name) in Step::ALL {
            for (word, outcome) in
                [("refuse", Outcome::Refuse), ("die", Outcome::Die), ("hang", Outcome::Hang)]
            {
                let script =
                    script(&[&format!("delay={name}:7"), &format!("{word}={name}")]).unwrap();
                assert_eq!(script.fault(*step), Fault { delay_ms: 7, outcome });
            }
            assert_eq!(Step::parse(step.as_str()), Some(*step));
        }
    }

    #[test]
    fn words_of_saving_are_read() {
        let words =
            "memory=8M touched=50 dirty=3 passes=4 device=64K version=2.1 foreign=cpu verify=no";
        let script = script(&[words]).unwrap();
        let expected = Saving {
            memory: Some(8 << 20),
            touched: 50,
            passes: 4,
            padding: 64 << 10,
            version: "2.1".into(),
            foreign: Some("cpu".into()),
            verify: false,
        };
        assert_eq!((script.saving, script.guest.dirty), (expected, 3));
    }

    #[test]
    fn later_words_win_and_ok_takes_them_all_back() {
        let script = script(&["refuse=pause hang=pause", "delay=reset:5", "ok=reset"]).unwrap();
        assert_eq!(script.fault(Step::Pause).outcome, Outcome::Hang);
        assert_eq!(script.fault(Step::Reset), Fault::default());
    }

    #[test]
    fn unknown_words_are_configuration_errors_that_say_what_is_known() {
        for (word, hint) in [
            ("-machine", "expected delay="),
            ("explode=pause", "expected delay="),
            ("refuse=boot", "launch, adopt"),
            ("ignore=status", "only pause"),
            ("hold=destroy", "never waits"),
            ("delay=pause", "STEP:MS"),
            ("delay=pause:soon", "milliseconds"),
            ("end=boredom", "poweroff"),
            ("exit=256", "0..255"),
            ("unsupported=migrate", "pause"),
            ("memory=5000", "multiple of 4096"),
            ("memory=0", "multiple of 4096"),
            ("memory=99999999999G", "64K"),
            ("touched=101", "0..100"),
            ("version=new", "numbers"),
            ("verify=maybe", "yes or no"),
        ] {
            let error = script(&[word]).unwrap_err();
            let BackendError::Config { key, why } = &error else { panic!("{error}") };
            assert_eq!(key, "device_model_args");
            assert!(why.contains(word) && why.contains(hint), "{why}");
        }
    }

    #[test]
    fn the_file_adds_to_the_configuration_and_cannot_change_what_is_offered() {
        let dir = std::env::temp_dir().join(format!("kxl-mock-script-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let base = script(&["refuse=pause", "tick=10"]).unwrap();
        assert_eq!(base.with_file(&dir).unwrap(), base, "no file, no words");
        std::fs::write(dir.join(FILE), "ok=pause # for now\n\ntick=0 end=crash:5\n").unwrap();
        let both = base.with_file(&dir).unwrap();
        assert_eq!(both.fault(Step::Pause), Fault::default());
        assert_eq!(both.guest, Guest { end: Some((GuestEvent::Crash, 5)), ..Guest::default() });
        for fixed in ["unsupported=pause", "memory=8M", "touched=1"] {
            std::fs::write(dir.join(FILE), fixed).unwrap();
            base.with_file(&dir).unwrap_err();
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
