//! Which pages of an emulator's memory were written, by the kernel's own account.
//!
//! The kernel notes writes where a userfaultfd(2) asks it to, without stopping anybody (its feature
//! `WP_ASYNC`, Linux 6.7), and tells them by the ioctl `PAGEMAP_SCAN`. A userfaultfd belongs to the
//! memory of the process that made it, and no emulator makes one for us: [`lend`] makes it in the
//! new program's name before that executes its first instruction. It stays among the program's
//! descriptors, so that a later monitor finds it there too.
//!
//! Sources: Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst of the kernel.

mod kernel;
mod lend;

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::process::Process;

use kernel::{
    Api, CHECK_WPASYNC, FILE, FOUND, MODE_WP, PFN_ZERO, PRESENT, Region, Register, SWAPPED, Scan,
    UFFD_API, UffdRange, WP_ASYNC, WP_MATCHING, WRITTEN, pagemap_scan, uffd_api, uffd_register,
    uffd_unregister,
};
pub(crate) use lend::{CAN_LEND, lend};

/// What a page of a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page(u64);

impl Page {
    /// It is in memory or swapped out: reading it does not make it.
    #[must_use]
    pub const fn exists(self) -> bool {
        self.0 & (PRESENT | SWAPPED) != 0
    }

    /// It is the page of a file (or of shared memory), not one of the process's own.
    #[must_use]
    pub const fn of_file(self) -> bool {
        self.0 & FILE != 0
    }

    /// It is the one page of zeros that all processes share.
    #[must_use]
    pub const fn zero(self) -> bool {
        self.0 & PFN_ZERO != 0
    }
}

/// The pages of a process. Looking needs the right to trace it.
#[derive(Debug)]
pub struct PageMap {
    file: File,
    found: Vec<Region>,
}

impl PageMap {
    /// The pages of a living process.
    ///
    /// # Errors
    /// `EPERM` and `EACCES` without the right to trace it; `ENOENT` when it has ended.
    pub fn of(process: &Process) -> io::Result<Self> {
        let path = proc(process).join("pagemap");
        Ok(Self { file: File::open(path)?, found: vec![Region::default(); FOUND] })
    }

    /// Tells each run of existing pages of equal kind within a range of addresses, in ascending
    /// order.
    ///
    /// # Errors
    /// `ENOTTY` for a kernel that does not know the question; `ESRCH` when the process has ended.
    pub fn existing(
        &mut self,
        addresses: Range<u64>,
        each: impl FnMut(Range<u64>, Page),
    ) -> io::Result<()> {
        let question = Scan { category_anyof_mask: PRESENT | SWAPPED, ..Scan::of(addresses, 0) };
        self.scan(question, each)
    }

    fn scan(&mut self, mut ask: Scan, mut each: impl FnMut(Range<u64>, Page)) -> io::Result<()> {
        (ask.vec, ask.vec_len) = (self.found.as_mut_ptr() as u64, FOUND as u64);
        while ask.start < ask.end {
            // SAFETY: the kernel writes at most `vec_len` regions, all of which are ours.
            let count = unsafe { pagemap_scan(self.file.as_raw_fd(), &raw mut ask) }?;
            for region in self.found.iter().take(usize::try_from(count).unwrap_or(0)) {
                each(region.start..region.end, Page(region.categories));
            }
            if ask.walk_end <= ask.start {
                return Err(io::Error::other("the kernel does not get on with the pages"));
            }
            ask.start = ask.walk_end;
        }
        Ok(())
    }
}

/// A range of a process's memory of which the kernel notes what is written, until this is dropped.
#[derive(Debug)]
pub struct Tracked {
    userfault: OwnedFd,
    pages: PageMap,
    addresses: Range<u64>,
}

impl Tracked {
    /// Begins for a range of whole pages in one mapping of a process that was spawned with
    /// [`track_writes`](crate::spawn::Command::track_writes). Everything counts as written until it
    /// was told for the first time.
    ///
    /// # Errors
    /// `NotFound` where the process was lent nothing; `EBUSY` when the process itself watches its
    /// memory; what an older kernel says.
    pub fn begin(process: &Process, addresses: Range<u64>) -> io::Result<Self> {
        let (userfault, pages) = (lent(process)?, PageMap::of(process)?);
        let tracked = Self { userfault, pages, addresses };
        // One that a monitor left when it was killed: what that one was told is not known here.
        tracked.end();
        let mut register = Register { range: tracked.range(), mode: MODE_WP, ioctls: 0 };
        // SAFETY: the kernel reads and writes one record of ours.
        unsafe { uffd_register(tracked.userfault.as_raw_fd(), &raw mut register) }?;
        Ok(tracked)
    }

    /// Tells each run of existing pages of equal kind within a part of the range that were written,
    /// or came to be, since they were told last; in ascending order.
    ///
    /// A write that is made meanwhile is told now or the next time: to read a page after it was told
    /// is enough to know it until the next time.
    ///
    /// # Errors
    /// `ESRCH` when the process has ended; `EPERM` when its memory is mapped anew.
    pub fn written(
        &mut self,
        addresses: Range<u64>,
        each: impl FnMut(Range<u64>, Page),
    ) -> io::Result<()> {
        // Pages that do not exist are not touched: one that comes to be counts as written.
        let question = Scan {
            category_mask: WRITTEN,
            category_anyof_mask: PRESENT | SWAPPED,
            ..Scan::of(addresses, WP_MATCHING | CHECK_WPASYNC)
        };
        self.pages.scan(question, each)
    }

    /// All pages, written or not.
    pub const fn pages(&mut self) -> &mut PageMap {
        &mut self.pages
    }

    /// The kernel notes nothing any more.
    fn end(&self) {
        let mut range = self.range();
        // SAFETY: the kernel reads one record of ours.
        let done = unsafe { uffd_unregister(self.userfault.as_raw_fd(), &raw mut range) };
        if let Err(error) = done {
            // It has ended, or nothing was noted.
            tracing::debug!(%error, "writes are not noted");
        }
    }

    const fn range(&self) -> UffdRange {
        UffdRange { start: self.addresses.start, length: self.addresses.end - self.addresses.start }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.end();
    }
}

/// A copy of the userfaultfd that the process was lent.
fn lent(process: &Process) -> io::Result<OwnedFd> {
    for entry in fs::read_dir(proc(process).join("fd"))? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let link = fs::read_link(entry.path());
        if let (Some(number), Ok(link)) = (number, link)
            && link == Path::new("anon_inode:[userfaultfd]")
        {
            return process.take_fd(number);
        }
    }
    let why = "the kernel does not note what it writes";
    Err(io::Error::new(io::ErrorKind::NotFound, why))
}

fn proc(process: &Process) -> PathBuf {
    Path::new("/proc").join(process.identity().pid.to_string())
}

/// Asks a new userfaultfd for what is needed here.
fn enable(userfault: &OwnedFd) -> io::Result<()> {
    let mut api = Api { api: UFFD_API, features: WP_ASYNC, ioctls: 0 };
    // SAFETY: the kernel reads and writes one record of ours.
    unsafe { uffd_api(userfault.as_raw_fd(), &raw mut api) }?;
    Ok(())
}

#[cfg(test)]
mod tests;
