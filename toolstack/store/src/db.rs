//! One database: opened when it is used, made complete or not at all, written by one process at a
//! time in the order in which they came.
//!
//! A writer first takes `X.db.writer` by flock(2): the kernel wakes those who wait in turn, where
//! SQLite's own busy handler sleeps and tries its luck, which starves some of a thousand writers.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::error::{Fault, StoreError};
use crate::lock;
use crate::netfs;
use crate::paths::{Paths, open_private};

/// What one database is.
#[derive(Debug)]
pub(crate) struct Spec {
    /// Its place.
    pub(crate) path: fn(&Paths) -> PathBuf,
    /// `PRAGMA synchronous`.
    pub(crate) synchronous: Synchronous,
    /// The steps from schema 0 to the newest: step i leads from `user_version` i to i + 1. Only
    /// ever appended to.
    pub(crate) migrations: &'static [&'static str],
    /// What to do about a damaged one.
    pub(crate) next: &'static str,
}

/// How far a commit has come when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Synchronous {
    /// In the page cache: survives every process, not the power.
    Off,
    /// The same, but the file is never damaged by a power cut.
    Normal,
    /// On the disk.
    Full,
}

/// Who else may have a database open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// Everybody.
    Shared,
    /// Nobody. The index of the log is then kept in memory; otherwise it is a file as well, for
    /// which a full disk has no room.
    Alone,
}

/// One database of a store, perhaps not opened yet.
#[derive(Debug)]
pub(crate) struct Db {
    spec: &'static Spec,
    path: PathBuf,
    /// How long one wait for others lasts.
    patience: Duration,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    connection: Connection,
    queue: File,
    /// It keeps everybody else out, holds the queue from before it was opened, and is closed after
    /// one use.
    alone: bool,
}

impl Db {
    pub(crate) fn new(spec: &'static Spec, paths: &Paths) -> Self {
        Self { spec, path: (spec.path)(paths), patience: lock::PATIENCE, open: None }
    }

    /// Sets how long one wait for others lasts.
    pub(crate) fn set_patience(&mut self, patience: Duration) -> Result<(), StoreError> {
        self.patience = patience;
        match &self.open {
            Some(open) => open
                .connection
                .busy_timeout(busy(patience))
                .map_err(|error| self.explain("set the busy timeout", error)),
            None => Ok(()),
        }
    }

    /// Closes the connection; the next use opens it again. Does not wait for the disk.
    pub(crate) fn close(&mut self) {
        let Some(Open { connection, queue, alone }) = self.open.take() else { return };
        drop(connection);
        if alone {
            leave(&queue);
        }
    }

    /// Removes the database. Only for one that nobody can use any more.
    pub(crate) fn remove(&mut self) -> Result<(), StoreError> {
        self.close();
        remove_files(&self.path)
    }

    /// Reads; `None` when there is no such database yet. All statements of `f` see one moment.
    pub(crate) fn read<R>(
        &mut self,
        paths: &Paths,
        attempt: &'static str,
        f: impl FnOnce(&Connection) -> Result<R, Fault>,
    ) -> Result<Option<R>, StoreError> {
        if self.open.is_none() {
            if !self.exists()? {
                return Ok(None);
            }
            paths.check()?;
            self.open()?;
        }
        let (spec, path) = (self.spec, &self.path);
        let fault = |fault| explain(spec, path, attempt, fault);
        let open = self.open.as_mut().expect("opened above");
        let result = open
            .connection
            .transaction_with_behavior(TransactionBehavior::Deferred)
            .map_err(|error| fault(error.into()))
            .and_then(|transaction| {
                let result = f(&transaction).map_err(fault);
                transaction.finish().map_err(|error| fault(error.into())).and(result)
            });
        self.close_if_alone();
        result.map(Some)
    }

    fn close_if_alone(&mut self) {
        if self.open.as_ref().is_some_and(|open| open.alone) {
            self.close();
        }
    }

