//! The child's way from fork to exec: system calls on memory that was prepared before, nothing else.

use std::ffi::CString;
use std::os::fd::{AsRawFd, RawFd};

use super::{Command, TRACED, attributes, filter};

/// Pointers and numbers that the child needs, laid out before the fork: no allocation after it.
pub(super) struct Prepared<'a> {
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
    pub(super) fn new(command: &'a Command, gate: RawFd, errors: RawFd) -> Self {
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
    pub(super) unsafe fn become_emulator(mut self) -> ! {
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
            libc::close(self.gate);
            // To the maker this is exec: nothing of his is open any more.
            libc::close(self.errors);
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
