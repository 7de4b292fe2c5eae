//! How much memory a domain's emulator really holds.

use std::fs;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kxl_backend::Process;

/// What the devices of a machine need beside their memory blocks: far more than any was seen to.
const DEVICES: u64 = 4 << 20;

/// The memory blocks of a machine with every kind of screen, where QEMU does not tell.
const UNKNOWN: u64 = 192 << 20;

/// Bytes of the main memory block that the guest has touched, at most `size`: what is resident of
/// it, and for one that was mapped from an image (`file` is QEMU's descriptor of it) what that holds.
pub(super) fn touched(process: &Process, size: u64, file: Option<RawFd>) -> u64 {
    let proc = Path::new("/proc").join(process.identity().pid.to_string());
    let resident = resident(&proc, size).unwrap_or(size);
    let image = file.map_or(0, |number| {
        let file = proc.join("fd").join(number.to_string());
        // It is 0 for a file that is gone, whose data has become the guest's own by then.
        fs::metadata(file).map_or(size, |meta| meta.blocks().saturating_mul(512))
    });
    resident.saturating_add(image).min(size)
}

/// What is resident of the mapping of this size, else of the whole process.
fn resident(proc: &Path, size: u64) -> Option<u64> {
    let maps = fs::read_to_string(proc.join("smaps")).ok()?;
    block_rss(&maps, size).or_else(|| {
        let all = fs::read_to_string(proc.join("smaps_rollup")).ok()?;
        all.lines().find_map(|line| kilobytes(line, "Rss:"))
    })
}

/// The resident size of the one mapping of this size.
fn block_rss(maps: &str, size: u64) -> Option<u64> {
    let mut ours = false;
    let mut found = None;
    for line in maps.lines() {
        if let Some(length) = kilobytes(line, "Size:") {
            ours = length == size;
        } else if ours && let Some(bytes) = kilobytes(line, "Rss:") {
            if found.is_some() {
                return None;
            }
            found = Some(bytes);
        }
    }
    found
}

/// The value of a line `Key:   123 kB`, in bytes.
fn kilobytes(line: &str, key: &str) -> Option<u64> {
    let value = line.strip_prefix(key)?.trim().strip_suffix("kB")?.trim();
    value.parse::<u64>().ok()?.checked_mul(1024)
}

/// An upper bound of the device stream in bytes, by the answer to `info ramblock`: every block but
/// the main one travels in it, once, and again for as much as changes while the guest runs.
pub(super) fn device_bound(blocks: &str, main: &str) -> u64 {
    let used = |line: &str| {
        // Name, page size in two words, offset, used, total; a name may hold blanks.
        let words: Vec<&str> = line.split_whitespace().rev().collect();
        let hex = |word: &&str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
        let (used, name) = (words.get(1).and_then(hex)?, words.last()?);
        Some(if *name == main { 0 } else { used })
    };
    let known: Vec<u64> = blocks.lines().filter_map(used).collect();
    if known.is_empty() {
        return UNKNOWN + DEVICES;
    }
    known.iter().sum::<u64>().saturating_mul(2).saturating_add(DEVICES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapping_is_found_by_its_size() {
        let maps = "55d0-55d1 r-xp 0 0:0 1 /usr/bin/qemu\nSize: 8 kB\nRss: 8 kB\n\
                    7f00-7f01 rw-p 0 0:0 0\nSize:             262144 kB\nKernelPageSize: 4 kB\n\
                    Rss:              120000 kB\nPss: 1 kB\n";
        assert_eq!(block_rss(maps, 256 << 20), Some(120_000 << 10));
        assert_eq!(block_rss(maps, 128 << 20), None);
        assert_eq!(block_rss(&maps.repeat(2), 256 << 20), None, "which of the two?");
    }

    #[test]
    fn blocks_other_than_the_main_one_bound_the_device_stream() {
        let text = "              Block Name    PSize              Offset               Used              Total\n\
                    \u{20}                   ram0    4 KiB  0x0 0x0000000008000000 0x0000000008000000\n\
                    \u{20}   /rom@etc/acpi/tables    4 KiB  0x0 0x0000000000020000 0x0000000000200000\n";
        assert_eq!(device_bound(text, "ram0"), 2 * 0x20000 + DEVICES);
        assert_eq!(device_bound("unknown command", "ram0"), UNKNOWN + DEVICES);
    }
}
