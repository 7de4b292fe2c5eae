//! Opening what a configuration names, while the process still may.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use thiserror::Error;

use crate::config::Source;

/// Why something cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A file.
    #[error("cannot open the {what} {path}", path = path.display())]
    File {
        /// Kernel, disk, …
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The system's refusal.
        #[source]
        source: io::Error,
    },
    /// A descriptor that was not inherited, or was named twice.
    #[error("descriptor {fd}, given for the {what}, is not open")]
    Descriptor {
        /// Kernel, disk, …
        what: &'static str,
        /// Its number.
        fd: RawFd,
        /// The system's refusal.
        #[source]
        source: io::Error,
    },
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Reading.
    Reading,
    /// Reading and writing.
    Writing,
}

/// Opens a source.
///
/// # Errors
/// Any [`OpenError`].
pub fn open(what: &'static str, source: &Source, purpose: For) -> Result<File, OpenError> {
    match source {
        Source::Path(path) => File::options()
            .read(true)
            .write(purpose == For::Writing)
            .open(path)
            .map_err(|source| OpenError::File { what, path: path.clone(), source }),
        Source::Fd(fd) => inherited(what, *fd).map(File::from),
    }
}

/// Takes an inherited descriptor over. Each number belongs to one thing: the configuration is
/// checked for that before.
///
/// # Errors
/// [`OpenError::Descriptor`].
pub fn inherited(what: &'static str, fd: RawFd) -> Result<OwnedFd, OpenError> {
    let failed = |source| OpenError::Descriptor { what, fd, source };
    if fd < 3 {
        return Err(failed(io::Error::other("0, 1 and 2 are the standard streams")));
    }
    // SAFETY: only asks; a number that names nothing is refused.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: only sets the flag of a descriptor that was found open.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: it is open, it was inherited for this use, and nothing else in the process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
