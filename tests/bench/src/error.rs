//! What can go wrong while measuring.

use std::io;

use kxl_store::StoreError;
use thiserror::Error;

/// Why a figure could not be measured.
#[derive(Debug, Error)]
pub(crate) enum BenchError {
    /// Something of this program's own could not be done.
    #[error("cannot {attempt}: {source}")]
    Io {
        /// What was tried.
        attempt: String,
        /// Why not.
        source: io::Error,
    },
    /// A command that was to be measured failed.
    #[error("{line}: {status}\n{text}")]
    Command {
        /// The command line.
        line: String,
        /// How it ended.
        status: String,
        /// What it printed as errors.
        text: String,
    },
    /// A command worked and did not do what is measured: its time would mean nothing.
    #[error("{0}")]
    Wrong(String),
    /// The databases.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Some rows of the table are missing.
    #[error("not measured: {0}")]
    Rows(String),
    /// Somebody pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl BenchError {
    /// For `map_err`: an input or output error while trying `attempt`.
    pub(crate) fn io(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempt = attempt.into();
        move |source| Self::Io { attempt, source }
    }

    /// For `map_err` of what nix returns.
    pub(crate) fn os(attempt: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let attempt = attempt.into();
        move |errno| Self::Io { attempt, source: errno.into() }
    }

    /// Something was not as it has to be for the figure to mean anything.
    pub(crate) fn wrong(text: impl Into<String>) -> Self {
        Self::Wrong(text.into())
    }
}
