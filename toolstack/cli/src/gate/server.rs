//! The process of the gate: its socket, its callers, its end.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kxl_domain::{Failure, Kind};
use kxl_engine::Conf;
use kxl_store::{Paths, socket};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::auth::{Failures, Rules};
use super::peer::Peer;
use super::session::Gate;
use super::{Reply, wire};
use crate::report;

/// Most connections at once, and most of one user other than root.
const MOST: usize = 64;
const MOST_OF_ONE: usize = 16;

/// How long a caller that is turned away may take to hear so.
const BRIEFLY: Duration = Duration::from_millis(100);

/// The listening socket that a service manager has given us as standard input.
pub(crate) fn inherited() -> Option<UnixListener> {
    let stdin = io::stdin();
    let listens = rustix::net::sockopt::socket_acceptconn(&stdin).unwrap_or(false);
    let fd = listens.then(|| stdin.as_fd().try_clone_to_owned().ok()).flatten()?;
    Some(UnixListener::from(fd))
}

/// Listens at the host's gate; nobody else may do so at the same time.
///
/// # Errors
/// When the settings let nobody in, or the socket cannot be made.
pub(crate) fn listen(paths: &Paths) -> Result<UnixListener, Failure> {
    let rules = Rules::of(&Conf::read(paths)?)?;
    let path = paths.gate_socket();
    let attempt = format!("cannot listen on {}", path.display());
    let failed = |error: &io::Error| Failure::because(Kind::Failed, &attempt, error);
    if let Some(dir) = path.parent() {
        directory(dir).map_err(|error| failed(&error))?;
    }
    let listener =
        socket::bind(&path).map_err(|error| Failure::because(Kind::Failed, &attempt, &error))?;
    // Anybody may knock where a password decides, else only the group.
    let mode = if rules.hash.is_some() { 0o666 } else { 0o660 };
    chown(&path, None, rules.group)
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)))
        .map_err(|error| failed(&error))?;
    Ok(listener)
}

/// The directory of the socket: everybody may pass through it, and only we may put something there.
fn directory(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(dir) {
        Ok(()) => return fs::set_permissions(dir, Permissions::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let meta = fs::symlink_metadata(dir)?;
    let own = nix::unistd::geteuid().as_raw();
    if meta.is_dir() && meta.uid() == own && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    let text = format!("{} is not a directory that only uid {own} may write", dir.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// Serves callers until a signal ends it. The domains are none of its business then; commands
/// that are at work are interrupted.
///
/// # Errors
/// When signals cannot be received, or the program cannot be told.
pub(crate) fn serve(listener: &UnixListener, paths: Paths) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::because(Kind::Internal, "cannot serve", &error);
    let set: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    set.thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(|error| failed(error.into()))?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|error| failed(error.into()))?;
    listener.set_nonblocking(true).map_err(failed)?;
    warn_of_readable(&paths.conf_file());
    let gate = Arc::new(Gate {
        paths,
        own: nix::unistd::geteuid().as_raw(),
        program: program().map_err(failed)?,
        failures: Mutex::new(Failures::default()),
        open: Mutex::new(HashMap::new()),
    });
    loop {
        let mut fds = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
        if fds[0].any().unwrap_or(true) {
            return Ok(());
        }
        match listener.accept() {
            Ok((stream, _)) => admit(&gate, stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Out of descriptors: those in use are closed some time.
            Err(error) => {
                report::note(&format!("cannot take a caller: {error}"));
                std::thread::sleep(BRIEFLY);
            }
        }
    }
}

/// This program by its path, as it will be found after an upgrade as well.
fn program() -> io::Result<PathBuf> {
    std::env::current_exe()?.canonicalize()
}

/// The hash of a good password can stand where everybody reads it; nobody knows how good it is.
fn warn_of_readable(path: &Path) {
    let readable = fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o044 != 0);
    let secret = fs::read_to_string(path).is_ok_and(|text| text.contains("control_password_hash"));
    if readable && secret {
        let path = path.display();
        report::warning(&format!(
            "{path} can be read by others, and holds a hash: chmod 0600 {path}"
        ));
    }
}

/// A place among the connections, until it is dropped.
struct Seat {
    gate: Arc<Gate>,
    uid: u32,
}

impl Seat {
    fn take(gate: &Arc<Gate>, uid: u32) -> Option<Self> {
        let mut open = gate.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, of_one) = (open.values().sum::<usize>(), open.get(&uid).copied().unwrap_or(0));
        // Root finds a place whatever others do.
        if uid != 0 && (all >= MOST || of_one >= MOST_OF_ONE) {
            return None;
        }
        open.insert(uid, of_one + 1);
        Some(Self { gate: Arc::clone(gate), uid })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.gate.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.uid)),
        }
    }
}

/// Gives a caller a thread of its own, or turns it away.
fn admit(gate: &Arc<Gate>, stream: UnixStream) {
    let peer = match Peer::of(&stream) {
        Ok(peer) => peer,
        Err(error) => return report::note(&format!("a caller cannot be told: {error}")),
    };
    let Some(seat) = Seat::take(gate, peer.uid) else {
        let text = "too many are at the gate at once";
        let failure = Failure::new(Kind::Failed, text).hint("try again in a moment");
        return wire::reply(&stream, &Reply::Refused(failure), BRIEFLY);
    };
    let thread = std::thread::Builder::new().name("caller".to_owned());
    let started = thread.spawn(move || {
        seat.gate.attend(&stream, &peer);
        drop(seat);
    });
    if let Err(error) = started {
        report::note(&format!("cannot attend to a caller: {error}"));
    }
}
