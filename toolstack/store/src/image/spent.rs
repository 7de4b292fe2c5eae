//! The mark on an image that a guest went on from it.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use kxl_domain::DomainUuid;
use kxl_domain::image::ImagePlace;

use super::open::Image;
use super::target::sync_dir;
use crate::Result;
use crate::clock::now_ms;
use crate::error::StoreError;

const SPENT_FILE: &str = "spent";

impl Image {
    /// Marks an image of the store: from now on its memory is older than the disks. On the disk
    /// when this returns. Marked again, the later time counts.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: the guest must not go on then, and whether the mark is there has to be
    /// asked. An image in a file cannot be marked; [`crate::Store::mark_file_spent`] remembers it.
    pub fn mark_spent(&self, domain: DomainUuid) -> Result<()> {
        let path = self.mark()?;
        let write = || {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(format!("{} {domain}\n", now_ms()).as_bytes())?;
            file.sync_all()?;
            sync_dir(&self.path)
        };
        write().map_err(|error| StoreError::io("mark the image as spent", &path, error))
    }

    /// Takes the mark off again, durably: no guest went on.
    ///
    /// # Errors
    /// As [`mark_spent`](Self::mark_spent).
    pub fn unmark_spent(&self) -> Result<()> {
        let path = self.mark()?;
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other.and_then(|()| sync_dir(&self.path)),
        };
        removed.map_err(|error| StoreError::io("take the mark off the image", path, error))
    }

    /// When a guest went on from it; milliseconds since 1970. For an image in a file always `None`:
    /// [`crate::Store::file_spent`] knows.
    ///
    /// # Errors
    /// `Io`.
    pub fn spent(&self) -> Result<Option<i64>> {
        if self.place != ImagePlace::Store {
            return Ok(None);
        }
        let path = self.path.join(SPENT_FILE);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| StoreError::io("read the mark", &path, error))?,
        };
        let text = String::from_utf8_lossy(&text);
        // A mark that was cut off while it was written is a mark all the same.
        Ok(Some(text.split(' ').next().and_then(|ms| ms.parse().ok()).unwrap_or(0)))
    }

    fn mark(&self) -> Result<PathBuf> {
        if self.place == ImagePlace::Store {
            return Ok(self.path.join(SPENT_FILE));
        }
        let error = io::Error::new(ErrorKind::InvalidInput, "files of users are never changed");
        Err(self.failed("mark as spent", error))
    }
}
