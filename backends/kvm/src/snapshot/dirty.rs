//! Which pages a save has to write.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kvm_ioctls::VmFd;
use rustix::fs::SeekFrom;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use crate::memory::{self, Memory, PAGE};
use crate::sys::{self, Logging};

/// A set of pages of the whole block of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages(Vec<u64>);

impl Pages {
    /// None of so many bytes.
    #[must_use]
    pub fn none(bytes: u64) -> Self {
        let pages = usize::try_from(bytes).unwrap_or(usize::MAX) / PAGE;
        Self(vec![0; pages.div_ceil(64)])
    }

    /// All of so many bytes.
    #[must_use]
    pub fn all(bytes: u64) -> Self {
        let mut pages = Self::none(bytes);
        (0..bytes / PAGE as u64).for_each(|page| pages.add(page));
        pages
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Adds a page.
    pub fn add(&mut self, page: u64) {
        let place = usize::try_from(page / 64).unwrap_or(usize::MAX);
        if let Some(word) = self.0.get_mut(place) {
            *word |= 1 << (page % 64);
        }
    }

    fn has(&self, page: u64) -> bool {
        let place = usize::try_from(page / 64).unwrap_or(usize::MAX);
        self.0.get(place).is_some_and(|word| word >> (page % 64) & 1 != 0)
    }

    /// The next run of neighbours from this page on: first and number. It ends before a multiple of
    /// `most`, so that none crosses the gap, which is at one.
    #[must_use]
    pub fn run(&self, from: u64, most: u64) -> Option<(u64, u64)> {
        let end = self.0.len() as u64 * 64;
        let mut first = from;
        while first < end && !self.has(first) {
            // Whole words of nothing are the rule.
            let place = usize::try_from(first / 64).unwrap_or(usize::MAX);
            let rest = self.0.get(place)? >> (first % 64);
            first += if rest == 0 { 64 - first % 64 } else { u64::from(rest.trailing_zeros()) };
        }
        let stop = end.min((first / most + 1) * most);
        let length = (first..stop).take_while(|page| self.has(*page)).count() as u64;
        (length > 0).then_some((first, length))
    }

    /// Adds those of another set.
    pub fn add_all(&mut self, other: &Self) {
        self.merge(0, &other.0);
    }

    fn merge(&mut self, at: usize, words: &[u64]) {
        for (word, more) in self.0.iter_mut().skip(at).zip(words) {
            *word |= more;
        }
    }
}

/// What memory was mapped from, when it was not made of zeros.
#[derive(Debug)]
pub struct Origin {
    /// The file.
    pub file: File,
    /// Where the memory begins in it.
    pub at: u64,
}

/// Pages that may hold something else than zeros: those that are there in memory, and those that
/// the file they were mapped from has. `map` is the process's own pagemap (the kernel's
/// Documentation/admin-guide/mm/pagemap.rst).
///
/// # Errors
/// The system's refusal to tell; all pages have to be looked at then.
pub fn touched(memory: &Memory, map: &File, origin: Option<&Origin>) -> io::Result<Pages> {
    let size = memory::size(memory);
    let mut pages = Pages::none(size);
    let mut number = 0;
    let mut entries = vec![0; 64 << 10];
    for region in memory.iter() {
        let region: &GuestRegionMmap<_> = region;
        let start = region.get_mmap().as_ptr() as u64 / PAGE as u64 * 8;
        let bytes = region.len() / PAGE as u64 * 8;
        let mut done = 0;
        while done < bytes {
            let length = usize::try_from(bytes - done).unwrap_or(usize::MAX).min(entries.len());
            map.read_exact_at(&mut entries[..length], start + done)?;
            for entry in entries[..length].chunks_exact(8) {
                // Present, or swapped out.
                if entry[7] & 0xc0 != 0 {
                    pages.add(number);
                }
                number += 1;
            }
            done += length as u64;
        }
    }
    if let Some(origin) = origin {
        add_data(&mut pages, origin, size)?;
    }
    Ok(pages)
}

/// Adds the pages that a file has data for.
fn add_data(pages: &mut Pages, origin: &Origin, size: u64) -> io::Result<()> {
    let (file, end) = (&origin.file, origin.at + size);
    let mut at = origin.at;
    while at < end {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = rustix::fs::seek(file, SeekFrom::Hole(data))?.min(end);
        let page = PAGE as u64;
        for number in (data.max(at) - origin.at) / page..(hole.max(at) - origin.at).div_ceil(page) {
            pages.add(number);
        }
        at = hole.max(at + page);
    }
    Ok(())
}

/// Learns which pages are written while a machine runs: by its processors from KVM, by devices from
/// the memory's own bitmap.
#[derive(Debug)]
pub struct Tracker {
    vm: Arc<VmFd>,
    memory: Memory,
}

impl Tracker {
    /// Begins; ends with the value.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn begin(vm: &Arc<VmFd>, memory: &Memory) -> Result<Self, kvm_ioctls::Error> {
        for region in memory.iter() {
            let region: &GuestRegionMmap<_> = region;
            region.get_mmap().bitmap().reset();
        }
        sys::set_memory(vm, memory, Logging::On)?;
        Ok(Self { vm: Arc::clone(vm), memory: memory.clone() })
    }

