//! Why a command had no result.

use std::io;
use std::time::Duration;

use thiserror::Error;

/// A refusal by the other side, or a failure on the way.
#[derive(Debug, Error)]
pub enum QmpError {
    /// The other side answered with an error; the connection goes on.
    #[error("{command}: {desc}")]
    Refused {
        /// The command.
        command: String,
        /// QMP's error class: `GenericError`, `CommandNotFound`, `DeviceNotFound`, …
        class: String,
        /// Its text for people.
        desc: String,
    },
    /// No answer in time; one that comes later is dropped. Whether the command was carried out is
    /// unknown.
    #[error("{command}: no answer within {} ms", after.as_millis())]
    TimedOut {
        /// The command, or `greeting`.
        command: String,
        /// The deadline.
        after: Duration,
    },
    /// The connection ended before the answer came.
    #[error("{command}: the control channel was closed")]
    Closed {
        /// The command, or `greeting`.
        command: String,
    },
    /// The other side takes no more: too many bytes wait to be sent.
    #[error("{command}: the control channel is blocked")]
    Blocked {
        /// The command.
        command: String,
    },
    /// The socket could not be used.
    #[error("control channel")]
    Io(#[from] io::Error),
}

impl QmpError {
    /// Whether the other side merely does not answer.
    #[must_use]
    pub const fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Blocked { .. })
    }

    /// Whether the other side does not know the command.
    #[must_use]
    pub fn is_unknown_command(&self) -> bool {
        matches!(self, Self::Refused { class, .. } if class == "CommandNotFound")
    }
}
