//! Sockets to listen on: made under a path, or inherited.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use thiserror::Error;

/// Connections that wait behind the one that is served.
const BACKLOG: i32 = 16;

/// How often a path may change hands while it is being taken.
const TRIES: usize = 8;

/// Why a socket cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The path names no file in a directory.
    #[error("{}: no path for a socket", .0.display())]
    Path(PathBuf),
    /// The directory is not there.
    #[error("{}: cannot open its directory", path.display())]
    Directory {
        /// The path.
        path: PathBuf,
        /// The system's refusal.
        #[source]
        source: io::Error,
    },
    /// The path is longer than a socket's address, and there is no way around.
    #[error("{}: too long for a socket; choose a path of at most 107 bytes", .0.display())]
    TooLong(PathBuf),
    /// Somebody listens there.
    #[error("{}: another process listens there; end it, or choose another path", .0.display())]
    InUse(PathBuf),
    /// It is another kind of file.
    #[error("{}: exists and is no socket; remove it, or choose another path", .0.display())]
    NoSocket(PathBuf),
    /// Whether somebody listens there cannot be told.
    #[error("{}: cannot tell whether somebody listens there", path.display())]
    Unknown {
        /// The path.
        path: PathBuf,
        /// The system's refusal.
        #[source]
        source: io::Error,
    },
    /// The system's refusal.
    #[error("{}: cannot listen there", path.display())]
    Listen {
        /// The path.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// An inherited descriptor is something else.
    #[error("descriptor {0} is no listening unix socket; pass one that listen(2) was called on")]
    Inherited(i32),
}

/// A listening socket. One that was made under a path takes its file with it.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    file: Option<Made>,
}

/// The file of a socket that was made here.
#[derive(Debug)]
struct Made {
    directory: OwnedFd,
    name: OsString,
    is: (u64, u64),
}

