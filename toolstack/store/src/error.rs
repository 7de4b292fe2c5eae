//! What can go wrong with records, places and locks. Each text names the object, its path and,
//! where there is one, the next step.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kxl_domain::{DomId, DomainUuid, ImageId, Kind};
use rusqlite::ErrorCode;
use thiserror::Error;

use crate::image::ImageFault;

/// A failure of the store.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The environment does not tell where things are.
    #[error("cannot tell where kxl's files are: {problem}")]
    Place {
        /// What is missing or wrong, and what to set.
        problem: String,
    },
    /// A directory is not safe to keep records in.
    #[error("the directory {path} {problem}")]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A call to the system failed.
    #[error("cannot {attempt} ({path})")]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A statement on a database failed.
    #[error("cannot {attempt} in {path}")]
    Database {
        /// What was attempted.
        attempt: &'static str,
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// Another process kept a lock that is held for milliseconds to itself for longer than the
    /// patience of the store: it is stopped or hangs.
    #[error(
        "{path} is kept locked by another process; find it with lslocks, then let it go on (kill -CONT) or end it"
    )]
    Busy {
        /// The lock file, or the database.
        path: PathBuf,
    },
    /// The file system is full, or the quota is.
    #[error("no space left to write {path}; free some and try again")]
    NoSpace {
        /// What was being written.
        path: PathBuf,
    },
    /// The file is damaged, or it is no database.
    #[error("{path} is damaged or not a database; {next}")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What to do.
        next: &'static str,
    },
    /// A newer kxl has written the database.
    #[error(
        "{path} has schema {found}, written by a newer kxl; this one knows up to {known}: use that newer one"
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema this build knows.
        known: i64,
    },
    /// The place is on a network file system, where neither locks nor shared memory hold.
    #[error(
        "{path} is on {kind}, a network file system, where locks and databases are not safe; move it to a local disk (KXL_ROOT moves everything)"
    )]
    NetworkFs {
        /// The directory.
        path: PathBuf,
        /// The kind of file system.
        kind: String,
    },
    /// A record cannot be read as what it should be.
    #[error("the record of {what} in {path} is unreadable: {problem}")]
    Record {
        /// Whose record.
        what: String,
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Another domain has the name.
    #[error("the name \"{name}\" is taken by {}; choose another name", holder(*.owner, *.domid))]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        owner: DomainUuid,
        /// Its number, when it is live.
        domid: Option<DomId>,
    },
    /// Another domain has the uuid, or one that shares its runtime directory.
    #[error(
        "the uuid {uuid} {} domain \"{name}\" ({other}); choose a uuid with other first eight digits",
        if uuid == other { "belongs to" } else { "has the same first eight digits as" }
    )]
    UuidTaken {
        /// The wanted uuid.
        uuid: DomainUuid,
        /// The uuid in its way; often the same.
        other: DomainUuid,
        /// The name of the domain that has it.
        name: String,
    },
    /// The domain has a process already.
    #[error("domain \"{name}\" is live (domid {domid})")]
    AlreadyLive {
        /// Its name.
        name: String,
        /// Its number.
        domid: DomId,
    },
    /// There is no live domain of this uuid.
    #[error("no live domain has the uuid {uuid}; it has ended or been removed meanwhile")]
    NotLive {
        /// The uuid.
        uuid: DomainUuid,
    },
    /// There is no managed domain of this uuid.
    #[error("no managed domain has the uuid {uuid}; it has been deleted meanwhile")]
    NotManaged {
        /// The uuid.
        uuid: DomainUuid,
    },
    /// A lock was not free in time.
    #[error(
        "the domain lock {path} was not free within {} ms; another command or its monitor is at work on it",
        waited.as_millis()
    )]
    LockTimeout {
        /// The lock file.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// There is not enough room for an image.
    #[error(
        "not enough space in {path}: {} needed, {} free; free some, or choose another place",
        amount(*need),
        amount(*free)
    )]
    NoRoom {
        /// The directory.
        path: PathBuf,
        /// Bytes that are needed.
        need: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// An image cannot be used.
    #[error("{path} {fault}")]
    Image {
        /// The file, or the directory in the store.
        path: PathBuf,
        /// What is wrong with it.
        fault: ImageFault,
    },
    /// There is no image of this identity in the store.
    #[error("there is no image {id} in the store; see `kxl image list`")]
    NoImage {
        /// The identity.
        id: ImageId,
    },
    /// The image is in the store already.
    #[error("image {id} is in the store already; nothing was changed")]
    ImageTaken {
        /// The identity.
        id: ImageId,
    },
    /// Whoever watches a long read asked for its end.
    #[error("given up as asked, before all of {path} was read")]
    GivenUp {
        /// The image.
        path: PathBuf,
    },
    /// A socket's name is in use.
    #[error("cannot listen on {path}: {problem}")]
    SocketTaken {
        /// The socket.
        path: PathBuf,
        /// By what, and what to do.
        problem: &'static str,
    },
}

/// Bytes as people say them, never rounded to nothing.
fn amount(bytes: u64) -> String {
    match bytes {
        0..0x40_0000 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{} MiB", bytes >> 20),
    }
}

fn holder(owner: DomainUuid, domid: Option<DomId>) -> String {
    domid.map_or_else(
        || format!("managed domain {owner}"),
        |domid| format!("domid {domid} (domain {owner})"),
    )
}

impl StoreError {
    pub(crate) fn io(attempt: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.raw_os_error() {
            Some(number::ENOSPC | number::EDQUOT) => Self::NoSpace { path },
            _ => Self::Io { attempt, path, source },
        }
    }

    /// What an error means for the image at `path` that was being written.
    #[must_use]
    pub fn writing_image(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::io("write the image", path, source)
    }

    /// Tells what an error of SQLite means for the database at `path`.
    pub(crate) fn sql(
        attempt: &'static str,
        path: &Path,
        next: &'static str,
        source: rusqlite::Error,
    ) -> Self {
        let path = path.to_path_buf();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                Self::Corrupt { path, next }
            }
            Some(ErrorCode::DiskFull) => Self::NoSpace { path },
            // SQLite reports a full disk as an I/O error where it grows its shared memory.
            Some(ErrorCode::SystemIoFailure) if no_space_beside(&path) => Self::NoSpace { path },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path },
            _ => Self::Database { attempt, path, source },
        }
    }

    /// The kind of failure, which decides the exit status.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotLive { .. } | Self::NotManaged { .. } => Kind::NoSuchDomain,
            Self::AlreadyLive { .. } | Self::ImageTaken { .. } => Kind::Denied,
            Self::LockTimeout { .. } | Self::Busy { .. } => Kind::TimedOut,
            Self::Place { .. } => Kind::Usage,
            _ => Kind::Failed,
        }
    }
}

fn no_space_beside(path: &Path) -> bool {
    path.parent()
        .and_then(|dir| nix::sys::statvfs::statvfs(dir).ok())
        .is_some_and(|fs| fs.blocks_available() == 0)
}

/// The two error numbers that mean "full", under names that patterns can use.
mod number {
    pub(super) const ENOSPC: i32 = nix::errno::Errno::ENOSPC as i32;
    pub(super) const EDQUOT: i32 = nix::errno::Errno::EDQUOT as i32;
}

/// What goes wrong inside a transaction: SQLite's own error, or a refusal of ours.
#[derive(Debug)]
pub(crate) enum Fault {
    Sql(rusqlite::Error),
    Store(StoreError),
    /// A record that is not what it should be.
    Record {
        what: String,
        problem: String,
    },
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
