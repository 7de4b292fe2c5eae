//! Vectored reads and writes straight from and to guest memory.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryBackend, MemoryRegionAddress, VolatileSlice};

use super::queue::Segment;
use crate::memory::Memory;

/// Buffers of one system call; the array of them is on the stack.
pub(crate) const BATCH: usize = 256;

#[derive(Clone, Copy)]
enum Direction {
    IntoGuest,
    FromGuest,
}

/// What is in memory already, and `EAGAIN` for the rest.
pub(crate) const NOWAIT: libc::c_int = libc::RWF_NOWAIT;

/// Reads into guest memory at an offset of the file, or what a stream has; the bytes it got, 0 at
/// the end.
pub(crate) fn read(
    fd: BorrowedFd<'_>,
    memory: &Memory,
    into: &[Segment],
    offset: Option<u64>,
    flags: libc::c_int,
) -> io::Result<usize> {
    transfer(fd, memory, into, offset, flags, Direction::IntoGuest)
}

/// Writes from guest memory; the bytes that were taken.
pub(crate) fn write(
    fd: BorrowedFd<'_>,
    memory: &Memory,
    from: &[Segment],
    offset: Option<u64>,
) -> io::Result<usize> {
    transfer(fd, memory, from, offset, 0, Direction::FromGuest)
}

/// A segment as the process sees it.
fn resolve<'m>(
    memory: &'m Memory,
    segment: &Segment,
) -> io::Result<VolatileSlice<'m, vm_memory::bitmap::BS<'m, vm_memory::bitmap::AtomicBitmap>>> {
    use vm_memory::GuestMemoryRegion;
    let outside = || io::Error::from_raw_os_error(libc::EFAULT);
    let (region, at): (_, MemoryRegionAddress) =
        memory.to_region_addr(segment.address).ok_or_else(outside)?;
    region.get_slice(at, segment.length).map_err(|_| outside())
}

fn transfer(
    fd: BorrowedFd<'_>,
    memory: &Memory,
    segments: &[Segment],
    offset: Option<u64>,
    flags: libc::c_int,
    direction: Direction,
) -> io::Result<usize> {
    let segments = segments.get(..BATCH).unwrap_or(segments);
    let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let mut vectors = [empty; BATCH];
    for (vector, segment) in vectors.iter_mut().zip(segments) {
        let slice = resolve(memory, segment)?;
        *vector =
            libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() };
    }
    let count = libc::c_int::try_from(segments.len()).unwrap_or(0);
    // -1 is wherever a stream is.
    let offset = offset.map_or(Ok(-1), i64::try_from);
    let offset = offset.map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // SAFETY: the first `count` vectors are ranges of guest memory, which stays mapped as long as
    // `memory` is borrowed; nothing in this process holds references into guest memory, so that
    // it may be read and written at any time. The descriptor is open.
    let done = unsafe {
        match direction {
            Direction::IntoGuest => {
                libc::preadv2(fd.as_raw_fd(), vectors.as_ptr(), count, offset, flags)
            }
            Direction::FromGuest => {
                libc::pwritev2(fd.as_raw_fd(), vectors.as_ptr(), count, offset, flags)
            }
        }
    };
    let done = usize::try_from(done).map_err(|_| io::Error::last_os_error())?;
    if let Direction::IntoGuest = direction {
        mark(memory, segments, done);
    }
    Ok(done)
}

/// Notes what was written behind the back of the bitmap. Afterwards, not before: a save that
/// clears the mark in between has read what was there before.
fn mark(memory: &Memory, segments: &[Segment], mut done: usize) {
    for segment in segments {
        if done == 0 {
            return;
        }
        let length = segment.length.min(done);
        if let Ok(slice) = resolve(memory, segment) {
            slice.bitmap().mark_dirty(0, length);
        }
        done -= length;
    }
}
