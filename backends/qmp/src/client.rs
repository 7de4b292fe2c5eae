//! One connection to an emulator's control channel.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::codec::{Decoder, Frame};
use crate::error::QmpError;
use crate::message::{Event, Greeting, Message};

/// Bytes that may wait for an emulator that does not read; more is an error for the caller.
const MAX_UNSENT: usize = 256 << 10;

/// Answers that may be outstanding, given up ones included.
const MAX_PENDING: usize = 256;

type Answer = Result<Value, (String, String)>;

/// A command on its way to the connection's task.
struct Request {
    name: Cow<'static, str>,
    arguments: Option<Value>,
    fd: Option<OwnedFd>,
    answer: oneshot::Sender<Result<Answer, Rejected>>,
}

/// The connection's task would not take a request.
struct Rejected;

/// A connection whose greeting has been answered. Dropping it closes the connection; the emulator
/// lives on.
#[derive(Debug)]
pub struct Client {
    requests: mpsc::UnboundedSender<Request>,
    greeting: Greeting,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Client {
    /// Waits for the greeting, leaves the negotiation mode and returns the client and the
    /// receiver of events. The receiver ends when the connection does.
    ///
    /// Must be called inside a [`tokio::task::LocalSet`]. Cancel-safe: dropping the future closes
    /// the connection.
    ///
    /// # Errors
    /// [`QmpError::TimedOut`] after `deadline`, [`QmpError::Closed`] when the other side hangs up,
    /// [`QmpError::Refused`] when it does not let us in.
    pub async fn connect(
        stream: UnixStream,
        deadline: Duration,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Event>), QmpError> {
        let (requests, incoming) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::unbounded_channel();
        let (greeted, greeting) = oneshot::channel();
        let connection = Connection {
            stream,
            decoder: Decoder::default(),
            unsent: VecDeque::new(),
            unsent_bytes: 0,
            pending: VecDeque::new(),
            next_id: 0,
            events,
            greeted: Some(greeted),
        };
        tokio::task::spawn_local(connection.run(incoming));
        let command = || "greeting".to_owned();
        let greeting = timeout(deadline, greeting)
            .await
            .map_err(|_| QmpError::TimedOut { command: command(), after: deadline })?
            .map_err(|_| QmpError::Closed { command: command() })?;
        let client = Self { requests, greeting };
        match client.execute("qmp_capabilities", None, deadline).await {
            // Some servers are never in a negotiation mode.
            Ok(_) => {}
            Err(error) if error.is_unknown_command() => {}
            Err(error) => return Err(error),
        }
        Ok((client, receiver))
    }

    /// What the other side said of itself.
    #[must_use]
    pub const fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Runs a command and returns its `return` value. Commands are sent in the order of the calls,
    /// also when several are under way.
    ///
    /// Dropping the future gives the answer up, not the command.
    ///
    /// # Errors
    /// Any [`QmpError`].
    pub async fn execute(
        &self,
        command: impl Into<Cow<'static, str>>,
        arguments: Option<Value>,
        deadline: Duration,
    ) -> Result<Value, QmpError> {
        self.send(command.into(), arguments, None, deadline).await
    }

    /// The same with a descriptor passed along (`getfd`, `add-fd`).
    ///
    /// # Errors
    /// Any [`QmpError`].
    pub async fn execute_with_fd(
        &self,
        command: impl Into<Cow<'static, str>>,
        arguments: Option<Value>,
        fd: OwnedFd,
        deadline: Duration,
    ) -> Result<Value, QmpError> {
        self.send(command.into(), arguments, Some(fd), deadline).await
    }

    async fn send(
        &self,
        name: Cow<'static, str>,
        arguments: Option<Value>,
        fd: Option<OwnedFd>,
        deadline: Duration,
    ) -> Result<Value, QmpError> {
        let shown = name.to_string();
        let command = || shown.clone();
        let (answer, answered) = oneshot::channel();
        self.requests
            .send(Request { name, arguments, fd, answer })
            .map_err(|_| QmpError::Closed { command: command() })?;
        match timeout(deadline, answered).await {
            Err(_) => Err(QmpError::TimedOut { command: command(), after: deadline }),
            Ok(Err(_)) => Err(QmpError::Closed { command: command() }),
            Ok(Ok(Err(Rejected))) => Err(QmpError::Blocked { command: command() }),
            Ok(Ok(Ok(Ok(value)))) => Ok(value),
            Ok(Ok(Ok(Err((class, desc))))) => {
                Err(QmpError::Refused { command: command(), class, desc })
            }
        }
    }
}

/// Bytes to be sent, and the descriptor that goes with the first of them.
struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
    fd: Option<OwnedFd>,
}

