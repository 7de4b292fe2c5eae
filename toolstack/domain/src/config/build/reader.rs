//! Typed access to the keys of a document, keeping account of mistakes and of what was read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::{Parsed, Rules};
use crate::config::error::{ConfigError, ConfigErrors, ErrorKind, Warning, WarningKind};
use crate::config::keys;
use crate::config::model::DomainConfig;
use crate::config::number::{self, NumberError};
use crate::config::syntax::{Document, Setting, ValueKind};
use crate::config::text::{Place, SourceText};

/// A string and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) value: String,
    pub(super) span: Range<usize>,
}

/// Reads keys; every mistake lands in its lists.
#[derive(Debug)]
pub(super) struct Reader<'d> {
    source: &'d SourceText,
    document: &'d Document,
    rules: Rules,
    used: BTreeSet<&'static str>,
    kept: BTreeMap<String, String>,
    errors: Vec<ConfigError>,
    warnings: Vec<Warning>,
}

/// An error being put together; [`Mistake::done`] files it.
#[must_use]
pub(super) struct Mistake<'r, 'd> {
    reader: &'r mut Reader<'d>,
    error: ConfigError,
}

impl Mistake<'_, '_> {
    /// What was expected instead.
    pub(super) fn expected(mut self, text: impl Into<String>) -> Self {
        self.error.expected = Some(text.into());
        self
    }

    /// What to do.
    pub(super) fn hint(mut self, text: impl Into<String>) -> Self {
        self.error.hint = Some(text.into());
        self
    }

    /// The line xl's parser prints before it exits with status 1.
    pub(super) fn xl(mut self, line: impl Into<String>) -> Self {
        self.error.xl.push(line.into());
        self.error.xl_status = 1;
        self
    }

    pub(super) fn done(self) {
        self.reader.errors.push(self.error);
    }

    /// Files it as what xl prints and passes over: a warning under xl's rules.
    pub(super) fn passed_over(self, xl_line: Option<String>) {
        if self.reader.rules == Rules::Kxl {
            return self.done();
        }
        let ConfigError { kind, place, hint, .. } = self.error;
        let kind = WarningKind::PassedOver(kind);
        self.reader.warnings.push(Warning { kind, place, hint, xl: xl_line });
    }
}

impl<'d> Reader<'d> {
    pub(super) fn new(source: &'d SourceText, document: &'d Document, rules: Rules) -> Self {
        Self {
            source,
            document,
            rules,
            used: BTreeSet::new(),
            kept: BTreeMap::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The name the source goes by in messages.
    pub(super) fn source_name(&self) -> &str {
        &self.source.name
    }

    /// Starts an error at a place.
    pub(super) fn error<'r>(&'r mut self, kind: ErrorKind, span: &Range<usize>) -> Mistake<'r, 'd> {
        let place = Some(self.source.place(span));
        self.mistake(kind, place)
    }

    /// Starts an error about something that is not there.
    pub(super) fn missing(&mut self, kind: ErrorKind) -> Mistake<'_, 'd> {
        self.mistake(kind, None)
    }

    /// Starts an error at a key's name, or at none where the key is not given.
    pub(super) fn error_at<'r>(
        &'r mut self,
        kind: ErrorKind,
        key: &'static str,
    ) -> Mistake<'r, 'd> {
        let place = self.place_of(key);
        self.mistake(kind, place)
    }

    /// Where a key stands, if it is given.
    pub(super) fn place_of(&self, key: &str) -> Option<Place> {
        self.document.settings.get(key).map(|setting| self.source.place(&setting.key_span))
    }

    fn mistake(&mut self, kind: ErrorKind, place: Option<Place>) -> Mistake<'_, 'd> {
        let error = ConfigError {
            kind,
            source_name: self.source.name.clone(),
            place,
            expected: None,
            hint: None,
            xl: Vec::new(),
            xl_status: 3,
        };
        Mistake { reader: self, error }
    }

