//! Making an emulator process that cannot live unrecorded.
//!
//! ```text
//!   monitor                                child
//!   fork ─────────────────────────────────► setsid, descriptors, limits
//!   read /proc/PID/stat                     read(gate)  … blocked
//!   commit pid + start time to live.db
//!   write(gate) ──────────────────────────► exec
//!   read(errors): EOF = exec happened       or: errno, exit 127
//! ```
//! If the monitor dies before it has written the gate, the child reads EOF and exits without exec.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::children::Making;
use crate::process::{Identity, Process, RunState};
use crate::tracking;

mod attributes;
mod child;
mod command;
mod filter;

use child::Prepared;

pub use attributes::{Account, Attributes, Refused};
pub use command::Command;

/// How long a child may take from the opened gate to exec: a program on a file system that hangs,
/// or a frozen control group, must not hold its maker for ever.
const EXEC_DEADLINE: Duration = Duration::from_secs(10);

/// How long a child may take to end by itself, and again after a KILL.
const END_DEADLINE: Duration = Duration::from_secs(1);

/// What a child says in the pipe of errors when it is going to stop at its exec.
const TRACED: &[u8] = b"t";

/// A child that waits before `exec`. Dropping it ends the child unborn.
#[derive(Debug)]
pub struct Gated {
    /// Taken when the child has become the program.
    process: Option<Process>,
    identity: Identity,
    gate: Option<OwnedFd>,
    errors: OwnedFd,
}

impl Gated {
    /// The identity to be committed before [`Self::open`].
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Lets the child exec and waits until it has, for at most 10 s. Blocks the thread.
    ///
    /// # Errors
    /// The error of `exec` (or of a step before it); `TimedOut` when it has not come to exec in
    /// time. The child is gone then, or has been sent a KILL that ends it when the kernel lets it.
    pub fn open(self) -> io::Result<Process> {
        self.open_within(EXEC_DEADLINE)
    }

    fn open_within(mut self, deadline: Duration) -> io::Result<Process> {
        self.go(b"g")?;
        let until = Instant::now() + deadline;
        let mut words = Vec::new();
        // At most a word, and the error of exec behind it.
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if !readable(self.errors.as_fd(), left)? {
                return Err(self.late(deadline));
            }
            if self.word(&mut words)? {
                break;
            }
        }
        let (traced, errno) = match words.strip_prefix(TRACED) {
            Some(errno) => (true, errno),
            None => (false, words.as_slice()),
        };
        if let Some(error) = told(errno) {
            return Err(error);
        }
        if traced && let Some(process) = &self.process {
            match tracking::lend(process) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "what it writes is not noted"),
                Err(error) => {
                    kill(process);
                    return Err(error);
                }
            }
        }
        self.process.take().ok_or_else(unborn)
    }

    /// Reads what there is in the pipe of errors; true at its end, which is exec or the child's.
    fn word(&self, words: &mut Vec<u8>) -> io::Result<bool> {
        let mut some = [0; 8];
        let length = nix::unistd::read(&self.errors, &mut some)?;
        words.extend_from_slice(&some[..length]);
        Ok(length == 0)
    }

    /// Opens the gate.
    fn go(&mut self, word: &[u8]) -> io::Result<()> {
        let gate = self.gate.take().ok_or_else(unborn)?;
        nix::unistd::write(&gate, word).map(drop).map_err(|_| unborn())
    }

    /// Kills a child that did not come to exec in time; dropping it waits for its end.
    fn late(&self, deadline: Duration) -> io::Error {
        if let Some(process) = &self.process {
            kill(process);
        }
        let text = format!("the program was not executed within {} s", deadline.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, text)
    }
}

/// The error in a child's last word: errno and the step that failed.
fn told(word: &[u8]) -> Option<io::Error> {
    let (errno, step) = word.split_first_chunk()?;
    Some(attributes::told(i32::from_ne_bytes(*errno), *step.first()?))
}

fn unborn() -> io::Error {
    io::Error::other("the child ended before exec")
}

