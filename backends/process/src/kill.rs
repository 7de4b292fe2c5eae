//! Ending a process whatever its condition.

use std::os::fd::AsFd;
use std::time::Duration;

use kxl_backend::Process;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

/// The longest that [`kill`] may take to show.
pub const GRACE: Duration = Duration::from_secs(3);

/// Kills the process: KILL, CONT for one that is stopped, thaw for one that is frozen (under the
/// first version of the freezer a killed process ends only when it is thawed). Does not wait.
///
/// # Errors
/// When the signal is refused; a process that is gone already is no error.
pub fn kill(process: &Process) -> std::io::Result<()> {
    match process.signal(Signal::SIGKILL) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        other => other?,
    }
    let _gone = process.signal(Signal::SIGCONT);
    if let Err(error) = process.thaw()
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, pid = process.identity().pid, "cannot thaw");
    }
    Ok(())
}

/// Kills the process and, where it is a child, reaps it; blocks for some milliseconds.
pub(crate) fn kill_and_reap(process: &Process) {
    if let Err(error) = kill(process) {
        tracing::warn!(%error, pid = process.identity().pid, "cannot kill");
        return;
    }
    // A killed process is gone within milliseconds; one that hangs in the kernel is left to the
    // reaper instead of holding up the caller.
    let mut fds = [PollFd::new(process.pidfd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::from(1000u16)).is_ok() {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        let _reaped = waitid(Id::PIDFd(process.pidfd().as_fd()), flags);
    }
}

/// A process that is killed and reaped when this is dropped: what a launch holds until it has
/// succeeded.
#[derive(Debug)]
pub struct Doomed(Option<Process>);

impl Doomed {
    /// Takes responsibility for a process.
    #[must_use]
    pub const fn new(process: Process) -> Self {
        Self(Some(process))
    }

    /// The process.
    ///
    /// # Panics
    /// Never: only [`Self::keep`] empties it, and that consumes it.
    #[must_use]
    pub fn get(&self) -> &Process {
        self.0.as_ref().expect("emptied only by keep, which consumes")
    }

    /// Lets the process live.
    ///
    /// # Panics
    /// Never, as above.
    #[must_use]
    pub fn keep(mut self) -> Process {
        self.0.take().expect("emptied only by keep, which consumes")
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            kill_and_reap(process);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kxl_backend::spawn;

    fn sleeper() -> Process {
        let mut command = spawn::Command::new(std::path::Path::new("/bin/sleep")).unwrap();
        command.arg("1000").unwrap();
        spawn::spawn(command).unwrap().open().unwrap()
    }

    #[test]
    fn what_is_dropped_is_dead_even_when_it_was_stopped() {
        let process = Doomed::new(sleeper());
        let identity = process.get().identity().clone();
        process.get().signal(Signal::SIGSTOP).unwrap();
        assert!(identity.alive());
        drop(process);
        assert!(!identity.alive());
        Process::open(identity).expect_err("the pid names nobody");
    }

    #[test]
    fn what_is_kept_lives() {
        let process = Doomed::new(sleeper()).keep();
        assert!(process.identity().alive());
        drop(Doomed::new(process));
    }
}
