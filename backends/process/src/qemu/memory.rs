//! How much memory a domain's emulator really holds.

use std::fs;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kxl_backend::Process;

use super::maps;

/// What the devices of a machine need beside their memory blocks: far more than any was seen to.
const DEVICES: u64 = 4 << 20;

/// The memory blocks of a machine with every kind of screen, where QEMU does not tell.
const UNKNOWN: u64 = 192 << 20;

/// Bytes of the main memory block that the guest has touched, at most `size`: what its emulator has
/// of its own, and for one that was mapped from an image (`file` is QEMU's descriptor of it) what
/// that holds.
pub(super) fn touched(process: &Process, size: u64, file: Option<RawFd>) -> u64 {
    let proc = Path::new("/proc").join(process.identity().pid.to_string());
    let own = own(process, &proc, size).unwrap_or(size);
    let image = file.map_or(0, |number| {
        let file = proc.join("fd").join(number.to_string());
        // It is 0 for a file that is gone, whose data has become the guest's own by then.
        fs::metadata(file).map_or(size, |meta| meta.blocks().saturating_mul(512))
    });
    own.saturating_add(image).min(size)
}

/// What of the mapping of this size is the process's own, else what of the whole process is resident.
fn own(process: &Process, proc: &Path, size: u64) -> Option<u64> {
    let mappings = maps::of(process).ok()?;
    maps::only(&mappings, size).map(|mapping| mapping.own).or_else(|| {
        let all = fs::read_to_string(proc.join("smaps_rollup")).ok()?;
        all.lines().find_map(|line| maps::kilobytes(line, "Rss:"))
    })
}

/// An upper bound of the device stream in bytes, by the answer to `info ramblock`: every block but
/// the main one travels in it, once, and again for as much as changes while the guest runs.
pub(super) fn device_bound(blocks: &str, main: &str) -> u64 {
    let known = maps::blocks(blocks);
    if known.is_empty() {
        return UNKNOWN + DEVICES;
    }
    let apart = known.iter().filter(|block| block.name != main);
    apart.map(|block| block.used).sum::<u64>().saturating_mul(2).saturating_add(DEVICES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_other_than_the_main_one_bound_the_device_stream() {
        let text = "              Block Name    PSize              Offset               Used              Total\n\
                    \u{20}                   ram0    4 KiB  0x0 0x0000000008000000 0x0000000008000000\n\
                    \u{20}   /rom@etc/acpi/tables    4 KiB  0x0 0x0000000000020000 0x0000000000200000\n";
        assert_eq!(device_bound(text, "ram0"), 2 * 0x20000 + DEVICES);
        assert_eq!(device_bound("unknown command", "ram0"), UNKNOWN + DEVICES);
    }
}
