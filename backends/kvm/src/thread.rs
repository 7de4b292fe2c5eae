//! The threads of the process, by kind: what a thread may do is decided where it is made.

use std::io;
use std::thread::{Builder, JoinHandle};

/// What a thread is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Runs a virtual processor.
    Vcpu,
    /// Serves one device.
    Device,
    /// Moves a state out of the machine.
    Save,
}

/// Starts a thread of this kind. Its confinement is in place before `body` runs; a thread that
/// could not be confined ends the process.
///
/// # Errors
/// The system's refusal.
pub fn spawn<T: Send + 'static>(
    kind: Kind,
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    // The kernel keeps 15 bytes of a thread's name.
    let name: String = name.chars().take(15).collect();
    Builder::new().name(name).stack_size(256 << 10).spawn(move || {
        crate::sandbox::confine_thread(kind);
        body()
    })
}