    /// Runs `f` in one transaction, alone; commits if it succeeds and changes nothing if not.
    pub(crate) fn write<R>(
        &mut self,
        paths: &Paths,
        attempt: &'static str,
        f: impl FnOnce(&Transaction<'_>) -> Result<R, Fault>,
    ) -> Result<R, StoreError> {
        if self.open.is_none() {
            paths.prepare()?;
            self.open()?;
        }
        let (spec, path) = (self.spec, &self.path);
        let fault = |fault| explain(spec, path, attempt, fault);
        let open = self.open.as_mut().expect("opened above");
        // One who is alone has the queue already, which is no wait.
        let turn = Turn::take(&open.queue, path, self.patience)?;
        let result = open
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| fault(error.into()))
            .and_then(|transaction| {
                let result = f(&transaction).map_err(fault)?;
                transaction.commit().map_err(|error| fault(error.into()))?;
                Ok(result)
            });
        drop(turn);
        self.close_if_alone();
        result
    }

    fn exists(&self) -> Result<bool, StoreError> {
        self.path.try_exists().map_err(|error| StoreError::io("look at", &self.path, error))
    }

    fn open(&mut self) -> Result<(), StoreError> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        netfs::refuse(dir)?;
        let queue_path = queue_path(&self.path);
        let queue = open_private(&queue_path)
            .map_err(|error| StoreError::io("open the writer queue", &queue_path, error))?;
        if !self.exists()? {
            let _turn = Turn::take(&queue, &self.path, self.patience)?;
            if !self.exists()? {
                self.make(dir)?;
            }
        }
        let look = |sharing| {
            let connection = self.connect(&self.path, self.spec.synchronous, sharing)?;
            Ok((self.version(&connection)?, connection))
        };
        let shared = look(Sharing::Shared);
        let alone = matches!(shared, Err(StoreError::NoSpace { .. }));
        let (looked, queue) = if alone {
            // Two who each have begun to read and want the other one out would wait for each other
            // until their patience ends: SQLite lets go of nothing on its way to being alone.
            let handed = lock::wait_for(&queue, &queue_path, self.patience)?;
            (look(Sharing::Alone), handed.unwrap_or(queue))
        } else {
            (shared, queue)
        };
        let opened = looked.and_then(|(version, mut connection)| {
            if version < self.newest() {
                let turn =
                    if alone { None } else { Some(Turn::take(&queue, &self.path, self.patience)?) };
                self.migrate(&mut connection)?;
                drop(turn);
            }
            Ok(connection)
        });
        match opened {
            Ok(connection) => {
                self.open = Some(Open { connection, queue, alone });
                Ok(())
            }
            Err(error) => {
                if alone {
                    leave(&queue);
                }
                Err(error)
            }
        }
    }

    /// Makes the database under another name and renames it: whoever sees it sees all of it.
    /// Called with the writer queue held.
    fn make(&self, dir: &Path) -> Result<(), StoreError> {
        let new = beside(&self.path, ".new");
        // Of an earlier try that was cut off, or of a database that was taken away by hand: a
        // log without its database would be applied to the new one.
        remove_files(&new)?;
        remove_files(&self.path)?;
        let io = |attempt| move |error| StoreError::io(attempt, &self.path, error);
        // SQLite gives its other files the mode of this one.
        let file = open_private(&new).map_err(io("make"))?;
        let mut connection = self.connect(&new, Synchronous::Off, Sharing::Shared)?;
        connection
            .pragma_update(None, "journal_mode", "wal")
            .map_err(|error| self.explain("make", error))?;
        self.migrate(&mut connection)?;
        // Folds the log into the file and removes it.
        connection.close().map_err(|(_, error)| self.explain("make", error))?;
        let durable = self.spec.synchronous != Synchronous::Off;
        if durable {
            file.sync_all().map_err(io("write"))?;
        }
        fs::rename(&new, &self.path).map_err(io("make"))?;
        if durable {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("make"))?;
        }
        Ok(())
    }

    fn connect(
        &self,
        path: &Path,
        synchronous: Synchronous,
        sharing: Sharing,
    ) -> Result<Connection, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW
            | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let path = &in_real_directory(path)
            .map_err(|error| StoreError::io("look at the directory of", path, error))?;
        let open = || {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(busy(self.patience))?;
            if sharing == Sharing::Alone {
                connection.pragma_update(None, "locking_mode", "exclusive")?;
            }
            // Small, because every monitor has one of these open now and then.
            connection.execute_batch(&format!(
                "PRAGMA synchronous = {};
                 PRAGMA cache_size = -64;
                 PRAGMA mmap_size = 0;
                 PRAGMA trusted_schema = OFF;
                 PRAGMA journal_size_limit = 1048576;
                 PRAGMA wal_autocheckpoint = 100;",
                match synchronous {
                    Synchronous::Off => "OFF",
                    Synchronous::Normal => "NORMAL",
                    Synchronous::Full => "FULL",
                }
            ))?;
            // The last one to close would fold the log into the file and remove it, and the next
            // writer make a new one: half a dozen waits for the disk about one short command. A
            // writer to whom the log has grown too long does that instead.
            let keep_log = synchronous != Synchronous::Off;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep_log)?;
            Ok(connection)
        };
        open().map_err(|error| self.explain("open", error))
    }

    fn newest(&self) -> i64 {
        i64::try_from(self.spec.migrations.len()).expect("a handful of migrations")
    }

    fn version(&self, connection: &Connection) -> Result<i64, StoreError> {
        let found: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(|error| self.explain("read the schema version", error))?;
        let known = self.newest();
        if found > known || found < 0 {
            let path = self.path.clone();
            return Err(StoreError::NewerSchema { path, found, known });
        }
        Ok(found)
    }

    fn migrate(&self, connection: &mut Connection) -> Result<(), StoreError> {
        let run = |connection: &mut Connection| -> Result<(), Fault> {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let from = self.version(&transaction)?;
            let steps = usize::try_from(from).expect("checked not to be negative");
            for step in &self.spec.migrations[steps..] {
                transaction.execute_batch(step)?;
            }
            transaction.pragma_update(None, "user_version", self.newest())?;
            transaction.commit()?;
            Ok(())
        };
        run(connection).map_err(|fault| explain(self.spec, &self.path, "migrate the schema", fault))
    }

    fn explain(&self, attempt: &'static str, error: rusqlite::Error) -> StoreError {
        StoreError::sql(attempt, &self.path, self.spec.next, error)
    }
}

