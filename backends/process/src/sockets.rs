//! Unix sockets in a runtime directory, however deep it lies.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

/// A directory held open. Addresses of unix sockets have room for 107 bytes; through the
/// descriptor the path is short wherever the directory lies.
#[derive(Debug)]
pub(crate) struct Dir(File);

impl Dir {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
        Ok(Self(open(path, flags, Mode::empty())?.into()))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }

    /// Makes a listening socket, mode 0600, in place of whatever has this name, and connects to
    /// it: whoever inherits the listener finds us waiting.
    pub(crate) fn pair(&self, name: &str) -> io::Result<(OwnedFd, OwnedFd)> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = stream(SockFlag::empty())?;
        // Before bind, so that there is no moment with a wider mode.
        fchmod(&listener, Mode::from_bits_truncate(0o600))?;
        bind(listener.as_raw_fd(), &UnixAddr::new(&path)?)?;
        listen(&listener, Backlog::new(1)?)?;
        let client = self.connect(name)?;
        Ok((listener, client))
    }

    /// Connects to a socket, without waiting; the result is non-blocking.
    pub(crate) fn connect(&self, name: &str) -> io::Result<OwnedFd> {
        let client = stream(SockFlag::SOCK_NONBLOCK)?;
        connect(client.as_raw_fd(), &UnixAddr::new(&self.path(name))?)?;
        Ok(client)
    }
}

/// A connection to the socket of this name.
pub(crate) fn dial(path: &Path) -> io::Result<tokio::net::UnixStream> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stream = Dir::open(path.parent().unwrap_or(path))?.connect(&name)?;
    tokio::net::UnixStream::from_std(std::os::unix::net::UnixStream::from(stream))
}

fn stream(flags: SockFlag) -> io::Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Unix, SockType::Stream, flags, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_socket_works_at_any_depth_is_private_and_can_be_made_again() {
        let root = std::env::temp_dir().join(format!("kxl-sockets-{}", std::process::id()));
        let deep = root.join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let dir = Dir::open(&deep).unwrap();
        for _ in 0..2 {
            let (listener, client) = dir.pair("qmp.sock").unwrap();
            let (accepted, _) = UnixListener::from(listener).accept().unwrap();
            nix::unistd::write(&client, b"x").unwrap();
            let mut byte = [0];
            io::Read::read_exact(&mut UnixStream::from(OwnedFd::from(accepted)), &mut byte)
                .unwrap();
            let mode = std::fs::metadata(deep.join("qmp.sock")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert!(dir.connect("qmp.sock").is_err(), "nobody listens any more");
        std::fs::remove_dir_all(&root).unwrap();
    }
}