/// An answer that is due.
struct Pending {
    id: String,
    answer: oneshot::Sender<Result<Answer, Rejected>>,
}

/// The task's side.
struct Connection {
    stream: UnixStream,
    decoder: Decoder,
    unsent: VecDeque<Unsent>,
    unsent_bytes: usize,
    pending: VecDeque<Pending>,
    next_id: u64,
    events: mpsc::UnboundedSender<Event>,
    greeted: Option<oneshot::Sender<Greeting>>,
}

impl Connection {
    /// Serves the connection until it ends or the client is dropped. Everything outstanding is
    /// answered by the drop of its sender.
    async fn run(mut self, mut requests: mpsc::UnboundedReceiver<Request>) {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let interest = if self.unsent.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            let done = tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => { self.queue(request); self.write() }
                    None => return,
                },
                ready = self.stream.ready(interest) => match ready {
                    Ok(ready) => {
                        let read = if ready.is_readable() { self.read(&mut buffer) } else { Ok(()) };
                        let written = if ready.is_writable() { self.write() } else { Ok(()) };
                        read.and(written)
                    }
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = done {
                // A write may fail while the last events and answers still wait to be read.
                let _last_words = self.read(&mut buffer);
                tracing::debug!(%error, "control channel ended");
                return;
            }
        }
    }

    fn queue(&mut self, request: Request) {
        // A caller that has given up does not want its command carried out late either.
        if request.answer.is_closed() {
            return;
        }
        if self.unsent_bytes > MAX_UNSENT || self.pending.len() >= MAX_PENDING {
            let _given_up = request.answer.send(Err(Rejected));
            return;
        }
        // A text: StratoVirt takes no other kind of id.
        let id = format!("kxl{}", self.next_id);
        self.next_id += 1;
        let mut command = json!({"execute": request.name, "id": id});
        if let Some(arguments) = request.arguments {
            command["arguments"] = arguments;
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(b'\n');
        tracing::trace!(command = %request.name, id, "to the emulator");
        self.unsent_bytes += bytes.len();
        self.unsent.push_back(Unsent { bytes, sent: 0, fd: request.fd });
        self.pending.push_back(Pending { id, answer: request.answer });
    }

    fn write(&mut self) -> io::Result<()> {
        while let Some(first) = self.unsent.front_mut() {
            let rest = &first.bytes[first.sent..];
            let sent = match &first.fd {
                None => self.stream.try_write(rest),
                Some(fd) => {
                    self.stream.try_io(Interest::WRITABLE, || send_fd(&self.stream, rest, fd))
                }
            };
            match sent {
                Ok(count) => {
                    first.fd = None;
                    first.sent += count;
                    self.unsent_bytes -= count;
                    if first.sent == first.bytes.len() {
                        self.unsent.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        // Bounded, so that a flood of events does not keep the caller's thread; what is left shows
        // as readable again.
        for _ in 0..16 {
            match self.stream.try_read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    for frame in self.decoder.feed(&buffer[..count]) {
                        match frame {
                            Frame::Document(document) => self.take(Message::of(document)),
                            Frame::Garbage(kind) => tracing::warn!(?kind, "junk skipped"),
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Greeting(greeting) => {
                if let Some(greeted) = self.greeted.take() {
                    let _given_up = greeted.send(greeting);
                }
            }
            Message::Event(event) => {
                tracing::debug!(name = event.name, data = %event.data, "event");
                let _nobody_listens = self.events.send(event);
            }
            Message::Answer { id, result } => self.answer(id.as_deref(), result),
            Message::Unknown(value) => tracing::warn!(%value, "neither answer nor event"),
        }
    }

    /// Hands an answer over: by id, or, where it has none, to the oldest command. Commands given up
    /// keep their place, so that the order still counts for a server without ids.
    fn answer(&mut self, id: Option<&str>, result: Answer) {
        let index = id.map_or(Some(0), |id| self.pending.iter().position(|entry| entry.id == id));
        match index.and_then(|index| self.pending.remove(index)) {
            Some(entry) => {
                let _given_up = entry.answer.send(Ok(result));
            }
            None => tracing::warn!(?id, "an answer to nothing"),
        }
    }
}

/// Sends `bytes` with a descriptor attached to the first of them.
fn send_fd(stream: &UnixStream, bytes: &[u8], fd: &OwnedFd) -> io::Result<usize> {
    let fds = [fd.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&fds)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], &control, flags, None)?)
}

#[cfg(test)]
mod tests;
