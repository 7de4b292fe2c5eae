//! What a later monitor takes back out of a program: its terminal and the pipes of its output.
//!
//! A program may have closed them, and may have files of its own under their numbers by then, which
//! are none of our business: what they are is in the record of the domain.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use kxl_backend::{Attachments, Process};
use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};

use super::pty;

/// Key of the terminal's number among [`Attachments::notes`]; a pipe's is that of its stream.
const TERMINAL: &str = "terminal";

/// Writes down which terminal it is.
pub(super) fn note_terminal(attachments: &mut Attachments, master: &OwnedFd) -> io::Result<()> {
    attachments.notes.insert(TERMINAL.into(), name_of(master)?);
    Ok(())
}

/// Standard streams without a terminal: our end, which does not block, and the program's.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((ours.into(), theirs.into()))
}

/// What tells a terminal, or a pair of streams, from others.
fn name_of(end: &OwnedFd) -> io::Result<String> {
    let stat = fstat(end)?;
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFSOCK {
        return Ok(format!("socket {}", stat.st_ino));
    }
    Ok(pty::number(end)?.to_string())
}

/// Writes down which pipe a stream goes through.
pub(super) fn note_pipe(attachments: &mut Attachments, key: &str, fd: impl AsFd) -> io::Result<()> {
    attachments.notes.insert(key.into(), fstat(fd)?.st_ino.to_string());
    Ok(())
}

/// The master of the program's terminal, from the first of these that has it under the number;
/// `None` where all have closed it.
///
/// # Errors
/// When one of them lets nothing be taken.
pub(super) fn terminal(
    holders: &[&Process],
    attachments: &Attachments,
    number: RawFd,
) -> io::Result<Option<OwnedFd>> {
    let noted = attachments.notes.get(TERMINAL);
    let same = |found: String| noted.is_none_or(|noted| *noted == found);
    for holder in holders {
        let Some(fd) = taken(holder, number)? else { continue };
        if name_of(&fd).is_ok_and(same) {
            return Ok(Some(fd));
        }
    }
    Ok(None)
}

/// An end to read from of the pipe that a stream goes through, under one of these numbers of one of
/// the processes; `None` where all have closed them.
///
/// # Errors
/// When one of them lets nothing be taken, or the pipe cannot be opened.
pub(super) fn pipe(
    holders: &[&Process],
    attachments: &Attachments,
    key: &str,
    numbers: &[RawFd],
) -> io::Result<Option<OwnedFd>> {
    let noted = attachments.notes.get(key);
    for (holder, number) in holders.iter().flat_map(|own| numbers.iter().map(move |n| (own, n))) {
        let Some(fd) = taken(holder, *number)? else { continue };
        let stat = fstat(&fd)?;
        let fifo = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO;
        if fifo && noted.is_none_or(|noted| *noted == stat.st_ino.to_string()) {
            let mut how = OpenOptions::new();
            return again(&fd, how.read(true).custom_flags(libc::O_NONBLOCK)).map(Some);
        }
    }
    Ok(None)
}

fn taken(process: &Process, number: RawFd) -> io::Result<Option<OwnedFd>> {
    match process.take_fd(number) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.raw_os_error() == Some(Errno::EBADF as i32) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the file behind a descriptor once more, in another way.
pub(super) fn again(fd: &OwnedFd, how: &OpenOptions) -> io::Result<OwnedFd> {
    let file: File = how.open(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok(file.into())
}
