//! Who may act: the domain lock, held for as long as somebody is responsible for a domain, and
//! the names lock, held for the moment in which a name is claimed.
//!
//! Both are flock(2) on a file. Such a lock belongs to the open file description, so that a
//! monitor which inherits the descriptor inherits the lock, and the kernel drops it when the last
//! descriptor is closed, however its holder dies.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kxl_domain::DomainUuid;

use crate::error::StoreError;
use crate::paths::{Paths, open_private};
use crate::waiter;

/// How long a lock that is held for milliseconds is waited for, where nobody has said otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The right to act on one domain.
///
/// Dropping it closes this descriptor only: the lock is free when every copy of the descriptor is
/// closed, here and in the processes that inherited it.
#[derive(Debug)]
pub struct DomainLock {
    file: File,
}

impl DomainLock {
    /// Takes the lock if it is free. Makes the domain's runtime directory where it is missing.
    ///
    /// # Errors
    /// `Unsafe`, `Io` or `NoSpace` when directory or file cannot be made.
    pub fn try_acquire(paths: &Paths, uuid: DomainUuid) -> Result<Option<Self>, StoreError> {
        let path = paths.lock_file(uuid);
        paths.prepare()?;
        loop {
            paths.make_rundir(uuid)?;
            let file = match open_private(&path) {
                Ok(file) => file,
                // The directory was removed or moved after it was made.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io("open the domain lock", path, error)),
            };
            match file.try_lock() {
                Ok(()) if is_same(&file, &path) => return Ok(Some(Self { file })),
                // Locked, but its holder has removed the file meanwhile: it guards nothing.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if is_same(&file, &path) => return Ok(None),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(StoreError::io("take the domain lock", path, error));
                }
            }
        }
    }

    /// Whether somebody holds the lock at this moment. Nothing is made for this, and who wants the
    /// lock at the same moment tries again.
    #[must_use]
    pub fn is_held(paths: &Paths, uuid: DomainUuid) -> bool {
        let file = File::open(paths.lock_file(uuid));
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Takes the lock, waiting for at most `deadline`.
    ///
    /// It asks again and again, from every millisecond to every 50 ms: the holder may be a
    /// monitor that keeps it for months, and a flock(2) that blocks has no deadline. Blocks the
    /// thread; not to be called on an async one.
    ///
    /// # Errors
    /// `LockTimeout` when it was not free in time; else as [`try_acquire`](Self::try_acquire).
    pub fn acquire(
        paths: &Paths,
        uuid: DomainUuid,
        deadline: Duration,
    ) -> Result<Self, StoreError> {
        let end = Instant::now().checked_add(deadline);
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(lock) = Self::try_acquire(paths, uuid)? {
                return Ok(lock);
            }
            let left = end.map_or(pause, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                let path = paths.lock_file(uuid);
                return Err(StoreError::LockTimeout { path, waited: deadline });
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Takes over a descriptor that was inherited with the lock on it.
    ///
    /// # Errors
    /// `Io` when it is not the locked lock file of this domain.
    pub fn inherit(paths: &Paths, uuid: DomainUuid, fd: OwnedFd) -> Result<Self, StoreError> {
        let path = paths.lock_file(uuid);
        let file = File::from(fd);
        // Asking for a lock that is held already through the same description succeeds at once.
        if is_same(&file, &path) && file.try_lock().is_ok() {
            return Ok(Self { file });
        }
        let error = io::Error::new(ErrorKind::InvalidInput, "the descriptor is not its lock");
        Err(StoreError::io("take over the domain lock", path, error))
    }

    /// Removes the runtime directory with everything in it, then lets go of the lock. Who waits
    /// for the lock notices and makes the directory anew.
    ///
    /// # Errors
    /// `Io`; the lock is released all the same.
    pub fn remove_rundir(self, paths: &Paths, uuid: DomainUuid) -> Result<(), StoreError> {
        let path = paths.rundir(uuid);
        if !is_same(&self.file, &paths.lock_file(uuid)) {
            let error = io::Error::new(ErrorKind::InvalidInput, "the lock held is another one");
            return Err(StoreError::io("remove the runtime directory", path, error));
        }
        // Out of the way at once: removed where it is, it could take the files of the next holder
        // with it, who may come as soon as the lock file is gone.
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let gone = format!(".{}.{}.{serial}", uuid.short(), std::process::id());
        let gone = paths.run_dir().join(gone);
        fs::rename(&path, &gone)
            .and_then(|()| remove_all(&gone))
            .map_err(|error| StoreError::io("remove the runtime directory", path, error))
    }
}

impl AsFd for DomainLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<DomainLock> for OwnedFd {
    fn from(lock: DomainLock) -> Self {
        lock.file.into()
    }
}

/// The right to claim, change or free names; held for milliseconds.
#[derive(Debug)]
pub struct NamesLock {
    held: Held,
}

impl NamesLock {
    /// Takes the lock, waiting in the kernel's queue for who holds it, for at most `patience`.
    /// Blocks the thread.
    ///
    /// # Errors
    /// `Busy` when it was not free in time; `Unsafe`, `NetworkFs`, `Io` or `NoSpace`.
    pub fn acquire(paths: &Paths, patience: Duration) -> Result<Self, StoreError> {
        paths.prepare()?;
        crate::netfs::refuse(paths.state_dir())?;
        let path = paths.names_lock();
        let file = open_private(&path)
            .map_err(|error| StoreError::io("open the names lock", &path, error))?;
        Ok(Self { held: Held::lock(file, &path, patience)? })
    }
}

impl AsFd for NamesLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.held.file.as_fd()
    }
}

/// An exclusive lock that ends with its scope, even where a child that was forked meanwhile still
/// holds a copy of the descriptor.
#[derive(Debug)]
pub(crate) struct Held {
    file: File,
}

impl Held {
    pub(crate) fn lock(file: File, path: &Path, patience: Duration) -> Result<Self, StoreError> {
        let handed = wait_for(&file, path, patience)?;
        Ok(Self { file: handed.unwrap_or(file) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "cannot unlock; the lock ends when the file is closed");
        }
    }
}

/// Takes the flock(2) lock on `file`, waiting for at most `patience`. Where it had to wait, the
/// lock is on the description that is given back, else on `file`.
pub(crate) fn wait_for(
    file: &File,
    path: &Path,
    patience: Duration,
) -> Result<Option<File>, StoreError> {
    let failed = |error| StoreError::io("lock", path, error);
    match file.try_lock() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => match waiter::wait(file, patience).map_err(failed)? {
            None => Err(StoreError::Busy { path: path.to_path_buf() }),
            handed => Ok(handed),
        },
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Removes a directory that was moved out of the way. Who was just looking up its old path may
/// still make a lock file in it, once, behind the removal's back.
fn remove_all(dir: &Path) -> io::Result<()> {
    loop {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            other => return other,
        }
    }
}

/// Whether the open file is the one that has this path now.
fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}
