//! A machine described in a file, in StratoVirt's JSON keys.
//!
//! StratoVirt's releases and the programs around it spell some keys in several ways; all of them
//! are read. Nothing is skipped: what is unknown or cannot be had is refused with its place.

mod keys;
mod table;
#[cfg(test)]
mod tests;
mod text;

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::draft::Draft;
pub use table::{Entry, KEYS, Section};

/// What is wrong with a file.
#[derive(Debug, Error)]
#[error("{}:{line}:{column}: {why}", file.display())]
pub struct FileError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What is wrong and what is expected.
    pub why: String,
}

/// Adds what the text of a file says to a configuration.
pub(super) fn add(draft: &mut Draft, text: &str, file: &Path) -> Result<(), FileError> {
    let node = text::read(text);
    node.and_then(|node| keys::machine(draft, &node)).map_err(|(at, why)| FileError {
        file: file.to_owned(),
        line: at.line,
        column: at.column,
        why,
    })
}
