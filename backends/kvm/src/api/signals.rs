//! Signals that end the process: heard by the api thread, like `quit`.
//!
//! The handler leaves a mark and wakes the api thread. Which thread it runs on makes no difference:
//! it does nothing that another could be in the middle of.

use std::fs;
use std::io;
use std::os::raw::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::siginfo_t;
use vmm_sys_util::signal::register_signal_handler;

use super::notices::Notices;

/// The process was asked to end.
static ASKED: AtomicBool = AtomicBool::new(false);

/// Whom to wake.
static WAKE: OnceLock<Notices> = OnceLock::new();

const SIGNALS: [c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

extern "C" fn hear(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    ASKED.store(true, Ordering::SeqCst);
    if let Some(notices) = WAKE.get() {
        notices.wake();
    }
}

/// From now on the signals end the machine in good order. One that whoever started the process has
/// it ignore stays ignored: nohup(1).
///
/// # Errors
/// The system's refusal.
pub fn heed(notices: &Notices) -> io::Result<()> {
    if WAKE.set(notices.clone()).is_err() {
        return Ok(());
    }
    let ignored = ignored();
    for signal in SIGNALS {
        if ignored >> (signal - 1) & 1 == 0 {
            register_signal_handler(signal, hear)?;
        }
    }
    Ok(())
}

/// Whether a signal has come.
pub(super) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// The set of ignored signals, signal 1 in bit 0; none where the kernel does not tell.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}
