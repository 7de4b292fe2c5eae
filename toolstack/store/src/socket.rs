//! Unix sockets whose path may be longer than the 107 bytes that an address holds: the directory
//! is opened, and the address names the socket by way of that descriptor.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind as bind_to, connect as connect_to,
    getsockopt, listen, socket, sockopt,
};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat};

use crate::error::StoreError;

/// Listens on `path`, mode 0600, in blocking mode.
///
/// A socket nobody listens on (its process has died) is replaced; one that is listened on, and
/// anything that is no socket, is refused. Two callers at once are put one after the other by a
/// lock on the directory: one of them is refused.
///
/// # Errors
/// `SocketTaken`; `Io` or `NoSpace` when it cannot be made.
pub fn bind(path: &Path) -> Result<UnixListener, StoreError> {
    let failed = |error| StoreError::io("listen on the socket", path, error);
    let (dir, name) = open_parent(path).map_err(failed)?;
    let turn = dir.try_clone().map_err(failed)?;
    let _turn = crate::lock::Held::lock(turn, path, crate::lock::PATIENCE)?;
    clear_stale(path, &dir, &name)?;
    listen_in(&dir, &name).map_err(|error| failed(error.into()))
}

fn clear_stale(path: &Path, dir: &File, name: &Path) -> Result<(), StoreError> {
    let taken = |problem| Err(StoreError::SocketTaken { path: path.to_path_buf(), problem });
    match std::fs::symlink_metadata(through(dir, name)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io("look at the socket", path, error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return taken("something that is no socket has the name; move it away");
        }
        Ok(_) => {}
    }
    match connect_in(dir, name) {
        Err(Errno::ECONNREFUSED) => std::fs::remove_file(through(dir, name))
            .map_err(|error| StoreError::io("remove the stale socket", path, error)),
        Err(Errno::ENOENT) => Ok(()),
        Ok(_) | Err(Errno::EAGAIN) => taken("another process listens on it"),
        Err(error) => Err(StoreError::io("look at the socket", path, error.into())),
    }
}

/// Connects to the socket at `path`; the stream is in blocking mode. Never waits.
///
/// # Errors
/// `NotFound`: no such socket. `ConnectionRefused`: nobody listens any more. `WouldBlock`: who
/// listens has stopped accepting and its queue is full.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let (dir, name) = open_parent(path)?;
    let fd = connect_in(&dir, &name)?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Whether the process at the other end may give orders: same user as ours, or root.
///
/// # Errors
/// When the kernel does not tell who it is.
pub fn peer_allowed(stream: &impl AsFd) -> io::Result<bool> {
    let peer = getsockopt(stream, sockopt::PeerCredentials)?;
    Ok(may_order(peer.uid(), nix::unistd::geteuid().as_raw()))
}

/// The process at the other end: who connected, or who listens.
///
/// # Errors
/// When the kernel does not tell who it is.
pub fn peer_pid(stream: &impl AsFd) -> io::Result<i32> {
    Ok(getsockopt(stream, sockopt::PeerCredentials)?.pid())
}

pub(crate) const fn may_order(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
}

/// Opens the directory of a path (not following it further) and gives the last component.
fn open_parent(path: &Path) -> io::Result<(File, PathBuf)> {
    let odd = || io::Error::new(ErrorKind::InvalidInput, "not the path of a socket");
    let name = path.file_name().ok_or_else(odd)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let dir = File::options()
        .read(true)
        .custom_flags(OFlag::O_DIRECTORY.bits())
        .open(parent.unwrap_or(Path::new(".")))?;
    Ok((dir, name.into()))
}

fn through(dir: &File, name: &Path) -> PathBuf {
    Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name)
}

fn new_socket(flags: SockFlag) -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::Stream, flags | SockFlag::SOCK_CLOEXEC, None)
}

fn listen_in(dir: &File, name: &Path) -> nix::Result<UnixListener> {
    let fd = new_socket(SockFlag::empty())?;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    // The kernel gives the name the mode of the socket, less the umask: never more than 0600,
    // not even for a moment. The second call is for a umask that takes our own bits.
    fchmod(&fd, mode)?;
    bind_to(fd.as_raw_fd(), &UnixAddr::new(&through(dir, name))?)?;
    fchmodat(dir.as_fd(), name, mode, FchmodatFlags::FollowSymlink)?;
    listen(&fd, Backlog::MAXCONN)?;
    Ok(UnixListener::from(fd))
}

fn connect_in(dir: &File, name: &Path) -> nix::Result<OwnedFd> {
    let fd = new_socket(SockFlag::SOCK_NONBLOCK)?;
    connect_to(fd.as_raw_fd(), &UnixAddr::new(&through(dir, name))?)?;
    Ok(fd)
}
