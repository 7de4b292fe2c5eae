//! A mistake in a profile, for people: where it is, what is wrong and what was probably meant.

use std::fmt;
use std::ops::Range;

use kxl_domain::config::{Place, nearest};
use toml::de::{DeTable, DeValue};

/// A mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    place: Place,
    why: String,
    meant: Option<String>,
}

/// A combination that no driver carries out: the key to look at, from the outermost table on, and
/// what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) path: Vec<String>,
    pub(super) why: String,
}

impl Wrong {
    /// At a dotted path; numbers count items of a list.
    pub(super) fn at(path: &str, why: impl Into<String>) -> Self {
        Self { path: path.split('.').map(str::to_owned).collect(), why: why.into() }
    }
}

impl Mistake {
    /// What the reader of the format says.
    pub(super) fn of(source: &str, text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or(0..0);
        let said = error.message().trim();
        let place = place(source, text, &span);
        let (mut quoted, known) = match said.split_once(", expected ") {
            Some((what, known)) => (quotations(what), quotations(known)),
            None => (quotations(said), Vec::new()),
        };
        let word = quoted.pop().unwrap_or_default();
        let meant = nearest(word, known.iter().copied()).map(str::to_owned);
        let list = known.join(", ");
        let why = if said.starts_with("unknown field") {
            match section(text, span.start) {
                Some(section) => format!("unknown key \"{word}\" in [{section}]: it takes {list}"),
                None => format!("unknown key \"{word}\": there are {list}"),
            }
        } else if said.starts_with("unknown variant") {
            format!("\"{word}\" is no value of this key: it takes {list}")
        } else if let Some(rest) = said.strip_prefix("missing field") {
            format!("the key {} is missing", rest.trim().replace('`', "\""))
        } else {
            said.lines().next().unwrap_or("it cannot be read").replace('`', "\"")
        };
        Self { place, why, meant }
    }

    /// What is wrong with a combination of keys.
    pub(super) fn at(source: &str, text: &str, wrong: Wrong) -> Self {
        let place = place(source, text, &find(text, &wrong.path));
        Self { place, why: wrong.why, meant: None }
    }

    /// The mistake with its line and a caret under the place.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{self}\n{}", self.place.excerpt())
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.why)?;
        match &self.meant {
            Some(meant) => write!(f, "; did you mean \"{meant}\"?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Mistake {}

/// What stands between backticks.
fn quotations(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The table in which a place lies, by the header above it.
fn section(text: &str, offset: usize) -> Option<&str> {
    let before = text.get(..offset)?;
    let header = |line: &'_ str| line.starts_with('[');
    let line = before.lines().rfind(|line| header(line.trim_start()))?;
    Some(line.trim().trim_matches(['[', ']']))
}

fn place(source: &str, text: &str, span: &Range<usize>) -> Place {
    let at = span.start.min(text.len());
    let head = text.get(..at).unwrap_or(text);
    let start = head.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].split('\n').next().unwrap_or_default();
    let end = span.end.clamp(at, start + line.len().max(at - start));
    Place {
        source: source.to_owned(),
        line: head.matches('\n').count() + 1,
        column: head[start..].chars().count() + 1,
        width: text.get(at..end).map_or(1, |covered| covered.chars().count().max(1)),
        text: line.trim_end_matches('\r').to_owned(),
    }
}

/// The place of a key, or of the innermost table around it that there is.
fn find(text: &str, path: &[String]) -> Range<usize> {
    let Ok(root) = DeTable::parse(text) else { return 0..0 };
    let mut found = 0..0;
    let mut table = Some(root.get_ref());
    let mut list: Option<&toml::de::DeArray<'_>> = None;
    for part in path {
        let next = match (table, list) {
            (Some(table), _) => table.iter().find(|(key, _)| key.get_ref().as_ref() == part),
            (None, Some(items)) => {
                let item = part.parse::<usize>().ok().and_then(|index| items.get(index));
                let Some(item) = item else { return found };
                found = item.span();
                (table, list) = inside(item.get_ref());
                continue;
            }
            (None, None) => None,
        };
        let Some((key, value)) = next else { return found };
        found = key.span();
        (table, list) = inside(value.get_ref());
    }
    found
}

/// A value as a table or a list.
fn inside<'v, 't>(
    value: &'v DeValue<'t>,
) -> (Option<&'v DeTable<'t>>, Option<&'v toml::de::DeArray<'t>>) {
    match value {
        DeValue::Table(table) => (Some(table), None),
        DeValue::Array(items) => (None, Some(items)),
        _ => (None, None),
    }
}
