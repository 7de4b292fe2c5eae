//! A full second backend whose emulator is a small program of our own: every verb works, every
//! fault can be scripted, and the state lives in a process of its own, so that monitors can die.
//!
//! For tests of everything above the backends and for measuring kxl itself. The words of its
//! script are in [`script`]. Its guest understands, on the console: at the start of a line `p`
//! (power off), `r` (reboot), `k` (crash), `W` (watchdog), each acting at once; `x N` and Enter
//! (the emulator exits with status N); any other line comes back.
//!
//! The emulator runs as the user that started it, whatever `run_as` says: it runs no foreign code,
//! and a program in a build directory is rarely within an unprivileged user's reach.

pub mod protocol;
pub mod script;

mod backend;
mod control;
mod hold;
mod live;
mod memory;
mod program;
mod save;
mod sockets;
mod state;
mod watch;

use std::path::PathBuf;

use kxl_backend::Backend;
use kxl_domain::Capability;

/// What the backend offers where the script does not take it back.
pub const OFFERED: &[Capability] = &[
    Capability::Pause,
    Capability::Powerdown,
    Capability::Reset,
    Capability::Sleep,
    Capability::SaveState,
    Capability::LiveSave,
    Capability::Console,
];

/// The backend `mock`. Its emulator is looked for in the directory `KXL_LIBEXEC` names, beside the
/// running program, and in `../libexec/kxl/` from there.
///
/// Its futures have to be polled within a `tokio::task::LocalSet`.
#[must_use]
pub fn backend() -> impl Backend {
    backend::Mock::new(None)
}

/// The same with this program as its emulator.
#[must_use]
pub fn backend_at(program: PathBuf) -> impl Backend {
    backend::Mock::new(Some(program))
}