    /// The pages written since the beginning or the last call.
    ///
    /// # Errors
    /// KVM's refusal.
    pub fn collect(&self) -> Result<Pages, kvm_ioctls::Error> {
        let mut pages = Pages::none(memory::size(&self.memory));
        let mut at = 0;
        for (slot, region) in (0u32..).zip(self.memory.iter()) {
            let region: &GuestRegionMmap<_> = region;
            let bytes = usize::try_from(region.len()).unwrap_or(usize::MAX);
            pages.merge(at, &self.vm.get_dirty_log(slot, bytes)?);
            pages.merge(at, &region.get_mmap().bitmap().get_and_reset());
            // The gap is at a multiple of 64 pages.
            at += bytes / PAGE / 64;
        }
        Ok(pages)
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        if let Err(error) = sys::set_memory(&self.vm, &self.memory, Logging::Off) {
            crate::log::line(&format!("KVM goes on noting writes, which costs time: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Backing, map};
    use vm_memory::{Bytes, GuestAddress};

    fn runs(pages: &Pages, most: u64) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        let mut from = 0;
        while let Some((first, count)) = pages.run(from, most) {
            all.push((first, count));
            from = first + count;
        }
        all
    }

    #[test]
    fn runs_cross_words_and_end_where_they_are_cut() {
        let mut pages = Pages::none(1 << 20);
        for page in [0, 62, 63, 64, 65, 200, 255] {
            pages.add(page);
        }
        assert_eq!(runs(&pages, 100), [(0, 1), (62, 4), (200, 1), (255, 1)]);
        assert_eq!(runs(&pages, 64), [(0, 1), (62, 2), (64, 2), (200, 1), (255, 1)]);
        assert_eq!(pages.count(), 7);
    }

    #[test]
    fn no_run_crosses_the_gap() {
        let gap = memory::GAP / PAGE as u64;
        let mut pages = Pages::none(memory::GAP + (1 << 20));
        for page in gap - 3..gap + 3 {
            pages.add(page);
        }
        assert_eq!(runs(&pages, 256), [(gap - 3, 3), (gap, 3)]);
    }

    #[test]
    fn only_what_was_written_is_touched() {
        let memory = map(64, &Backing::Anonymous).unwrap();
        for page in [0u64, 100, 101] {
            memory.write_obj(1u8, GuestAddress(page * 4096)).unwrap();
        }
        let map = File::open("/proc/self/pagemap").unwrap();
        let pages = touched(&memory, &map, None).unwrap();
        assert!(pages.has(0) && pages.has(100) && pages.has(101));
        // Large pages may bring neighbours with them, up to 2 MiB each.
        assert!(pages.count() <= 1024, "{}", pages.count());
        assert!(!pages.has(2000));
    }
}
