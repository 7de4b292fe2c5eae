//! What is wrong or doubtful about a configuration, in two renderings: xl's own lines, to the
//! byte, and kxl's, which show the line, a caret and what was expected.

use std::fmt;

use thiserror::Error;

use super::cpulist::InvalidCpuList;
use super::disk::DiskError;
use super::lexer::EscapeError;
use super::text::Place;
use super::vif::VifError;
use crate::ids::InvalidId;

/// The kinds of mistakes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ErrorKind {
    /// Text that is no token.
    #[error("cannot read {0:?}")]
    Lexical(String),
    /// A token where another was due.
    #[error("{0} does not belong here")]
    Unexpected(&'static str),
    /// A backslash in a string that means nothing.
    #[error("this escape in a string {}", escape_text(*.0))]
    Escape(EscapeError),
    /// `+=` of a list to a string, or of a string to a list.
    #[error("a list cannot be added to a string, nor a string to a list")]
    Mixed,
    /// A string with bytes that are no text.
    #[error("this string is not UTF-8 text")]
    NotUtf8,
    /// There is no `name=`.
    #[error("the domain has no name")]
    NoName,
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] InvalidId),
    /// A number was needed.
    #[error("{key} needs a number, and {text:?} is none")]
    NotANumber {
        /// The key.
        key: &'static str,
        /// What was given.
        text: String,
    },
    /// A number was made with `+=`.
    #[error("{key} is a number: += cannot add to it")]
    AppendedNumber {
        /// The key.
        key: &'static str,
    },
    /// A number out of its range.
    #[error("{key} = {text} is out of range")]
    Range {
        /// The key.
        key: &'static str,
        /// What was given.
        text: String,
    },
    /// A single value where a list was due.
    #[error("{0} needs a list")]
    NeedsList(&'static str),
    /// A list where a single value was due.
    #[error("{0} needs a single value, not a list")]
    NeedsSingle(&'static str),
    /// A list inside a list of strings.
    #[error("{0} is a list of strings, and this item is a list")]
    NestedItem(&'static str),
    /// A word that is none of those the key knows.
    #[error("{key} cannot be {text:?}")]
    Word {
        /// The key.
        key: &'static str,
        /// What was given.
        text: String,
    },
    /// A disk that cannot be.
    #[error("disk: {0}")]
    Disk(#[from] DiskError),
    /// Two disks with one virtual device.
    #[error("two disks are called {0}")]
    SameDisk(String),
    /// An interface that cannot be.
    #[error("vif: {0}")]
    Vif(#[from] VifError),
    /// A list of CPUs that cannot be.
    #[error(transparent)]
    Cpus(#[from] InvalidCpuList),
    /// Nothing to start from.
    #[error("neither kernel nor bootloader is given")]
    NoKernel,
    /// Keys that contradict each other or a limit of the machine.
    #[error("{0}")]
    Contradiction(&'static str),
    /// A key of Xen beside one of supervision that decides the same.
    #[error("{of_xen} cannot stand beside {key}, which is at {place}")]
    BesideSupervision {
        /// Xen's key.
        of_xen: &'static str,
        /// The key of supervision.
        key: &'static str,
        /// Where that one stands.
        place: String,
    },
    /// What would have to be ignored and must not be.
    #[error("{key} cannot be honoured: {why}")]
    Refused {
        /// The key.
        key: &'static str,
        /// Why.
        why: &'static str,
    },
}

const fn escape_text(error: EscapeError) -> &'static str {
    match error {
        EscapeError::Hex => "is hexadecimal, which has never worked",
        EscapeError::Octal => "is octal and has fewer than three digits",
        EscapeError::Unknown => "means nothing",
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// What it is.
    pub kind: ErrorKind,
    /// The file's name, or what stands for it.
    pub source_name: String,
    /// Where it is; `None` for what is missing altogether.
    pub place: Option<Place>,
    /// What was expected there.
    pub expected: Option<String>,
    /// What may have been meant, or what to do.
    pub hint: Option<String>,
    /// The lines xl would print for it; empty where xl finds nothing wrong.
    pub(super) xl: Vec<String>,
    /// The status xl would exit with.
    pub(super) xl_status: u8,
}

impl ConfigError {
    /// kxl's rendering: several lines, each ended by a newline.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = self.to_string() + "\n";
        if let Some(place) = &self.place {
            out += &place.excerpt();
        }
        for (label, note) in [("expected", &self.expected), ("hint", &self.hint)] {
            if let Some(note) = note {
                out += &format!("  {label}: {note}\n");
            }
        }
        out
    }
}

impl fmt::Display for ConfigError {
    /// One line: place and message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", self.kind),
            None => write!(f, "{}: {}", self.source_name, self.kind),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The kinds of warnings.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WarningKind {
    /// A key that neither xl nor kxl knows.
    #[error("{0} is not a key and is ignored")]
    UnknownKey(String),
    /// A key that this build keeps without acting on it.
    #[error("{0} is kept, but this version of kxl does not act on it")]
    NotBuilt(&'static str),
    /// A key that only Xen can honour.
    #[error("{0} is for Xen only and has no effect here")]
    XenOnly(&'static str),
    /// A key that has no effect beside another one, or on this kind of domain.
    #[error("{key} has no effect: {why}")]
    NoEffect {
        /// The key.
        key: &'static str,
        /// Why.
        why: &'static str,
    },
    /// A mistake that xl prints and passes over; under kxl's rules it is an error.
    #[error("{0}")]
    PassedOver(ErrorKind),
    /// What only xl mentions.
    #[error("{0}")]
    Remark(&'static str),
}

/// One warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it is.
    pub kind: WarningKind,
    /// Where it is.
    pub place: Option<Place>,
    /// What may have been meant, or what to do.
    pub hint: Option<String>,
    /// xl's own line for it.
    pub(super) xl: Option<String>,
}

impl Warning {
    /// The line, in places two, that xl prints on standard error for this, without the last
    /// newline; `None` where xl is silent.
    #[must_use]
    pub fn xl_text(&self) -> Option<&str> {
        self.xl.as_deref()
    }

    /// Whether kxl says it too.
    #[must_use]
    pub const fn said_by_kxl(&self) -> bool {
        !matches!(self.kind, WarningKind::Remark(_))
    }
}

impl fmt::Display for Warning {
    /// kxl's rendering: one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        self.kind.fmt(f)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Everything that was wrong with a configuration; there is at least one error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The errors, in the order they were found.
    pub errors: Vec<ConfigError>,
    /// What was doubtful besides.
    pub warnings: Vec<Warning>,
    /// The text could not be read at all, and xl would say so once more at the end.
    pub(super) unreadable: bool,
    /// xl would add its lines about Python.
    pub(super) likely_python: bool,
}

impl ConfigErrors {
    /// What xl prints on standard error, each line ended by a newline: every error of the grammar,
    /// or else its warnings up to the first error, at which it ends.
    #[must_use]
    pub fn xl_text(&self) -> String {
        let mut lines: Vec<&str> = self.warnings.iter().filter_map(Warning::xl_text).collect();
        let shown = if self.unreadable { self.errors.len() } else { 1 };
        let own: Vec<String> = self
            .errors
            .iter()
            .take(shown)
            .flat_map(|error| match error.xl.as_slice() {
                // What xl's grammar does not come to, it does not mention.
                [] if self.unreadable => Vec::new(),
                [] => vec![error.to_string()],
                lines => lines.to_vec(),
            })
            .collect();
        lines.extend(own.iter().map(String::as_str));
        if self.likely_python {
            lines.extend(PYTHON);
        }
        if self.unreadable {
            lines.push("Failed to parse config: Invalid argument");
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// What kxl prints on standard error: every error with its line and a caret.
    #[must_use]
    pub fn render(&self) -> String {
        self.errors.iter().map(ConfigError::render).collect()
    }

    /// The status that `xl create` ends with: 1 from the parser, 3 where only building the domain
    /// would have found the mistake.
    #[must_use]
    pub fn xl_exit_code(&self) -> u8 {
        self.errors.first().map_or(1, |error| error.xl_status)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render().trim_end())
    }
}

impl std::error::Error for ConfigErrors {}

/// xl's advice for configurations from the days when they were Python programs.
const PYTHON: [&str; 3] = [
    "warning: Config file looks like it contains Python code.",
    "warning:  Arbitrary Python is no longer supported.",
    "warning:  See https://wiki.xen.org/wiki/PythonInXlConfig",
];
