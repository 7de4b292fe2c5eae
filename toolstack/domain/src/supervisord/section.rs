//! Typed access to the keys of a section, keeping account of what was read and what is wrong.

use std::collections::BTreeSet;

use super::expand::Names;
use super::ini::{Entry, Section};
use super::{Import, Surroundings, Weight};

/// A value, its names replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) key: &'static str,
    pub(super) text: String,
    pub(super) line: usize,
}

/// Reads keys; what is wrong becomes a remark.
pub(super) struct Keys<'a> {
    pub(super) section: &'a Section,
    names: Names<'a>,
    pub(super) import: &'a mut Import,
    used: BTreeSet<&'static str>,
    /// Whether an error was told.
    pub(super) wrong: bool,
}

impl<'a> Keys<'a> {
    pub(super) fn new(
        section: &'a Section,
        program: &'a str,
        around: &'a Surroundings<'a>,
        import: &'a mut Import,
    ) -> Self {
        let names = Names { program, section, around };
        Self { section, names, import, used: BTreeSet::new(), wrong: false }
    }

    fn entry(&self, key: &str) -> Option<&'a Entry> {
        self.section.entries.iter().find(|entry| entry.key == key)
    }

    /// Replaces the names in a default.
    pub(super) fn expand(&mut self, text: &str) -> Option<String> {
        match self.names.expand(text) {
            Ok(text) => Some(text),
            Err(why) => {
                self.say(Weight::Error, self.section.line, "", why);
                None
            }
        }
    }

    /// The value of a key; an empty one counts as not given.
    pub(super) fn value(&mut self, key: &'static str) -> Option<Value> {
        self.used.insert(key);
        let entry = self.entry(key)?;
        match self.names.expand(&entry.value) {
            Ok(text) if text.trim().is_empty() => None,
            // What stands for bytes of another encoding, and what no argument can hold.
            Ok(text) if text.contains(['\u{fffd}', '\0']) => {
                self.say(Weight::Error, entry.line, key, "is not UTF-8 text");
                None
            }
            Ok(text) => Some(Value { key, text, line: entry.line }),
            Err(why) => {
                self.say(Weight::Error, entry.line, key, why);
                None
            }
        }
    }

    /// An error about a value.
    pub(super) fn refuse(&mut self, value: &Value, why: impl Into<String>) {
        self.say(Weight::Error, value.line, value.key, why);
    }

    pub(super) fn notice(&mut self, value: &Value, text: impl Into<String>) {
        self.say(Weight::Notice, value.line, value.key, text);
    }

    pub(super) fn warn(&mut self, value: &Value, text: impl Into<String>) {
        self.say(Weight::Warning, value.line, value.key, text);
    }

    pub(super) fn say(&mut self, weight: Weight, line: usize, key: &str, text: impl Into<String>) {
        self.wrong |= weight == Weight::Error;
        let section = &self.section.name;
        let about =
            if key.is_empty() { format!("[{section}]") } else { format!("[{section}] {key}") };
        self.import.say(weight, line, about, text);
    }

    /// A number in a range.
    pub(super) fn number(&mut self, key: &'static str, most: u32) -> Option<(u32, Value)> {
        let value = self.value(key)?;
        match value.text.trim().parse::<u32>() {
            Ok(number) if number <= most => Some((number, value)),
            _ => {
                let why = format!("\"{}\" is no number from 0 to {most}", value.text);
                self.refuse(&value, why);
                None
            }
        }
    }

    /// Yes or no, in the words of Python's `ConfigParser`.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<(bool, Value)> {
        let value = self.value(key)?;
        match value.text.trim().to_ascii_lowercase().as_str() {
            "1" | "yes" | "true" | "on" => Some((true, value)),
            "0" | "no" | "false" | "off" => Some((false, value)),
            _ => {
                let why = format!("\"{}\" is neither true nor false", value.text);
                self.refuse(&value, why);
                None
            }
        }
    }

    /// Reads a key of which one of several lines is to be said, and nothing else.
    pub(super) fn only_said(&mut self, rows: &[(&'static str, Weight, &str)]) {
        for (key, weight, text) in rows {
            if let Some(value) = self.value(key) {
                self.say(*weight, value.line, key, *text);
            }
        }
    }

    /// Tells of keys that nobody has read.
    pub(super) fn leftovers(&mut self) {
        let section = self.section;
        for entry in &section.entries {
            if !self.used.contains(entry.key.as_str()) {
                let text = "is not a key of supervisord, and is ignored";
                self.say(Weight::Warning, entry.line, &entry.key, text);
            }
        }
    }
}
