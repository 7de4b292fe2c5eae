//! The digest of a chunk, put together from the digests of its groups of pages.
//!
//! BLAKE3 is a tree. A **group** is a subtree of sixteen of its leaves, which is as many as the
//! widest vector unit computes at once. Groups that hold only zeros have values that are known
//! beforehand, and a group that is written again changes its own value and the path to the root:
//! the cost follows what was touched, and the result is the plain BLAKE3 of the chunk.

use std::sync::LazyLock;

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::Digest;
use super::buffer::{Buffer, CHUNK_LEN, Mask, PAGE_LEN, PAGES};

/// Pages in a group.
pub(super) const GROUP_PAGES: usize = 4;
/// Groups in a chunk.
pub(super) const GROUPS: usize = PAGES / GROUP_PAGES;
const GROUP_LEN: usize = GROUP_PAGES * PAGE_LEN;

/// What the table says of a chunk without any byte but zero.
pub(super) const ALL_ZERO: Digest = [0; 32];

/// The values of all groups of a whole chunk.
pub(super) type Groups = [Digest; GROUPS];

static ZEROS: LazyLock<Groups> =
    LazyLock::new(|| std::array::from_fn(|group| value(group, &[0; GROUP_LEN])));

/// Groups of a chunk that was never written.
pub(super) fn zeros() -> &'static Groups {
    &ZEROS
}

/// The value of a group from its bytes.
pub(super) fn value(group: usize, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.set_input_offset((group * GROUP_LEN) as u64);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// The digest of a whole chunk; [`ALL_ZERO`] for one of zeros.
pub(super) fn root(groups: &Groups) -> Digest {
    if groups == zeros() {
        return ALL_ZERO;
    }
    let mut values = *groups;
    let mut count = GROUPS;
    while count > 2 {
        for at in 0..count / 2 {
            values[at] = merge_subtrees_non_root(&values[2 * at], &values[2 * at + 1], Mode::Hash);
        }
        count /= 2;
    }
    merge_subtrees_root(&values[0], &values[1], Mode::Hash).into()
}

/// The digest of the first `length` bytes of a chunk of which only the pages in `data` are in the
/// buffer; the others are zero. The buffer is filled up with zeros where that is needed.
pub(super) fn digest(buffer: &mut Buffer, data: &Mask, length: usize) -> Digest {
    if length < CHUNK_LEN {
        fill(buffer, data, 0..PAGES);
        let bytes = &buffer.bytes()[..length];
        return if super::buffer::is_zero(bytes) { ALL_ZERO } else { blake3::hash(bytes).into() };
    }
    let mut groups = *zeros();
    for (group, slot) in groups.iter_mut().enumerate() {
        let pages = group * GROUP_PAGES..(group + 1) * GROUP_PAGES;
        if data.any(pages.clone()) {
            fill(buffer, data, pages.clone());
            *slot = value(group, buffer.pages(pages));
        }
    }
    root(&groups)
}

/// Zeroes those pages that are not in `data`.
pub(super) fn fill(buffer: &mut Buffer, data: &Mask, pages: std::ops::Range<usize>) {
    for page in pages {
        if !data.has(page) {
            buffer.pages_mut(page..page + 1).fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(buffer: &mut Buffer) {
        for (at, byte) in buffer.bytes_mut().iter_mut().enumerate() {
            *byte = at.wrapping_mul(2_654_435_761).to_le_bytes()[1];
        }
    }

    #[test]
    fn the_digest_is_the_plain_blake3_of_the_chunk() {
        let mut buffer = Buffer::new();
        let mut all = Mask::default();
        all.add(0..PAGES);
        for length in [CHUNK_LEN, CHUNK_LEN - PAGE_LEN, PAGE_LEN] {
            noise(&mut buffer);
            let plain: Digest = blake3::hash(&buffer.bytes()[..length]).into();
            assert_eq!(digest(&mut buffer, &all, length), plain, "{length} bytes");
        }
    }

    #[test]
    fn pages_that_are_not_there_count_as_zeros_whatever_the_buffer_holds() {
        let mut buffer = Buffer::new();
        let mut some = Mask::default();
        some.add(5..6);
        some.add(300..311);
        noise(&mut buffer);
        let mut plain = vec![0; CHUNK_LEN];
        for run in some.runs() {
            plain[run.start * PAGE_LEN..run.end * PAGE_LEN].copy_from_slice(buffer.pages(run));
        }
        let expected: Digest = blake3::hash(&plain).into();
        assert_eq!(digest(&mut buffer, &some, CHUNK_LEN), expected);
    }

    #[test]
    fn a_chunk_of_zeros_is_marked_and_not_hashed() {
        let mut buffer = Buffer::new();
        assert_eq!(digest(&mut buffer, &Mask::default(), CHUNK_LEN), ALL_ZERO);
        let mut all = Mask::default();
        all.add(0..PAGES);
        assert_eq!(digest(&mut buffer, &all, CHUNK_LEN), ALL_ZERO);
        assert_eq!(digest(&mut buffer, &all, 2 * PAGE_LEN), ALL_ZERO);
    }
}
