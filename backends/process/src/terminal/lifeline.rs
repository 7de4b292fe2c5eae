//! What becomes of our descriptors when a program closes all that it does not know.
//!
//! A program keeps its terminal's master and the pipes of its output for the next monitor. One that
//! closes them would lose its terminal with the monitor, and be sent a SIGHUP. It also inherits the
//! writing end of a pipe that nobody writes to, the lifeline: when that is closed the monitor learns
//! of it at once, and makes a process, the holder, that keeps them in its place and ends with the
//! program. The many that close nothing cost no process.
//!
//! An emulator that puts itself into the background is also known by the pipe.

use std::fs;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

use kxl_backend::spawn::{self, Command};
use kxl_backend::{Attachments, Identity, Process};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::net::unix::pipe;

use super::{inherited, save};
use crate::kill::kill_and_reap;

/// Number of its writing end among the program's own descriptors.
pub(super) const LIFELINE_FD: RawFd = 103;

/// Key of the pipe among [`Attachments::notes`].
pub(super) const NOTE: &str = "lifeline";

/// Bytes that it can hold; the least there is.
const SIZE: i32 = 4096;

/// File in the runtime directory that names the holder.
pub(super) const HOLDER: &str = "holder";

/// The monitor's end.
#[derive(Debug)]
pub(super) enum Lifeline {
    /// Nothing of ours is worth keeping, or an earlier kxl made the program without one.
    None,
    /// The program has the other end.
    Program(pipe::Receiver),
    /// It has closed it before there was a holder.
    Cut,
    /// This process holds what it has closed.
    Holder(Process),
}

impl Lifeline {
    /// Makes one for a program to be executed, and writes down which it is.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub(super) fn make(command: &mut Command) -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // What is never filled need not be large.
        if let Err(error) = fcntl(&read, FcntlArg::F_SETPIPE_SZ(SIZE)) {
            tracing::debug!(%error, "a pipe of the usual size");
        }
        command.fd(write, LIFELINE_FD);
        Ok(Self::Program(pipe::Receiver::from_owned_fd(read)?))
    }

    /// Writes down which pipe it is.
    pub(super) fn note(&self, attachments: &mut Attachments) -> io::Result<()> {
        let Self::Program(read) = self else { return Ok(()) };
        inherited::note_pipe(attachments, NOTE, read)
    }

    /// Takes it back from a program that an earlier monitor made.
    ///
    /// # Errors
    /// When the program lets nothing be taken.
    pub(super) fn take_back(
        process: &Process,
        attachments: &Attachments,
        rundir: &Path,
    ) -> io::Result<Self> {
        if let Some(holder) = left(rundir) {
            return Ok(Self::Holder(holder));
        }
        if !attachments.notes.contains_key(NOTE) {
            return Ok(Self::None);
        }
        match inherited::pipe(&[process], attachments, NOTE, &[LIFELINE_FD])? {
            Some(read) => Ok(Self::Program(pipe::Receiver::from_owned_fd(read)?)),
            None => Ok(Self::Cut),
        }
    }

    /// The process that holds what the program has closed.
    pub(super) const fn holder(&self) -> Option<&Process> {
        match self {
            Self::Holder(holder) => Some(holder),
            Self::None | Self::Program(_) | Self::Cut => None,
        }
    }

    /// Waits until the program has closed its end, or its holder has ended. Cancel-safe.
    pub(super) async fn cut(&self) {
        match self {
            // Also where the program writes to it: whatever it does with our number, we hold.
            Self::Program(read) => drop(read.readable().await),
            Self::Cut => {}
            Self::Holder(holder) if holder.gone().await.is_ok() => {}
            Self::None | Self::Holder(_) => std::future::pending().await,
        }
    }

    /// Makes a holder of these, which ends with the program. Blocks for a fork.
    ///
    /// # Errors
    /// When it cannot be made or written down; there is none then.
    pub(super) fn hold(
        &mut self,
        process: &Process,
        fds: Vec<(OwnedFd, RawFd)>,
        rundir: &Path,
    ) -> io::Result<()> {
        if let Self::Holder(gone) = std::mem::replace(self, Self::None) {
            kill_and_reap(&gone);
        }
        let mut command = Command::holder(process)?;
        for (fd, number) in fds {
            command.fd(fd, number);
        }
        let gated = spawn::spawn(command)?;
        super::write(&rundir.join(HOLDER), &serde_json::to_vec(gated.identity())?)?;
        *self = Self::Holder(gated.open()?);
        Ok(())
    }

    /// Reaps the holder of a program that has ended.
    pub(super) fn end(&self, rundir: &Path) {
        if let Self::Holder(holder) = self {
            kill_and_reap(holder);
            save::remove(&rundir.join(HOLDER));
        }
    }
}

/// The holder that an earlier monitor has made, if it lives.
fn left(rundir: &Path) -> Option<Process> {
    let text = fs::read(rundir.join(HOLDER)).ok()?;
    Process::open(serde_json::from_slice::<Identity>(&text).ok()?).ok()
}
