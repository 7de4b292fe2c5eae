//! Asking the system to read parts of an image before somebody waits for them.

use std::fs::File;
use std::io;
use std::ops::Range;

use kxl_domain::ImageId;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::target::open_part;
use super::{DEVICE_FILE, MEMORY_FILE};
use crate::paths::Paths;

/// Asks for the device stream of an image of the store and for some ranges of its memory. Looks at
/// nothing of what is read; returns when everything is asked for, which is before it is there.
///
/// # Errors
/// When a part cannot be opened, or the system does not take such advice.
pub fn read_ahead(paths: &Paths, id: ImageId, memory: &[Range<u64>]) -> io::Result<()> {
    let path = paths.image_dir(id);
    ask(&open_part(&path.join(DEVICE_FILE), false)?, 0..0)?;
    if memory.is_empty() {
        return Ok(());
    }
    let file = open_part(&path.join(MEMORY_FILE), false)?;
    memory.iter().try_for_each(|range| ask(&file, range.clone()))
}

/// Nothing of a range means all of the file.
fn ask(file: &File, range: Range<u64>) -> io::Result<()> {
    let number = |bytes: u64| i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput);
    let (start, length) = (number(range.start)?, number(range.end.saturating_sub(range.start))?);
    let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
    Ok(posix_fadvise(file, start, length, advice)?)
}
