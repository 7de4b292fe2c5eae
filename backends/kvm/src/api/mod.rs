//! The api-channel: QMP on unix sockets.
//!
//! [`Listener`]s are made before the process is confined; [`Api::serve`] is what the main thread does
//! when the machine is made. It sees it as a [`Control`] and hears from it by [`Notices`].

mod client;
mod commands;
pub mod control;
mod event;
mod listen;
pub mod notices;
mod serve;
pub mod signals;

pub use control::Control;
pub use listen::{ListenError, Listener};
pub use notices::Notices;
pub use serve::{Api, ServeError};

/// The version of QEMU whose commands these are in kind, and what StratoVirt says of itself. Its
/// clients compare the greeting; the program's own version is in the answer to `query-version`.
const VERSION: [u32; 3] = [4, 0, 1];

/// The package in the greeting: none, as in StratoVirt's.
const PACKAGE: &str = "";

#[cfg(test)]
mod tests;
