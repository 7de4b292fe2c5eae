//! What a guest says by marked lines in output that goes into files: the monitor listens to it as
//! to a port.
//!
//! A packet is a line. They are passed on as they are taken; a program that says more than the
//! monitor takes in waits, as on a port, and nothing that it says is lost.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::time::Duration;

use kxl_domain::DomainConfig;
use kxl_domain::config::model::GuestEvents;
use kxl_domain::guest::{LINE_MAX, Piece};
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, shutdown as shut, socketpair};
use tokio::net::UnixStream;

/// How long what was said before an end may take to be heard.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The way to the monitor.
#[derive(Debug)]
pub(super) struct Said {
    stream: UnixStream,
    theirs: RefCell<Option<OwnedFd>>,
    waiting: RefCell<VecDeque<Vec<u8>>>,
}

impl Said {
    /// A way, where the guest of this configuration speaks by marked lines.
    pub(super) fn of(config: &DomainConfig) -> io::Result<Option<Rc<Self>>> {
        if config.guest_events != GuestEvents::Console {
            return Ok(None);
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        // Nobody answers by marked lines.
        shut(ours.as_raw_fd(), Shutdown::Read)?;
        let stream = UnixStream::from_std(StdStream::from(ours))?;
        let (theirs, waiting) = (RefCell::new(Some(theirs)), RefCell::default());
        Ok(Some(Rc::new(Self { stream, theirs, waiting })))
    }

    /// Takes the monitor's end.
    pub(super) fn channel(&self) -> Option<OwnedFd> {
        self.theirs.take()
    }

    /// Takes what a stream has brought.
    pub(super) fn hear(&self, piece: Piece<'_>) {
        let mut packet = match piece {
            Piece::Line(line) => line.to_vec(),
            // For the monitor to see for itself, and to count.
            Piece::TooLong => vec![b'x'; LINE_MAX + 2],
        };
        packet.push(b'\n');
        self.waiting.borrow_mut().push_back(packet);
        self.pass_on();
    }

    /// Waits until the monitor has room for all that was said.
    pub(super) async fn passed_on(&self) {
        while !self.waiting.borrow().is_empty() && self.stream.writable().await.is_ok() {
            self.pass_on();
        }
    }

    fn pass_on(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(packet) = waiting.front() {
            match self.stream.try_write(packet) {
                Ok(_) => drop(waiting.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody listens any more.
                Err(_) => waiting.clear(),
            }
        }
        // A burst must not pin its memory for the life of an idle domain.
        waiting.shrink_to(16);
    }

    /// Nothing follows: the monitor sees the end behind the last line.
    pub(super) async fn end(&self) {
        let passed_on = tokio::time::timeout(LAST_LINES, self.passed_on()).await;
        if passed_on.is_err() {
            tracing::warn!("what the guest said last is not heard");
        }
        if let Err(error) = shut(self.stream.as_raw_fd(), Shutdown::Write) {
            tracing::debug!(%error, "nobody listens to the guest any more");
        }
    }
}
