//! The identity of a process and the only ways to signal it.
//!
//! A pid alone names nothing: it is reused. A process is identified by pid, start time and the
//! host's boot id, and signalled only through a pidfd that was checked against them.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// What names a process for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot: field 22 of `/proc/PID/stat` (proc(5)).
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id` of the boot it belongs to.
    pub boot_id: String,
}

/// The run state of a process, the third field of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Running or runnable (R).
    Running,
    /// Sleeping or idle (S, I).
    Sleeping,
    /// Uninterruptible (D); also what the cgroup v1 freezer shows.
    Waiting,
    /// Stopped by a signal or a tracer (T, t).
    Stopped,
    /// Dead (Z, X).
    Dead,
}

/// One reading of `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Run state of the main thread.
    pub state: RunState,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
    /// User and system time of all threads in clock ticks (USER_HZ, 100 per second on Linux).
    pub cpu_ticks: u64,
    /// Parent.
    pub ppid: i32,
    /// How many threads it has.
    pub threads: u32,
}

impl Stat {
    /// Reads `/proc/PID/stat`.
    ///
    /// # Errors
    /// `NotFound` when there is no such process.
    pub fn read(pid: i32) -> io::Result<Self> {
        // One read: the kernel gives the line at once, and a list reads thousands of them.
        let mut line = [0; 1024];
        let length = fs::File::open(format!("/proc/{pid}/stat"))?.read(&mut line)?;
        // The name is any bytes, cut at the fifteenth: often in the middle of a character.
        Self::parse(&String::from_utf8_lossy(&line[..length]))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "odd /proc/PID/stat"))
    }

    /// The name in parentheses may itself hold blanks and parentheses: fields count from the
    /// last one.
    fn parse(text: &str) -> Option<Self> {
        let rest = text.get(text.rfind(')')? + 2..)?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Self {
            state: match *fields.first()? {
                "R" => RunState::Running,
                "D" => RunState::Waiting,
                "T" | "t" => RunState::Stopped,
                "Z" | "X" | "x" => RunState::Dead,
                _ => RunState::Sleeping,
            },
            ppid: fields.get(1)?.parse().ok()?,
            cpu_ticks: fields.get(11)?.parse::<u64>().ok()?
                + fields.get(12)?.parse::<u64>().ok()?,
            threads: fields.get(17)?.parse().ok()?,
            start_time: fields.get(19)?.parse().ok()?,
        })
    }
}

/// The boot id of this boot of the host; read once, as no process outlives a boot.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn boot_id() -> io::Result<&'static str> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(known) = BOOT.get() {
        return Ok(known);
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    Ok(BOOT.get_or_init(|| id))
}

impl Identity {
    /// The identity of a process that is known to exist (our own child, not yet reaped).
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, start_time: Stat::read(pid)?.start_time, boot_id: boot_id()?.to_owned() })
    }

    /// What the host shows of exactly this process; `None` when it is gone (a zombie is gone).
    #[must_use]
    pub fn stat(&self) -> Option<Stat> {
        if boot_id().ok()? != self.boot_id {
            return None;
        }
        let stat = Stat::read(self.pid).ok()?;
        (stat.start_time == self.start_time && stat.state != RunState::Dead).then_some(stat)
    }

    /// Whether exactly this process lives.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.stat().is_some()
    }
}

/// A handle on one process that cannot come to mean another.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    pidfd: OwnedFd,
}