impl Drop for Gated {
    /// Ends a child that did not become the program, and reaps it.
    fn drop(&mut self) {
        drop(self.gate.take());
        if let Some(process) = self.process.take() {
            use nix::sys::wait::{Id, WaitPidFlag, waitid};
            // It reads the closed gate, or has failed already: it ends at once, unless somebody
            // holds it.
            if !ends(&process) {
                kill(&process);
                if !ends(&process) {
                    let pid = process.identity().pid;
                    tracing::warn!(pid, "a child that was killed before exec does not end");
                    return;
                }
            }
            let _reaped = waitid(Id::PIDFd(process.pidfd()), WaitPidFlag::WEXITED);
        }
    }
}

/// Whether the process has ended within its time.
fn ends(process: &Process) -> bool {
    readable(process.pidfd(), END_DEADLINE).unwrap_or(false)
}

/// Sends a KILL and thaws: under the first version of the freezer a frozen process ends only then.
fn kill(process: &Process) {
    if let Err(error) = process.signal(Signal::SIGKILL) {
        tracing::debug!(%error, "a child before exec is not killed");
    }
    if let Err(error) = process.thaw() {
        tracing::debug!(%error, "a child before exec is not thawed");
    }
}

/// Waits until `fd` can be read or is at its end; whether that came in time.
fn readable(fd: BorrowedFd<'_>, deadline: Duration) -> io::Result<bool> {
    let until = Instant::now() + deadline;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Rounded up: the last millisecond is waited for, not spun through.
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

impl Gated {
    /// Lets the child exec once it gets a CONT; until then it stands still, stopped. For programs
    /// that must not begin and have no way of their own to be told so.
    ///
    /// An error of `exec` cannot be seen here: it shows as exit status 127 after the CONT.
    ///
    /// # Errors
    /// When the child has ended, or `TimedOut` as in [`open`](Self::open).
    pub fn open_stopped(mut self) -> io::Result<Process> {
        self.go(b"s")?;
        let until = Instant::now() + EXEC_DEADLINE;
        // It stops itself where it would exec, so that it holds nothing of ours by then.
        loop {
            match self.identity.stat().map(|stat| stat.state) {
                Some(RunState::Stopped) => return self.process.take().ok_or_else(unborn),
                Some(_) if Instant::now() >= until => return Err(self.late(EXEC_DEADLINE)),
                // The kernel tells nobody but the parent's waitid of a stop: it is looked for.
                Some(_) => std::thread::sleep(Duration::from_micros(100)),
                None => return Err(self.last_word()),
            }
        }
    }

    /// What a child that has ended said of why.
    fn last_word(&self) -> io::Error {
        let mut words = Vec::new();
        while let Ok(false) = self.word(&mut words) {}
        told(&words).unwrap_or_else(unborn)
    }
}

/// Forks a child in a session of its own that waits for [`Gated::open`].
///
/// The calling process must be single-threaded or must not rely on locks held by other threads:
/// between fork and exec the child makes system calls only.
///
/// # Errors
/// When a pipe or the process cannot be made.
pub fn spawn(command: Command) -> io::Result<Gated> {
    let (gate_read, gate_write) = pipe()?;
    let (errors_read, errors_write) = pipe()?;
    let prepared = Prepared::new(&command, gate_read.as_raw_fd(), errors_write.as_raw_fd());
    let mut making = Making::begin();
    // SAFETY: the child only makes async-signal-safe calls on memory prepared before the fork
    // and ends in exec or _exit.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: we are the child of the fork above.
        0 => unsafe { prepared.become_emulator() },
        pid => {
            drop((gate_read, errors_write, command));
            let process = Identity::of(pid).and_then(Process::open)?;
            let identity = process.identity().clone();
            making.made(&identity);
            let (process, gate) = (Some(process), Some(gate_write));
            Ok(Gated { process, identity, gate, errors: errors_read })
        }
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

/// Wraps a raw descriptor number this process was started with.
///
/// # Safety
/// `fd` must be open and owned by nobody else.
#[must_use]
pub unsafe fn inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: promised by the caller.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests;
