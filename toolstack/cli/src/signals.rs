//! The few signal and terminal calls that the compiler cannot check.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction, signal};

/// Gives a signal its default action again.
///
/// # Errors
/// Only for signals whose action cannot be changed.
pub(crate) fn restore_default(which: Signal) -> nix::Result<()> {
    // SAFETY: the default action runs no code of ours.
    unsafe { signal(which, SigHandler::SigDfl) }.map(drop)
}

/// Makes a signal do nothing to this process. The programs that it runs are ended by it as ever: a
/// handler, unlike a signal that is ignored or blocked, does not outlive an exec.
///
/// # Errors
/// Only for signals whose action cannot be changed.
pub(crate) fn shrug_off(which: Signal) -> nix::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing, which may be done at any moment.
    unsafe { sigaction(which, &action) }.map(drop)
}

/// The groups, the first one excepted, of the process that made a connection.
///
/// # Errors
/// For what is no unix socket.
pub(crate) fn peer_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let size = groups.len() * size_of::<libc::gid_t>();
        let mut length = libc::socklen_t::try_from(size).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: the kernel writes at most `length` bytes, which the vector has, and the length.
        let rc = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = usize::try_from(length).unwrap_or(0) / size_of::<libc::gid_t>();
        if rc == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Rows and columns of a terminal.
///
/// # Errors
/// `ENOTTY` when it is none.
pub(crate) fn window_size(terminal: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize`, and `size` is one that lives through the call.
    let rc = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok((size.ws_row, size.ws_col)) }
}

/// A moment of local time, broken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    /// Year.
    pub(crate) year: i32,
    /// Month, 1 to 12.
    pub(crate) month: i32,
    /// Day of the month, from 1.
    pub(crate) day: i32,
    /// Hour.
    pub(crate) hour: i32,
    /// Minute.
    pub(crate) minute: i32,
    /// Second.
    pub(crate) second: i32,
}

/// The local time of `seconds` since the epoch; the epoch itself where the C library knows no
/// calendar for it.
pub(crate) fn local_time(seconds: i64) -> Local {
    // SAFETY: `tm` is plain numbers and a pointer, for which all zero is a valid value.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that live through the call; the result is not used.
    unsafe { libc::localtime_r(&raw const seconds, &raw mut tm) };
    Local {
        year: tm.tm_year + 1900,
        month: tm.tm_mon + 1,
        day: tm.tm_mday.max(1),
        hour: tm.tm_hour,
        minute: tm.tm_min,
        second: tm.tm_sec,
    }
}

/// Seconds since the epoch of a local time; `None` for one that does not exist.
pub(crate) fn local_to_epoch(local: Local) -> Option<i64> {
    // SAFETY: as above.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    tm.tm_year = local.year - 1900;
    tm.tm_mon = local.month - 1;
    tm.tm_mday = local.day;
    tm.tm_hour = local.hour;
    tm.tm_min = local.minute;
    tm.tm_sec = local.second;
    tm.tm_isdst = -1;
    // SAFETY: mktime reads and normalises the one struct it is given.
    let seconds = unsafe { libc::mktime(&raw mut tm) };
    (seconds != -1).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_time_goes_there_and_back() {
        for seconds in [0, 1_700_000_000, 1_785_000_000] {
            assert_eq!(local_to_epoch(local_time(seconds)), Some(seconds));
        }
    }
}
