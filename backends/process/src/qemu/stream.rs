//! The thread that reads a migration stream, takes it apart and puts it away. The disk may keep it
//! waiting; the monitor's own thread never is.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use kxl_backend::{StateSink, Watch};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::oneshot;

use super::split::{SplitError, Splitter};

/// Bytes that the pipe may hold: the emulator writes on while the disk is busy, and fewer system
/// calls are made. What the kernel grants to anybody.
const PIPE: i32 = 1 << 20;

/// What a thread comes to: the name of the machine in the stream.
pub(super) type Outcome = Result<String, SplitError>;

/// Where the thread stands, for whoever looks for a stream that has dried up.
#[derive(Debug, Default)]
pub(super) struct Flow {
    bytes: AtomicU64,
    /// It waits for the emulator, not for the disk.
    waits: AtomicBool,
}

impl Flow {
    /// Bytes read so far, if the thread waits for more of them.
    pub(super) fn dry(&self) -> Option<u64> {
        self.waits.load(Ordering::Acquire).then(|| self.bytes.load(Ordering::Acquire))
    }
}

/// A running thread. Dropping this asks it to end, which closes its end of the pipe; the call of
/// the sink that it may be in is not waited for.
#[derive(Debug)]
pub(super) struct Drain {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    outcome: oneshot::Receiver<Outcome>,
    pub(super) flow: Arc<Flow>,
}

impl Drain {
    /// Starts the thread; returns the end of the pipe that the emulator is to write into. The sink
    /// is dropped when the thread ends.
    pub(super) fn start(
        mut splitter: Splitter,
        mut sink: Box<dyn StateSink>,
        watch: Arc<Watch>,
    ) -> io::Result<(Self, OwnedFd)> {
        let (from, to) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        if let Err(error) = fcntl(&to, FcntlArg::F_SETPIPE_SZ(PIPE)) {
            tracing::debug!(%error, "the pipe stays small");
        }
        let (stopped, stop) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (told, outcome) = oneshot::channel();
        let flow = Arc::new(Flow::default());
        let shared = Arc::clone(&flow);
        let thread = std::thread::Builder::new().name("save".into()).spawn(move || {
            let outcome =
                drain(from.into(), &stopped, &mut splitter, sink.as_mut(), &watch, &shared);
            // Whoever is told finds the sink gone.
            drop(sink);
            let _given_up = told.send(outcome);
        })?;
        Ok((Self { stop: Some(stop), thread: Some(thread), outcome, flow }, to))
    }

    /// Asks the thread to end at once.
    pub(super) fn give_up(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for the end of the thread. Cancel-safe; the outcome is told once.
    pub(super) async fn ended(&mut self) -> Outcome {
        if self.thread.is_none() {
            return Err(io::Error::other("the reader of the state has ended").into());
        }
        let outcome = (&mut self.outcome).await;
        if let Some(thread) = self.thread.take() {
            // It has told its outcome, or panicked: it ends at this moment.
            let _panicked = thread.join();
        }
        outcome.unwrap_or_else(|_| Err(io::Error::other("the reader of the state failed").into()))
    }
}

/// Reads until the stream ends, the sink fails or an end is asked for.
fn drain(
    mut from: File,
    stopped: &OwnedFd,
    splitter: &mut Splitter,
    sink: &mut dyn StateSink,
    watch: &Watch,
    flow: &Flow,
) -> Outcome {
    loop {
        flow.waits.store(true, Ordering::Release);
        wait(&from, stopped)?;
        let count = match from.read(splitter.room()) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        flow.waits.store(false, Ordering::Release);
        if count == 0 {
            splitter.finish(sink)?;
            return Ok(splitter.machine().to_owned());
        }
        flow.bytes.fetch_add(count as u64, Ordering::Release);
        watch.moved(count as u64);
        splitter.filled(count, sink)?;
    }
}

/// Waits until there is something to read; an error when an end is asked for.
fn wait(from: &File, stopped: &OwnedFd) -> io::Result<()> {
    loop {
        let mut fds = [
            PollFd::new(from.as_fd(), PollFlags::POLLIN),
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[1].revents().is_some_and(|events| !events.is_empty()) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "given up"));
        }
        if fds[0].revents().is_some_and(|events| !events.is_empty()) {
            return Ok(());
        }
    }
}
