//! What has to be in memory and in the first processor before a Linux kernel runs.
//!
//! Three entries are known: the 64-bit entry of the Linux boot protocol (bzImage, or an ELF
//! vmlinux without a PVH note) and PVH (an ELF with that note). Sources: the kernel's
//! Documentation/arch/x86/boot.rst and Xen's docs/misc/pvh.pandoc.

mod elf;
mod params;
mod registers;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use linux_loader::loader::{BzImage, Cmdline, Elf, KernelLoader, KernelLoaderResult, load_cmdline};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, ReadVolatile};

use crate::memory::{self, Memory, PAGE};
pub use registers::{Registers, of_entry};

/// Where the kernel's command line is put, and how long it may be.
const CMDLINE: u64 = 0x2_0000;
const CMDLINE_MAX: usize = 4096;

/// Kernels are loaded from 1 MiB on.
const KERNEL: u64 = 0x10_0000;

/// Why nothing can be booted.
#[derive(Debug, Error)]
pub enum BootError {
    /// Neither of the two formats, or damaged.
    #[error("the kernel is neither a bzImage nor a 64-bit ELF vmlinux that fits into memory")]
    Kernel(#[source] linux_loader::loader::Error),
    /// The file cannot be read.
    #[error("cannot read the {what}")]
    Read {
        /// Kernel or initrd.
        what: &'static str,
        /// The system's refusal.
        #[source]
        source: std::io::Error,
    },
    /// It does not fit.
    #[error(
        "the initrd of {bytes} bytes does not fit into memory behind the kernel: give the machine more"
    )]
    Initrd {
        /// Its size.
        bytes: u64,
    },
    /// It is not one that this machine can be entered with.
    #[error("the kernel is for another processor than x86-64, or has no entry that can be used")]
    Entry,
    /// Too long, or bytes that are no text.
    #[error(
        "the kernel's command line has more than {CMDLINE_MAX} bytes or bytes that are not ASCII"
    )]
    Cmdline,
    /// Guest memory is too small.
    #[error("the machine has too little memory to boot in")]
    Memory,
}

/// Where the first processor begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// In long mode, with the address of the boot parameters in RSI.
    Linux64(u64),
    /// In protected mode without paging, with the address of the start info in EBX.
    Pvh(u64),
}

/// What is booted, its files open.
#[derive(Debug)]
pub struct Payload {
    /// The kernel's file.
    pub kernel: File,
    /// The initial RAM disk's file.
    pub initrd: Option<File>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// Puts kernel, initrd, command line and parameters into memory. `rsdp` is where the ACPI tables
/// begin. Can be repeated: the files are read from their start.
///
/// # Errors
/// Any [`BootError`].
pub fn load(memory: &Memory, payload: &mut Payload, rsdp: u64) -> Result<Entry, BootError> {
    let (kernel, entry) = load_kernel(memory, &mut payload.kernel)?;
    if payload.cmdline.len() >= CMDLINE_MAX {
        return Err(BootError::Cmdline);
    }
    let mut cmdline = Cmdline::new(CMDLINE_MAX).map_err(|_| BootError::Cmdline)?;
    cmdline.insert_str(&payload.cmdline).map_err(|_| BootError::Cmdline)?;
    load_cmdline(memory, GuestAddress(CMDLINE), &cmdline).map_err(|_| BootError::Memory)?;
    let initrd =
        payload.initrd.as_mut().map(|file| load_initrd(memory, file, &kernel)).transpose()?;
    let given = params::Given {
        cmdline: CMDLINE,
        cmdline_length: payload.cmdline.len(),
        initrd,
        rsdp,
        ram: memory::size(memory),
    };
    match entry {
        Entry::Linux64(_) => params::linux(memory, &given, kernel.setup_header)?,
        Entry::Pvh(_) => params::pvh(memory, &given)?,
    }
    Ok(entry)
}

fn load_kernel(memory: &Memory, file: &mut File) -> Result<(KernelLoaderResult, Entry), BootError> {
    let read = |source| BootError::Read { what: "kernel", source };
    let mut magic = [0; 4];
    file.seek(SeekFrom::Start(0)).map_err(read)?;
    file.read_exact(&mut magic).map_err(read)?;
    file.seek(SeekFrom::Start(0)).map_err(read)?;
    let high = Some(GuestAddress(KERNEL));
    if magic != *b"\x7fELF" {
        let kernel = BzImage::load(memory, None, file, high).map_err(BootError::Kernel)?;
        // The 64-bit entry is 0x200 bytes behind the 32-bit one, where the header says it exists.
        let header = kernel.setup_header.ok_or(BootError::Entry)?;
        if { header.xloadflags } & 1 == 0 {
            return Err(BootError::Entry);
        }
        let entry = Entry::Linux64(kernel.kernel_load.0 + 0x200);
        return Ok((kernel, entry));
    }
    if !elf::is_for_us(file).map_err(read)? {
        return Err(BootError::Entry);
    }
    let kernel = Elf::load(memory, None, file, high).map_err(BootError::Kernel)?;
    let entry = elf::entry(&kernel);
    Ok((kernel, entry))
}

/// As high as the kernel can reach and below the gap, so that the kernel may unpack itself.
fn load_initrd(
    memory: &Memory,
    file: &mut File,
    kernel: &KernelLoaderResult,
) -> Result<(u64, u64), BootError> {
    let read = |source| BootError::Read { what: "initrd", source };
    let bytes = file.seek(SeekFrom::End(0)).map_err(read)?;
    file.seek(SeekFrom::Start(0)).map_err(read)?;
    let reach = kernel
        .setup_header
        .map_or(u64::from(i32::MAX.cast_unsigned()), |header| u64::from(header.initrd_addr_max));
    let top = memory::size(memory).min(memory::GAP).min(reach.saturating_add(1));
    let page = PAGE as u64;
    let start = top.checked_sub(bytes).map(|start| start / page * page);
    // Where the kernel unpacks itself to, it has no respect for what is there.
    let unpacked = kernel
        .setup_header
        .map_or(0, |header| header.pref_address.saturating_add(u64::from(header.init_size)));
    let behind = kernel.kernel_end.max(KERNEL).max(unpacked);
    let start = start.filter(|start| *start >= behind);
    let start = start.ok_or(BootError::Initrd { bytes })?;
    let length = usize::try_from(bytes).map_err(|_| BootError::Initrd { bytes })?;
    let mut slice =
        memory.get_slice(GuestAddress(start), length).map_err(|_| BootError::Initrd { bytes })?;
    file.read_exact_volatile(&mut slice).map_err(|error| read(std::io::Error::other(error)))?;
    Ok((start, bytes))
}

/// Writes one value at a guest address.
fn put<T: vm_memory::ByteValued>(memory: &Memory, value: &T, at: u64) -> Result<(), BootError> {
    memory.write_obj(*value, GuestAddress(at)).map_err(|_| BootError::Memory)
}

#[cfg(test)]
mod tests;
