//! Where the bytes of a serial line come from and go to: a client of a socket, the terminal, a
//! file, nowhere.
//!
//! An endpoint has one descriptor to be polled for reading, whatever is behind it; when that is
//! ready, its thread calls [`Endpoint::service`], and [`Endpoint::read`] as long as somebody wants
//! input. Other threads may write and say whether input is wanted: what they change of the
//! descriptors to be watched is left to the endpoint's own, as a processor's thread may not do it.
//! Writing never waits. What a client does not take is kept up to a limit and then dropped and
//! counted; what a client sends and nobody wants stays with the client.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Bytes kept for a reader that is slow.
const LIMIT: usize = 64 << 10;

/// Bytes given at once to what may be a terminal or a pipe: a pipe that is ready takes so many
/// without waiting.
const SHY: usize = 4096;

/// What becomes of output while a socket has no client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unheard {
    /// The newest is kept for the next client: a console.
    Keep,
    /// It is dropped: a protocol, in which a new client wants a new beginning.
    Drop,
}

/// Bytes for somebody who is slow or not there.
#[derive(Debug, Default)]
struct Backlog {
    bytes: VecDeque<u8>,
    dropped: u64,
}

impl Backlog {
    /// Takes what there is room for: the rest is lost.
    fn keep_oldest(&mut self, data: &[u8]) {
        let room = LIMIT.saturating_sub(self.bytes.len()).min(data.len());
        self.bytes.extend(&data[..room]);
        self.dropped += (data.len() - room) as u64;
    }

    /// Takes everything: what is oldest makes room.
    fn keep_newest(&mut self, data: &[u8]) {
        self.bytes.extend(data);
        let over = self.bytes.len().saturating_sub(LIMIT);
        self.bytes.drain(..over);
        self.dropped += over as u64;
    }

    fn clear(&mut self) {
        self.dropped += self.bytes.len() as u64;
        self.bytes.clear();
    }
}

/// A descriptor and what it is watched for; not at all where that is nothing.
#[derive(Debug)]
struct Watched<T> {
    inner: T,
    events: Option<EventSet>,
}

impl<T: AsRawFd> Watched<T> {
    const fn new(inner: T) -> Self {
        Self { inner, events: None }
    }

    fn watch(&mut self, epoll: &Epoll, events: Option<EventSet>) -> io::Result<()> {
        let operation = match (self.events, events) {
            (old, new) if old == new => return Ok(()),
            (None, _) => ControlOperation::Add,
            (Some(_), Some(_)) => ControlOperation::Modify,
            (Some(_), None) => ControlOperation::Delete,
        };
        let wanted = EpollEvent::new(events.unwrap_or(EventSet::empty()), 0);
        epoll.ctl(operation, self.inner.as_raw_fd(), wanted)?;
        self.events = events;
        Ok(())
    }
}

/// The one client of a socket.
#[derive(Debug)]
struct Client {
    stream: Watched<UnixStream>,
    /// It has ended its input, and may still listen.
    ended: bool,
    /// It has gone; what it sent before is still to be read.
    gone: bool,
}

#[derive(Debug)]
enum Kind {
    Null,
    File(File),
    Stdio { input: Option<Watched<File>>, output: Watched<File> },
    Socket { listener: Watched<UnixListener>, client: Option<Client>, unheard: Unheard },
}

/// One end of a serial line.
#[derive(Debug)]
pub struct Endpoint {
    kind: Kind,
    epoll: Epoll,
    /// Rung where something is to be done by the endpoint's own thread; watched always.
    bell: EventFd,
    backlog: Backlog,
    wants_input: bool,
    /// Whoever takes output has gone, and this is still to be dealt with.
    lost: bool,
}

