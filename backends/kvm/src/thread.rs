//! The threads of the process, by kind: what a thread may do is decided where it is made.

use std::io;
use std::panic::resume_unwind;
use std::thread::{Builder, JoinHandle, scope};

/// Bytes of a thread's stack.
const STACK: usize = 256 << 10;

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

/// Does two things at once, `other` on a thread that is no more when this returns. It has the main
/// thread's rules: it is for the making of a machine, before a guest runs.
///
/// # Errors
/// The system's refusal of a thread; nothing is done then.
pub fn beside<A: Send, B>(
    other: impl FnOnce() -> A + Send,
    here: impl FnOnce() -> B,
) -> io::Result<(A, B)> {
    scope(|scope| {
        let make = Builder::new().name("make".to_owned()).stack_size(STACK);
        let other = make.spawn_scoped(scope, other)?;
        let here = here();
        Ok((other.join().unwrap_or_else(|panic| resume_unwind(panic)), here))
    })
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
    Builder::new().name(name).stack_size(STACK).spawn(move || {
        crate::sandbox::confine_thread(kind);
        body()
    })
}
