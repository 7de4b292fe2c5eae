//! Whether disks are still what they were when a state was saved.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use kxl_domain::config::model::{Disk, DiskFormat};
use kxl_domain::image::DiskIdentity;
use nix::fcntl::OFlag;

use super::{Digest, qcow2};
use crate::Result;
use crate::error::StoreError;

/// Bytes at the beginning of a disk that are part of its identity.
const HEADER: u64 = 64 << 10;

/// What a disk is at this moment. To be asked when the guest stands still and its writes are
/// flushed. A tray without a medium has no path and no bytes.
///
/// # Errors
/// `Io` when it is not there or cannot be read, and for what is neither a file nor a block device.
pub fn identify(disk: &Disk) -> Result<DiskIdentity> {
    let path = disk.target.clone().unwrap_or_default();
    let now = look(&path).map_err(|error| StoreError::io("look at the disk", &path, error))?;
    Ok(DiskIdentity {
        vdev: disk.vdev.clone(),
        path,
        format: disk.format,
        writable: disk.readwrite,
        size: now.size,
        mtime_ns: now.mtime_ns,
        header: now.header,
        snapshot: None,
    })
}

/// The identity of a file that an emulator has open for its guest without the configuration naming
/// it: it has no name of the guest's, and is compared by its path.
///
/// # Errors
/// As [`identify`].
pub fn identify_file(path: &Path, writable: bool) -> Result<DiskIdentity> {
    let now = look(path).map_err(|error| StoreError::io("look at the file", path, error))?;
    Ok(DiskIdentity {
        vdev: String::new(),
        path: path.to_owned(),
        format: DiskFormat::Raw,
        writable,
        size: now.size,
        mtime_ns: now.mtime_ns,
        header: now.header,
        snapshot: None,
    })
}

/// What has changed about a disk since it was identified; `None` when it is as it was, or was put
/// back to the snapshot that was taken of it then. A text that goes on after the name of the disk.
///
/// # Errors
/// `Io` when it is there and cannot be read.
pub fn changed(then: &DiskIdentity) -> Result<Option<String>> {
    let now = match look(&then.path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Some(format!("is gone: there is no {}", then.path.display())));
        }
        other => other.map_err(|error| StoreError::io("look at the disk", &then.path, error))?,
    };
    match difference(then, &now) {
        Some(_) if is_put_back(then, &now)? => Ok(None),
        change => Ok(change),
    }
}

/// Whether a disk that was touched has the contents of the snapshot that was taken of it.
fn is_put_back(then: &DiskIdentity, now: &Now) -> Result<bool> {
    let Some(snapshot) = then.snapshot.as_ref().filter(|_| then.format == DiskFormat::Qcow2) else {
        return Ok(false);
    };
    // What it lies over is named in its header.
    let same_base = now.header == then.header;
    let looked = open(&then.path).and_then(|file| qcow2::stands_at(&file, snapshot, same_base));
    match looked {
        // A table that ends in the middle is no proof of anything.
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => {
            Ok(false)
        }
        other => other.map_err(|error| StoreError::io("look at the disk", &then.path, error)),
    }
}

fn difference(then: &DiskIdentity, now: &Now) -> Option<String> {
    if now.size != then.size {
        return Some(format!("has {} bytes, and had {}", now.size, then.size));
    }
    match (then.mtime_ns, now.mtime_ns) {
        (Some(was), Some(is)) if is > was => {
            return Some(format!("was written at {}, after the save", utc(is)));
        }
        (Some(was), Some(is)) if is < was => {
            return Some(format!(
                "is another copy: last written at {}, where the saved one was at {}",
                utc(is),
                utc(was)
            ));
        }
        (Some(_), None) => return Some("is a block device, and was a file".into()),
        (None, Some(_)) if then.path != Path::new("") => {
            return Some("is a file, and was a block device".into());
        }
        _ => {}
    }
    (now.header != then.header)
        .then(|| "does not begin with the bytes that it began with".to_owned())
}

struct Now {
    size: u64,
    mtime_ns: Option<i64>,
    header: Digest,
}

fn look(path: &Path) -> io::Result<Now> {
    if path.as_os_str().is_empty() {
        return Ok(Now { size: 0, mtime_ns: None, header: blake3::hash(&[]).into() });
    }
    let mut file = open(path)?;
    let meta = file.metadata()?;
    let (size, mtime_ns) = if meta.file_type().is_block_device() {
        (file.seek(SeekFrom::End(0))?, None)
    } else if meta.is_file() {
        (meta.len(), Some(meta.mtime() * 1_000_000_000 + meta.mtime_nsec()))
    } else {
        let text = "it is neither a file nor a block device";
        return Err(io::Error::new(ErrorKind::InvalidInput, text));
    };
    file.seek(SeekFrom::Start(0))?;
    let mut header = Vec::new();
    file.take(HEADER).read_to_end(&mut header)?;
    Ok(Now { size, mtime_ns, header: blake3::hash(&header).into() })
}

/// Never waits for the other end of a pipe.
fn open(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)
}

/// A moment as a date: proleptic Gregorian, days counted from the first of March, so that the leap
/// day is the last of its year.
fn utc(ns: i64) -> String {
    let seconds = ns.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400) + 719_468, seconds.rem_euclid(86_400));
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!(
        "{:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        year + era * 400 + later,
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400 * 1_000_000_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_795_269_599 * 1_000_000_000), "2026-11-21 13:59:59 UTC");
        assert_eq!(utc(-1), "1969-12-31 23:59:59 UTC");
    }
}
