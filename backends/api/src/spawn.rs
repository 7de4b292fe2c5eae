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

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::children::Making;
use crate::process::{Identity, Process, RunState};
use crate::tracking;

mod attributes;
mod filter;

pub use attributes::{Account, Attributes, Refused};

/// How long a child may take from the opened gate to exec: a program on a file system that hangs,
/// or a frozen control group, must not hold its maker for ever.
const EXEC_DEADLINE: Duration = Duration::from_secs(10);

/// How long a child may take to end by itself, and again after a KILL.
const END_DEADLINE: Duration = Duration::from_secs(1);

/// The name by which `ps -o comm` shows a process that only keeps descriptors.
const HOLDER: &str = "kxl-holder";

/// Where such a process has the pidfd of the one that it ends with.
const UNTIL_FD: RawFd = 3;

/// What a child says in the pipe of errors when it is going to stop at its exec.
const TRACED: &[u8] = b"t";

/// A process to be made.
#[derive(Debug)]
pub struct Command {
    program: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    /// (our descriptor, its number in the child), in order.
    fds: Vec<(OwnedFd, RawFd)>,
    controlling_tty: Option<RawFd>,
    nofile: Option<u64>,
    attributes: Attributes,
    dir: CString,
    cgroups: Vec<CString>,
    filter: Option<filter::Filter>,
    track_writes: bool,
    /// Instead of executing a program: the number of the pidfd whose end it waits for.
    holds_until: Option<RawFd>,
}

impl Command {
    /// A command running `program` (a path; no search, no shell) in directory `/`, with an
    /// environment of `PATH` only.
    ///
    /// # Errors
    /// `InvalidInput` when the path holds a NUL.
    pub fn new(program: &Path) -> io::Result<Self> {
        let program = c(program.as_os_str())?;
        Ok(Self {
            args: vec![program.clone()],
            program,
            env: vec![c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            fds: Vec::new(),
            controlling_tty: None,
            nofile: None,
            attributes: Attributes::default(),
            dir: c"/".to_owned(),
            cgroups: Vec::new(),
            filter: None,
            track_writes: false,
            holds_until: None,
        })
    }

    /// A process that executes nothing: it keeps the descriptors that are passed on to it, and ends
    /// with `process`. It shares the memory of its maker until that writes to it or ends.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn holder(process: &Process) -> io::Result<Self> {
        let mut command = Self::new(Path::new(HOLDER))?;
        command.fd(process.pidfd().try_clone_to_owned()?, UNTIL_FD);
        command.holds_until = Some(UNTIL_FD);
        Ok(command)
    }

