//! What goes wrong, and the exit status of each.

use std::fmt;
use std::io;

/// A failure.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Something that the system refused.
    Io { what: String, cause: io::Error },
    /// The command line is wrong.
    Usage(String),
    /// There is nothing to tell the host by.
    NoWay(String),
    /// Nobody listens, or nobody answers.
    NoAnswer(&'static str),
    /// Somebody else holds the port.
    Busy(String),
    /// The host has refused the message.
    Refused(String),
}

impl Trouble {
    pub(crate) fn io(what: impl Into<String>, cause: io::Error) -> Self {
        Self::Io { what: what.into(), cause }
    }

    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Io { .. } => 1,
            Self::Usage(_) => 2,
            Self::NoWay(_) => 3,
            Self::NoAnswer(_) => 4,
            Self::Busy(_) => 5,
            Self::Refused(_) => 6,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { what, cause } => write!(f, "{what}: {cause}"),
            Self::Usage(text) => write!(f, "{text}; kxl-event --help lists what there is"),
            Self::NoWay(text) => f.write_str(text),
            Self::NoAnswer(text) => write!(f, "the host does not answer: {text}"),
            Self::Busy(path) => write!(f, "{path} is held by another program"),
            Self::Refused(why) => write!(f, "the host refuses the message: {why}"),
        }
    }
}
