//! Memory of the guest given back to the host.

use std::io;

use vm_memory::MmapRegion;
use vm_memory::bitmap::AtomicBitmap;

/// Gives a range of a region back, in whole pages: it reads as zeros afterwards, or as what the
/// file behind a private mapping holds.
///
/// # Errors
/// The system's refusal; a file system that cannot make holes.
pub(super) fn discard(
    region: &MmapRegion<AtomicBitmap>,
    offset: u64,
    length: usize,
) -> io::Result<()> {
    let outside = || io::Error::from_raw_os_error(libc::EFAULT);
    let offset = usize::try_from(offset).map_err(|_| outside())?;
    let end = offset.checked_add(length).ok_or_else(outside)?;
    if end > region.size() {
        return Err(outside());
    }
    // A shared file is the memory: only a hole in it frees anything.
    let shared = region.flags() & libc::MAP_SHARED != 0;
    let advice = if shared { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
    // SAFETY: the range lies in the region, as was looked at above, and the region is mapped for
    // as long as it is borrowed. Nothing in this process holds references into guest memory, so
    // that its contents may change at any time.
    let done = unsafe { libc::madvise(region.as_ptr().add(offset).cast(), length, advice) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
