//! One statement.

use std::ops::Range;

use super::cursor::{Cursor, Slip};
use super::error::Mistake;

/// What a statement does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `set OBJECT …`.
    Set,
    /// `load CLASS[/MODULE] NAME …`.
    Load {
        /// The class of the device.
        class: String,
        /// The module that it comes from.
        module: Option<String>,
    },
    /// `include FILE`; resolved ones do not appear among the statements of a configuration.
    Include,
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What it does.
    pub verb: Verb,
    /// The object, or the file of an include.
    pub object: String,
    /// `key=value`, in their order.
    pub members: Vec<Member>,
    /// Where it stands in the text.
    pub span: Range<usize>,
}

/// `key=value` or `key[index]=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The key as written.
    pub key: String,
    /// Its index.
    pub index: Option<u32>,
    /// The value without quotes.
    pub value: String,
    /// Where the value stands in the text, quotes left out.
    pub span: Range<usize>,
}

impl Member {
    /// Whether this is its key, in letters of either case.
    #[must_use]
    pub fn is(&self, key: &str) -> bool {
        self.key.eq_ignore_ascii_case(key)
    }
}

impl Statement {
    /// The value of a key without an index, the last if it is given twice.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        let mut members = self.members.iter().rev();
        members.find(|m| m.index.is_none() && m.is(key)).map(|m| m.value.as_str())
    }

    /// Whether it loads a device of this class.
    pub(super) fn loads(&self, wanted: &str) -> bool {
        matches!(&self.verb, Verb::Load { class, .. } if class.eq_ignore_ascii_case(wanted))
    }

    /// Moves the places by the start of the line.
    pub(super) fn moved(mut self, by: usize) -> Self {
        self.span = self.span.start + by..self.span.end + by;
        for member in &mut self.members {
            member.span = member.span.start + by..member.span.end + by;
        }
        self
    }
}

/// Reads a line; one without a statement is `None`.
pub(super) fn read(line: &str) -> Result<Option<Statement>, Slip> {
    let mut cursor = Cursor::new(line);
    let Some(word) = cursor.name() else { return Ok(None) };
    let start = word.span.start;
    let (verb, object) = match word.text.to_ascii_lowercase().as_str() {
        "set" => (Verb::Set, object(&mut cursor, "the object to set")?),
        "load" => {
            let device = object(&mut cursor, "the class of the device to load")?;
            let (class, module) = match device.split_once('/') {
                Some((class, module)) => (class.to_owned(), Some(module.to_owned())),
                None => (device, None),
            };
            (Verb::Load { class, module }, object(&mut cursor, "a name for the loaded device")?)
        }
        "include" => {
            let file = cursor.value()?.filter(|word| !word.text.is_empty());
            let file = file.ok_or((cursor.at(), Mistake::Missing("the file to include")))?;
            (Verb::Include, file.text.to_owned())
        }
        _ => return Err((start, Mistake::Unknown(shown(word.text, line, start)))),
    };
    let mut members = Vec::new();
    while !cursor.at_end() {
        if verb == Verb::Include {
            return Err((cursor.at(), Mistake::Unexpected(shown("", line, cursor.at()))));
        }
        members.push(member(&mut cursor, line)?);
    }
    if members.is_empty() && verb == Verb::Set {
        return Err((cursor.at(), Mistake::Missing("what to set")));
    }
    Ok(Some(Statement { verb, object, members, span: start..cursor.at() }))
}

fn object(cursor: &mut Cursor<'_>, what: &'static str) -> Result<String, Slip> {
    match cursor.name() {
        Some(word) if !word.text.is_empty() => Ok(word.text.to_owned()),
        _ => Err((cursor.at(), Mistake::Missing(what))),
    }
}

fn member(cursor: &mut Cursor<'_>, line: &str) -> Result<Member, Slip> {
    let at = cursor.at();
    let key = cursor.name().filter(|word| !word.text.is_empty());
    let key = key.ok_or_else(|| (at, Mistake::Unexpected(shown("", line, at))))?.text.to_owned();
    let index = match cursor.index() {
        Some(None) => return Err((at, Mistake::Index(key))),
        Some(index) => index,
        None => None,
    };
    if !cursor.take('=') {
        return Err((at, Mistake::NoValue(key)));
    }
    match cursor.value()? {
        Some(value) => Ok(Member { key, index, value: value.text.to_owned(), span: value.span }),
        None => Err((at, Mistake::NoValue(key))),
    }
}

/// A word for a message; where there is none, what the line goes on with. Never long.
fn shown(word: &str, line: &str, at: usize) -> String {
    let rest = line[at..].split_whitespace().next().unwrap_or_default();
    let word = if word.is_empty() { rest } else { word };
    word.chars().take(40).collect()
}
