//! The store's stock of images: what is there, taking one out, and what dead writers left.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use kxl_domain::ImageId;

use super::open::Image;
use super::target::{NEW, parent, part, resolved, sync_dir};
use super::{Facts, Listed};
use crate::Result;
use crate::error::StoreError;
use crate::paths::Paths;

/// Begins the name of a directory that is being removed.
const GONE: &str = ".gone-";

/// The images of the store, oldest first; those that cannot be read come last, each with what is
/// wrong with it.
///
/// # Errors
/// `Io` when the store itself cannot be read.
pub fn list(paths: &Paths) -> Result<Vec<Result<Listed, (ImageId, StoreError)>>> {
    let mut found = Vec::new();
    for name in names(&paths.image_store())? {
        let Ok(id) = name.parse::<ImageId>() else { continue };
        match listed(paths, id) {
            // Removed since the directory was read, or while it was looked at.
            Err(_) if !paths.image_dir(id).is_dir() => {}
            Ok(listed) => found.push(Ok(listed)),
            Err(error) => found.push(Err((id, error))),
        }
    }
    found.sort_by_key(|item| match item {
        Ok(Listed { facts: Facts { id, created_ms, .. }, .. }) => (false, *created_ms, *id),
        Err((id, _)) => (true, 0, *id),
    });
    Ok(found)
}

fn listed(paths: &Paths, id: ImageId) -> Result<Listed> {
    let image = Image::open_store(paths, id)?;
    let (bytes, size, spent) = (image.bytes()?, image.size(), image.spent()?);
    Ok(Listed { facts: image.manifest.facts, bytes, size, spent })
}

/// Removes an image from the store, also one that cannot be read and one whose removal was cut off.
/// It is gone before its bytes are: a kill in between leaves nothing that looks like an image.
/// Memory that an emulator maps stays as it is until that ends.
///
/// # Errors
/// `NoImage`, `Io`.
pub fn remove(paths: &Paths, id: ImageId) -> Result<()> {
    let (path, gone) = (paths.image_dir(id), gone(paths, id));
    let half = gone.exists();
    if half {
        delete(&gone)?;
    }
    match fs::rename(&path, &gone) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound && half => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(StoreError::NoImage { id });
        }
        Err(error) => return Err(StoreError::io("remove the image", path, error)),
    }
    sync_dir(&paths.image_store())
        .map_err(|error| StoreError::io("remove the image", &path, error))?;
    delete(&gone)
}

/// Removes what writers and removers left in the store when they were killed; gives the identities
/// of what it found. What belongs to a live writer is locked and stays, and so does what `in_use`
/// says.
///
/// # Errors
/// `Io`; what was found before is removed.
pub fn sweep(paths: &Paths, in_use: &dyn Fn(ImageId) -> bool) -> Result<Vec<ImageId>> {
    let store = paths.image_store();
    let mut found = Vec::new();
    for name in names(&store)? {
        let path = store.join(&name);
        let id = |begin| name.strip_prefix(begin).and_then(|id| id.parse::<ImageId>().ok());
        if let Some(id) = id(GONE) {
            delete(&path)?;
            found.push(id);
        } else if let Some(id) = id(NEW).filter(|id| !in_use(*id))
            && abandoned(&path, &gone(paths, id))?
        {
            found.push(id);
        }
    }
    Ok(found)
}

/// Removes what the writer of a user's file left beside it when it was killed, if it did and no
/// longer lives: a file with a name of ours on file systems that have none without a name.
///
/// # Errors
/// `Io`.
pub fn sweep_file(file: &Path, id: ImageId) -> Result<()> {
    let path = part(&parent(&resolved(file)?), id);
    let failed = |error| StoreError::io("remove the temporary", &path, error);
    match locked(&path) {
        Ok(Some(_lock)) => fs::remove_file(&path).map_err(failed),
        Ok(None) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// Removes a temporary whose writer is dead; `false` where it is not.
fn abandoned(path: &Path, gone: &Path) -> Result<bool> {
    let failed = |error| StoreError::io("remove the temporary", path, error);
    let Some(_lock) = locked(path).map_err(failed)? else { return Ok(false) };
    match fs::rename(path, gone) {
        Ok(()) => delete(gone).map(|()| true),
        // It became an image since it was looked at.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// A temporary that nobody else has locked.
fn locked(path: &Path) -> io::Result<Option<File>> {
    let file = match super::target::open_part(path, false) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn gone(paths: &Paths, id: ImageId) -> PathBuf {
    paths.image_store().join(format!("{GONE}{id}"))
}

fn delete(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        // Somebody else is removing it too.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(|error| StoreError::io("remove", dir, error)),
    }
}

/// The names in a directory; none where there is no directory.
fn names(dir: &Path) -> Result<Vec<String>> {
    let failed = |error| StoreError::io("read the directory", dir, error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}
