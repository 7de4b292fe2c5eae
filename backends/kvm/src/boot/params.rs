//! The two forms of what a kernel is told: boot parameters ("zero page") and PVH's start info.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress};

use super::{BootError, KERNEL, put};
use crate::memory::{self, Memory};

/// Where the boot parameters are; a page.
pub(super) const PARAMS: u64 = 0x7000;

/// Where PVH's structures are: start info, module list, memory map.
pub(super) const START_INFO: u64 = 0x6000;
const MODULES: u64 = 0x6040;
const MEMORY_MAP: u64 = 0x6080;

/// The end of conventional memory: what is above, up to 1 MiB, holds the ACPI tables.
pub(crate) const CONVENTIONAL: u64 = 0x9_fc00;

/// Kinds of memory, in both maps.
const RAM: u32 = 1;
const RESERVED: u32 = 2;
const ACPI: u32 = 3;

/// What a kernel is told.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) cmdline: u64,
    pub(super) cmdline_length: usize,
    /// Address and bytes.
    pub(super) initrd: Option<(u64, u64)>,
    pub(super) rsdp: u64,
    /// Bytes of memory in all.
    pub(super) ram: u64,
}

/// The memory map: start, length, kind.
fn map(ram: u64) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, CONVENTIONAL, RAM),
        (CONVENTIONAL, 0xe_0000 - CONVENTIONAL, RESERVED),
        (0xe_0000, KERNEL - 0xe_0000, ACPI),
    ];
    for (base, _, length) in memory::parts(ram) {
        let start = base.max(KERNEL);
        if base + length > start {
            map.push((start, base + length - start, RAM));
        }
    }
    map
}

fn low(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(u32::MAX)
}

/// Boot parameters for the 64-bit entry. `header` is a bzImage's own; an ELF has none.
pub(super) fn linux(
    memory: &Memory,
    given: &Given,
    header: Option<setup_header>,
) -> Result<(), BootError> {
    let mut params = boot_params {
        hdr: header.unwrap_or(setup_header {
            boot_flag: 0xaa55,
            // "HdrS".
            header: 0x5372_6448,
            kernel_alignment: 0x0100_0000,
            ..setup_header::default()
        }),
        acpi_rsdp_addr: given.rsdp,
        ..boot_params::default()
    };
    // Loader without a number of its own; the command line is where cmd_line_ptr says.
    params.hdr.type_of_loader = 0xff;
    params.hdr.cmd_line_ptr = low(given.cmdline);
    params.hdr.cmdline_size = low(given.cmdline_length as u64);
    if let Some((start, bytes)) = given.initrd {
        params.hdr.ramdisk_image = low(start);
        params.hdr.ramdisk_size = low(bytes);
    }
    for (index, (addr, size, kind)) in map(given.ram).into_iter().enumerate() {
        params.e820_table[index] = boot_e820_entry { addr, size, r#type: kind };
        params.e820_entries += 1;
    }
    memory.write_obj(params, GuestAddress(PARAMS)).map_err(|_| BootError::Memory)
}

/// PVH's start info, with a memory map.
pub(super) fn pvh(memory: &Memory, given: &Given) -> Result<(), BootError> {
    let map = map(given.ram);
    let mut info = hvm_start_info {
        magic: 0x336e_c578,
        version: 1,
        cmdline_paddr: given.cmdline,
        rsdp_paddr: given.rsdp,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: low(map.len() as u64),
        ..hvm_start_info::default()
    };
    if let Some((paddr, size)) = given.initrd {
        info.nr_modules = 1;
        info.modlist_paddr = MODULES;
        put(memory, &hvm_modlist_entry { paddr, size, ..hvm_modlist_entry::default() }, MODULES)?;
    }
    let entry_size = size_of::<hvm_memmap_table_entry>() as u64;
    for (index, (addr, size, type_)) in (0u64..).zip(map) {
        let entry = hvm_memmap_table_entry { addr, size, type_, reserved: 0 };
        put(memory, &entry, MEMORY_MAP + index * entry_size)?;
    }
    put(memory, &info, START_INFO)
}
