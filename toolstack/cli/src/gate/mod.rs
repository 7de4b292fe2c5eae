//! The gate: a small process through which others than root use some of kxl's commands.
//!
//! ```text
//!   kxl --gate stop web          kxl gate serve                         kxl stop web
//!   (any user) ── request ──────► who is it? may it? ── clean environment, ──► checks once more,
//!              ── 3 descriptors ─►                     the caller's descriptors  notes who asked,
//!              ── signals ──────►                    ── signals by pidfd ──────► acts
//!              ◄── exit status ──                    ◄── its end ───────────────
//! ```
//! Nothing of kxl needs it; a host without it is root's alone. What the caller writes is words of a
//! command line: they are read by the grammar that kxl itself has, and what is not in
//! [`allowed`] is refused. The child, not the gate, decides about them in the end, so that what was
//! checked is what is carried out, also over an upgrade.

pub(crate) mod allowed;
mod auth;
pub(crate) mod behalf;
pub(crate) mod client;
pub(crate) mod password;
mod peer;
pub(crate) mod server;
mod session;
mod wire;

use kxl_domain::Failure;
use serde::{Deserialize, Serialize};

/// Version of what is said through the socket.
const VERSION: u32 = 1;

/// Longest request in bytes.
const LONGEST: usize = 64 * 1024;

/// What a caller asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Request {
    v: u32,
    /// The command line, without the program's name.
    words: Vec<String>,
    /// Its `TERM`.
    term: Option<String>,
    /// Whether its `NO_COLOR` is set.
    plain: bool,
    password: Option<String>,
}

/// What it hears in the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reply {
    /// Nothing was done: a password is wanted.
    Password,
    /// Nothing was done; why.
    Refused(Failure),
    /// The command has ended with this status.
    Ended(i32),
    /// It was ended by this signal.
    Killed(i32),
}
