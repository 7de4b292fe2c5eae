//! The terminal of an emulator.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::{Mode, fchmod};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::{Uid, fchown};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Makes a pty; the slave is left as the system makes it, in cooked mode: SIMH takes its attention
/// character as a signal of the terminal, which a raw one would swallow. The master does not block.
pub(crate) fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname_r(&master)?;
    let slave = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(name)?;
    // A new pty has no size at all, which full-screen programs take badly.
    let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request reads a struct winsize.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: taken out of its owner just here.
    let master = unsafe { OwnedFd::from_raw_fd(master.into_raw_fd()) };
    unblock(&master)?;
    Ok((master, slave.into()))
}

/// Gives a terminal, by its slave, to the user whose program runs on it: a program opens its own
/// `/dev/stdout` or `/dev/tty`. Its group is the system's business, which may write to it.
pub(crate) fn give(slave: &OwnedFd, user: u32) -> io::Result<()> {
    fchown(slave, Some(Uid::from_raw(user)), None)?;
    Ok(fchmod(slave, Mode::from_bits_retain(0o620))?)
}

/// The number of a pty by its master; an error for what is no master.
pub(crate) fn number(master: &OwnedFd) -> io::Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: the request writes one number.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(number)
}

/// Makes a descriptor non-blocking.
pub(crate) fn unblock(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Whether the emulator has its terminal in cooked mode, seen from the master. Only the emulator
/// can change it: no byte that a guest prints does.
pub(crate) fn cooked(master: &OwnedFd) -> bool {
    tcgetattr(master).is_ok_and(|modes| modes.local_flags.contains(LocalFlags::ICANON))
}

/// A copy of the master for waiting on.
pub(crate) fn watched(master: &OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let interest = Interest::READABLE | Interest::WRITABLE;
    // SAFETY: the copy is owned by the registration and stays open as long as it.
    let watched = unsafe { AsyncFd::register_with_interest(master.try_clone()?, interest) };
    Ok(watched?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::termios::{SetArg, cfmakeraw, tcsetattr};

    #[test]
    fn the_master_sees_the_mode_of_the_slave() {
        let (master, slave) = open().unwrap();
        assert!(cooked(&master));
        let mut modes = tcgetattr(&slave).unwrap();
        cfmakeraw(&mut modes);
        tcsetattr(&slave, SetArg::TCSANOW, &modes).unwrap();
        assert!(!cooked(&master));
    }
}
