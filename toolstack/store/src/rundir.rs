//! The runtime directory of a domain: made, moved to another uuid, linked to by number and name.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use kxl_domain::{DomId, DomainName, DomainUuid};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::error::StoreError;
use crate::paths::{Paths, is_private, remove};

impl Paths {
    /// Makes the runtime directory of a domain where it is missing.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn make_rundir(&self, uuid: DomainUuid) -> Result<PathBuf, StoreError> {
        let dir = self.rundir(uuid);
        if dir.is_symlink() {
            finish_move(self, uuid)?;
        }
        if !is_private(&dir)? {
            self.make(&dir)?;
        }
        Ok(dir)
    }

    /// Links `by-id/DOMID` and `by-name/NAME` to the runtime directory, each replaced atomically.
    ///
    /// # Errors
    /// `Io` or `NoSpace`.
    pub fn link(
        &self,
        uuid: DomainUuid,
        domid: DomId,
        name: &DomainName,
    ) -> Result<(), StoreError> {
        let target = Path::new("..").join(uuid.short());
        link_to(&target, &self.by_id(), &domid.to_string())?;
        link_to(&target, &self.by_name(), name.as_str())
    }

    /// Removes the link of the number and, if given, that of the name. A link that leads to
    /// another domain by now stays, and one that is gone already is no error.
    ///
    /// # Errors
    /// `Io`.
    pub fn unlink(
        &self,
        uuid: DomainUuid,
        domid: DomId,
        name: Option<&DomainName>,
    ) -> Result<(), StoreError> {
        let target = Path::new("..").join(uuid.short());
        let by_name = name.map(|name| self.by_name().join(name.as_str()));
        for link in std::iter::once(self.by_id().join(domid.to_string())).chain(by_name) {
            if fs::read_link(&link).is_ok_and(|found| found == target) {
                remove(&link)?;
            }
        }
        Ok(())
    }
}

fn link_to(target: &Path, dir: &Path, name: &str) -> Result<(), StoreError> {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let path = dir.join(name);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    // Unique among processes and threads; names of domains never start with a dot.
    let new = dir.join(format!(".{}.{serial}", std::process::id()));
    let made = match std::os::unix::fs::symlink(target, &new) {
        // Left by a process of the same number that was killed here.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(&new).and_then(|()| std::os::unix::fs::symlink(target, &new))
        }
        other => other,
    };
    made.and_then(|()| fs::rename(&new, &path))
        .map_err(|error| StoreError::io("link the runtime directory", path, error))
}

/// Before a domain gets another uuid: its directory can be reached under both.
pub(crate) fn begin_move(
    paths: &Paths,
    uuid: DomainUuid,
    new_uuid: DomainUuid,
) -> Result<(), StoreError> {
    let new = paths.rundir(new_uuid);
    if !paths.rundir(uuid).is_dir() {
        return Ok(());
    }
    std::os::unix::fs::symlink(uuid.short(), &new)
        .or_else(|error| match fs::read_link(&new) {
            // Of an earlier try that was cut off.
            Ok(target) if target == Path::new(&uuid.short()) => Ok(()),
            _ => Err(error),
        })
        .map_err(|error| StoreError::io("link the runtime directory", new, error))
}

/// After it: link and directory change places at once, then the link goes. Finishes a move that
/// was cut off anywhere, and does nothing where there is none.
pub(crate) fn finish_move(paths: &Paths, new_uuid: DomainUuid) -> Result<(), StoreError> {
    let new = paths.rundir(new_uuid);
    let Ok(target) = fs::read_link(&new) else { return Ok(()) };
    let old = paths.run_dir().join(&target);
    // Cut off between the exchange and the removal: this is the old name, and it leads to itself.
    if old == new || !old.is_dir() {
        return remove(&new);
    }
    let moved = match renameat2(AT_FDCWD, &old, AT_FDCWD, &new, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => fs::remove_file(&old),
        // A file system that cannot exchange: for a moment there is no directory.
        Err(Errno::EINVAL) => fs::remove_file(&new).and_then(|()| fs::rename(&old, &new)),
        Err(error) => Err(io::Error::from(error)),
    };
    moved.map_err(|error| StoreError::io("move the runtime directory", new, error))
}
