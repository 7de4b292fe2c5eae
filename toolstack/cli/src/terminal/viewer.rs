//! The loop of an attached console.
//!
//! ```text
//!   stdin ──► escape? ──► outgoing buffer ──► monitor's socket
//!   stdout ◄── Data frames ◄───────────────── monitor's socket      SIGWINCH ──► Window frame
//! ```
//! It ends at the escape character, at a signal, when the domain has ended, or when the monitor is
//! lost; an end of standard input does not end it.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kxl_control::frame::Frame;
use kxl_control::{Answer, Attach, Call};
use kxl_domain::{Failure, Kind};
use kxl_engine::Host;
use kxl_store::ListRow;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::raw::Raw;
use crate::{out, signals};

/// How long a monitor may take to answer the request to attach.
const ATTACH_DEADLINE: Duration = Duration::from_secs(10);

/// How often, and after how long each time, a viewer that has lost its monitor tries again where the
/// connection to the next one breaks.
const RETRIES: u32 = 10;
const RETRY: Duration = Duration::from_millis(20);

/// Input waits in standard input while this much has not been taken by the monitor.
const OUTGOING_LIMIT: usize = 64 * 1024;

/// How to look at a console.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    /// The byte that leaves.
    pub(crate) escape: u8,
    /// Whether input is wanted.
    pub(crate) write: bool,
    /// Whether to take the writer's place.
    pub(crate) steal: bool,
    /// Whether to show first what was said before.
    pub(crate) replay: bool,
}

/// Why the loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// The escape character was typed.
    Escaped,
    /// The domain has ended; how.
    Ended(String),
    /// This signal came.
    Signalled(Signal),
    /// The connection broke.
    Lost,
}

/// Shows the console of a live domain until the user leaves or the domain ends, through reboots
/// and, by attaching again, through the death of a monitor. `tell` gets what kxl itself has to
/// say, without a line end.
///
/// The terminal is restored whatever happens. A signal that ends the view then takes its usual
/// effect on the process.
///
/// # Errors
/// When the monitor refuses, or standard output cannot be written.
pub(crate) fn show(
    host: &mut Host,
    row: &ListRow,
    view: View,
    tell: impl Fn(&str),
) -> Result<Left, Failure> {
    let caught = Caught::new().map_err(|e| broken("cannot catch signals", &e))?;
    let mut replay = view.replay;
    let mut retries = 0;
    loop {
        let (stream, buffer, writer) = match attach(host, row, view, replay) {
            // A monitor that is killed may still take a connection that it will never serve.
            Err(failure) if failure.kind == Kind::Failed && retries > 0 => {
                retries -= 1;
                std::thread::sleep(RETRY);
                continue;
            }
            attached => attached?,
        };
        retries = RETRIES;
        if view.write && !writer {
            tell("another console is writing: this one only shows; --steal takes over");
        }
        let raw = Raw::enter().map_err(|e| broken("cannot set up the terminal", &e))?;
        let mut wire = Wire::new(stream, buffer, view, raw.is_some());
        let left = wire.run(&caught)?;
        drop(raw);
        match left {
            Left::Lost => {
                match host.find(&row.uuid.to_string()) {
                    Ok(now) if now.domid.is_some() => {}
                    Ok(now) => {
                        return Ok(Left::Ended(format!("domain {} is {}", now.name, now.state)));
                    }
                    Err(failure) if failure.kind == Kind::NoSuchDomain => {
                        return Ok(Left::Ended(format!("domain {} has ended", row.name)));
                    }
                    Err(failure) => return Err(failure),
                }
                tell("the monitor was lost: attaching again");
                replay = false;
            }
            Left::Signalled(signal) => {
                drop(caught);
                // From here on as if the signal had never been caught, or been ignored.
                match signal {
                    Signal::SIGPIPE => out::die_of_a_broken_pipe(),
                    caught => drop(raise(caught)),
                }
                return Ok(Left::Signalled(signal));
            }
            other => return Ok(other),
        }
    }
}

