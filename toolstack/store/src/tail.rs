//! Following events: asleep in poll(2) until a writer has ended its turn.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::Result;
use crate::db::{Db, queue_path};
use crate::error::StoreError;
use crate::events::{self, EventQuery, EventRow};
use crate::paths::Paths;

/// A follower of events.
///
/// It watches the state directory for the writers' queue file: each writer touches it when its
/// events can be read, and the kernel reports it closed when a writer is killed just before.
#[derive(Debug)]
pub struct EventTail {
    paths: Paths,
    db: Db,
    watch: Inotify,
    /// The name of the file whose changes count.
    queue: OsString,
    query: EventQuery,
}

impl EventTail {
    pub(crate) fn new(paths: &Paths, patience: Duration, mut query: EventQuery) -> Result<Self> {
        paths.prepare()?;
        let mut db = Db::new(&events::SPEC, paths);
        db.set_patience(patience)?;
        let fail = |error: Errno| StoreError::io("watch", paths.state_dir(), error.into());
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(fail)?;
        let flags =
            AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ONLYDIR;
        watch.add_watch(paths.state_dir(), flags).map_err(fail)?;
        // After the watch is set, so that nothing falls between.
        if query.since_id.is_none() {
            query.since_id = Some(db.read(paths, "read events", events::newest)?.unwrap_or(0));
        }
        query.limit = None;
        let queue = queue_path(&paths.events_db()).file_name().map(Into::into).unwrap_or_default();
        Ok(Self { paths: paths.clone(), db, watch, queue, query })
    }

    /// Gives the events that are new since the last call, without waiting; perhaps none.
    ///
    /// # Errors
    /// See [`Store`](crate::Store).
    pub fn read(&mut self) -> Result<Vec<EventRow>> {
        // Before the query: what is recorded after it is reported anew.
        self.touched()?;
        let query = &self.query;
        let found = self
            .db
            .read(&self.paths, "read events", |db| events::query(db, query))?
            .unwrap_or_default();
        if let Some(last) = found.last() {
            self.query.since_id = Some(last.id);
        }
        Ok(found)
    }

    /// Gives the next events, waiting for them for at most `timeout` (`None` = for ever); empty
    /// when it passed. Several that were recorded together come together.
    ///
    /// # Errors
    /// See [`Store`](crate::Store); `Io` when waiting fails.
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<Vec<EventRow>> {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let found = self.read()?;
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if !found.is_empty() || left.is_some_and(|left| left.is_zero()) {
                return Ok(found);
            }
            self.wait(left)?;
        }
    }

    /// Sleeps until something may have been recorded.
    fn wait(&self, left: Option<Duration>) -> Result<()> {
        let end = left.and_then(|left| Instant::now().checked_add(left));
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            // Rounded up: a timeout of 0 would spin through the last millisecond.
            let timeout = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
            });
            let mut fds = [PollFd::new(self.watch.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) => return Ok(()),
                Ok(_) if self.touched()? => return Ok(()),
                // Another file of the directory, or a signal.
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(self.cannot_wait(error)),
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
        }
    }

    /// Takes all reports that are there; whether one is about the queue file.
    fn touched(&self) -> Result<bool> {
        let mut touched = false;
        loop {
            match self.watch.read_events() {
                // One without a name is about the directory itself, or says that some were lost.
                Ok(reports) => {
                    touched |= reports
                        .iter()
                        .any(|report| report.name.as_ref().is_none_or(|name| *name == self.queue));
                }
                Err(Errno::EAGAIN) => return Ok(touched),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(self.cannot_wait(error)),
            }
        }
    }

    fn cannot_wait(&self, error: Errno) -> StoreError {
        StoreError::io("wait for events in", self.paths.events_db(), error.into())
    }
}

/// Readable when something may have been recorded: for a caller that waits for other things too,
/// which then calls [`EventTail::next`] with a timeout of zero.
impl AsFd for EventTail {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
