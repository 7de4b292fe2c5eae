//! Room on the disk, taken before a guest is stopped and given back piece by piece if the disk
//! turns out to be full while the image is written.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};

use super::{CHUNK, Need};
use crate::Result;
use crate::error::StoreError;

/// For the file system's own records of the image, and for the manifest without its table.
const MARGIN: u64 = 8 << 20;
/// How much is given back at once.
const STEP: u64 = 64 << 20;

/// A nameless file that holds space and no data; the space ends with it.
///
/// It is beside the image and not in it: pages that are never written stay holes of the image, and
/// nothing has to be punched out of it when the guest may already be waiting.
#[derive(Debug)]
pub(super) struct Reserve {
    held: Mutex<Option<(File, u64)>>,
    /// Bytes given back so far.
    given: AtomicU64,
}

impl Reserve {
    /// Takes what is needed in the file system of `dir`.
    pub(super) fn take(dir: &Path, need: &Need) -> Result<Self> {
        let size = need.memory.unwrap_or(0);
        let table = size.div_ceil(CHUNK).saturating_mul(32);
        let bytes = need.touched.min(size).saturating_add(need.device).saturating_add(table);
        let bytes = bytes.saturating_add(MARGIN);
        let refuse = |free| Err(StoreError::NoRoom { need: bytes, free, path: dir.to_path_buf() });
        let free = free(dir)?;
        if free < bytes {
            return refuse(free);
        }
        let file = match nameless(dir) {
            Ok(file) => file,
            // Without a place to hold it in, the look at the free space has to do.
            Err(error) if unsupported(&error) => return Ok(Self::none()),
            Err(error) => return Err(StoreError::io("reserve space", dir, error)),
        };
        let Ok(length) = i64::try_from(bytes) else { return refuse(free) };
        match retry(|| fallocate(&file, FallocateFlags::empty(), 0, length)) {
            Ok(()) => Ok(Self::of(Some((file, bytes)))),
            Err(Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) => refuse(self::free(dir)?),
            Err(error) if unsupported(&error.into()) => Ok(Self::none()),
            Err(error) => Err(StoreError::io("reserve space", dir, error.into())),
        }
    }

    const fn of(held: Option<(File, u64)>) -> Self {
        Self { held: Mutex::new(held), given: AtomicU64::new(0) }
    }

    /// No space at all, for writes that nothing was reserved for.
    pub(super) const fn none() -> Self {
        Self::of(None)
    }

    /// Gives some of it back; `false` when there is nothing left to give. A write that was begun
    /// when `seen` bytes had been given back is to be tried again without more where another thread
    /// has given since.
    fn give(&self, seen: u64) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if self.given.load(Ordering::Acquire) != seen {
            return true;
        }
        let Some((file, left)) = held.as_mut().filter(|(_, left)| *left > 0) else {
            return false;
        };
        let less = left.saturating_sub(STEP);
        if file.set_len(less).is_err() {
            return false;
        }
        self.given.fetch_add(*left - less, Ordering::Release);
        *left = less;
        true
    }

    /// Gives all of it back.
    pub(super) fn release(&self) {
        drop(self.held.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Writes all the bytes at an offset, out of the reserve once the disk is full.
    pub(super) fn write(&self, file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let seen = self.given.load(Ordering::Acquire);
            match file.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_full(&error) && self.give(seen) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Bytes that may still be written in the file system of `dir`.
pub(super) fn free(dir: &Path) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(dir)
        .map_err(|error| StoreError::io("look at the free space", dir, error.into()))?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// A file without a name in a directory: it ends with its last descriptor.
pub(super) fn nameless(dir: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlag::O_TMPFILE.bits())
        .open(dir)
}

/// Whether the file system, or the kernel, does not have what was asked for.
pub(super) fn unsupported(error: &io::Error) -> bool {
    let known = [Errno::EOPNOTSUPP, Errno::ENOSYS, Errno::EINVAL, Errno::EISDIR, Errno::ENOENT];
    known.iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

pub(super) fn is_full(error: &io::Error) -> bool {
    [Errno::ENOSPC, Errno::EDQUOT].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

pub(super) fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}