fn attach(
    host: &mut Host,
    row: &ListRow,
    view: View,
    replay: bool,
) -> Result<(UnixStream, Vec<u8>, bool), Failure> {
    let mut client = host.connect(row)?;
    let window = signals::window_size(io::stdout().as_fd()).ok();
    let call = Call::Console(Attach { replay, write: view.write, steal: view.steal, window });
    match client.call(call, Some(ATTACH_DEADLINE), |_| ())? {
        Answer::Attached { writer } => {
            let (stream, buffer) = client.into_parts();
            stream.set_nonblocking(true).map_err(|e| broken("cannot use the console", &e))?;
            Ok((stream, buffer, writer))
        }
        _ => {
            let text = format!("the monitor of domain \"{}\" did not attach us", row.name);
            Err(Failure::new(Kind::Internal, text))
        }
    }
}

fn broken(what: &str, error: &io::Error) -> Failure {
    Failure::because(Kind::Failed, what, error)
}

/// The signals that matter to a viewer, as something to poll; as they were before when dropped.
#[derive(Debug)]
struct Caught {
    fd: SignalFd,
    before: SigSet,
}

impl Caught {
    fn new() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in
            [Signal::SIGWINCH, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT]
        {
            set.add(signal);
        }
        let before = set.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd, before })
    }

    /// The next signal, if one came.
    fn next(&self) -> Option<Signal> {
        let info = self.fd.read_signal().ok().flatten()?;
        i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        // The mask was valid before, so setting it again does not fail.
        let _ = self.before.thread_set_mask();
    }
}

/// What there is to be done.
#[derive(Clone, Copy, Debug)]
struct Ready {
    monitor: bool,
    stdin: bool,
    signals: bool,
    /// Nobody reads our standard output any more.
    unread: bool,
}

/// One connection to a console.
#[derive(Debug)]
struct Wire {
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    view: View,
    /// Whether standard input may still bring something.
    stdin_open: bool,
    /// Whether a line of ours has to say carriage return itself.
    raw: bool,
}

impl Wire {
    fn new(stream: UnixStream, incoming: Vec<u8>, view: View, raw: bool) -> Self {
        Self { stream, incoming, outgoing: Vec::new(), view, stdin_open: true, raw }
    }

    fn run(&mut self, caught: &Caught) -> Result<Left, Failure> {
        loop {
            // Frames that came together with the answer to the request are here already.
            if let Some(left) = self.frames()? {
                return Ok(left);
            }
            let Ready { monitor, stdin, signals, unread } = self.wait(caught)?;
            if unread {
                // As a write would end: the guest may not say anything for days.
                return Ok(Left::Signalled(Signal::SIGPIPE));
            }
            if signals {
                match caught.next() {
                    Some(Signal::SIGWINCH) => self.window(),
                    Some(signal) => return Ok(Left::Signalled(signal)),
                    None => {}
                }
            }
            if monitor && !self.fill() {
                // What came before the end still counts.
                return Ok(self.frames()?.unwrap_or(Left::Lost));
            }
            if stdin && self.typed() {
                self.flush();
                // What has come by now was there to be seen.
                self.frames()?;
                return Ok(Left::Escaped);
            }
            if !self.flush() {
                return Ok(Left::Lost);
            }
        }
    }

    fn wait(&self, caught: &Caught) -> Result<Ready, Failure> {
        let (stdin, stdout) = (io::stdin(), io::stdout());
        let mut wanted = PollFlags::POLLIN;
        if !self.outgoing.is_empty() {
            wanted |= PollFlags::POLLOUT;
        }
        let listen = self.stdin_open && self.outgoing.len() < OUTGOING_LIMIT;
        let mut fds = vec![
            PollFd::new(self.stream.as_fd(), wanted),
            PollFd::new(caught.fd.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdout.as_fd(), PollFlags::empty()),
        ];
        if listen {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(broken("cannot wait for the console", &error.into())),
        }
        let has = |at: usize, any: PollFlags| {
            fds.get(at).and_then(PollFd::revents).is_some_and(|flags| flags.intersects(any))
        };
        let end = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        let up = |at: usize| has(at, PollFlags::POLLIN | end);
        let unread = has(2, PollFlags::POLLERR);
        Ok(Ready { monitor: up(0), signals: up(1), unread, stdin: up(3) })
    }