    /// Adds one argument.
    ///
    /// # Errors
    /// `InvalidInput` when it holds a NUL.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> io::Result<&mut Self> {
        self.args.push(c(arg.as_ref())?);
        Ok(self)
    }

    /// Adds one environment entry, `NAME=value`, in the place of one of that name.
    ///
    /// # Errors
    /// `InvalidInput` when it holds a NUL.
    pub fn env(&mut self, entry: impl AsRef<OsStr>) -> io::Result<&mut Self> {
        let entry = c(entry.as_ref())?;
        let name =
            |entry: &CString| entry.as_bytes().split(|b| *b == b'=').next().map(<[u8]>::to_vec);
        self.env.retain(|other| name(other) != name(&entry));
        self.env.push(entry);
        Ok(self)
    }

    /// Drops every environment entry, `PATH` too.
    pub fn clear_env(&mut self) -> &mut Self {
        self.env.clear();
        self
    }

    /// The arguments as text, for logs.
    #[must_use]
    pub fn line(&self) -> String {
        self.args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    /// Passes a descriptor on under `number`; the parent's copy is closed after the fork.
    /// Everything not passed on is closed in the child.
    pub fn fd(&mut self, fd: OwnedFd, number: RawFd) -> &mut Self {
        self.fds.push((fd, number));
        self
    }

    /// Makes the descriptor passed on as `number` the controlling terminal.
    pub fn controlling_tty(&mut self, number: RawFd) -> &mut Self {
        self.controlling_tty = Some(number);
        self
    }

    /// Limits open files.
    pub fn nofile(&mut self, limit: Option<u64>) -> &mut Self {
        self.nofile = limit;
        self
    }

    /// What the program runs with, taken on just before exec.
    pub fn attributes(&mut self, attributes: Attributes) -> &mut Self {
        self.attributes = attributes;
        self
    }

    /// Keeps the program from punching holes into files, as long as it lives: for one that maps a
    /// file which must not change, but insists on opening it for writing.
    ///
    /// # Errors
    /// `Unsupported` for a processor for which no filter is written.
    pub fn no_holes(&mut self) -> io::Result<&mut Self> {
        let filter = filter::no_holes().ok_or(io::ErrorKind::Unsupported)?;
        self.filter = Some(filter);
        Ok(self)
    }

    /// Has the kernel ready to tell which pages of its memory the program writes; see
    /// [`crate::tracking`]. Best effort: what the host does not let us have is done without. So is
    /// a program whose file gives it rights, which it would not get while it is traced.
    pub fn track_writes(&mut self) -> &mut Self {
        self.track_writes = tracking::CAN_LEND && !gives_rights(&self.program);
        self
    }

    /// Working directory.
    ///
    /// # Errors
    /// `InvalidInput` when the path holds a NUL.
    pub fn dir(&mut self, dir: &Path) -> io::Result<&mut Self> {
        self.dir = c(dir.as_os_str())?;
        Ok(self)
    }

    /// Enters this control group before exec, best effort; may be given several times.
    ///
    /// # Errors
    /// `InvalidInput` when the path holds a NUL.
    pub fn cgroup(&mut self, dir: &Path) -> io::Result<&mut Self> {
        self.cgroups.push(c(dir.join("cgroup.procs").as_os_str())?);
        Ok(self)
    }
}

/// Whether a program's file gives it another user, another group or capabilities.
fn gives_rights(program: &CString) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let path = Path::new(OsStr::from_bytes(program.as_bytes()));
    let mode = std::fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
    // SAFETY: two strings; nothing is written.
    let length = unsafe {
        libc::getxattr(program.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0)
    };
    mode & (libc::S_ISUID | libc::S_ISGID) != 0 || length > 0
}

fn c(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL in an argument"))
}

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

/// Pointers and numbers that the child needs, laid out before the fork: no allocation after it.
struct Prepared<'a> {
    command: &'a Command,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    /// Scratch copies of the passed descriptors, above every target number.
    moved: Vec<RawFd>,
    attributes: attributes::Prepared,
    gate: RawFd,
    errors: RawFd,
}

