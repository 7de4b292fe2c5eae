//! The descriptors that a monitor inherits, and its first word to the command that waits.

use std::fs::File;
use std::io::Write;
use std::os::fd::{OwnedFd, RawFd};

use kxl_control::{Moved, Ready, Word};
use kxl_domain::{Failure, Kind};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Where the first word goes: to the command that waits at the other end of a pipe, or, in the
/// foreground, to the log and the service manager. Dropped without a word, the pipe tells the
/// command that the monitor died.
#[derive(Debug)]
pub(crate) struct ReadyPipe(Option<File>);

impl ReadyPipe {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(Some(fd.into()))
    }

    /// For a monitor in the foreground.
    pub(crate) const fn aloud() -> Self {
        Self(None)
    }

    /// Says the one line and closes the pipe. A command that has left does not matter.
    pub(crate) fn say(self, ready: &Ready) {
        let Some(mut pipe) = self.0 else { return tell(ready) };
        if let Ok(mut line) = serde_json::to_vec(ready) {
            line.push(b'\n');
            if let Err(error) = pipe.write_all(&line) {
                tracing::info!(%error, "the command that started this monitor has left");
            }
        }
    }

    /// Tells how much of a state was read.
    pub(crate) fn moved(&mut self, moved: Moved) {
        let Some(pipe) = &mut self.0 else { return };
        if let Ok(mut line) = serde_json::to_vec(&Word::Moved(moved)) {
            line.push(b'\n');
            // Whoever has left is told no more, and its domain comes up all the same.
            let _left = pipe.write_all(&line);
        }
    }

    pub(crate) fn failed(self, failure: &Failure) {
        self.say(&Ready::Failed(failure.clone()));
    }
}

/// Tells whoever reads the log, and a service manager that waits for it, that the domain is up. One
/// that is tried again counts: its monitor is.
fn tell(ready: &Ready) {
    match ready {
        Ready::Up { domid } => tracing::info!(%domid, "the domain is up"),
        Ready::Retrying { domid, failure } => {
            tracing::warn!(%domid, %failure, "its start failed and is tried again");
        }
        Ready::Failed(failure) => return tracing::error!(%failure, "the domain is not up"),
        Ready::Settled { state, .. } => return tracing::info!(%state, "there was no emulator"),
    }
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "no service manager was told");
    }
}

/// The two descriptors that the command passed on.
pub(crate) fn inherited(lock: RawFd, ready: RawFd) -> Result<(OwnedFd, OwnedFd), Failure> {
    let open = |fd| std::fs::exists(format!("/proc/self/fd/{fd}")).unwrap_or(false);
    if !open(lock) || !open(ready) {
        return Err(Failure::new(Kind::Usage, "kxl-monitor is started by kxl, not by hand"));
    }
    let (lock, ready) = (own(lock), own(ready));
    for fd in [&lock, &ready] {
        // A script that took the lock along would keep every next monitor out for as long as it runs.
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|errno| {
            Failure::because(Kind::Internal, "cannot keep descriptors to ourselves", &errno)
        })?;
    }
    Ok((lock, ready))
}

#[allow(unsafe_code, reason = "the two numbers are the contract of the hand-over")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: called once for each number at the start of the process, before anything is opened.
    unsafe { kxl_backend::spawn::inherited(fd) }
}
