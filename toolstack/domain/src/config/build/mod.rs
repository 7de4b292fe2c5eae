//! From keys and values to a checked [`DomainConfig`].

mod boot;
mod devices;
mod display;
mod general;
mod own;
mod process;
mod processor;
mod reader;
mod supervision;

pub(crate) use process::is_user;

use super::defaults::Defaults;
use super::error::{ConfigError, ConfigErrors, ErrorKind, Warning, WarningKind};
use super::keys::{self, Verdict};
use super::lexer::TokenKind;
use super::model::DomainConfig;
use super::print::value_text;
use super::syntax::{self, Document, Expecting, SyntaxError, SyntaxErrorKind, ValueKind};
use super::text::SourceText;
use reader::Reader;

/// Whose rules are followed where xl passes over a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// kxl's: what would be ignored and changes the domain is an error.
    Kxl,
    /// xl's: what xl prints and passes over is a warning, and the key counts as not given.
    Xl,
}

/// A configuration that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The domain.
    pub config: DomainConfig,
    /// What is doubtful about the text, in its order.
    pub warnings: Vec<Warning>,
}

/// Reads a configuration by kxl's rules.
///
/// `source_name` is the file's name as given, [`SAVED`](super::SAVED), [`UPDATED`](super::UPDATED)
/// or [`COMMAND_LINE`](super::COMMAND_LINE); `overrides` are `key=value` words of a command line,
/// which count as lines behind the text. Nothing is looked up on the host: paths stay as written
/// (see [`DomainConfig::resolve_paths`]).
///
/// Bytes that are not UTF-8 are best turned into U+FFFD before: in comments they do no harm, and
/// in a string they are an error here.
///
/// # Errors
/// [`ConfigErrors`] with every mistake that was found.
pub fn parse(source_name: &str, text: &str, overrides: &[String]) -> Result<Parsed, ConfigErrors> {
    parse_by(Rules::Kxl, source_name, text, overrides)
}

/// Reads a configuration by the rules of `rules`; otherwise as [`parse`].
///
/// # Errors
/// [`ConfigErrors`] with every mistake that was found.
pub fn parse_by(
    rules: Rules,
    source_name: &str,
    text: &str,
    overrides: &[String],
) -> Result<Parsed, ConfigErrors> {
    parse_with(&Defaults::default(), rules, source_name, text, overrides)
}

/// Reads a configuration that is about to become a domain: keys that it leaves out are as the
/// host's defaults say. Otherwise as [`parse_by`].
///
/// # Errors
/// [`ConfigErrors`] with every mistake that was found.
pub fn parse_with(
    defaults: &Defaults,
    rules: Rules,
    source_name: &str,
    text: &str,
    overrides: &[String],
) -> Result<Parsed, ConfigErrors> {
    let mut source = SourceText::new(source_name, text, overrides);
    let mut document = syntax::read(&source);
    if !document.errors.is_empty() {
        return Err(ConfigErrors {
            errors: document.errors.iter().map(|error| syntax_error(&source, error)).collect(),
            warnings: Vec::new(),
            unreadable: true,
            likely_python: document.likely_python,
        });
    }
    let further = defaults.lines_for(&document);
    if !further.is_empty() {
        source = SourceText::new(source_name, text, &[overrides, further.as_slice()].concat());
        document = syntax::read(&source);
    }
    let mut reader = Reader::new(&source, &document, rules);
    check_text(&mut reader, &document);
    let config = build(&mut reader);
    leftovers(&mut reader, &document);
    reader.finish(config)
}

/// Reads the keys that a host can have defaults for, for their mistakes.
pub(super) fn check_defaults(source: &SourceText, document: &Document) -> Result<(), ConfigErrors> {
    let mut reader = Reader::new(source, document, Rules::Kxl);
    check_text(&mut reader, document);
    let mut config = DomainConfig::new(general::stand_in());
    config.backend = "any".to_owned();
    own::read(&mut reader, &mut config);
    supervision::read(&mut reader, &mut config);
    process::read(&mut reader, &mut config);
    general::machine(&mut reader, &mut config);
    reader.finish(config).map(drop)
}

/// Reads every section, about in the order in which xl does.
fn build(reader: &mut Reader<'_>) -> DomainConfig {
    let mut config = general::identity(reader);
    own::read(reader, &mut config);
    supervision::read(reader, &mut config);
    process::read(reader, &mut config);
    supervision::check_that_it_is_heard(reader, &config);
    general::machine(reader, &mut config);
    processor::read(reader, &mut config);
    general::actions(reader, &mut config);
    boot::read(reader, &mut config);
    devices::read(reader, &mut config);
    display::read(reader, &mut config);
    own::emulator(reader, &mut config);
    own::refused(reader);
    config
}

/// Whether a value holds what stands for bytes that were no text.
fn holds_junk(value: &ValueKind) -> bool {
    match value {
        ValueKind::Atom(text) => text.contains('\u{fffd}'),
        ValueKind::List(items) => items.iter().any(|item| holds_junk(&item.kind)),
    }
}

