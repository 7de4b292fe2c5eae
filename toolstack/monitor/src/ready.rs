//! The descriptors that a monitor inherits, and its first word to the command that waits.

use std::fs::File;
use std::io::Write;
use std::os::fd::{OwnedFd, RawFd};

use kxl_control::{Moved, Ready, Word};
use kxl_domain::{Failure, Kind};

/// The write end of the ready pipe. Dropped without a word, it tells the command that the monitor
/// died.
#[derive(Debug)]
pub(crate) struct ReadyPipe(File);

impl ReadyPipe {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd.into())
    }

    /// Says the one line and closes the pipe. A command that has left does not matter.
    pub(crate) fn say(mut self, ready: &Ready) {
        if let Ok(mut line) = serde_json::to_vec(ready) {
            line.push(b'\n');
            if let Err(error) = self.0.write_all(&line) {
                tracing::info!(%error, "the command that started this monitor has left");
            }
        }
    }

    /// Tells how much of a state was read.
    pub(crate) fn moved(&mut self, moved: Moved) {
        if let Ok(mut line) = serde_json::to_vec(&Word::Moved(moved)) {
            line.push(b'\n');
            // Whoever has left is told no more, and its domain comes up all the same.
            let _left = self.0.write_all(&line);
        }
    }

    pub(crate) fn failed(self, failure: &Failure) {
        self.say(&Ready::Failed(failure.clone()));
    }
}

/// The two descriptors that the command passed on.
pub(crate) fn inherited(lock: RawFd, ready: RawFd) -> Result<(OwnedFd, OwnedFd), Failure> {
    let open = |fd| std::fs::exists(format!("/proc/self/fd/{fd}")).unwrap_or(false);
    if !open(lock) || !open(ready) {
        return Err(Failure::new(Kind::Usage, "kxl-monitor is started by kxl, not by hand"));
    }
    Ok((own(lock), own(ready)))
}

#[allow(unsafe_code, reason = "the two numbers are the contract of the hand-over")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: called once for each number at the start of the process, before anything is opened.
    unsafe { kxl_backend::spawn::inherited(fd) }
}
