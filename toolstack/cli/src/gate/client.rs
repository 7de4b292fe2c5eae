//! A command that is carried out by the gate: its words and streams go there, signals after them,
//! and its status comes back.

use std::env;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use kxl_domain::{Failure, Kind};
use kxl_store::{Paths, socket};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};

use super::session::SIGNALS;
use super::{LONGEST, Reply, Request, VERSION, password, wire};
use crate::commands::Exit;
use crate::terminal::interrupt;

/// Asks for the gate: any text, or the path of its socket.
pub(crate) const VARIABLE: &str = "KXL_GATE";

/// Whether the environment asks for the gate.
pub(crate) fn is_asked_for() -> bool {
    env::var_os(VARIABLE).is_some_and(|value| !value.is_empty())
}

/// Where the gate is: that of `KXL_GATE`, of this `KXL_ROOT`, or of the host. A user's own places
/// have none.
pub(crate) fn place() -> PathBuf {
    let path = |name: &str| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    path(VARIABLE).unwrap_or_else(|| {
        Paths::under(&path("KXL_ROOT").unwrap_or_else(|| "/".into())).gate_socket()
    })
}

/// Has a command line carried out with our own streams; its exit status.
///
/// # Errors
/// When there is no gate, or it refuses.
pub(crate) fn run(words: Vec<String>) -> Exit {
    let stdin = io::stdin();
    let (stdout, stderr) = (io::stdout(), io::stderr());
    let streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let mut request = request(words, env::var(password::VARIABLE).ok());
    let before = if stdin.is_terminal() { tcgetattr(&stdin).ok() } else { None };
    let caught = Caught::new().map_err(|e| lost(&e))?;
    let mut answer = converse(&request, &streams, Some(&caught))?;
    if answer == Reply::Password {
        request.password = Some(password::ask("Password: ")?);
        answer = converse(&request, &streams, Some(&caught))?;
    }
    // A command that was killed may have left the terminal raw.
    if let Some(before) = before {
        let _hung_up = tcsetattr(&stdin, SetArg::TCSADRAIN, &before);
    }
    match answer {
        Reply::Ended(code) => Ok(u8::try_from(code).unwrap_or(Kind::Internal.exit_code())),
        Reply::Killed(number) => {
            if let Ok(signal) = Signal::try_from(number) {
                interrupt::end_at_last_by(signal);
            }
            Ok(u8::try_from(128 + number).unwrap_or(Kind::Internal.exit_code()))
        }
        Reply::Refused(failure) => Err(failure),
        Reply::Password => Err(Failure::new(Kind::Failed, "the gate wants a password")),
    }
}

/// Knocks with a command that does nothing to see; whether a password is still wanted.
///
/// # Errors
/// When there is no gate, or it refuses.
pub(crate) fn knock(password: Option<String>) -> Result<bool, Failure> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|e| lost(&e))?;
    let words = ["list", "--json"].map(str::to_owned).to_vec();
    match converse(&request(words, password), &[null.as_fd(); 3], None)? {
        Reply::Password => Ok(true),
        Reply::Refused(failure) => Err(failure),
        Reply::Ended(_) | Reply::Killed(_) => Ok(false),
    }
}

/// Whether somebody listens there who lets us knock.
pub(crate) fn is_there() -> bool {
    socket::connect(&place()).is_ok()
}

fn request(words: Vec<String>, password: Option<String>) -> Request {
    let term = env::var("TERM").ok();
    let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Request { v: VERSION, words, term, plain, password }
}

fn lost(error: &io::Error) -> Failure {
    Failure::because(Kind::Failed, "cannot speak with the gate", error)
}

fn knock_at() -> Result<UnixStream, Failure> {
    let path = place();
    socket::connect(&path).map_err(|error| {
        let attempt = format!("cannot reach the gate at {}", path.display());
        let failure = Failure::because(Kind::Failed, attempt, &error);
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                failure.hint("it lets the members of a group in: control_group in kxl.conf")
            }
            _ => failure.hint("root starts it: kxl gate serve, or kxl-gate.socket"),
        }
    })
}

fn converse(
    request: &Request,
    streams: &[BorrowedFd<'_>; 3],
    caught: Option<&Caught>,
) -> Result<Reply, Failure> {
    let stream = knock_at()?;
    // Turned away before it was read, the answer is there all the same.
    let asked = wire::ask(&stream, request, streams);
    let mut heard = Vec::new();
    while !heard.contains(&b'\n') {
        if let Some(caught) = caught {
            caught.pass_on_until_readable(&stream).map_err(|e| lost(&e))?;
        }
        let mut chunk = [0u8; 4096];
        match (&stream).read(&mut chunk) {
            Ok(n @ 1..) if heard.len() + n <= LONGEST => heard.extend(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(lost(asked.as_ref().err().unwrap_or(&error))),
            Ok(_) => return Err(lost(&io::ErrorKind::UnexpectedEof.into())),
        }
    }
    serde_json::from_slice(&heard)
        .map_err(|error| Failure::because(Kind::Internal, "the gate makes no sense", &error))
}

/// The signals that are for the command, as something to poll; as they were before when dropped.
struct Caught {
    fd: SignalFd,
    before: SigSet,
}

impl Caught {
    fn new() -> io::Result<Self> {
        let known = SIGNALS.iter().filter_map(|(_, number)| Signal::try_from(*number).ok());
        let set: SigSet = known.collect();
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd, before })
    }

    fn pass_on_until_readable(&self, mut stream: &UnixStream) -> io::Result<()> {
        loop {
            let mut fds = [
                PollFd::new(stream.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.fd.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let readable = fds[0].any().unwrap_or(true);
            while let Ok(Some(info)) = self.fd.read_signal() {
                let letter = SIGNALS.iter().find(|(_, number)| {
                    u32::try_from(*number).is_ok_and(|number| number == info.ssi_signo)
                });
                if let Some((letter, _)) = letter {
                    // A gate that has gone is noticed by the read.
                    let _gone = stream.write_all(&[*letter]);
                }
            }
            if readable {
                return Ok(());
            }
        }
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        // The mask was valid before, so setting it again does not fail.
        let _ = self.before.thread_set_mask();
    }
}
