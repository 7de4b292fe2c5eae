//! What is wrong with a Charon configuration, and where.

use thiserror::Error;

/// The kinds of mistakes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Mistake {
    /// There is no statement.
    #[error(
        "the configuration says nothing: its first statement has to be set session hw_model=MODEL"
    )]
    Empty,
    /// The first statement is another one.
    #[error("the first statement has to be set session hw_model=MODEL")]
    NotTheModelFirst,
    /// A line that starts with another word.
    #[error("{0:?} is no statement; there are set, load and include")]
    Unknown(String),
    /// Something that has to be there is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A key without its value.
    #[error("{0:?} needs \"=\" and a value")]
    NoValue(String),
    /// Brackets without a number between them.
    #[error("the index of {0:?} is no number in brackets")]
    Index(String),
    /// A quote that is not closed on its line.
    #[error("the quotes are not closed on this line")]
    OpenQuotes,
    /// Text right behind closing quotes.
    #[error("a space is needed behind the closing quotes")]
    BehindQuotes,
    /// More than a statement takes.
    #[error("{0:?} does not belong here")]
    Unexpected(String),
    /// A file that cannot be had.
    #[error("cannot read the included file {0:?}")]
    NotIncluded(String),
    /// Files that include each other, or too many of them.
    #[error("more than {0} files are included: do they include each other?")]
    TooManyIncludes(usize),
    /// A text that no emulator's configuration is as long as.
    #[error("with what it includes the configuration is longer than {0} bytes")]
    TooLong(usize),
    /// A console port that is none.
    #[error("the console's port is {0:?}; a port is a number from 1 to 65535")]
    Port(String),
}

/// A mistake and its place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", self.located(None))]
pub struct CharonError {
    /// The included file that it is in, as the configuration names it; `None` is the configuration.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: usize,
    /// The column, in characters from 1.
    pub column: usize,
    /// What it is.
    pub mistake: Mistake,
    /// The line's text.
    pub text: String,
}

impl CharonError {
    /// One line, `FILE:LINE:COLUMN: mistake`; `file` is the name of the configuration itself.
    #[must_use]
    pub fn located(&self, file: Option<&str>) -> String {
        let Self { line, column, mistake, .. } = self;
        match self.file.as_deref().or(file) {
            Some(file) => format!("{file}:{line}:{column}: {mistake}"),
            None => format!("line {line}, column {column}: {mistake}"),
        }
    }
}
