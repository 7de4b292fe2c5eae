//! What becomes of a command that is interrupted while a state moves.
//!
//! A save is given up: the request is taken back and the monitor says what became of it. A restore
//! goes on without the command. Either way the second signal ends the command at once.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::JoinHandle;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{getpid, pipe2};

use super::progress::Bar;
use crate::{report, signals};

const CAUGHT: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// What the first signal does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// It is told to [`Guard::sign`]; the command goes on to hear what became of its request.
    Tells,
    /// It ends the command as it always does; before that the bar is taken off the terminal and
    /// this is said.
    Ends(String),
}

/// The signal by which the process ends when its command has told all it has to tell; 0 = none.
static AT_LAST: AtomicI32 = AtomicI32::new(0);

/// Makes the process end by this signal when its command is over.
pub(crate) fn end_at_last_by(signal: Signal) {
    AT_LAST.store(signal as i32, Ordering::Release);
}

/// The signal by which the process is going to end.
pub(crate) fn ends_by() -> Option<Signal> {
    Signal::try_from(AT_LAST.load(Ordering::Acquire)).ok()
}

/// Catches the signals by which people interrupt a command, until it is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    /// Closed to tell the watcher to leave.
    leave: Option<OwnedFd>,
    sign: Option<OwnedFd>,
    came: Arc<AtomicI32>,
    before: SigSet,
    watcher: Option<JoinHandle<()>>,
}

impl Guard {
    /// Begins to catch. To be called before other threads are started: they inherit what is
    /// caught.
    ///
    /// # Errors
    /// When the system has no descriptor or thread left.
    pub(crate) fn new(first: First, bar: Bar) -> io::Result<Self> {
        let (leaving, leave) = pipe2(OFlag::O_CLOEXEC)?;
        let (sign, pull) = pipe2(OFlag::O_CLOEXEC)?;
        let set: SigSet = CAUGHT.into_iter().collect();
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let came = Arc::new(AtomicI32::new(0));
        let before = set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let watch = Watcher { first, bar, signals, leaving, pull: Some(pull), came: came.clone() };
        let watcher = std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || watch.run())
            .inspect_err(|_| restore(&before))?;
        Ok(Self { leave: Some(leave), sign: Some(sign), came, before, watcher: Some(watcher) })
    }

    /// A descriptor that comes to its end with the first signal, under [`First::Tells`]; once.
    pub(crate) fn sign(&mut self) -> Option<OwnedFd> {
        self.sign.take()
    }

    /// The signal that came, if one did.
    pub(crate) fn came(&self) -> Option<Signal> {
        Signal::try_from(self.came.load(Ordering::Acquire)).ok()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.leave.take());
        if let Some(watcher) = self.watcher.take() {
            // It only fails by a panic, which has told its own story.
            drop(watcher.join());
        }
        restore(&self.before);
    }
}

/// The mask was valid before, so setting it again does not fail.
fn restore(before: &SigSet) {
    let _ = before.thread_set_mask();
}

struct Watcher {
    first: First,
    bar: Bar,
    signals: SignalFd,
    leaving: OwnedFd,
    pull: Option<OwnedFd>,
    came: Arc<AtomicI32>,
}

impl Watcher {
    fn run(mut self) {
        loop {
            let mut fds = [
                PollFd::new(self.leaving.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return,
            }
            let leaving = fds[0].any().unwrap_or(true);
            let info = self.signals.read_signal().ok().flatten();
            let signal = info.and_then(|info| i32::try_from(info.ssi_signo).ok());
            match signal.and_then(|number| Signal::try_from(number).ok()) {
                Some(signal) => self.caught(signal),
                None if leaving => return,
                None => {}
            }
        }
    }

    fn caught(&mut self, signal: Signal) {
        self.bar.clear();
        if self.first == First::Tells && self.pull.is_some() {
            self.came.store(signal as i32, Ordering::Release);
            // Only now, so that whoever sees the sign finds the signal.
            self.pull = None;
            return;
        }
        if let First::Ends(farewell) = &self.first {
            report::note(farewell);
        }
        end_by(signal);
    }
}

/// Ends the process the way the signal always does, so that whoever started it sees that.
pub(crate) fn end_by(signal: Signal) {
    let set: SigSet = [signal].into_iter().collect();
    if signals::restore_default(signal).is_ok() && set.thread_unblock().is_ok() {
        let _ = kill(getpid(), signal);
    }
}
