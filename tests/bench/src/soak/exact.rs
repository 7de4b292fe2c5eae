//! Whether a saved memory is that of the guest, page by page: the guest stands still, so what its
//! emulator has in memory and what the file holds must be the same. A checksum that the guest makes
//! covers what it wrote itself; its kernel's pages are seen only here.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use kxl_store::image::Image;

use crate::error::BenchError;

/// Bytes that are compared at a time.
const STEP: usize = 1 << 20;

/// Bytes in a page.
const PAGE: usize = 4096;

/// The numbers of the pages that differ; `None` where the image has no memory of its own (the
/// emulator's state file holds it).
pub(super) fn differing(
    file: &Path,
    pid: i32,
    scratch: &Path,
) -> Result<Option<Vec<u64>>, BenchError> {
    let image = Image::open_file(file)?;
    let Some(layout) = image.memory() else { return Ok(None) };
    let open = || {
        let copy = File::options().create_new(true).read(true).write(true).open(scratch)?;
        // Without a name from here on.
        fs::remove_file(scratch)?;
        Ok(copy)
    };
    let copy: File = open().map_err(BenchError::io(format!("make {}", scratch.display())))?;
    copy.set_len(layout.size).map_err(BenchError::io("size a copy"))?;
    image.copy_memory(&copy, &mut |_| true)?;
    let start = mapping(pid, layout.size)?;
    let path = format!("/proc/{pid}/mem");
    let memory = File::open(&path).map_err(BenchError::io(format!("open {path}")))?;
    let (mut ours, mut theirs) = (vec![0; STEP], vec![0; STEP]);
    let mut found = Vec::new();
    for at in (0..layout.size).step_by(STEP) {
        let length = usize::try_from(layout.size - at).unwrap_or(STEP).min(STEP);
        copy.read_exact_at(&mut ours[..length], at).map_err(BenchError::io("read a copy"))?;
        memory
            .read_exact_at(&mut theirs[..length], start + at)
            .map_err(BenchError::io(format!("read {path}")))?;
        let pages = ours[..length].chunks(PAGE).zip(theirs[..length].chunks(PAGE));
        let first = at / PAGE as u64;
        found.extend((first..).zip(pages).filter(|(_, (a, b))| a != b).map(|(page, _)| page));
    }
    Ok(Some(found))
}

/// Where a process has its one mapping of that size.
fn mapping(pid: i32, size: u64) -> Result<u64, BenchError> {
    let path = format!("/proc/{pid}/maps");
    let text = fs::read_to_string(&path).map_err(BenchError::io(format!("read {path}")))?;
    start_of(&text, size)
        .ok_or_else(|| BenchError::wrong(format!("{path} has no one mapping of {size} bytes")))
}

fn start_of(maps: &str, size: u64) -> Option<u64> {
    let mut found = maps.lines().filter_map(|line| {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        let from = u64::from_str_radix(from, 16).ok()?;
        let to = u64::from_str_radix(to, 16).ok()?;
        (to - from == size).then_some(from)
    });
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_the_one_mapping_of_its_size() {
        let maps = "1000-3000 rw-p 0 00:00 0\n8000-c000 rw-p 0 00:00 0 [heap]\n";
        assert_eq!(start_of(maps, 0x2000), Some(0x1000));
        assert_eq!(start_of(maps, 0x4000), Some(0x8000));
        assert_eq!(start_of(maps, 0x1000), None);
        assert_eq!(start_of(&maps.repeat(2), 0x2000), None);
    }
}
