//! The configuration of a domain: xl.cfg's grammar and keys, and kxl's own beside them.
//!
//! [`parse`] reads a text into a [`DomainConfig`](model::DomainConfig); [`keys`] is the one table
//! of what there is to say; [`disk`], [`vif`] and [`cpulist`] read the little languages inside
//! strings. Nothing here opens a file or looks at the host.

pub mod build;
pub mod cpulist;
mod defaults;
pub mod disk;
pub mod error;
mod host_file;
pub mod keys;
mod lexer;
pub mod model;
mod nearest;
mod number;
mod paths;
mod print;
mod print_items;
mod rate;
pub(crate) mod size;
mod syntax;
mod text;
pub mod vdev;
pub mod vif;

pub(crate) use build::is_user;
pub use build::{Parsed, Rules, parse, parse_by, parse_with};
pub use defaults::Defaults;
pub use error::{ConfigError, ConfigErrors, ErrorKind, Warning, WarningKind};
pub use host_file::{HOST_KEYS, HostFile, HostFileError, HostKey, PlainSetting, host_file};
pub use lexer::EscapeError;
pub use nearest::nearest;
pub use rate::RateError;
pub use text::{COMMAND_LINE, Place, SAVED, UPDATED};

#[cfg(test)]
mod docs_tests;

#[cfg(test)]
mod record_tests;
