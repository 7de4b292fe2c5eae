//! Ctrl-C and SIGTERM: the next command that would be measured is refused instead, and everything
//! that was started is ended on the way out.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal};

use crate::error::BenchError;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Keeps the signals from ending this process. Called before any other thread exists, so that all
/// of them have the mask.
pub(crate) fn listen() -> Result<(), BenchError> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().map_err(BenchError::os("block signals"))?;
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            ASKED.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

/// Refuses when somebody wants this to end.
pub(crate) fn check() -> Result<(), BenchError> {
    if ASKED.load(Ordering::Relaxed) { Err(BenchError::Interrupted) } else { Ok(()) }
}