fn explain(spec: &Spec, path: &Path, attempt: &'static str, fault: Fault) -> StoreError {
    match fault {
        Fault::Sql(error) => StoreError::sql(attempt, path, spec.next, error),
        Fault::Store(error) => error,
        Fault::Record { what, problem } => {
            StoreError::Record { what, path: path.to_path_buf(), problem }
        }
    }
}

/// Writers queue up before SQLite sees them; what is left to wait for is a checkpoint or the
/// recovery of a write-ahead log. SQLite counts in milliseconds, up to 24 days.
fn busy(patience: Duration) -> Duration {
    patience.min(Duration::from_millis(i32::MAX as u64))
}

/// The file by which the writers of a database queue up.
pub(crate) fn queue_path(db: &Path) -> PathBuf {
    beside(db, ".writer")
}

/// A database's own file goes first: what is left without it is cleared away by the next making.
fn remove_files(db: &Path) -> Result<(), StoreError> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = beside(db, suffix);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The same file with the links on the way to it resolved. SQLite refuses a link anywhere in the
/// path; only one in the place of the database is none of ours. A directory may be a link: somebody
/// has put the state on another disk, and [`Paths::check`] has looked at what it leads to.
fn in_real_directory(path: &Path) -> std::io::Result<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(path.to_path_buf());
    };
    Ok(dir.canonicalize()?.join(name))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Lets the next one of the queue come, also where a child that was forked meanwhile has a copy of
/// the descriptor.
fn leave(queue: &File) {
    if let Err(error) = queue.unlock() {
        tracing::warn!(%error, "cannot leave the queue; it is left when the file is closed");
    }
}

/// A writer's turn. Unlocked, not merely closed, at its end: a child forked meanwhile may hold a
/// copy of the descriptor.
struct Turn<'a> {
    queue: &'a File,
    /// What holds the lock where it had to be waited for.
    handed: Option<File>,
}

impl<'a> Turn<'a> {
    fn take(queue: &'a File, db: &Path, patience: Duration) -> Result<Self, StoreError> {
        let handed = lock::wait_for(queue, &queue_path(db), patience)?;
        Ok(Self { queue, handed })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Touched while still held: whoever follows the events is woken by this, and by the file
        // being closed when a writer is killed just before. (The kernel tells of both times set
        // as a change of attributes, of one alone as a modification.)
        let now = std::time::SystemTime::now();
        let now = fs::FileTimes::new().set_accessed(now).set_modified(now);
        let locked = self.handed.as_ref().unwrap_or(self.queue);
        // Unlocked even where it cannot be touched.
        if let Err(error) = self.queue.set_times(now).and(locked.unlock()) {
            tracing::warn!(%error, "cannot end the turn of a writer; it ends with the process");
        }
    }
}
