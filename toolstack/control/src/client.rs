//! The blocking client that `kxl` uses; every call has a deadline.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use kxl_domain::{Failure, Kind};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{Answer, Body, Call, MAX_LINE, Moved, Reply, Request, VERSION};

/// How long a monitor may take over its last word on a request that was taken back.
const LAST_WORD: Duration = Duration::from_secs(10);

/// What is told on the way to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Something for people.
    Note(&'a str),
    /// So much of a state was moved.
    Moved(Moved),
}

/// A connection to one monitor.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
    next_id: u64,
    /// Readable (or at its end) when the request is to be taken back.
    sign: Option<OwnedFd>,
    /// When the wait for the last word ends.
    last_word: Option<Instant>,
    /// The other side has closed the connection.
    hung_up: bool,
}

impl Client {
    /// Speaks over a connected socket.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, buffer: Vec::new(), next_id: 1, sign: None, last_word: None, hung_up: false }
    }

    /// From now on a request is taken back when `sign` becomes readable or comes to its end: our
    /// half of the connection is closed, which gives a save up that is not committed. The
    /// monitor's last word on it is still waited for, for 10 s.
    pub fn take_back_on(&mut self, sign: OwnedFd) {
        self.sign = Some(sign);
    }

    /// Makes a call and waits for its end; `progress` sees what is told on the way.
    /// `deadline: None`, or one beyond what the clock can tell, waits as long as the monitor lives.
    ///
    /// # Errors
    /// The monitor's own failure, [`Kind::TimedOut`] when the deadline passes, [`Kind::Failed`]
    /// when the connection breaks.
    pub fn call(
        &mut self,
        call: Call,
        deadline: Option<Duration>,
        mut progress: impl FnMut(Step<'_>),
    ) -> Result<Answer, Failure> {
        let id = self.send(call, deadline).map_err(|error| self.lost(&error))?;
        let until = deadline.and_then(|wait| Instant::now().checked_add(wait));
        loop {
            let reply = self.receive(until).map_err(|error| self.lost(&error))?;
            match reply.body {
                _ if reply.id != id => {}
                Body::Progress(text) => progress(Step::Note(&text)),
                Body::Moved(moved) => progress(Step::Moved(moved)),
                Body::Done(answer) => return Ok(answer),
                Body::Failed(failure) => return Err(failure),
            }
        }
    }

    /// Whether the last call came to nothing because the monitor has hung up: it has ended, and
    /// mostly its domain with it.
    #[must_use]
    pub const fn has_hung_up(&self) -> bool {
        self.hung_up
    }

    fn lost(&mut self, error: &io::Error) -> Failure {
        self.hung_up = is_hang_up(error.kind());
        lost(error)
    }

    /// Sends a request without waiting and returns its id.
    ///
    /// # Errors
    /// When the monitor has hung up.
    pub fn send(&mut self, call: Call, deadline: Option<Duration>) -> io::Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        let deadline_ms =
            deadline.map_or(u64::MAX, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let mut line = serde_json::to_vec(&Request { v: VERSION, id, deadline_ms, call })?;
        line.push(b'\n');
        self.stream.write_all(&line)?;
        Ok(id)
    }

    /// Receives one reply.
    ///
    /// # Errors
    /// `TimedOut` at the deadline, `UnexpectedEof` when the monitor hangs up, `InvalidData` when
    /// what comes is no reply.
    pub fn receive(&mut self, until: Option<Instant>) -> io::Result<Reply> {
        loop {
            if let Some(reply) = self.take()? {
                return Ok(reply);
            }
            let until = [until, self.last_word].into_iter().flatten().min();
            let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
            if timeout == Some(Duration::ZERO) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if self.sign.is_some() && !self.readable(timeout)? {
                continue;
            }
            self.stream.set_read_timeout(timeout)?;
            match self.fill() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => other?,
            }
        }
    }

    /// Waits until there is something to read, and obeys the sign. An interrupted wait and one
    /// that the sign has ended bring nothing.
    fn readable(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        let Some(sign) = &self.sign else { return Ok(true) };
        let timeout = timeout.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        let mut fds = [
            PollFd::new(self.stream.as_fd(), PollFlags::POLLIN),
            PollFd::new(sign.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let up = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        let (readable, taken_back) = (up(&fds[0]), up(&fds[1]));
        if taken_back {
            self.sign = None;
            self.last_word = Instant::now().checked_add(LAST_WORD);
            self.stream.shutdown(Shutdown::Write)?;
        }
        Ok(readable)
    }

    /// Reads what is there into the buffer (blocking as the socket is set).
    ///
    /// # Errors
    /// `UnexpectedEof` at the end, `WouldBlock` when nothing came.
    pub fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0u8; 4096];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.buffer.extend(&chunk[..n]);
                Ok(())
            }
        }
    }

    /// Takes a whole reply off the buffer.
    ///
    /// # Errors
    /// `InvalidData` when a line is no reply or has no end.
    pub fn take(&mut self) -> io::Result<Option<Reply>> {
        match self.buffer.iter().position(|b| *b == b'\n') {
            Some(end) => {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                Ok(Some(serde_json::from_slice(&line)?))
            }
            None if self.buffer.len() > MAX_LINE => Err(io::ErrorKind::InvalidData.into()),
            None => Ok(None),
        }
    }

    /// The socket, for `poll`.
    #[must_use]
    pub const fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Gives up the protocol: the socket and the bytes read beyond the last reply. For frames.
    #[must_use]
    pub fn into_parts(self) -> (UnixStream, Vec<u8>) {
        (self.stream, self.buffer)
    }
}

