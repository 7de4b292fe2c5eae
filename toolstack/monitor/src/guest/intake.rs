//! What becomes of the lines of a guest: a word for supervision, an event, or a count.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kxl_domain::guest::{self, GuestWord, Message, Piece, Refusal};
use kxl_store::Severity;

use super::bucket::Bucket;
use super::words::Words;

/// Log messages that become events at once, and one more after each interval.
const LOG_BURST: u32 = 100;
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// The same of alerts.
const ALERT_BURST: u32 = 10;
const ALERT_INTERVAL: Duration = Duration::from_secs(600);
/// How long after the first message that became no event this is told, and how often at most.
const TOLD_AFTER: Duration = Duration::from_secs(10);
const TOLD_EVERY: Duration = Duration::from_secs(600);
/// How many references are remembered, so that what is said twice is heard once.
const REMEMBERED: usize = 16;

pub(super) const SUPPRESSED: &str = "too many messages: it is counted and not kept";

/// An event to be recorded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) severity: Severity,
    pub(super) what: &'static str,
    pub(super) text: String,
}

/// What follows from a line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// An event.
    pub(super) said: Option<Said>,
    /// Who waits for an answer, and the answer.
    pub(super) answer: Option<(String, Result<(), &'static str>)>,
}

/// The state of a guest's talk.
#[derive(Debug)]
pub(super) struct Intake {
    /// Its start is over when it says so.
    managed: bool,
    logs: Bucket,
    alerts: Bucket,
    words: Words,
    remembered: VecDeque<String>,
    untold: Untold,
}

/// What has become nothing.
#[derive(Debug, Default)]
struct Untold {
    logs: u64,
    alerts: u64,
    lines: u64,
    refusal: Option<Refusal>,
    due: Option<Instant>,
    told: Option<Instant>,
}

impl Intake {
    pub(super) const fn new(managed: bool) -> Self {
        Self {
            managed,
            logs: Bucket::new(LOG_BURST, LOG_INTERVAL),
            alerts: Bucket::new(ALERT_BURST, ALERT_INTERVAL),
            words: Words::new(),
            remembered: VecDeque::new(),
            untold: Untold { logs: 0, alerts: 0, lines: 0, refusal: None, due: None, told: None },
        }
    }

    /// Takes a line.
    pub(super) fn take(&mut self, piece: Piece<'_>, now: Instant) -> Taken {
        let decoded = match piece {
            Piece::Line(line) => guest::decode(line),
            Piece::TooLong => {
                self.untold.line(Refusal::TooLong, now);
                return Taken::default();
            }
        };
        let reference = decoded.reference;
        if let Some(known) = reference.as_ref().filter(|known| self.remembered.contains(known)) {
            return Taken { said: None, answer: Some((known.clone(), Ok(()))) };
        }
        let message = match decoded.message {
            Ok(message) => message,
            Err(refusal) => {
                self.untold.line(refusal, now);
                let answer = reference.map(|who| (who, Err("the host does not understand it")));
                return Taken { said: None, answer };
            }
        };
        match message {
            // Answered when it has had its effect, and heard twice without harm until then.
            Message::Word(word) if self.managed => {
                let room = self.words.push(word, reference.clone());
                let answer = reference.filter(|_| !room).map(|who| (who, Err(SUPPRESSED)));
                Taken { said: None, answer }
            }
            message => self.event(&message, reference, now),
        }
    }

    /// Takes a word that has no effect any more, as an event.
    pub(super) fn late(&mut self, word: GuestWord, now: Instant) -> Option<Said> {
        self.event(&Message::Word(word), None, now).said
    }

    fn event(&mut self, message: &Message, reference: Option<String>, now: Instant) -> Taken {
        let is_alert = matches!(message, Message::Alert { .. });
        let bucket = if is_alert { &mut self.alerts } else { &mut self.logs };
        if !bucket.take(now) {
            self.untold.message(is_alert, now);
            let answer = reference.map(|who| (who, Err(SUPPRESSED)));
            return Taken { said: None, answer };
        }
        if let Some(reference) = &reference {
            self.remembered.push_back(reference.clone());
            if self.remembered.len() > REMEMBERED {
                self.remembered.pop_front();
            }
        }
        let severity = match message {
            Message::Alert { .. } => Severity::Alert,
            Message::Log { severity: guest::Severity::Warning, .. }
            | Message::Word(GuestWord::Failed { .. }) => Severity::Warning,
            _ => Severity::Info,
        };
        let what = if is_alert { "guest-alert" } else { "guest-log" };
        let said = Some(Said { severity, what, text: message.to_string() });
        Taken { said, answer: reference.map(|who| (who, Ok(()))) }
    }

    /// The next word about the start, if it is time for one.
    pub(super) fn word(&mut self, now: Instant) -> Option<(GuestWord, Vec<String>)> {
        self.words.next(now)
    }

    pub(super) fn forget_words(&mut self) {
        self.words.forget();
    }

    /// The event that tells what was suppressed, when it is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<Said> {
        self.untold.due.filter(|due| *due <= now)?;
        self.untold.told = Some(now);
        self.last()
    }

    /// The same before its time.
    pub(super) fn last(&mut self) -> Option<Said> {
        self.untold.due.take()?;
        let text = self.untold.text();
        (self.untold.logs, self.untold.alerts, self.untold.lines) = (0, 0, 0);
        self.untold.refusal = None;
        Some(Said { severity: Severity::Warning, what: "guest-suppressed", text })
    }

    /// When something is due; a word only where somebody `listens`.
    pub(super) fn timer(&self, listens: bool) -> Option<Instant> {
        let word = if listens { self.words.timer(Instant::now()) } else { None };
        word.into_iter().chain(self.untold.due).min()
    }
}

impl Untold {
    fn message(&mut self, is_alert: bool, now: Instant) {
        let count = if is_alert { &mut self.alerts } else { &mut self.logs };
        *count += 1;
        self.schedule(now);
    }

    fn line(&mut self, refusal: Refusal, now: Instant) {
        tracing::debug!(%refusal, "a line of the guest is no message");
        self.lines += 1;
        self.refusal = Some(refusal);
        self.schedule(now);
    }

    fn schedule(&mut self, now: Instant) {
        let soon = now + TOLD_AFTER;
        let after_the_last = self.told.map_or(soon, |told| soon.max(told + TOLD_EVERY));
        self.due.get_or_insert(after_the_last);
    }

    fn text(&self) -> String {
        let mut parts = Vec::new();
        for (count, one, many) in
            [(self.logs, "log message", "log messages"), (self.alerts, "alert", "alerts")]
        {
            if count > 0 {
                let what = if count == 1 { one } else { many };
                parts.push(format!("{count} {what} too many"));
            }
        }
        if let Some(refusal) = &self.refusal {
            let what = if self.lines == 1 { "line that is" } else { "lines that are" };
            parts.push(format!("{} {what} no message (the last one: {refusal})", self.lines));
        }
        format!("not kept of what the guest said: {}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests;