impl Endpoint {
    fn new(kind: Kind) -> io::Result<Self> {
        let (epoll, bell) = (Epoll::new()?, EventFd::new(EFD_NONBLOCK)?);
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, bell.as_raw_fd(), event)?;
        let backlog = Backlog::default();
        let mut end = Self { kind, epoll, bell, backlog, wants_input: false, lost: false };
        end.settle();
        Ok(end)
    }

    /// Nobody: output is dropped and there is no input.
    ///
    /// # Errors
    /// The system's refusal of a descriptor.
    pub fn null() -> io::Result<Self> {
        Self::new(Kind::Null)
    }

    /// Output is appended to a file, opened to append.
    ///
    /// # Errors
    /// The system's refusal of a descriptor.
    pub fn file(file: File) -> io::Result<Self> {
        Self::new(Kind::File(file))
    }

    /// A terminal, a pipe or a file on either side: the process's own stdin and stdout.
    ///
    /// # Errors
    /// The system's refusal of a descriptor.
    pub fn stdio(input: OwnedFd, output: OwnedFd) -> io::Result<Self> {
        let input = Some(Watched::new(File::from(input)));
        Self::new(Kind::Stdio { input, output: Watched::new(File::from(output)) })
    }

    /// Clients of a socket, one after another.
    ///
    /// # Errors
    /// The system's refusal.
    pub fn socket(listener: UnixListener, unheard: Unheard) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Self::new(Kind::Socket { listener: Watched::new(listener), client: None, unheard })
    }

    /// Whether somebody is at the other end.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        match &self.kind {
            Kind::Null => false,
            Kind::File(_) => true,
            Kind::Stdio { .. } => !self.lost,
            Kind::Socket { client, .. } => client.is_some() && !self.lost,
        }
    }

    /// Bytes of output that nobody got.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.backlog.dropped
    }

    /// Says whether input is wanted. While it is not, its arrival wakes nobody.
    pub fn want_input(&mut self, wanted: bool) {
        if self.wants_input != wanted {
            self.wants_input = wanted;
            self.ring();
        }
    }

    /// Whether input is wanted.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.wants_input
    }

    /// Does what is due: takes a client, goes on with output that waited.
    pub fn service(&mut self) {
        // Silent again; how often it was rung does not matter.
        drop(self.bell.read());
        if self.lost {
            self.disconnect();
        }
        self.notice_hangup();
        self.accept();
        self.flush();
        self.settle();
    }

    /// Input, if there is any: 0 is none for now.
    pub fn read(&mut self, data: &mut [u8]) -> usize {
        if data.is_empty() || !self.wants_input {
            return 0;
        }
        let got = match &mut self.kind {
            Kind::Stdio { input: Some(file), .. } if ready(&file.inner, PollFlags::IN) => {
                file.inner.read(data)
            }
            Kind::Socket { client: Some(client), .. } if !client.ended => {
                client.stream.inner.read(data)
            }
            _ => return 0,
        };
        match got {
            Ok(count) if count > 0 => return count,
            Err(error) if is_for_now(&error) => {}
            Ok(_) | Err(_) => self.end_of_input(),
        }
        0
    }

    /// Output. Never waits.
    pub fn write(&mut self, data: &[u8]) {
        if let Kind::File(file) = &mut self.kind {
            if file.write_all(data).is_err() {
                self.backlog.dropped += data.len() as u64;
            }
            return;
        }
        let taken = if self.backlog.bytes.is_empty() { self.push(data) } else { 0 };
        let rest = &data[taken..];
        if rest.is_empty() {
            return;
        }
        match &self.kind {
            Kind::Null | Kind::File(_) => {}
            Kind::Socket { unheard: Unheard::Keep, .. } if !self.is_connected() => {
                self.backlog.keep_newest(rest);
            }
            Kind::Stdio { .. } | Kind::Socket { .. } if !self.is_connected() => {
                self.backlog.dropped += rest.len() as u64;
            }
            Kind::Stdio { .. } | Kind::Socket { .. } => {
                if self.backlog.bytes.is_empty() {
                    self.ring();
                }
                self.backlog.keep_oldest(rest);
            }
        }
    }

    fn ring(&self) {
        // It is full only when it has been rung 2^64 times.
        drop(self.bell.write(1));
    }

    /// Writes what can be written at once; the bytes taken.
    fn push(&mut self, data: &[u8]) -> usize {
        let mut taken = 0;
        while taken < data.len() && !self.lost {
            let rest = &data[taken..];
            let done = match &mut self.kind {
                Kind::Stdio { output, .. } if ready(&output.inner, PollFlags::OUT) => {
                    output.inner.write(&rest[..rest.len().min(SHY)])
                }
                Kind::Socket { client: Some(client), .. } => client.stream.inner.write(rest),
                _ => break,
            };
            match done {
                Ok(0) => break,
                Ok(count) => taken += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_for_now(&error) => break,
                Err(_) => {
                    self.lost = true;
                    self.ring();
                }
            }
        }
        taken
    }

    fn flush(&mut self) {
        while !self.backlog.bytes.is_empty() {
            let data: Vec<u8> = self.backlog.bytes.iter().copied().take(SHY).collect();
            let taken = self.push(&data);
            self.backlog.bytes.drain(..taken.min(self.backlog.bytes.len()));
            if taken < data.len() {
                break;
            }
        }
    }

    fn accept(&mut self) {
        let Kind::Socket { listener, client: client @ None, .. } = &mut self.kind else { return };
        // Whatever refuses this client, the next one is as welcome.
        if let Ok((stream, _address)) = listener.inner.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            *client = Some(Client { stream: Watched::new(stream), ended: false, gone: false });
        }
    }

    /// A client that has gone for good, and not only ended its input, makes room for the next.
    /// What it typed into a console is read first, whenever that is.
    fn notice_hangup(&mut self) {
        let wanted = self.wants_input;
        if let Kind::Socket { client: Some(client), unheard, .. } = &mut self.kind
            && ready(&client.stream.inner, PollFlags::HUP)
        {
            client.gone = true;
            let kept = wanted || *unheard == Unheard::Keep;
            if client.ended || !kept || !has_input(&client.stream.inner) {
                self.disconnect();
            }
        }
    }

    fn end_of_input(&mut self) {
        match &mut self.kind {
            // Closing it ends its being watched.
            Kind::Stdio { input, .. } => *input = None,
            Kind::Socket { client: Some(client), .. } => {
                client.ended = true;
                if ready(&client.stream.inner, PollFlags::HUP) {
                    self.disconnect();
                }
            }
            Kind::Null | Kind::File(_) | Kind::Socket { .. } => {}
        }
        self.settle();
    }

    /// Nobody takes output any more, until a next client does.
    fn disconnect(&mut self) {
        match &mut self.kind {
            Kind::Socket { client, unheard, .. } => {
                *client = None;
                self.lost = false;
                if *unheard == Unheard::Drop {
                    self.backlog.clear();
                }
            }
            Kind::Stdio { .. } | Kind::Null | Kind::File(_) => self.backlog.clear(),
        }
    }

    /// Has watched what is to be watched, and nothing that would wake for nothing.
    fn settle(&mut self) {
        let waits = !self.backlog.bytes.is_empty() && !self.lost;
        let wants = self.wants_input;
        let epoll = &self.epoll;
        match &mut self.kind {
            Kind::Null | Kind::File(_) => {}
            Kind::Stdio { input, output } => {
                // A plain file cannot be watched: it is there at once.
                drop(output.watch(epoll, waits.then_some(EventSet::OUT)));
                if let Some(input) = input
                    && input.watch(epoll, wants.then_some(EventSet::IN)).is_err()
                    && wants
                {
                    // Neither can it be waited for as input: there is something, or its end.
                    drop(self.bell.write(1));
                }
            }
            Kind::Socket { listener, client, .. } => {
                if let Some(client) = client {
                    let mut events = EventSet::empty();
                    events.set(EventSet::IN, wants && !client.ended);
                    events.set(EventSet::OUT, waits);
                    // That it hangs up is told again and again: one that is gone and whose last
                    // input nobody wants yet is not watched at all.
                    let watched = wants || !client.gone;
                    if client.stream.watch(epoll, watched.then_some(events)).is_err() {
                        // It would hold the seat for ever.
                        self.lost = true;
                        drop(self.bell.write(1));
                    }
                    drop(listener.watch(epoll, None));
                } else {
                    drop(listener.watch(epoll, Some(EventSet::IN)));
                }
            }
        }
    }
}

impl AsRawFd for Endpoint {
    /// Ready for reading when there is something to do.
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

fn is_for_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Whether there is anything left to be read.
fn has_input(stream: &UnixStream) -> bool {
    let mut byte = [0];
    recv(stream, &mut byte[..], RecvFlags::PEEK).is_ok_and(|(count, _)| count > 0)
}

/// Whether this can be done now without waiting for it, even if it fails then.
fn ready(fd: &impl AsFd, what: PollFlags) -> bool {
    let what = if what == PollFlags::HUP { what } else { what | PollFlags::ERR | PollFlags::HUP };
    let mut fds = [PollFd::new(fd, what)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(what)
}

#[cfg(test)]
mod tests;
