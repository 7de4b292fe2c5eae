//! What a driver holds while it makes or takes up a program.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use kxl_backend::Process;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use super::lifeline::Lifeline;
use super::pty;

/// The console's two ends between us and the monitor, and the terminal to wait on.
pub(super) struct Wires {
    pub(super) ours: UnixStream,
    pub(super) theirs: OwnedFd,
    pub(super) terminal: AsyncFd<OwnedFd>,
    pub(super) lifeline: Lifeline,
}

impl Wires {
    pub(super) fn of(master: &OwnedFd) -> std::io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let (ours, terminal) = (UnixStream::from_std(ours)?, pty::watched(master)?);
        Ok(Self { ours, theirs: theirs.into(), terminal, lifeline: Lifeline::None })
    }
}

/// Kills a process whose launch is not finished when it is dropped.
pub(super) struct Guard(pub(super) Option<Rc<Process>>);

impl Guard {
    pub(super) fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            crate::kill::kill_and_reap(process);
        }
    }
}
