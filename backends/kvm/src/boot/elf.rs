//! What an ELF kernel says about itself.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use linux_loader::loader::KernelLoaderResult;
use linux_loader::loader::elf::PvhBootCapability;

use super::Entry;

/// `e_machine` of x86-64.
const X86_64: [u8; 2] = [62, 0];

/// Whether it is an x86-64 ELF. The file is back at its start.
pub(super) fn is_for_us(file: &mut File) -> std::io::Result<bool> {
    let mut head = [0; 20];
    file.read_exact(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    // Class 64 bit, little endian, and the machine.
    Ok(head[4] == 2 && head[5] == 1 && head[18..20] == X86_64)
}

/// PVH where its note is there, else the file's own entry.
pub(super) fn entry(kernel: &KernelLoaderResult) -> Entry {
    match kernel.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(entry) => Entry::Pvh(entry.0),
        _ => Entry::Linux64(kernel.kernel_load.0),
    }
}