fn check_text(reader: &mut Reader<'_>, document: &Document) {
    for setting in document.settings.values() {
        if holds_junk(&setting.value.kind) {
            reader.error(ErrorKind::NotUtf8, &setting.value.span).done();
        }
    }
}

/// Keys that no section has taken: unknown ones, those only Xen can honour, those not built yet.
fn leftovers(reader: &mut Reader<'_>, document: &Document) {
    let mut settings: Vec<_> = document.settings.iter().collect();
    settings.sort_by_key(|(_, setting)| setting.key_span.start);
    for (name, setting) in settings {
        let Some(key) = keys::find(name) else {
            let hint = keys::nearest(name).map(|known| format!("the nearest key is {known}"));
            let kind = WarningKind::UnknownKey(name.clone());
            reader.warn(kind, Some(&setting.key_span), hint, None);
            continue;
        };
        if reader.is_used(key.name) {
            continue;
        }
        let text = value_text(&setting.value.kind);
        let kind = match key.verdict {
            Verdict::Warn => WarningKind::XenOnly(key.name),
            _ => WarningKind::NotBuilt(key.name),
        };
        let as_default = text == key.default || text.trim_matches('"') == key.default;
        let xl = reader.xl_remark(key.name);
        if !as_default || xl.is_some() {
            reader.warn(kind, Some(&setting.key_span), None, xl);
        }
        reader.keep(key.name, text);
    }
}

/// One error of the grammar with both renderings.
fn syntax_error(source: &SourceText, error: &SyntaxError) -> ConfigError {
    let text = &source.text[error.span.clone()];
    let (kind, expected, message) = match &error.kind {
        SyntaxErrorKind::Lexical => {
            (ErrorKind::Lexical(text.to_owned()), None, "lexical error".to_owned())
        }
        SyntaxErrorKind::Escape(escape) => {
            let expected = Some("one of \\\" \\' \\\\ \\a \\b \\f \\n \\r \\t \\v".to_owned());
            (ErrorKind::Escape(*escape), expected, escape.xl_text().to_owned())
        }
        SyntaxErrorKind::Mixed => {
            (ErrorKind::Mixed, None, "can't add [list] to \"string\" or vice versa".to_owned())
        }
        SyntaxErrorKind::Unexpected { found, place } => (
            ErrorKind::Unexpected(found.plain_name()),
            Some(place.plain_text().to_owned()),
            format!("syntax error, unexpected {}, expecting {}", found.xl_name(), place.xl_text()),
        ),
    };
    let near = error.xl_near.as_ref().map_or("<newline>".to_owned(), |near| format!("`{near}'"));
    let line =
        format!("{}:{}: config parsing error near {near}: {message}", source.name, error.xl_line);
    ConfigError {
        kind,
        source_name: source.name.clone(),
        place: Some(source.place(&error.span)),
        expected,
        hint: syntax_hint(source, error),
        xl: if error.beyond_xl { Vec::new() } else { vec![line] },
        xl_status: 1,
    }
}

/// What to do about the mistakes people make most often.
fn syntax_hint(source: &SourceText, error: &SyntaxError) -> Option<String> {
    let text = &source.text[error.span.clone()];
    let before = source.text[..error.span.start].trim_end_matches([' ', '\t']);
    let is_value = before.ends_with('=');
    let hint = match &error.kind {
        SyntaxErrorKind::Lexical if text.starts_with('\r') => {
            "the file has the line ends of DOS; remove the carriage returns".to_owned()
        }
        SyntaxErrorKind::Lexical if text.starts_with('#') => {
            "a comment on the last line needs a newline behind it".to_owned()
        }
        SyntaxErrorKind::Lexical if text.starts_with(['\'', '"']) => {
            "the string is not closed on its line".to_owned()
        }
        SyntaxErrorKind::Lexical if matches!(text, "True" | "False") => {
            format!("write {}", u8::from(text == "True"))
        }
        SyntaxErrorKind::Lexical if is_value => format!("write it in quotes: \"{text}\""),
        SyntaxErrorKind::Lexical if before.ends_with(|c: char| c.is_ascii_digit()) => {
            "numbers have no unit; the unit is that of the key".to_owned()
        }
        SyntaxErrorKind::Lexical if text.starts_with(|c: char| c.is_ascii_uppercase()) => {
            "names of keys are lower case".to_owned()
        }
        SyntaxErrorKind::Unexpected { found: TokenKind::Ident, place } => {
            let behind = source.text[error.span.end..].trim_start_matches([' ', '\t']);
            let statement = behind.starts_with('=') || behind.starts_with("+=");
            match place {
                Expecting::InList | Expecting::BehindItem if statement => {
                    "a list further up is not closed".to_owned()
                }
                Expecting::EndOfStatement if statement => {
                    "every statement needs a line of its own, or \";\" in front".to_owned()
                }
                Expecting::EndOfStatement if before.ends_with(|c: char| c.is_ascii_hexdigit()) => {
                    "numbers have no unit; the unit is that of the key".to_owned()
                }
                Expecting::Value | Expecting::InList => format!("strings need quotes: \"{text}\""),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(hint)
}

#[cfg(test)]
mod service_tests;
#[cfg(test)]
mod tests;