impl Process {
    /// Opens the process of this identity.
    ///
    /// # Errors
    /// `NotFound` when it is gone or the pid belongs to another process by now.
    pub fn open(identity: Identity) -> io::Result<Self> {
        let pidfd = pidfd_open(identity.pid)?;
        // Only after the pidfd is held does a matching start time prove that it is the same one.
        if !identity.alive() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the process is gone"));
        }
        Ok(Self { identity, pidfd })
    }

    /// Its identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its pidfd; readable when the process has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// `ESRCH` when it has ended and been reaped, `EPERM` where that is forbidden.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // SAFETY: pidfd_send_signal reads no memory of ours when the info pointer is null.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Thaws the control groups that the process is in, where they are frozen: a kill does not end
    /// a process that the v1 freezer holds.
    ///
    /// # Errors
    /// `NotFound` when the process is gone, or why the group may not be thawed.
    pub fn thaw(&self) -> io::Result<()> {
        crate::freezer::thaw(self.identity.pid)
    }

    /// Takes a copy of one of the process's own descriptors (pidfd_getfd(2)).
    ///
    /// # Errors
    /// `EPERM` where the kernel refuses ptrace access to it, `EBADF` when it has no such one.
    pub fn take_fd(&self, number: i32) -> io::Result<OwnedFd> {
        // SAFETY: the call takes and returns descriptors only.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.pidfd.as_raw_fd(), number, 0) };
        let fd = i32::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Waits until the process has ended, reaped or not: for a process that somebody else has to
    /// reap this shows long before [`Self::wait`] can tell how.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// When the pidfd cannot be polled.
    pub async fn gone(&self) -> io::Result<()> {
        // SAFETY: the copy is owned by the registration and stays open as long as it.
        let watched = unsafe {
            tokio::io::unix::AsyncFd::register_with_interest(
                self.pidfd.try_clone()?,
                tokio::io::Interest::READABLE,
            )
        }?;
        drop(watched.readable().await?);
        Ok(())
    }

    /// Waits until the process has ended and says how, as far as the kernel tells: always for a
    /// child of ours, for others by `PIDFD_GET_INFO` where the kernel has it (6.15) and the reaper
    /// has been.
    ///
    /// Cancel-safe; a second call gives the same for non-children and `(None, None)` for children.
    ///
    /// # Errors
    /// When the pidfd cannot be polled.
    pub async fn wait(&self) -> io::Result<(Option<i32>, Option<i32>)> {
        self.gone().await?;
        if let Some(status) = reap(&self.pidfd) {
            return Ok(status);
        }
        // Not our child: its parent reaps it first, and only then does the kernel tell.
        for _ in 0..50 {
            if let Some(status) = exit_info(&self.pidfd) {
                return Ok(status);
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        Ok((None, None))
    }
}

/// Opens a pidfd (pidfd_open(2)); close-on-exec.
///
/// # Errors
/// `NotFound`-like `ESRCH` when there is no such process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes a number and returns a descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reaps a child of ours: `(exit code, signal)`; `None` when it is no child.
fn reap(pidfd: &OwnedFd) -> Option<(Option<i32>, Option<i32>)> {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
    match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
        Ok(WaitStatus::Exited(_, code)) => Some((Some(code), None)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Some((None, Some(signal as i32))),
        _ => None,
    }
}

/// `struct pidfd_info` of linux/pidfd.h, up to `exit_code`.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: i32,
}

const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `_IOWR(0xFF, 11, struct pidfd_info)` for the first published size of the struct, 64 bytes.
const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b;

/// The exit status of a process that was reaped by somebody else.
fn exit_info(pidfd: &OwnedFd) -> Option<(Option<i32>, Option<i32>)> {
    const { assert!(size_of::<PidfdInfo>() == 64) };
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request's size field says 64 bytes, which is the size of `info`.
    let rc = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    if rc != 0 || info.mask & PIDFD_INFO_EXIT == 0 {
        return None;
    }
    let signal = info.exit_code & 0x7f;
    Some(if signal == 0 { (Some(info.exit_code >> 8 & 0xff), None) } else { (None, Some(signal)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_parentheses_does_not_shift_the_fields() {
        let line = format!("42 (a) b) (c) S 7 {}", "1 ".repeat(40));
        let stat = Stat::parse(&line).unwrap();
        assert_eq!((stat.state, stat.ppid, stat.threads), (RunState::Sleeping, 7, 1));
    }

    #[test]
    fn a_program_whose_name_is_cut_within_a_character_is_alive() {
        let name = "éééééééé"; // 16 bytes, of which the kernel keeps 15
        let dir = std::env::temp_dir().join(format!("kxl-process-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        // The kernel takes the name from the link, the program finds its own in argv[0].
        std::os::unix::fs::symlink("/bin/sleep", dir.join(name)).unwrap();
        let mut command = std::process::Command::new(dir.join(name));
        std::os::unix::process::CommandExt::arg0(&mut command, "sleep");
        let mut child = command.arg("600").spawn().unwrap();
        fs::remove_dir_all(&dir).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let raw = fs::read(format!("/proc/{pid}/stat")).unwrap();
        let identity = Identity::of(pid);
        let alive = identity.as_ref().is_ok_and(Identity::alive);
        child.kill().unwrap();
        child.wait().unwrap();
        std::str::from_utf8(&raw).expect_err("the kernel has cut the name within a character");
        assert!(alive, "{identity:?}");
        assert!(!identity.unwrap().alive(), "it has been killed");
    }

    #[test]
    fn our_own_process_is_alive_under_its_start_time_and_no_other() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let identity = Identity::of(pid).unwrap();
        assert!(identity.alive());
        let other = Identity { start_time: identity.start_time + 1, ..identity.clone() };
        assert!(!other.alive(), "a reused pid must not pass");
        assert_eq!(Process::open(other).unwrap_err().kind(), io::ErrorKind::NotFound);
        let yesterday = Identity { boot_id: "another".into(), ..identity };
        assert!(!yesterday.alive(), "a pid of another boot must not pass");
    }
}
