//! What is behind a disk: an open file or block device.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, OFlags};
use thiserror::Error;

use super::SECTOR;
use crate::virtio::Told;

/// Why something is no disk.
#[derive(Debug, Error)]
pub enum DiskError {
    /// The system's refusal.
    #[error("cannot open the disk {path}")]
    Open {
        /// Its name.
        path: String,
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// The size, or the beginning, cannot be read.
    #[error("cannot look at the disk {path}")]
    Look {
        /// Its name.
        path: String,
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// Neither file nor block device.
    #[error("{path} is neither a file nor a block device")]
    Kind {
        /// Its name.
        path: String,
    },
    /// Open for reading, but to be written.
    #[error("the disk {path} is open for reading only; make it read-only or open it for writing")]
    ReadOnly {
        /// Its name.
        path: String,
    },
    /// Another format.
    #[error(
        "{path} is a {format} image, and disks are raw; \
         convert it with: qemu-img convert -O raw {path} {path}.raw"
    )]
    Format {
        /// Its name.
        path: String,
        /// The format.
        format: &'static str,
    },
}

/// An open disk.
#[derive(Debug)]
pub struct Disk {
    file: File,
    sectors: u64,
    block_size: u32,
    readonly: bool,
    /// Reads can be told not to wait.
    tells_waits: Cell<bool>,
    /// What it is called where errors are told, and when that was done last.
    id: String,
    told: Cell<Option<Instant>>,
}

/// Opens a disk by name.
///
/// # Errors
/// Any [`DiskError`].
pub fn open(path: &Path, readonly: bool) -> Result<Disk, DiskError> {
    let name = path.display().to_string();
    let mut options = File::options();
    // A pipe that somebody has put there must not be waited for; it is refused for what it is.
    options.read(true).write(!readonly).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path);
    let file = file.map_err(|source| DiskError::Open { path: name.clone(), source })?;
    Disk::new(file, &name, readonly)
}

impl Disk {
    /// Takes a file that is open; `name` is what it is called in errors.
    ///
    /// # Errors
    /// Any [`DiskError`] but that of opening.
    pub fn new(file: File, name: &str, readonly: bool) -> Result<Self, DiskError> {
        let path = || name.to_owned();
        let look = |source| DiskError::Look { path: path(), source };
        let kind = file.metadata().map_err(look)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(DiskError::Kind { path: path() });
        }
        let mode = rustix::fs::fcntl_getfl(&file).map_err(|error| look(error.into()))?;
        if !readonly && mode & OFlags::RWMODE != OFlags::RDWR {
            return Err(DiskError::ReadOnly { path: path() });
        }
        if let Some(format) = foreign_format(&file).map_err(look)? {
            return Err(DiskError::Format { path: path(), format });
        }
        let block_size = if kind.is_block_device() {
            rustix::fs::ioctl_blksszget(&file).map_err(|error| look(error.into()))?
        } else {
            512
        };
        let sectors = size(&file).map_err(look)? / SECTOR;
        let (tells_waits, told) = (Cell::new(true), Cell::new(None));
        Ok(Self { file, sectors, block_size, readonly, tells_waits, id: path(), told })
    }

    /// The disk under this id, by which its errors are told.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.id);
        self
    }

    /// By which its errors are told.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// An error of the host, to be told; not more than one a second.
    pub(super) fn error(&self, write: bool, error: &io::Error) -> Option<Told> {
        let now = Instant::now();
        let soon = |last: Instant| now.saturating_duration_since(last) < Duration::from_secs(1);
        if self.told.get().is_some_and(soon) {
            return None;
        }
        self.told.set(Some(now));
        Some(Told::DiskError { disk: self.id.clone(), write, reason: error.to_string() })
    }

    /// The same over another file, for tests.
    #[cfg(test)]
    pub(super) fn over(self, file: File) -> Self {
        Self { file, ..self }
    }

    pub(super) fn measured_again(mut self) -> Self {
        if let Ok(bytes) = size(&self.file) {
            self.sectors = bytes / SECTOR;
        }
        self
    }

    /// Sectors of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// What is read and written at once.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Whether writes are refused.
    #[must_use]
    pub fn is_readonly(&self) -> bool {
        self.readonly
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether a read can be told not to wait for the disk.
    pub(super) fn tells_waits(&self) -> bool {
        self.tells_waits.get()
    }

    /// The file system knows no such reads.
    pub(super) fn waits_untold(&self) {
        self.tells_waits.set(false);
    }

    /// Has a range brought into memory, without waiting for it.
    pub(super) fn fetch(&self, offset: u64, length: usize) {
        let length = NonZeroU64::new(length as u64);
        // It is advice: what does not come so comes when it is read.
        let _advised =
            rustix::fs::fadvise(&self.file, offset, length, rustix::fs::Advice::WillNeed);
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives the space of a range back.
    pub(super) fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.file, flags, offset, length)?)
    }

    /// Fills a range with zeros, and gives its space back if it may.
    pub(super) fn zero(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        if unmap && self.discard(offset, length).is_ok() {
            return Ok(());
        }
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, length) {
            Err(error) if error == rustix::io::Errno::OPNOTSUPP => self.write_zeros(offset, length),
            done => Ok(done?),
        }
    }

    fn write_zeros(&self, mut offset: u64, mut length: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while length > 0 {
            let count = ZEROS.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            self.file.write_all_at(&ZEROS[..count], offset)?;
            offset += count as u64;
            length -= count as u64;
        }
        Ok(())
    }
}

fn size(mut file: &File) -> io::Result<u64> {
    let kind = file.metadata()?;
    if kind.is_file() { Ok(kind.len()) } else { file.seek(SeekFrom::End(0)) }
}

/// The name of a format that is not raw, by what files of it begin with. A guest could write such
/// a beginning into a raw disk and would lose it at the next start: that is loud, and better than
/// a guest that is shown the inside of an image.
fn foreign_format(file: &File) -> io::Result<Option<&'static str>> {
    let mut start = [0; 8];
    let mut have = 0;
    while have < start.len() {
        match file.read_at(&mut start[have..], have as u64) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(match &start {
        [b'Q', b'F', b'I', 0xfb, ..] => Some("qcow2"),
        [b'K', b'D', b'M', b'V', ..] => Some("vmdk"),
        b"vhdxfile" => Some("vhdx"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn file(name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("kxl-disk-{}-{name}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn a_raw_file_is_a_disk_of_whole_sectors() {
        let path = file("raw", &[1; 5 * 512 + 100]);
        let disk = open(&path, true).unwrap();
        assert_eq!((disk.sectors(), disk.block_size(), disk.is_readonly()), (5, 512, true));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_qcow2_image_is_refused_with_what_to_do() {
        let path = file("qcow2", b"QFI\xfb\0\0\0\x03 and more");
        let error = open(&path, false).unwrap_err().to_string();
        assert!(error.contains("qcow2") && error.contains("qemu-img convert -O raw"), "{error}");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_open_for_reading_is_no_disk_to_write() {
        let path = file("ro", &[0; 512]);
        let error = Disk::new(File::open(&path).unwrap(), "x", false).unwrap_err();
        assert!(matches!(error, DiskError::ReadOnly { .. }), "{error}");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_directory_is_no_disk() {
        let error = open(&std::env::temp_dir(), true).unwrap_err();
        assert!(matches!(error, DiskError::Kind { .. }), "{error}");
    }
}
