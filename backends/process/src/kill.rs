//! Ending a process whatever its condition.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
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
    thaw(process.identity().pid);
    Ok(())
}

/// Thaws the control groups of `pid`, those of both versions; best effort, because most processes
/// are in none that can be frozen.
fn thaw(pid: i32) {
    let Ok(groups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return };
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    for (file, word) in freezers(&groups, &mounts) {
        // Only where something is frozen: writing to a group of the host would be impolite.
        let frozen =
            fs::read_to_string(&file).is_ok_and(|text| !matches!(text.trim(), "0" | "THAWED"));
        if frozen && let Err(error) = fs::write(&file, word) {
            tracing::warn!(%error, file = %file.display(), "cannot thaw");
        }
    }
}

/// The files that thaw a process of these groups, and what is written to them.
fn freezers(groups: &str, mounts: &str) -> Vec<(PathBuf, &'static str)> {
    let mount = |matches: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (dir, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
            matches(kind, options).then(|| PathBuf::from(dir))
        })
    };
    groups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let path = path.trim_start_matches('/');
            if number == "0" {
                let root = mount(&|kind, _| kind == "cgroup2")?;
                // The root group has no such file.
                return (!path.is_empty()).then(|| (root.join(path).join("cgroup.freeze"), "0"));
            }
            if !controllers.split(',').any(|name| name == "freezer") || path.is_empty() {
                return None;
            }
            let root = mount(&|kind, options| {
                kind == "cgroup" && options.split(',').any(|name| name == "freezer")
            })?;
            Some((root.join(path).join("freezer.state"), "THAWED"))
        })
        .collect()
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
        let Some(process) = &self.0 else { return };
        if let Err(error) = kill(process) {
            tracing::warn!(%error, pid = process.identity().pid, "cannot kill");
            return;
        }
        // A killed process is gone within milliseconds; one that hangs in the kernel is left to
        // the reaper instead of holding up the caller.
        let mut fds = [PollFd::new(process.pidfd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(1000u16)).is_ok() {
            let _reaped = waitid(
                Id::PIDFd(process.pidfd().as_fd()),
                WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG,
            );
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
        assert!(Process::open(identity).is_err());
    }

    #[test]
    fn what_is_kept_lives() {
        let process = Doomed::new(sleeper()).keep();
        assert!(process.identity().alive());
        drop(Doomed::new(process));
    }

    #[test]
    fn the_freezers_of_both_versions_are_found() {
        let mounts = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0\n\
                      cgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\n";
        let groups = "6:freezer:/kxl/a\n4:memory:/kxl/a\n0::/kxl/a\n";
        assert_eq!(
            freezers(groups, mounts),
            [
                ("/sys/fs/cgroup/freezer/kxl/a/freezer.state".into(), "THAWED"),
                ("/sys/fs/cgroup/unified/kxl/a/cgroup.freeze".into(), "0"),
            ]
        );
        assert_eq!(freezers("6:freezer:/\n0::/\n", mounts), [], "the host's own groups");
        assert_eq!(freezers("0::/kxl/a\n", ""), []);
    }
}
