//! Sockets of the runtime directory, reached through a directory descriptor so that a deep path
//! does not matter.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};

/// Connections that wait while an emulator is stopped; later ones are refused at once.
const BACKLOG: i32 = 128;

/// A runtime directory, held open.
#[derive(Debug)]
pub(crate) struct RunDir {
    dir: File,
}

impl RunDir {
    /// Opens it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { dir: File::open(path)? })
    }

    fn entry(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()))
    }

    /// Binds a listener of mode 0600 in the place of what an earlier emulator left there.
    pub(crate) fn listen(&self, name: &str) -> io::Result<OwnedFd> {
        let entry = self.entry(name);
        match fs::remove_file(&entry) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(&entry)?)?;
        // Nobody can connect before listen.
        fs::set_permissions(&entry, Permissions::from_mode(0o600))?;
        listen(&listener, Backlog::new(BACKLOG)?)?;
        Ok(listener)
    }

    /// Connects to a listener without waiting for its owner; the stream is non-blocking.
    ///
    /// `WouldBlock` means that too many wait already, because the owner does not accept.
    pub(crate) fn connect(&self, name: &str) -> io::Result<UnixStream> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        let address = UnixAddr::new(&self.entry(name))?;
        nix::sys::socket::connect(stream.as_raw_fd(), &address)?;
        Ok(UnixStream::from(stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_longer_than_a_socket_address_is_no_obstacle() {
        let top = std::env::temp_dir().join(format!("kxl-mock-deep-{}", std::process::id()));
        let deep = top.join("d".repeat(120));
        fs::create_dir_all(&deep).unwrap();
        let dir = RunDir::open(&deep).unwrap();
        for _ in 0..2 {
            let listener = dir.listen("a.sock").unwrap();
            dir.connect("a.sock").unwrap();
            drop(listener);
        }
        let mode = fs::metadata(deep.join("a.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        dir.connect("b.sock").unwrap_err();
        fs::remove_dir_all(&top).unwrap();
    }
}
