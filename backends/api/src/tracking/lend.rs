//! Making a userfaultfd in another program's name.
//!
//! A program that asked to be traced stops when it has been executed, before its first instruction.
//! It is made to carry out one system call in the page that the kernel maps for calls (vDSO), and
//! then begins as if nothing had been. Only x86-64 is known here.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::process::Process;

/// How long an executed program may take to stop for us.
const STOPS: Duration = Duration::from_secs(10);

/// Whether programs on this processor can be lent one.
pub(crate) const CAN_LEND: bool = cfg!(target_arch = "x86_64");

/// Lends the program a userfaultfd, and lets it go. To be called once, by the thread that spawned
/// it, for a child that asked to be traced and is being executed. Blocks for about 0.2 ms.
///
/// The inner error tells why it was lent nothing; it begins all the same.
///
/// # Errors
/// When it does not get on: it is of no use then, and must be killed.
pub(crate) fn lend(process: &Process) -> io::Result<io::Result<()>> {
    let pid = Pid::from_raw(process.identity().pid);
    let mut others = None;
    trapped(process, &mut others, |pid| ptrace::cont(pid, None))?;
    // Were we to die half-way through, it must not run on with what we put into its registers.
    ptrace::setoptions(pid, ptrace::Options::PTRACE_O_EXITKILL)?;
    let made = userfaultfd(process, &mut others).and_then(|number| {
        let copy = process.take_fd(number)?;
        super::enable(&copy)
    });
    ptrace::detach(pid, others)?;
    Ok(made)
}

/// Has the stopped program call userfaultfd(2); the number of the descriptor in it.
#[cfg(target_arch = "x86_64")]
fn userfaultfd(process: &Process, others: &mut Option<Signal>) -> io::Result<i32> {
    /// For faults of the program itself. That needs no privilege, and nothing is handled anyway.
    const USER_MODE_ONLY: libc::c_int = 1;
    let pid = Pid::from_raw(process.identity().pid);
    let at = instruction(process)?;
    let begin = ptrace::getregs(pid)?;
    let mut call = begin;
    call.rip = at;
    call.rax = libc::SYS_userfaultfd.cast_unsigned();
    // No call that was interrupted is to be begun again.
    call.orig_rax = u64::MAX;
    call.rdi = (libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY).cast_unsigned().into();
    ptrace::setregs(pid, call)?;
    ptrace::step(pid, None)?;
    trapped(process, others, |pid| ptrace::step(pid, None))?;
    let answer = ptrace::getregs(pid)?.rax.cast_signed();
    ptrace::setregs(pid, begin)?;
    match i32::try_from(answer) {
        Ok(number) if number >= 0 => Ok(number),
        Ok(error) => Err(io::Error::from_raw_os_error(-error)),
        Err(_) => Err(io::Error::other("the call was not carried out")),
    }
}

/// Nothing is known of this processor.
#[cfg(not(target_arch = "x86_64"))]
fn userfaultfd(_process: &Process, _others: &mut Option<Signal>) -> io::Result<i32> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The address of a `syscall` instruction in the program's vDSO.
#[cfg(target_arch = "x86_64")]
fn instruction(process: &Process) -> io::Result<u64> {
    const SYSCALL: &[u8] = b"\x0f\x05";
    let proc = super::proc(process);
    let maps = fs::read_to_string(proc.join("maps"))?;
    let vdso = maps.lines().find(|line| line.ends_with("[vdso]")).and_then(|line| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        Some(hex(start)?..hex(end)?)
    });
    let none = || io::Error::new(io::ErrorKind::Unsupported, "no page for system calls");
    let vdso = vdso.ok_or_else(none)?;
    let mut code = vec![0; usize::try_from(vdso.end - vdso.start).map_err(io::Error::other)?];
    File::open(proc.join("mem"))?.read_exact_at(&mut code, vdso.start)?;
    let at = code.windows(SYSCALL.len()).position(|bytes| bytes == SYSCALL);
    Ok(vdso.start + at.ok_or_else(none)? as u64)
}

/// Waits until the traced program stands still because of us. Any other signal that stops it before
/// is put aside, the last one for the end, and it is told to go on.
fn trapped(
    process: &Process,
    others: &mut Option<Signal>,
    go_on: impl Fn(Pid) -> nix::Result<()>,
) -> io::Result<()> {
    let until = Instant::now() + STOPS;
    // Its end is left for whoever waits for that.
    let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
    while Instant::now() < until {
        match waitid(Id::PIDFd(process.pidfd()), flags)? {
            WaitStatus::PtraceEvent(_, Signal::SIGTRAP, _) => return Ok(()),
            WaitStatus::PtraceEvent(pid, other, _) | WaitStatus::Stopped(pid, other) => {
                *others = Some(other);
                go_on(pid)?;
            }
            _ => sleep(Duration::from_micros(50)),
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the program does not stop to be traced"))
}
