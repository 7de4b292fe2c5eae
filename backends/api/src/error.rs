//! Why a backend could not do what was asked.

use std::path::Path;
use std::time::Duration;

use kxl_domain::Capability;
use thiserror::Error;

/// A backend's refusal or failure; few variants, so that callers can branch.
#[derive(Debug, Error)]
pub enum BackendError {
    /// The backend does not offer this; nothing was changed.
    #[error("backend \"{backend}\" does not offer {capability}")]
    Unsupported {
        /// Name of the backend.
        backend: String,
        /// What it lacks.
        capability: Capability,
    },
    /// The configuration asks for something impossible here.
    #[error("{key}: {why}")]
    Config {
        /// The configuration key.
        key: String,
        /// What is wrong with its value and what would be right.
        why: String,
    },
    /// A program, file or device that is needed is not on this host.
    #[error("{what} is missing: {hint}")]
    Missing {
        /// The program, file or device.
        what: String,
        /// Where to get it.
        hint: String,
    },
    /// The emulator could not be started or ended during its start.
    #[error("{program} did not start: {why}")]
    Launch {
        /// The emulator.
        program: String,
        /// Its exit and last words, or the system's error.
        why: String,
    },
    /// The emulator refused a command on its control channel.
    #[error("{command}: {why}")]
    Control {
        /// The command.
        command: String,
        /// The emulator's answer.
        why: String,
    },
    /// The emulator did not answer in time.
    #[error("no {waited_for} within {} ms", after.as_millis())]
    TimedOut {
        /// What was awaited.
        waited_for: String,
        /// For how long.
        after: Duration,
    },
    /// A saved state that does not belong to the machine this host would make.
    #[error("the state does not fit this host: {why}")]
    Foreign {
        /// What differs: what it was saved with, what is here.
        why: String,
    },
    /// It was given up on request; the guest goes on.
    #[error("given up")]
    Cancelled,
    /// The state could not be written to where it was to go.
    #[error("cannot write the state")]
    Sink(#[source] std::io::Error),
    /// The emulator is gone.
    #[error("the emulator has ended: {text}")]
    Exited {
        /// How, as far as it is known.
        text: String,
    },
    /// The system refused something.
    #[error("{what}")]
    Io {
        /// What was attempted, on what.
        what: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

impl BackendError {
    /// An I/O failure while doing `what`.
    pub fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }

    /// A configuration value that cannot be honoured.
    pub fn config(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Config { key: key.into(), why: why.into() }
    }

    /// Whether the emulator is merely not answering, as opposed to refusing or gone.
    #[must_use]
    pub const fn is_timeout(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }

    /// A file named in the configuration that cannot be used.
    pub fn file(key: &str, path: &Path, why: impl std::fmt::Display) -> Self {
        Self::Config { key: key.into(), why: format!("{}: {why}", path.display()) }
    }
}
