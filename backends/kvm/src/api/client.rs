//! One connection.
//!
//! Nothing here waits. What a client does not read is kept up to a bound; beyond a smaller one its
//! commands are not read either, so that a client that only asks stops itself. One that takes
//! nothing for [`PATIENCE`] although something waits for it, or that lets [`MOST_UNSENT`] pile up,
//! is let go.

use std::collections::VecDeque;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use kxl_qmp::server::{Incoming, Session};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};

/// Bytes read at a time; bounds how many commands are carried out between two looks at the rest.
const PIECE: usize = 4096;

/// Unsent bytes beyond which no more commands are read.
const ENOUGH_UNSENT: usize = 64 << 10;

/// Unsent bytes beyond which the client is let go. One piece full of the commands with the longest
/// answers stays below it.
const MOST_UNSENT: usize = 2 << 20;

/// How long a client may take nothing.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Descriptors taken with one piece; the kernel closes those beyond.
const MOST_FDS: usize = 16;

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    socket: OwnedFd,
    session: Session,
    unsent: Vec<u8>,
    /// How much of it was sent.
    sent: usize,
    /// When the client last took something, or had nothing to take.
    took: Instant,
    /// It sends no more.
    silent: bool,
    /// It hears no more.
    deaf: bool,
    /// Descriptors that came with its last bytes and that no command has claimed.
    fds: VecDeque<OwnedFd>,
}

impl Client {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            session: Session::new(),
            unsent: Vec::new(),
            sent: 0,
            took: Instant::now(),
            silent: false,
            deaf: false,
            fds: VecDeque::new(),
        }
    }

    /// What it waits for.
    pub(super) fn wants(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        if !self.silent && self.waiting() <= ENOUGH_UNSENT {
            flags |= PollFlags::IN;
        }
        if self.waiting() > 0 {
            flags |= PollFlags::OUT;
        }
        flags
    }

    /// Bytes that it has not taken.
    pub(super) fn waiting(&self) -> usize {
        self.unsent.len() - self.sent
    }

    /// When it is let go unless it takes something.
    pub(super) fn until(&self) -> Option<Instant> {
        (self.waiting() > 0).then(|| self.took + PATIENCE)
    }

    /// Whether nothing more comes of it: it has said all and heard all it will, or it takes nothing.
    pub(super) fn over(&self, now: Instant) -> bool {
        (self.silent && self.waiting() == 0)
            || self.waiting() > MOST_UNSENT
            || self.until().is_some_and(|until| now >= until)
    }

    /// The descriptors that no command has claimed.
    pub(super) fn fds(&mut self) -> &mut VecDeque<OwnedFd> {
        &mut self.fds
    }

    /// Reads what it says. What it has asked for before it went is asked for all the same.
    pub(super) fn hear(&mut self) -> Vec<Incoming> {
        let mut bytes = [0; PIECE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut pieces = [IoSliceMut::new(&mut bytes)];
        let count = match rustix::net::recvmsg(&self.socket, &mut pieces, &mut control, flags) {
            Ok(message) => message.bytes,
            Err(Errno::AGAIN | Errno::INTR) => return Vec::new(),
            Err(_) => 0,
        };
        let mut fds = VecDeque::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                fds.extend(passed);
            }
        }
        if !fds.is_empty() {
            // They belong to what came with them: older ones were claimed by then, or never will be.
            self.fds = fds;
        }
        if count == 0 {
            self.silent = true;
        }
        self.session.feed(&bytes[..count])
    }

    /// Keeps a line for it.
    pub(super) fn tell(&mut self, line: &str) {
        if self.deaf {
            return;
        }
        if self.waiting() == 0 {
            self.took = Instant::now();
        }
        self.unsent.extend_from_slice(line.as_bytes());
    }

    /// Sends as much as it takes.
    pub(super) fn send(&mut self) {
        while self.waiting() > 0 {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, &self.unsent[self.sent..], flags) {
                Ok(count) => {
                    self.sent += count;
                    self.took = Instant::now();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // The part that was sent goes when it is most of it: no byte is moved twice.
                    if self.sent > self.unsent.len() / 2 {
                        self.unsent.drain(..self.sent);
                        self.sent = 0;
                    }
                    return;
                }
                Err(_) => {
                    // It may have asked for something before it went.
                    self.deaf = true;
                    break;
                }
            }
        }
        self.unsent.clear();
        self.unsent.shrink_to(PIECE);
        self.sent = 0;
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