impl Listener {
    /// Listens at `path`, for this user and root only. A socket that nobody listens on is replaced.
    /// It is there under its name only when it can be connected to, and two processes that want
    /// the same path at once cannot both have it.
    ///
    /// # Errors
    /// Any [`ListenError`] but that of an inherited descriptor.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let place = Place::of(path)?;
        // A name that no client could connect to.
        let _fits = place.address(&place.name)?;
        let (socket, passing) = place.hidden()?;
        let taken = place.take(&passing);
        if taken.is_err() {
            // The path's holder is complained of; a file left behind is not worth a word more.
            let _stays = place.remove(&passing);
        }
        let is = taken?;
        let file = Made { directory: place.directory, name: place.name, is };
        Ok(Self { socket, file: Some(file) })
    }

    /// Listens on a socket that was passed at the start.
    ///
    /// # Errors
    /// [`ListenError::Inherited`].
    pub fn inherited(socket: OwnedFd) -> Result<Self, ListenError> {
        let good = sockopt::socket_acceptconn(&socket).unwrap_or(false)
            && sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX)
            && sockopt::socket_type(&socket) == Ok(SocketType::STREAM)
            && rustix::io::ioctl_fionbio(&socket, true).is_ok();
        if !good {
            return Err(ListenError::Inherited(socket.as_raw_fd()));
        }
        Ok(Self { socket, file: None })
    }

    /// The directory that the socket's file is removed from at the end, if it was made here.
    #[must_use]
    pub fn directory(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(|file| file.directory.as_fd())
    }

    /// The next client that may speak to this process: root's or this user's own. `None` where
    /// nobody waits.
    pub(super) fn accept(&self, own: u32) -> Result<Option<OwnedFd>, Errno> {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&self.socket, flags) {
                Ok(client) => {
                    let peer = sockopt::socket_peercred(&client)?.uid.as_raw();
                    if peer == 0 || peer == own {
                        return Ok(Some(client));
                    }
                }
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // Somebody may have put another socket there.
        if stat(&self.directory, &self.name).is_ok_and(|stat| identity(&stat) == self.is) {
            // A directory that this user may not write any more keeps it; the next start replaces it.
            let _stays = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

/// What lies at a path.
enum Found {
    Nothing,
    /// A socket that nobody listens on.
    Stale((u64, u64)),
}

/// A path, with its directory held open.
struct Place<'a> {
    path: &'a Path,
    parent: &'a Path,
    directory: OwnedFd,
    name: OsString,
}

impl<'a> Place<'a> {
    fn of(path: &'a Path) -> Result<Self, ListenError> {
        let name = path.file_name().ok_or_else(|| ListenError::Path(path.to_owned()))?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, parent, flags, Mode::empty()).map_err(|error| {
            ListenError::Directory { path: path.to_owned(), source: error.into() }
        })?;
        Ok(Self { path, parent, directory, name })
    }

    /// The address of a file of the directory. There is room for 107 bytes; through the descriptor
    /// the path is short wherever the directory lies.
    fn address(&self, name: &OsStr) -> Result<SocketAddrUnix, ListenError> {
        SocketAddrUnix::new(self.parent.join(name))
            .or_else(|_| {
                let short = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
                SocketAddrUnix::new(Path::new(&short).join(name))
            })
            .map_err(|_| ListenError::TooLong(self.path.to_owned()))
    }

    fn failed(&self, error: Errno) -> ListenError {
        ListenError::Listen { path: self.path.to_owned(), source: error.into() }
    }

    /// A socket that is listened on, under a name that nobody knows.
    fn hidden(&self) -> Result<(OwnedFd, OsString), ListenError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|error| self.failed(error))?;
        // Before bind, so that there is no moment with a wider mode.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|error| self.failed(error))?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let passing =
            OsString::from(format!(".kxl-vmm-{}-{}", std::process::id(), since.as_nanos()));
        rustix::net::bind(&socket, &self.address(&passing)?).map_err(|error| self.failed(error))?;
        let listening = rustix::net::listen(&socket, BACKLOG);
        if let Err(error) = listening {
            let _stays = self.remove(&passing);
            return Err(self.failed(error));
        }
        Ok((socket, passing))
    }

    /// Gives the file its name; which file it is.
    fn take(&self, passing: &OsStr) -> Result<(u64, u64), ListenError> {
        let ours = stat(&self.directory, passing).map_err(|error| self.failed(error))?;
        for _ in 0..TRIES {
            let found = self.look()?;
            let flags = match found {
                Found::Nothing => RenameFlags::NOREPLACE,
                Found::Stale(_) => RenameFlags::EXCHANGE,
            };
            let (from, to) = (&self.directory, &self.directory);
            match rustix::fs::renameat_with(from, passing, to, &self.name, flags) {
                Ok(()) => {}
                // It came or went meanwhile.
                Err(Errno::EXIST | Errno::NOENT) => continue,
                Err(error) => return Err(self.failed(error)),
            }
            if flags == RenameFlags::NOREPLACE {
                return Ok(identity(&ours));
            }
            let old = stat(&self.directory, passing).map_err(|error| self.failed(error))?;
            if matches!(found, Found::Stale(stale) if identity(&old) == stale) {
                self.remove(passing).map_err(|error| self.failed(error))?;
                return Ok(identity(&ours));
            }
            // What was stale has been replaced by somebody else: it is theirs.
            rustix::fs::renameat_with(from, passing, to, &self.name, RenameFlags::EXCHANGE)
                .map_err(|error| self.failed(error))?;
        }
        Err(ListenError::InUse(self.path.to_owned()))
    }

    fn look(&self) -> Result<Found, ListenError> {
        let stat = match stat(&self.directory, &self.name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(error) => return Err(self.failed(error)),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(ListenError::NoSocket(self.path.to_owned()));
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|error| self.failed(error))?;
        match rustix::net::connect(&probe, &self.address(&self.name)?) {
            // A full queue, or a socket of another type, is somebody's.
            Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => {
                Err(ListenError::InUse(self.path.to_owned()))
            }
            Err(Errno::CONNREFUSED) => Ok(Found::Stale(identity(&stat))),
            Err(Errno::NOENT) => Ok(Found::Nothing),
            Err(error) => {
                Err(ListenError::Unknown { path: self.path.to_owned(), source: error.into() })
            }
        }
    }

    fn remove(&self, name: &OsStr) -> Result<(), Errno> {
        rustix::fs::unlinkat(&self.directory, name, AtFlags::empty())
    }
}

fn stat(directory: &OwnedFd, name: &OsStr) -> Result<Stat, Errno> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

const fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}
