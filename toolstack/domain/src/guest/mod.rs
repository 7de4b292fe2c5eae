//! What a guest says to its host: one message a line, `id=NAME key=value key="quoted value"`.
//!
//! Everything here is written by somebody who may be hostile. Reading is bounded in time and
//! memory whatever the bytes are, and what comes out is text that a terminal can be shown: UTF-8
//! (what is none is replaced), no control characters, cut at the lengths below.
//!
//! * [`decode`] reads one line, [`Message::encode`] writes one.
//! * [`Lines`] takes a stream apart, [`Marked`] finds the marked lines of a console.
//!
//! The grammar for people is in kxl-event(1).

mod line;
mod stream;
mod text;

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use line::{Decoded, decode};
pub use stream::{Lines, Marked, Piece};
pub use text::clean;

/// Longest line in bytes, without its end and without the marker of a console.
pub const LINE_MAX: usize = 1024;
/// Longest text of a message in bytes; what is longer is cut and ends with `…`.
pub const TEXT_MAX: usize = 512;
/// Longest value of a further field in bytes; cut likewise.
pub const VALUE_MAX: usize = 256;
/// Longest name of a message or field in bytes.
pub const NAME_MAX: usize = 32;
/// Most fields of a message beside its `id`.
pub const FIELDS_MAX: usize = 16;
/// Longest reference in bytes.
pub const REFERENCE_MAX: usize = 16;

/// What a marked line of a console begins with. Small letters and capitals are the same.
pub const MARKER: &str = "@@kxl-event ";

/// Name of the virtio-serial port: a program in the guest opens `/dev/virtio-ports/` and this.
pub const PORT: &str = "org.kxl.event.0";

/// The reason of a failed start that gives none.
pub const FAILED_TO_START: &str = "Failed to Start";

/// A word that a guest says about its own start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestWord {
    /// It is up and does what it is for.
    Started,
    /// It is not, and says why.
    Failed {
        /// The reason.
        text: String,
    },
    /// It needs more time than usual, and gets on.
    Progress {
        /// How far it is, 0 to 100.
        percent: u8,
        /// What it is doing.
        text: String,
    },
}

/// How much a log message matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Severity {
    /// As it should be.
    #[default]
    Info,
    /// Somebody should look at it some time.
    Warning,
}

/// Names and values beyond those that a message is known for, in the order of the line.
pub type Fields = Vec<(String, String)>;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// `started`, `failed` or `progress`.
    Word(GuestWord),
    /// `log`: for the host's log of events.
    Log {
        /// Its `severity`.
        severity: Severity,
        /// Its text.
        text: String,
        /// What else it says.
        fields: Fields,
    },
    /// `alert`: somebody should look at it now.
    Alert {
        /// Its text.
        text: String,
        /// What else it says.
        fields: Fields,
    },
    /// Any other `id`: kept as a log message by its name.
    Other {
        /// The name.
        id: String,
        /// Its text, if it has one.
        text: String,
        /// What else it says.
        fields: Fields,
    },
}

impl Message {
    /// The name of the message, as after `id=`.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Word(GuestWord::Started) => "started",
            Self::Word(GuestWord::Failed { .. }) => "failed",
            Self::Word(GuestWord::Progress { .. }) => "progress",
            Self::Log { .. } => "log",
            Self::Alert { .. } => "alert",
            Self::Other { id, .. } => id,
        }
    }
}

/// Text and fields as one line for people.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, fields): (&str, &[(String, String)]) = match self {
            Self::Word(GuestWord::Started) => ("started", &[]),
            Self::Word(GuestWord::Failed { text }) => return write!(f, "failed: {text}"),
            Self::Word(GuestWord::Progress { percent, text }) => {
                write!(f, "progress {percent} %")?;
                return if text.is_empty() { Ok(()) } else { write!(f, ": {text}") };
            }
            Self::Log { text, fields, .. } | Self::Alert { text, fields } => (text, fields),
            Self::Other { id, text, fields } => {
                write!(f, "{id}")?;
                if !text.is_empty() {
                    f.write_str(": ")?;
                }
                (text, fields)
            }
        };
        f.write_str(text)?;
        let mut gap = if text.is_empty() && !matches!(self, Self::Other { .. }) { "" } else { " " };
        for (key, value) in fields {
            write!(f, "{gap}{key}={}", line::quoted(value))?;
            gap = " ";
        }
        Ok(())
    }
}

/// Why a line is no message.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It is longer than [`LINE_MAX`].
    #[error("the line is longer than {LINE_MAX} bytes")]
    TooLong,
    /// It does not begin with `id=`.
    #[error("the line does not begin with id=NAME")]
    NoId,
    /// Something that is neither a blank nor `key=value`.
    #[error("expected key=value at byte {at}")]
    NoField {
        /// Where, counted from 0.
        at: usize,
    },
    /// A name is not made of what names are made of.
    #[error("a name has 1 to {NAME_MAX} letters, digits, _ . or - and begins with a letter")]
    BadName,
    /// A quote is not closed.
    #[error("a quote is not closed")]
    OpenQuote,
    /// Something stands behind a closing quote.
    #[error("a blank is missing behind a quoted value")]
    AfterQuote,
    /// More than [`FIELDS_MAX`].
    #[error("more than {FIELDS_MAX} fields")]
    TooMany,
    /// A field is there twice.
    #[error("{key} is there twice")]
    Twice {
        /// Which.
        key: String,
    },
    /// A field is missing.
    #[error("{id} needs {key}=")]
    Missing {
        /// Of which message.
        id: String,
        /// Which.
        key: &'static str,
    },
    /// A value is not one of those that are possible.
    #[error("{key}= takes {expected}")]
    BadValue {
        /// Of which field.
        key: &'static str,
        /// What would be possible.
        expected: &'static str,
    },
}

#[cfg(test)]
mod tests;
