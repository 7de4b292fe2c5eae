//! What the end of a program means, as data.

use std::collections::BTreeMap;

use kxl_domain::GuestEvent;
use serde::Deserialize;

/// What the end of the process means.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// By exit status; `*` = any other.
    #[serde(default)]
    pub code: BTreeMap<String, Meaning>,
    /// Ended by a signal.
    #[serde(default)]
    pub signal: Option<Meaning>,
    /// By the last line of the console that begins with a rule's text.
    #[serde(default)]
    pub rule: Vec<Rule>,
}

/// A line of the console and what it means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What the line begins with.
    #[serde(rename = "match")]
    pub start: String,
    /// Its meaning.
    pub means: Meaning,
}

/// What an end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Meaning {
    /// The guest switched itself off.
    Poweroff,
    /// The guest asked for a reboot.
    Reboot,
    /// The guest or the emulator crashed.
    Crash,
    /// A watchdog fired.
    Watchdog,
    /// It stands still because somebody stopped it; the guest has not ended.
    Stopped,
}

impl Meaning {
    /// The guest's event; `None` for [`Meaning::Stopped`].
    #[must_use]
    pub const fn event(self) -> Option<GuestEvent> {
        match self {
            Self::Poweroff => Some(GuestEvent::Poweroff),
            Self::Reboot => Some(GuestEvent::Reboot),
            Self::Crash => Some(GuestEvent::Crash),
            Self::Watchdog => Some(GuestEvent::Watchdog),
            Self::Stopped => None,
        }
    }
}

impl Exit {
    /// What this exit status or signal means.
    #[must_use]
    pub fn meaning(&self, code: Option<i32>, signal: Option<i32>) -> Option<GuestEvent> {
        let rule = match (code, signal) {
            (Some(code), _) => {
                self.code.get(&code.to_string()).or_else(|| self.code.get("*")).copied()
            }
            (None, Some(_)) => self.signal,
            (None, None) => None,
        };
        rule.and_then(Meaning::event)
    }
}
