//! Charon's own configuration files: what they say about a domain.
//!
//! A Charon emulator of a VAX, an Alpha or a PDP-11 is set up by a file of its own: `set`, `load`
//! and `include` statements, one a line. kxl passes that file on; from here it learns what people
//! and the launch need to know of it ([`Facts`]), and gets its text with another console port
//! ([`Configuration::with_console_port`]). Nothing here opens a file: what an `include` names is
//! asked of the caller.
//!
//! The reader is tolerant where releases differ (both ways of naming the console, letters of
//! either case in names of objects, quotes that a word processor made) and strict where a slip of
//! the pen would start another machine than was meant.

mod check;
mod console;
mod cursor;
mod error;
mod facts;
mod include;
mod licence;
mod log;
mod model;
mod nic;
mod service;
mod statement;
pub mod stop_script;

pub use check::{HostNics, NicFinding, managed_nics};
pub use console::ConsoleLine;
pub use error::{CharonError, Mistake};
pub use facts::{Facts, facts};
pub use licence::{LICENCE_SIGNS, LicenceSign, LicenceWord, licence_word, version};
pub use log::{LogFiles, LogPlace, is_rotated, newest_log};
pub use model::{Family, MODELS, Model};
pub use nic::{Nic, NicKind};
pub use service::{ServiceState, service_state};
pub use statement::{Member, Statement, Verb};

use include::Flat;

/// A configuration that was understood: its statements, and its text with every include resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    text: String,
    statements: Vec<Statement>,
}

impl Configuration {
    /// The text, every `include` replaced by what it names.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The statements, in their order.
    #[must_use]
    pub fn statements(&self) -> &[Statement] {
        &self.statements
    }

    /// Every assignment to a member of one object, in their order; names count in letters of
    /// either case.
    fn assignments<'c>(
        &'c self,
        object: &'c str,
        key: &'c str,
    ) -> impl Iterator<Item = &'c Member> {
        self.of(object)
            .flat_map(|statement| &statement.members)
            .filter(move |member| member.index.is_none() && member.is(key))
    }

    /// What a member of an object comes to: the last word that is said about it.
    fn value<'c>(&'c self, object: &'c str, key: &'c str) -> Option<&'c str> {
        self.assignments(object, key).last().map(|member| member.value.as_str())
    }

    /// The statements about one object.
    fn of<'c>(&'c self, object: &'c str) -> impl Iterator<Item = &'c Statement> {
        self.statements.iter().filter(move |s| s.object.eq_ignore_ascii_case(object))
    }
}

/// Reads a configuration; `include` gives the text of a file that it names.
///
/// # Errors
/// [`CharonError`] at the first place that cannot be understood: a statement that is none, a file
/// that `include` does not have, a first statement other than `set session hw_model`, a console
/// port that is no port.
pub fn parse(
    text: &str,
    include: impl FnMut(&str) -> Option<String>,
) -> Result<Configuration, CharonError> {
    let flat = Flat::read(text, include)?;
    let statements = flat.statements()?;
    match statements.first() {
        Some(first) if names_model(first) => {}
        Some(first) => return Err(flat.error(first.span.start, Mistake::NotTheModelFirst)),
        None => return Err(flat.error(0, Mistake::Empty)),
    }
    let configuration = Configuration { text: String::new(), statements };
    if let Some(member) = console::bad_port(&configuration) {
        let mistake = Mistake::Port(member.value.clone());
        return Err(flat.error(member.span.start, mistake));
    }
    Ok(Configuration { text: flat.into_text(), ..configuration })
}

/// Whether a text is a Charon configuration: its first statement is `set session hw_model`. The
/// rest may still be wrong.
#[must_use]
pub fn is_charon(text: &str) -> bool {
    let first =
        cursor::lines(text).find_map(|line| statement::read(&text[line.clone()]).transpose());
    matches!(first, Some(Ok(first)) if names_model(&first))
}

fn names_model(statement: &Statement) -> bool {
    statement.verb == Verb::Set
        && statement.object.eq_ignore_ascii_case("session")
        && statement.members.iter().any(|member| member.is("hw_model"))
}

#[cfg(test)]
mod tests;