impl<'a> Prepared<'a> {
    fn new(command: &'a Command, gate: RawFd, errors: RawFd) -> Self {
        let pointers = |list: &'a [CString]| {
            list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
        };
        Self {
            argv: pointers(&command.args),
            envp: pointers(&command.env),
            moved: vec![0; command.fds.len()],
            attributes: attributes::Prepared::new(&command.attributes),
            command,
            gate,
            errors,
        }
    }

    /// The child's way to exec.
    ///
    /// # Safety
    /// Only in a freshly forked child.
    unsafe fn become_emulator(mut self) -> ! {
        // SAFETY: system calls on descriptors and on memory that outlives the exec.
        unsafe {
            libc::setsid();
            let mut empty: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut empty);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut());
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            // Lets a later monitor take the console back where Yama restricts ptrace to parents.
            libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0);

            let top = self.command.fds.iter().map(|(_, to)| *to).max().unwrap_or(2).max(2) + 1;
            self.gate = self.must(libc::fcntl(self.gate, libc::F_DUPFD_CLOEXEC, top));
            self.errors = self.must(libc::fcntl(self.errors, libc::F_DUPFD_CLOEXEC, top));
            for i in 0..self.moved.len() {
                let from = self.command.fds[i].0.as_raw_fd();
                self.moved[i] = self.must(libc::fcntl(from, libc::F_DUPFD_CLOEXEC, top));
            }
            for fd in 0..top {
                libc::close(fd);
            }
            for i in 0..self.moved.len() {
                self.must(libc::dup2(self.moved[i], self.command.fds[i].1));
            }
            self.close_above(top);
            if let Some(tty) = self.command.controlling_tty {
                self.must(libc::ioctl(tty, libc::TIOCSCTTY, 0));
            }
            self.limits();
            self.must(libc::chdir(self.command.dir.as_ptr()));

            let mut go = 0u8;
            if libc::read(self.gate, (&raw mut go).cast(), 1) != 1 {
                libc::_exit(0);
            }
            if let Err(step) = self.attributes.take_on(&self.command.attributes) {
                self.fail_at(step);
            }
            self.filtered();
            if let Some(until) = self.command.holds_until {
                self.hold(until);
            }
            if go == b's' {
                libc::kill(libc::getpid(), libc::SIGSTOP);
            } else if self.command.track_writes {
                self.traced();
            }
            libc::execve(self.command.program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr());
            self.fail()
        }
    }

    /// Closes every descriptor from `from` on but the two pipes.
    unsafe fn close_above(&self, from: RawFd) {
        let (a, b) = (self.gate.min(self.errors), self.gate.max(self.errors));
        // SAFETY: close_range on numbers; errors mean an old kernel, where close-on-exec does it.
        unsafe {
            for (low, high) in [(from, a - 1), (a + 1, b - 1), (b + 1, RawFd::MAX)] {
                if low <= high {
                    libc::syscall(libc::SYS_close_range, low, high, 0);
                }
            }
        }
    }

    /// Stands still until the process behind the pidfd has ended.
    unsafe fn hold(&self, until: RawFd) -> ! {
        // SAFETY: system calls on prepared memory; the name is copied.
        unsafe {
            libc::prctl(libc::PR_SET_NAME, self.command.program.as_ptr(), 0, 0, 0);
            // To the maker this is exec.
            libc::close(self.errors);
            libc::close(self.gate);
            let mut end = libc::pollfd { fd: until, events: libc::POLLIN, revents: 0 };
            while libc::poll(&raw mut end, 1, -1) < 0 && *libc::__errno_location() == libc::EINTR {}
            libc::_exit(0)
        }
    }

    unsafe fn limits(&self) {
        // SAFETY: system calls on prepared memory.
        unsafe {
            if let Some(limit) = self.command.nofile {
                let both = libc::rlimit { rlim_cur: limit, rlim_max: limit };
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const both);
            }
            for procs in &self.command.cgroups {
                let fd = libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                if fd >= 0 {
                    libc::write(fd, c"0".as_ptr().cast(), 1);
                    libc::close(fd);
                }
            }
        }
    }

    /// Asks to be stopped at exec, and tells it where that is granted.
    unsafe fn traced(&self) {
        // SAFETY: system calls on constants.
        unsafe {
            if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == 0 {
                libc::write(self.errors, TRACED.as_ptr().cast(), TRACED.len());
            }
        }
    }

    /// Installs the filter of system calls, if there is one.
    unsafe fn filtered(&self) {
        let Some(filter) = &self.command.filter else { return };
        // The kernel only reads it.
        let steps = filter.as_ptr().cast_mut();
        let program = libc::sock_fprog { len: filter::STEPS, filter: steps };
        // SAFETY: system calls on prepared memory.
        unsafe {
            let (yes, no): (libc::c_ulong, libc::c_ulong) = (1, 0);
            self.must(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, yes, no, no, no));
            let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
            self.must(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program));
        }
    }

    unsafe fn must(&self, rc: libc::c_int) -> libc::c_int {
        if rc < 0 {
            // SAFETY: as for the caller.
            unsafe { self.fail() }
        }
        rc
    }

    /// Reports errno to the parent and ends.
    unsafe fn fail(&self) -> ! {
        // SAFETY: as for the caller.
        unsafe { self.fail_at(0) }
    }

    /// Reports errno and the step that failed to the parent and ends.
    unsafe fn fail_at(&self, step: attributes::Step) -> ! {
        let mut word = [0; 5];
        // SAFETY: errno is this thread's; write and _exit are async-signal-safe.
        unsafe {
            word[..4].copy_from_slice(&(*libc::__errno_location()).to_ne_bytes());
            word[4] = step;
            libc::write(self.errors, word.as_ptr().cast(), word.len());
            libc::_exit(127)
        }
    }
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