const fn is_hang_up(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

fn lost(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            Failure::new(Kind::TimedOut, "the domain's monitor did not answer in time")
                .hint("kxl list shows whether its emulator answers; kxl destroy NAME always works")
        }
        kind if is_hang_up(kind) => Failure::new(Kind::Failed, "the domain's monitor has hung up")
            .hint("run the command again: the domain is adopted by a new monitor"),
        _ => Failure::because(Kind::Internal, "the monitor's answer makes no sense", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_taken_back_still_gets_its_last_word() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (sign, pull) = nix::unistd::pipe().unwrap();
        let mut client = Client::new(ours);
        client.take_back_on(sign);
        let monitor = std::thread::spawn(move || {
            let mut heard = String::new();
            // Nothing ends before the half of the client is closed.
            theirs.read_to_string(&mut heard).unwrap();
            theirs.write_all(b"{\"id\":1,\"body\":{\"done\":\"already\"}}\n").unwrap();
            heard
        });
        drop(pull);
        let answer = client.call(Call::Release, None, |_| ());
        assert_eq!(answer, Ok(Answer::Already));
        assert!(monitor.join().unwrap().contains("release"));
    }

    #[test]
    fn a_monitor_that_hangs_up_is_told_from_one_that_is_late() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut client = Client::new(ours);
        let wait = Some(Duration::from_millis(1));
        assert_eq!(client.call(Call::Release, wait, |_| ()).unwrap_err().kind, Kind::TimedOut);
        assert!(!client.has_hung_up());
        drop(theirs);
        for _ in 0..2 {
            // The first finds the end, or that nobody reads.
            assert_eq!(client.call(Call::Release, None, |_| ()).unwrap_err().kind, Kind::Failed);
            assert!(client.has_hung_up());
        }
    }

    #[test]
    fn a_deadline_beyond_the_clock_is_none() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"{\"id\":1,\"body\":{\"done\":\"ok\"}}\n").unwrap();
        let answer = Client::new(ours).call(
            Call::Status { probe: false },
            Some(Duration::from_secs(u64::MAX)),
            |_| (),
        );
        assert_eq!(answer, Ok(Answer::Ok));
    }
}
