//! A listener for life and its newest connection, non-blocking.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::poll::{PollFd, PollFlags};

/// Bytes kept for a reader that does not keep up; what does not fit is dropped whole, so that the
/// guest never waits for it.
const KEPT: usize = 256 * 1024;

/// One endpoint of the emulator.
#[derive(Debug)]
pub(crate) struct Wire {
    listener: UnixListener,
    peer: Option<UnixStream>,
    unsent: Vec<u8>,
}

impl Wire {
    /// Takes over a listening socket.
    pub(crate) fn new(listener: OwnedFd) -> io::Result<Self> {
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        Ok(Self { listener, peer: None, unsent: Vec::new() })
    }

    /// What to wait for: a new connection, input if it is wanted, room for what is unsent. A
    /// hang-up is always reported.
    pub(crate) fn polled(&self, reads: bool) -> [PollFd<'_>; 2] {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, reads);
        flags.set(PollFlags::POLLOUT, !self.unsent.is_empty());
        let listener = self.listener.as_fd();
        // poll(2) needs a descriptor in the second place too; the listener serves twice.
        let peer: BorrowedFd<'_> = self.peer.as_ref().map_or(listener, AsFd::as_fd);
        let peer_flags = if self.peer.is_some() { flags } else { PollFlags::POLLIN };
        [PollFd::new(listener, PollFlags::POLLIN), PollFd::new(peer, peer_flags)]
    }

    /// Accepts every waiting connection; the newest one replaces the others. Whether there was one.
    pub(crate) fn accept(&mut self) -> bool {
        let mut changed = false;
        while let Ok((peer, _)) = self.listener.accept() {
            if allowed(&peer) && peer.set_nonblocking(true).is_ok() {
                self.peer = Some(peer);
                self.unsent.clear();
                changed = true;
            }
        }
        changed
    }

    /// Reads what is there; drops the connection at its end.
    pub(crate) fn read(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut chunk = [0u8; 2048];
        while let Some(peer) = &mut self.peer {
            match peer.read(&mut chunk) {
                Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => self.drop_peer(),
            }
        }
        bytes
    }

    /// Drops the connection.
    pub(crate) fn drop_peer(&mut self) {
        self.peer = None;
        self.unsent.clear();
    }

    /// Sends what the connection takes and keeps the rest; without a connection it is lost.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        if self.peer.is_some() && self.unsent.len() + bytes.len() <= KEPT {
            self.unsent.extend_from_slice(bytes);
        }
        self.flush();
    }

    /// Sends more of what is unsent.
    pub(crate) fn flush(&mut self) {
        while !self.unsent.is_empty() {
            let Some(peer) = &mut self.peer else { return };
            match peer.write(&self.unsent) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.drop_peer(),
            }
        }
    }
}

/// Only root and the emulator's own user may steer it.
fn allowed(peer: &UnixStream) -> bool {
    let uid = nix::sys::socket::getsockopt(peer, nix::sys::socket::sockopt::PeerCredentials)
        .map(|credentials| credentials.uid());
    uid.is_ok_and(|uid| uid == 0 || uid == nix::unistd::geteuid().as_raw())
}