    /// Reads what the monitor sent; false at the end of the connection.
    fn fill(&mut self) -> bool {
        let mut chunk = [0u8; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(n) => {
                self.incoming.extend(&chunk[..n]);
                true
            }
            Err(error) => {
                matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
            }
        }
    }

    /// Shows the frames that are complete.
    fn frames(&mut self) -> Result<Option<Left>, Failure> {
        loop {
            let frame = Frame::take(&mut self.incoming)
                .map_err(|e| Failure::because(Kind::Internal, "the console makes no sense", &e))?;
            match frame {
                None => return Ok(None),
                Some(Frame::Data(bytes)) => out::print_bytes(&bytes)?,
                Some(Frame::Notice(text)) => {
                    let end = if self.raw { "\r\n" } else { "\n" };
                    out::complain(&format!("{end}[kxl: {text}]{end}"));
                }
                Some(Frame::End(text)) => return Ok(Some(Left::Ended(text))),
                Some(Frame::Window(..)) => {}
            }
        }
    }

    /// Reads what was typed; true when the escape character was in it. What was typed before it
    /// is still sent.
    fn typed(&mut self) -> bool {
        let mut chunk = [0u8; 4096];
        let n = match read_stdin(&mut chunk) {
            Ok(n) => n,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return false,
            // A terminal that has hung up reads as an error; that is an end as well.
            Err(_) => 0,
        };
        if n == 0 {
            self.stdin_open = false;
        }
        let typed = &chunk[..n];
        let end = typed.iter().position(|byte| *byte == self.view.escape);
        let bytes = &typed[..end.unwrap_or(n)];
        if self.view.write && !bytes.is_empty() {
            self.outgoing.extend(Frame::Data(bytes.to_vec()).encode());
        }
        end.is_some()
    }

    fn window(&mut self) {
        if let Ok((rows, columns)) = signals::window_size(io::stdout().as_fd()) {
            self.outgoing.extend(Frame::Window(rows, columns).encode());
        }
    }

    /// Writes as much as the monitor takes; false when it has hung up.
    fn flush(&mut self) -> bool {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(0) => return false,
                Ok(n) => drop(self.outgoing.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// Reads standard input past the buffer of the standard library, which poll knows nothing of.
fn read_stdin(chunk: &mut [u8]) -> nix::Result<usize> {
    let stdin = io::stdin();
    let fd: BorrowedFd<'_> = stdin.as_fd();
    nix::unistd::read(fd, chunk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> (Wire, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let view = View { escape: 0x1d, write: true, steal: false, replay: true };
        (Wire::new(ours, Vec::new(), view, false), theirs)
    }

    /// Ends the connection for every process that has it: a child that another test is just
    /// starting holds a copy for a moment, which a mere close would leave open.
    fn hang_up(stream: &UnixStream) {
        stream.shutdown(std::net::Shutdown::Both).unwrap();
    }

    #[test]
    fn the_end_of_a_domain_is_seen_even_when_the_connection_closes_with_it() {
        let (mut wire, mut theirs) = wire();
        theirs.write_all(&Frame::Notice("bye".into()).encode()).unwrap();
        theirs.write_all(&Frame::End("it is halted".into()).encode()).unwrap();
        hang_up(&theirs);
        assert!(wire.fill());
        assert_eq!(wire.frames().unwrap(), Some(Left::Ended("it is halted".into())));
        assert!(!wire.fill());
    }

    #[test]
    fn frames_that_came_with_the_answer_are_not_forgotten() {
        let (mut wire, _theirs) = wire();
        wire.incoming = Frame::End("gone".into()).encode();
        assert_eq!(wire.frames().unwrap(), Some(Left::Ended("gone".into())));
    }

    #[test]
    fn a_monitor_that_takes_nothing_blocks_nobody() {
        let (mut wire, theirs) = wire();
        wire.outgoing = vec![b'x'; 4 << 20];
        assert!(wire.flush(), "a full socket is no hang-up");
        assert!(!wire.outgoing.is_empty());
        hang_up(&theirs);
        assert!(!wire.flush(), "a closed one is");
    }
}
