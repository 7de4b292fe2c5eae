//! Guest memory: one block of RAM, cut in two by the gap below 4 GiB.
//!
//! The block has offsets from 0 to its size; an image holds it in this order. Below the gap offset
//! and guest address are the same, above it they differ by the gap.

use std::fs::File;

use thiserror::Error;
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

/// Guest memory as every part of the process sees it. Cloning shares it. What is written through
/// it is noted in its bitmap, as KVM notes what the processors write.
pub type Memory = GuestMemoryMmap<AtomicBitmap>;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Where the gap for devices begins: RAM beyond it is at 4 GiB.
pub const GAP: u64 = 3 << 30;

/// Where RAM goes on behind the gap.
pub const HIGH: u64 = 4 << 30;

/// Why there is no memory.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The system has none, or not so much.
    #[error("cannot map {mib} MiB of guest memory")]
    Map {
        /// The size.
        mib: u64,
        /// The system's refusal.
        #[source]
        source: MmapRegionError,
    },
    /// The file of the memory has another size.
    #[error("the memory file has {have} bytes, the machine {want}")]
    Size {
        /// The file's.
        have: u64,
        /// The machine's.
        want: u64,
    },
    /// The parts do not fit together.
    #[error("cannot lay guest memory out: {0}")]
    Layout(String),
    /// The system's refusal.
    #[error("cannot ask for the size of the memory file")]
    File(#[source] std::io::Error),
}

/// Where guest memory comes from.
#[derive(Debug)]
pub enum Backing {
    /// Nowhere: zeros.
    Anonymous,
    /// A file that is mapped privately at this offset: read when it is touched, never changed.
    Private(File, u64),
    /// A file that is mapped shared at this offset: what the guest writes is in it.
    Shared(File, u64),
}

/// The parts of a block of `size` bytes: guest address, offset in the block, length.
#[must_use]
pub fn parts(size: u64) -> Vec<(u64, u64, u64)> {
    if size <= GAP { vec![(0, 0, size)] } else { vec![(0, 0, GAP), (HIGH, GAP, size - GAP)] }
}

/// The guest address of an offset of the block.
#[must_use]
pub const fn address(offset: u64) -> u64 {
    if offset < GAP { offset } else { offset - GAP + HIGH }
}

/// Maps `mib` MiB of guest memory.
///
/// # Errors
/// Any [`MemoryError`].
pub fn map(mib: u64, backing: &Backing) -> Result<Memory, MemoryError> {
    let size = mib << 20;
    if let Backing::Private(file, at) | Backing::Shared(file, at) = backing {
        let have = file.metadata().map_err(MemoryError::File)?.len();
        if have < at + size {
            return Err(MemoryError::Size { have: have.saturating_sub(*at), want: size });
        }
    }
    let regions = parts(size)
        .into_iter()
        .map(|(base, offset, length)| {
            let region = region(length, offset, backing)
                .map_err(|source| MemoryError::Map { mib, source })?;
            GuestRegionMmap::new(region, GuestAddress(base))
                .ok_or_else(|| MemoryError::Layout("an address beyond the last".into()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Memory::from_regions(regions).map_err(|error| MemoryError::Layout(error.to_string()))
}

fn region(
    length: u64,
    offset: u64,
    backing: &Backing,
) -> Result<MmapRegion<AtomicBitmap>, MmapRegionError> {
    let length = usize::try_from(length).map_err(|_| MmapRegionError::InvalidOffsetLength)?;
    let bitmap = AtomicBitmap::new(length, std::num::NonZeroUsize::MIN.saturating_add(PAGE - 1));
    let builder = MmapRegionBuilder::new_with_bitmap(length, bitmap)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE);
    let file = |file: &File, at: u64| -> Result<FileOffset, MmapRegionError> {
        Ok(FileOffset::new(file.try_clone().map_err(MmapRegionError::Mmap)?, at + offset))
    };
    match backing {
        Backing::Anonymous => builder
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
            .build(),
        Backing::Private(from, at) => builder
            .with_file_offset(file(from, *at)?)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_NORESERVE)
            .build(),
        Backing::Shared(from, at) => {
            builder.with_file_offset(file(from, *at)?).with_mmap_flags(libc::MAP_SHARED).build()
        }
    }
}

/// The size of the whole block in bytes.
#[must_use]
pub fn size(memory: &Memory) -> u64 {
    use vm_memory::GuestMemoryBackend;
    memory.iter().map(GuestMemoryRegion::len).sum()
}

/// Makes all of it zeros again, whatever it came from: a file that was mapped privately is left
/// behind, one that is mapped shared is emptied.
///
/// # Errors
/// The system's refusal.
pub fn clear(memory: &Memory) -> std::io::Result<()> {
    crate::sys::clear(memory)
}

/// Maps a file privately where memory is, from `at` on.
///
/// # Errors
/// The system's refusal.
pub fn map_again(memory: &Memory, file: &File, at: u64) -> std::io::Result<()> {
    crate::sys::map_private(memory, file, at)
}
