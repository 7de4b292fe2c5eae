//! The disk without kxl: what it can take, and files that are not in memory.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};

use crate::error::BenchError;

/// Bytes in one write: more is not faster here.
const BLOCK: usize = 4 << 20;

/// What O_DIRECT wants buffers and sizes to be multiples of.
const ALIGN: usize = 4096;

/// Writes as many bytes past the page cache into a new file in `dir`, one block after the other,
/// until they are durable; the time that takes. The file is removed.
///
/// # Errors
/// When the file system refuses O_DIRECT or has no room.
pub(crate) fn write_direct(dir: &Path, bytes: u64) -> Result<Duration, BenchError> {
    crate::interrupt::check()?;
    let path = dir.join("direct-write");
    let failed = |attempt: &str| BenchError::io(format!("{attempt} {}", path.display()));
    let mut room = vec![0_u8; BLOCK + ALIGN];
    let at = room.as_ptr().align_offset(ALIGN);
    let block = &mut room[at..at + BLOCK];
    let mut number = 0x9E37_79B9_7F4A_7C15_u64;
    for eight in block.chunks_exact_mut(8) {
        number = number.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        eight.copy_from_slice(&number.to_le_bytes());
    }
    let mut open = File::options();
    open.create(true).truncate(true).write(true).custom_flags(OFlag::O_DIRECT.bits());
    let start = Instant::now();
    let mut file = open.open(&path).map_err(failed("make"))?;
    let mut left = usize::try_from(bytes).unwrap_or(usize::MAX).next_multiple_of(ALIGN);
    while left > 0 {
        let now = left.min(BLOCK);
        file.write_all(&block[..now]).map_err(failed("write"))?;
        left -= now;
    }
    file.sync_all().map_err(failed("write"))?;
    let took = start.elapsed();
    fs::remove_file(&path).map_err(failed("remove"))?;
    Ok(took)
}

/// Takes a file, or the files of a directory, out of the page cache. What a process maps stays.
///
/// # Errors
/// When one cannot be opened or made durable first.
pub(crate) fn cool(path: &Path) -> Result<(), BenchError> {
    let failed = || BenchError::io(format!("take {} out of the page cache", path.display()));
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(failed())?;
        return entries.flatten().try_for_each(|entry| cool(&entry.path()));
    }
    let file = File::open(path).map_err(failed())?;
    file.sync_data().map_err(failed())?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        .map_err(|errno| failed()(errno.into()))
}

/// Bytes that files below `path` take on the disk.
///
/// # Errors
/// When one cannot be looked at.
pub(crate) fn taken(path: &Path) -> Result<u64, BenchError> {
    use std::os::unix::fs::MetadataExt;
    let data = path.metadata().map_err(BenchError::io(format!("look at {}", path.display())))?;
    if !data.is_dir() {
        return Ok(data.blocks() * 512);
    }
    let entries = fs::read_dir(path).map_err(BenchError::io(format!("read {}", path.display())))?;
    entries.flatten().try_fold(0, |sum, entry| Ok(sum + taken(&entry.path())?))
}
