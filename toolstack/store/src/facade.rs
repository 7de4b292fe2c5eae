//! The store as its callers see it: one value that opens what is used, when it is used.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::Result;
use crate::db::Db;
use crate::events::{self, Event, EventQuery, EventRow, Severity};
use crate::lock::PATIENCE;
use crate::paths::Paths;
use crate::retention::{self, Retention};
use crate::tail::EventTail;
use crate::{clock, live, registry};

/// The records of one host.
///
/// Making one opens nothing; each database is opened by the first call that needs it. Reading
/// what does not exist yet gives nothing and makes nothing. Safe to share between threads; calls
/// on the same database wait for each other, here and across processes, for milliseconds. Every
/// call blocks its thread and is complete when it returns: there is nothing to cancel. A process
/// that keeps a lock to itself (one that was stopped in the middle of a write) is waited for as
/// long as [`set_patience`](Self::set_patience) tells.
///
/// # Errors
/// Common to all calls: `Unsafe` or `NetworkFs` for a place that cannot be used, `Corrupt` or
/// `NewerSchema` for a database that cannot, `Record` for an unreadable record, `NoSpace`, `Busy`,
/// `Io` and `Database` for the rest. The calls name only what they add.
#[derive(Debug)]
pub struct Store {
    pub(crate) paths: Paths,
    pub(crate) boot_id: String,
    /// Whether what another boot has left was dealt with.
    pub(crate) booted: AtomicBool,
    registry: Mutex<Db>,
    live: Mutex<Db>,
    events: Mutex<Db>,
    patience: Mutex<Duration>,
    retention: Mutex<Retention>,
    listener: Listener,
}

/// Who is told after events were recorded.
#[derive(Default)]
struct Listener(OnceLock<Box<dyn Fn(Severity) + Send + Sync>>);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Listener").field(&self.0.get().is_some()).finish()
    }
}

impl Store {
    /// The store at these places.
    ///
    /// # Errors
    /// `Io` when the boot id cannot be read.
    pub fn open(paths: &Paths) -> Result<Self> {
        Ok(Self {
            paths: paths.clone(),
            boot_id: clock::boot_id()?,
            booted: AtomicBool::new(false),
            registry: Mutex::new(Db::new(&registry::SPEC, paths)),
            live: Mutex::new(Db::new(&live::SPEC, paths)),
            events: Mutex::new(Db::new(&events::SPEC, paths)),
            patience: Mutex::new(PATIENCE),
            retention: Mutex::new(Retention::default()),
            listener: Listener::default(),
        })
    }

    /// Where everything is.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The boot that this store lives in.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Closes what is open and gives its memory back; the next use opens it again. For a monitor
    /// that is about to be idle for a long time.
    pub fn release(&self) {
        for db in [&self.registry, &self.live, &self.events] {
            hold(db).close();
        }
    }

    /// Sets how long each single wait for another process lasts before the call fails with
    /// `Busy`; 30 s where nobody does. A call that needs several locks may wait once for each.
    ///
    /// # Errors
    /// `Database` when an open connection refuses it.
    pub fn set_patience(&self, patience: Duration) -> Result<()> {
        *self.patience.lock().unwrap_or_else(PoisonError::into_inner) = patience;
        for db in [&self.registry, &self.live, &self.events] {
            hold(db).set_patience(patience)?;
        }
        Ok(())
    }

    /// How long each single wait for another process lasts.
    pub(crate) fn patience(&self) -> Duration {
        *self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how many events are kept; obeyed by those that this store records.
    pub fn set_retention(&self, retention: Retention) {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner) = retention;
    }

    pub(crate) fn retention(&self) -> Retention {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `listener` told of events after each transaction that has recorded some, with the
    /// highest severity among them: the one place where hooks are set going. It is called by the
    /// thread that records, which goes on when it returns. Only the first listener counts.
    pub fn on_events(&self, listener: impl Fn(Severity) + Send + Sync + 'static) {
        if self.listener.0.set(Box::new(listener)).is_err() {
            tracing::warn!("a second listener for events is not told of any");
        }
    }

    pub(crate) fn told(&self, severity: Severity) {
        if let Some(listener) = self.listener.0.get() {
            listener(severity);
        }
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Db> {
        hold(&self.registry)
    }

    pub(crate) fn live_db(&self) -> MutexGuard<'_, Db> {
        hold(&self.live)
    }

    pub(crate) fn events_db(&self) -> MutexGuard<'_, Db> {
        hold(&self.events)
    }

    /// Before a write that has to be refused where the boot cannot be told apart.
    pub(crate) fn ready(&self) -> Result<()> {
        if self.booted.load(Ordering::Acquire) {
            return Ok(());
        }
        self.settle_other_boots()?;
        self.booted.store(true, Ordering::Release);
        Ok(())
    }

    /// Before a read, or a write that must not be refused: those see only this boot anyway.
    pub(crate) fn ready_if_possible(&self) {
        if let Err(error) = self.ready() {
            tracing::warn!(%error, "cannot settle what another boot has left; it will be tried again");
        }
    }

    /// Records an event. The caller logs a failure and goes on: nothing hangs on an event.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn event(&self, event: &Event) -> Result<()> {
        self.append_events(std::slice::from_ref(event))
    }

    /// Records events in one transaction.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn append_events(&self, events: &[Event]) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        self.record(events.iter().map(|event| (event, None)))
    }

    /// Records events, each with an optional key by which it is recorded once only.
    pub(crate) fn record<'a>(
        &self,
        events: impl Iterator<Item = (&'a Event, Option<&'a str>)> + Clone,
    ) -> Result<()> {
        let retention = self.retention();
        let severity = events.clone().map(|(event, _)| event.severity).max();
        self.events_db()
            .write(&self.paths, "record events", |db| events::append(db, retention, events))?;
        // After the database is let go of: the listener may take a millisecond.
        severity.into_iter().for_each(|severity| self.told(severity));
        Ok(())
    }

    /// Removes the events that are beyond the retention; how many that were.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn trim_events(&self) -> Result<usize> {
        if self.events_db().read(&self.paths, "read events", |_| Ok(()))?.is_none() {
            return Ok(0);
        }
        let retention = self.retention();
        self.events_db()
            .write(&self.paths, "remove old events", |db| retention::trim(db, retention))
    }

    /// The events asked for, oldest first.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn events(&self, query: &EventQuery) -> Result<Vec<EventRow>> {
        self.ready_if_possible();
        let found =
            self.events_db().read(&self.paths, "read events", |db| events::query(db, query))?;
        Ok(found.unwrap_or_default())
    }

    /// Follows events as they are recorded, from the one after `query.since_id`, or from now.
    ///
    /// # Errors
    /// See [`Store`]; `Io` when the kernel has no inotify watch left.
    pub fn follow_events(&self, query: EventQuery) -> Result<EventTail> {
        self.ready_if_possible();
        EventTail::new(&self.paths, self.patience(), query)
    }
}

/// A panic under the lock leaves no transaction open (it is rolled back), so the value is sound.
fn hold(db: &Mutex<Db>) -> MutexGuard<'_, Db> {
    db.lock().unwrap_or_else(PoisonError::into_inner)
}
