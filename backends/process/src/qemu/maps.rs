//! Where in its emulator's memory a guest's memory is.

use std::io;
use std::ops::Range;
use std::path::Path;

use kxl_backend::Process;

/// A mapping of a process, as smaps tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) addresses: Range<u64>,
    /// Bytes that are the process's own, in memory or swapped out, and not those of a file.
    pub(super) own: u64,
    /// No child inherits it: QEMU says so of every memory block of its guest, and of nothing else
    /// that is of the size of one.
    pub(super) guest: bool,
}

impl Mapping {
    pub(super) const fn length(&self) -> u64 {
        self.addresses.end - self.addresses.start
    }
}

/// A memory block of a machine, as QEMU's `info ramblock` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RamBlock {
    pub(super) name: String,
    /// Bytes that the machine uses, and that its state has.
    pub(super) used: u64,
    /// Bytes that are mapped.
    pub(super) total: u64,
}

/// The mappings of a process.
pub(super) fn of(process: &Process) -> io::Result<Vec<Mapping>> {
    let proc = Path::new("/proc").join(process.identity().pid.to_string());
    Ok(parsed(&std::fs::read_to_string(proc.join("smaps"))?))
}

/// The mappings in the text of smaps.
pub(super) fn parsed(smaps: &str) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some(addresses) = head(line) {
            found.push(Mapping { addresses, own: 0, guest: false });
        } else if let Some(last) = found.last_mut() {
            if let Some(bytes) = kilobytes(line, "Anonymous:").or_else(|| kilobytes(line, "Swap:"))
            {
                last.own += bytes;
            } else if let Some(flags) = line.strip_prefix("VmFlags:") {
                last.guest = flags.split_whitespace().any(|flag| flag == "dc");
            }
        }
    }
    found
}

/// The addresses in the first line of a mapping.
fn head(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let addresses = hex(start)?..hex(end)?;
    (addresses.start < addresses.end).then_some(addresses)
}

/// The value of a line `Key:   123 kB`, in bytes.
pub(super) fn kilobytes(line: &str, key: &str) -> Option<u64> {
    let value = line.strip_prefix(key)?.trim().strip_suffix("kB")?.trim();
    value.parse::<u64>().ok()?.checked_mul(1024)
}

/// The blocks in the answer to `info ramblock`.
pub(super) fn blocks(answer: &str) -> Vec<RamBlock> {
    let block = |line: &str| {
        // Name, page size in two words, offset, used, total; a name may hold blanks, and a later
        // QEMU tells more behind.
        let words: Vec<&str> = line.split_whitespace().collect();
        let unit = words.iter().position(|word| *word == "KiB" || *word == "MiB")?;
        let hex = |at: usize| u64::from_str_radix(words.get(at)?.strip_prefix("0x")?, 16).ok();
        let name = words.get(..unit.checked_sub(1)?)?.join(" ");
        let (used, total) = (hex(unit + 2)?, hex(unit + 3)?);
        (!name.is_empty()).then_some(RamBlock { name, used, total })
    };
    answer.lines().filter_map(block).collect()
}

/// The one mapping of a guest's block of this size; `None` where there is no such one, or several.
pub(super) fn only(mappings: &[Mapping], size: u64) -> Option<&Mapping> {
    let mut found = mappings.iter().filter(|mapping| mapping.guest && mapping.length() == size);
    found.next().filter(|_| found.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "55d0000-55d2000 r-xp 0 0:0 1 /usr/bin/qemu\nSize: 8 kB\nRss: 8 kB\n\
                         VmFlags: rd ex mr mw me\n\
                         7f0000000000-7f0010000000 rw-p 0 0:0 0\nSize:             262144 kB\n\
                         KernelPageSize: 4 kB\nRss:              120000 kB\nPss: 1 kB\n\
                         Anonymous:        100000 kB\nSwap:             5000 kB\n\
                         VmFlags: rd wr mr mw me dc ac hg mg\n";

    #[test]
    fn a_guests_mapping_is_found_by_its_size() {
        let mappings = parsed(SMAPS);
        assert_eq!(mappings.len(), 2);
        let found = only(&mappings, 256 << 20).unwrap();
        assert_eq!(found.addresses, 0x7f00_0000_0000..0x7f00_1000_0000);
        assert_eq!(found.own, 105_000 << 10);
        assert_eq!(only(&mappings, 8192), None, "not a guest's");
        assert_eq!(only(&parsed(&SMAPS.repeat(2)), 256 << 20), None, "which of the two?");
    }

    #[test]
    fn blocks_are_told_with_what_is_used_and_what_is_mapped() {
        let text = "              Block Name    PSize              Offset               Used              Total\n\
                    \u{20}                   ram0    4 KiB  0x0 0x0000000008000000 0x0000000008000000\n\
                    \u{20}   /rom@etc/acpi/tables    4 KiB  0x0 0x0000000000020000 0x0000000000200000\n\
                    \u{20}              one more    2 MiB  0x0 0x1000 0x2000 0x7f0000000000 ro\n";
        let block = |name: &str, used, total| RamBlock { name: name.into(), used, total };
        let expected = [
            block("ram0", 128 << 20, 128 << 20),
            block("/rom@etc/acpi/tables", 0x2_0000, 0x20_0000),
            block("one more", 0x1000, 0x2000),
        ];
        assert_eq!(blocks(text), expected);
        assert_eq!(blocks("unknown command: 'info ramblock'"), []);
    }
}
