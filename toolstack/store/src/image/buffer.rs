//! Buffers for one chunk of memory, and which of its pages they hold.

use std::ops::Range;

use kxl_domain::image::PAGE;

use super::CHUNK;

/// Bytes of a chunk, as an index.
pub(super) const CHUNK_LEN: usize = 2 << 20;
/// Bytes of a page, as an index.
pub(super) const PAGE_LEN: usize = 4096;
/// Pages in a chunk.
pub(super) const PAGES: usize = CHUNK_LEN / PAGE_LEN;

const _: () = assert!(CHUNK_LEN as u64 == CHUNK && PAGE_LEN as u64 == PAGE);

/// Room for one chunk, aligned so that the disk can be given it directly.
pub(super) struct Buffer {
    room: Vec<u8>,
    start: usize,
}

impl Buffer {
    pub(super) fn new() -> Self {
        let room = vec![0; CHUNK_LEN + PAGE_LEN];
        let start = room.as_ptr().align_offset(PAGE_LEN);
        Self { room, start }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.start + CHUNK_LEN]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.start + CHUNK_LEN]
    }

    /// The bytes of some pages.
    pub(super) fn pages(&self, pages: Range<usize>) -> &[u8] {
        &self.bytes()[pages.start * PAGE_LEN..pages.end * PAGE_LEN]
    }

    pub(super) fn pages_mut(&mut self, pages: Range<usize>) -> &mut [u8] {
        &mut self.bytes_mut()[pages.start * PAGE_LEN..pages.end * PAGE_LEN]
    }
}

/// A set of pages of one chunk.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Mask([u64; PAGES / 64]);

impl Mask {
    pub(super) fn has(&self, page: usize) -> bool {
        self.0[page / 64] & (1 << (page % 64)) != 0
    }

    pub(super) fn add(&mut self, pages: Range<usize>) {
        for page in pages {
            self.0[page / 64] |= 1 << (page % 64);
        }
    }

    pub(super) fn take(&mut self, pages: Range<usize>) {
        for page in pages {
            self.0[page / 64] &= !(1 << (page % 64));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0 == [0; PAGES / 64]
    }

    pub(super) fn any(&self, pages: Range<usize>) -> bool {
        pages.into_iter().any(|page| self.has(page))
    }

    /// Its pages as ascending ranges, as long as they can be.
    pub(super) fn runs(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = (next..PAGES).find(|page| self.has(*page))?;
            let end = (start..PAGES).find(|page| !self.has(*page)).unwrap_or(PAGES);
            next = end;
            Some(start..end)
        })
    }
}

static ZEROS: [u8; PAGE_LEN] = [0; PAGE_LEN];

/// Whether all bytes are zero. Ends at the first that is not.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Compared, because the C library does that with the widest registers there are, and a loop
    // in a program that is built to be small does not.
    bytes.chunks(PAGE_LEN).all(|page| page == &ZEROS[..page.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_pages_of_the_mask_and_no_others() {
        let mut mask = Mask::default();
        mask.add(0..3);
        mask.add(63..66);
        mask.add(511..512);
        mask.take(1..2);
        assert_eq!(mask.runs().collect::<Vec<_>>(), [0..1, 2..3, 63..66, 511..512]);
        mask.take(0..512);
        assert!(mask.is_empty());
    }

    #[test]
    fn one_bit_anywhere_makes_bytes_other_than_zero() {
        let mut bytes = vec![0; 200];
        assert!(is_zero(&bytes));
        for at in 0..bytes.len() {
            bytes[at] = 0x80;
            assert!(!is_zero(&bytes), "byte {at}");
            bytes[at] = 0;
        }
    }

    #[test]
    fn a_buffer_begins_at_a_page() {
        for _ in 0..8 {
            assert_eq!(Buffer::new().bytes().as_ptr() as usize % PAGE_LEN, 0);
        }
    }
}
