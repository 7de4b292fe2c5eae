//! Operations on images, journalled before they begin, and users' files from which a guest went on.

use std::path::{Path, PathBuf};

use kxl_domain::{DomainUuid, ImageId, Op};
use rusqlite::{Connection, params};

use crate::Result;
use crate::clock::now_ms;
use crate::columns::Columns;
use crate::error::Fault;
use crate::facade::Store;
use crate::image::Image;

/// An operation on an image that has begun, and whose outcome is not recorded yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOp {
    /// The domain that it is about.
    pub domain: DomainUuid,
    /// The image that is written.
    pub image: ImageId,
    /// `saving` or `suspending`.
    pub op: Op,
    /// The user's file that it goes to; `None` for the store.
    pub path: Option<PathBuf>,
    /// The domain ends with it: once it is committed, the image is the domain.
    pub ends: bool,
}

impl Store {
    /// Records that an image is going to be written. On the disk when this returns.
    ///
    /// # Errors
    /// See [`Store`]. The save is refused then.
    pub fn begin_image_op(&self, op: &ImageOp) -> Result<()> {
        self.ready()?;
        let path = op.path.as_ref().map(|path| path.to_string_lossy());
        self.registry().write(&self.paths, "record an operation", |db| {
            db.execute(
                "INSERT OR REPLACE INTO image_op (domain, image, op, path, ends, boot_id, began_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    op.domain.to_string(),
                    op.image.to_string(),
                    op.op.as_str(),
                    path,
                    op.ends,
                    self.boot_id,
                    now_ms(),
                ],
            )?;
            Ok(())
        })
    }

    /// Forgets an operation: its outcome is recorded elsewhere, or it left nothing.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn end_image_op(&self, image: ImageId) -> Result<()> {
        self.registry().write(&self.paths, "record an operation", |db| remove(db, image))
    }

    /// The operations of a domain that were cut off, or are in flight.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn image_ops(&self, domain: DomainUuid) -> Result<Vec<ImageOp>> {
        let found =
            self.registry().read(&self.paths, "read the operations", |db| of_domain(db, domain))?;
        Ok(found.unwrap_or_default())
    }

    /// Every operation in flight or cut off.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn all_image_ops(&self) -> Result<Vec<ImageOp>> {
        let found = self.registry().read(&self.paths, "read the operations", |db| {
            collect(db, &format!("{SELECT} ORDER BY began_ms"), [])
        })?;
        Ok(found.unwrap_or_default())
    }

    /// Records, on the disk, that a guest is about to go on from the image in a user's file. The
    /// file itself is never changed.
    ///
    /// # Errors
    /// See [`Store`]. The guest must not go on then.
    pub fn mark_file_spent(&self, image: ImageId, path: &Path, domain: DomainUuid) -> Result<()> {
        let path = path.to_string_lossy().into_owned();
        self.registry().write(&self.paths, "mark an image as spent", |db| {
            db.execute(
                "INSERT OR REPLACE INTO spent (image, path, domain, spent_ms)
                 VALUES (?1, ?2, ?3, ?4)",
                params![image.to_string(), path, domain.to_string(), now_ms()],
            )?;
            Ok(())
        })
    }

    /// Takes the mark off again: no guest went on from it.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn unmark_file_spent(&self, image: ImageId) -> Result<()> {
        self.registry().write(&self.paths, "take a mark off an image", |db| {
            db.execute("DELETE FROM spent WHERE image = ?1", [image.to_string()])?;
            Ok(())
        })
    }

    /// The files from whose images guests went on, oldest first. A file may be gone or hold another
    /// image by now.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn spent_files(&self) -> Result<Vec<(ImageId, PathBuf)>> {
        let found = self.registry().read(&self.paths, "look for spent images", |db| {
            let mut statement = db.prepare("SELECT image, path FROM spent ORDER BY spent_ms")?;
            let mut rows = statement.query([])?;
            let mut files = Vec::new();
            while let Some(row) = rows.next()? {
                let (image, path): (String, String) = (row.get(0)?, row.get(1)?);
                files.extend(image.parse().ok().map(|image| (image, PathBuf::from(path))));
            }
            Ok(files)
        })?;
        Ok(found.unwrap_or_default())
    }

    /// When a guest went on from the image in a user's file; milliseconds since 1970.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn file_spent(&self, image: ImageId) -> Result<Option<i64>> {
        let found = self.registry().read(&self.paths, "look for a spent image", |db| {
            let mut statement = db.prepare("SELECT spent_ms FROM spent WHERE image = ?1")?;
            let mut rows = statement.query([image.to_string()])?;
            Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
        })?;
        Ok(found.flatten())
    }

    /// Whether the image that an operation was writing is there and complete. In the store its
    /// directory gets its name last.
    #[must_use]
    pub fn is_complete(&self, op: &ImageOp) -> bool {
        match &op.path {
            None => self.paths.image_dir(op.image).is_dir(),
            Some(path) => Image::open_file(path).is_ok_and(|image| image.id() == op.image),
        }
    }
}

const SELECT: &str = "SELECT domain, image, op, path, ends FROM image_op";

/// The operations of a domain, oldest first.
pub(crate) fn of_domain(db: &Connection, domain: DomainUuid) -> Result<Vec<ImageOp>, Fault> {
    collect(db, &format!("{SELECT} WHERE domain = ?1 ORDER BY began_ms"), [domain.to_string()])
}

fn collect(
    db: &Connection,
    sql: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<ImageOp>, Fault> {
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let columns = Columns(row);
        found.push(ImageOp {
            domain: columns.uuid()?,
            image: columns.word(1, |text| text.parse().ok())?,
            op: columns.word(2, Op::parse)?,
            path: columns.get::<Option<String>>(3)?.map(PathBuf::from),
            ends: columns.get(4)?,
        });
    }
    Ok(found)
}

pub(crate) fn remove(db: &Connection, image: ImageId) -> Result<(), Fault> {
    db.execute("DELETE FROM image_op WHERE image = ?1", [image.to_string()])?;
    Ok(())
}