    pub(super) fn warn(
        &mut self,
        kind: WarningKind,
        span: Option<&Range<usize>>,
        hint: Option<String>,
        xl: Option<String>,
    ) {
        if self.rules == Rules::Kxl && matches!(kind, WarningKind::Remark(_)) {
            return;
        }
        let place = span.map(|span| self.source.place(span));
        self.warnings.push(Warning { kind, place, hint, xl });
    }

    /// Warns at a key's name.
    pub(super) fn warn_at(&mut self, kind: WarningKind, key: &'static str, xl: Option<String>) {
        let span = self.document.settings.get(key).map(|setting| setting.key_span.clone());
        self.warn(kind, span.as_ref(), None, xl);
    }

    /// What xl prints about keys that it reads only to say that they are of no use.
    pub(super) fn xl_remark(&self, key: &str) -> Option<String> {
        let text = match key {
            "vncviewer" => {
                "WARNING: ignoring \"vncviewer\" option. Use \"-V\" option of \"xl create\" to \
                 automatically spawn vncviewer."
            }
            "altp2mhvm" => {
                "WARNING: Specifying \"altp2mhvm\" is deprecated. Please use \"altp2m\" instead."
            }
            "vif2" => "WARNING: vif2: netchannel2 is deprecated and not supported by xl",
            "device_model" => {
                "WARNING: ignoring device_model directive.\nWARNING: Use \
                 \"device_model_override\" instead if you really want a non-default device_model"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }

    /// Whether the key is given at all; does not count as reading it.
    pub(super) fn has(&self, key: &str) -> bool {
        self.document.settings.contains_key(key)
    }

    /// Whether the key is given and its value a list; does not count as reading it.
    pub(super) fn is_list(&self, key: &str) -> bool {
        let setting = self.document.settings.get(key);
        setting.is_some_and(|setting| matches!(setting.value.kind, ValueKind::List(_)))
    }

    pub(super) fn is_used(&self, key: &str) -> bool {
        self.used.contains(key)
    }

    /// Counts a key as read without looking at it.
    pub(super) fn mark_used(&mut self, key: &'static str) {
        self.used.insert(key);
    }

    /// Keeps a value that nothing here acts on.
    pub(super) fn keep(&mut self, key: &str, text: String) {
        self.kept.insert(key.to_owned(), text);
    }

    fn setting(&mut self, key: &'static str) -> Option<&'d Setting> {
        debug_assert!(keys::find(key).is_some(), "{key} is not in the table of keys");
        self.used.insert(key);
        self.document.settings.get(key)
    }

    fn xl_warning(&self, setting: &Setting, text: &str) -> Option<String> {
        let line = self.source.line_of(setting.key_span.start);
        Some(format!("{}:{line}: warning: {text}", self.source.name))
    }

    /// The single value of a key.
    pub(super) fn text(&mut self, key: &'static str) -> Option<Text> {
        let setting = self.setting(key)?;
        match &setting.value.kind {
            ValueKind::Atom(value) => {
                Some(Text { value: value.clone(), span: setting.value.span.clone() })
            }
            ValueKind::List(_) => {
                let line = format!("parameter `{key}' is a list but should be a single value");
                let xl = self.xl_warning(setting, &line);
                self.error(ErrorKind::NeedsSingle(key), &setting.value.span).passed_over(xl);
                None
            }
        }
    }

    /// The same, without its place.
    pub(super) fn string(&mut self, key: &'static str) -> Option<String> {
        self.text(key).map(|text| text.value)
    }

    /// A number.
    pub(super) fn number(&mut self, key: &'static str) -> Option<(i64, Text)> {
        let text = self.text(key)?;
        let setting = self.setting(key)?;
        if setting.appended {
            let xl = self
                .xl_warning(setting, &format!("can't use += with numbers for parameter `{key}'"));
            self.error(ErrorKind::AppendedNumber { key }, &text.span).passed_over(xl);
            return None;
        }
        let (line, kind) = match number::parse(&text.value) {
            Ok(number) => return Some((number, text)),
            Err(NumberError::Invalid) => (
                format!("parameter `{key}' is not a valid number"),
                ErrorKind::NotANumber { key, text: text.value },
            ),
            Err(NumberError::TooLarge) => (
                format!(
                    "parameter `{key}' could not be parsed as a number: \
                     Numerical result out of range"
                ),
                ErrorKind::Range { key, text: text.value },
            ),
        };
        let xl = self.xl_warning(setting, &line);
        let unit = keys::find(key).map_or("", |key| key.unit);
        let expected = if unit.is_empty() { String::new() } else { format!(", in {unit}") };
        self.error(kind, &text.span).expected(format!("a number{expected}")).passed_over(xl);
        None
    }

    /// A number in a range; one outside is an error.
    pub(super) fn ranged<N: TryFrom<i64>>(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<N> {
        let (number, text) = self.number(key)?;
        let fits = range.contains(&number).then(|| N::try_from(number).ok()).flatten();
        if fits.is_none() {
            let (min, max) = (range.start(), range.end());
            let unit = keys::find(key).map_or("", |key| key.unit);
            let unit = if unit.starts_with(|c: char| c.is_ascii_digit()) { "" } else { unit };
            let space = if unit.is_empty() { "" } else { " " };
            let expected = format!("{min} to {max}{space}{unit}");
            self.error(ErrorKind::Range { key, text: text.value }, &text.span)
                .expected(expected)
                .done();
        }
        fits
    }

    /// A number of which only zero or not counts.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.number(key).map(|(number, _)| number != 0)
    }

    /// The strings of a list.
    pub(super) fn items(&mut self, key: &'static str) -> Vec<Text> {
        let Some(setting) = self.setting(key) else { return Vec::new() };
        if let ValueKind::Atom(_) = setting.value.kind {
            let line = format!("parameter `{key}' is a single value but should be a list");
            let xl = self.xl_warning(setting, &line);
            self.error(ErrorKind::NeedsList(key), &setting.value.span)
                .hint("put it in brackets")
                .passed_over(xl);
        }
        self.strings_of(key, setting)
    }

    /// The strings of a list, or the one string given instead.
    pub(super) fn one_or_items(&mut self, key: &'static str) -> Option<OneOrMany> {
        let setting = self.setting(key)?;
        Some(match &setting.value.kind {
            ValueKind::Atom(value) => {
                OneOrMany::One(Text { value: value.clone(), span: setting.value.span.clone() })
            }
            ValueKind::List(_) => OneOrMany::Many(self.strings_of(key, setting)),
        })
    }

    /// The strings of a list, or the one string given instead, with their places.
    pub(super) fn texts(&mut self, key: &'static str) -> Vec<Text> {
        match self.one_or_items(key) {
            Some(OneOrMany::One(text)) => vec![text],
            Some(OneOrMany::Many(texts)) => texts,
            None => Vec::new(),
        }
    }

    /// As xl does, a list of strings ends at an item that is none; kxl calls it an error.
    fn strings_of(&mut self, key: &'static str, setting: &Setting) -> Vec<Text> {
        let ValueKind::List(items) = &setting.value.kind else { return Vec::new() };
        let mut strings = Vec::new();
        for item in items {
            match &item.kind {
                ValueKind::Atom(value) => {
                    strings.push(Text { value: value.clone(), span: item.span.clone() });
                }
                ValueKind::List(_) => {
                    self.error(ErrorKind::NestedItem(key), &item.span).passed_over(None);
                    break;
                }
            }
        }
        strings
    }

    pub(super) fn finish(self, mut config: DomainConfig) -> Result<Parsed, ConfigErrors> {
        if !self.errors.is_empty() {
            return Err(ConfigErrors {
                errors: self.errors,
                warnings: self.warnings,
                unreadable: false,
                likely_python: false,
            });
        }
        config.kept = self.kept;
        Ok(Parsed { config, warnings: self.warnings })
    }
}

/// What a key that takes a string or a list was given.
#[derive(Clone, Debug)]
pub(super) enum OneOrMany {
    One(Text),
    Many(Vec<Text>),
}

impl OneOrMany {
    /// The strings, one or many.
    pub(super) fn into_strings(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text.value],
            Self::Many(texts) => texts.into_iter().map(|text| text.value).collect(),
        }
    }
}
