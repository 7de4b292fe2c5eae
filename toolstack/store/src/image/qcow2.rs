//! Whether a qcow2 disk is what one of its own snapshots holds.
//!
//! A snapshot keeps a copy of the first level of the disk's table of clusters. Whatever is written
//! afterwards gets new clusters, up to an entry of that level: its old ones belong to the snapshot
//! and stay as they are. So a disk whose first level has the entries of a snapshot has the contents
//! of the snapshot, byte by byte, whatever its file's size and times say.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

const MAGIC: u32 = 0x5146_49fb;

/// The header as far as it is needed: what version 3 has beyond it changes nothing here.
const HEADER: usize = 80;

/// The fixed part of an entry in the table of snapshots.
const ENTRY: usize = 40;

/// Features of a file that change nothing about its first level: the kind of compression, and
/// larger entries of the second level. Not among them: a file that was not closed, one that is
/// known to be damaged, and one whose clusters are in another file.
const HARMLESS: u64 = 1 << 3 | 1 << 4;

/// What QEMU itself refuses to go beyond.
const MOST_SNAPSHOTS: u32 = 65_536;
const MOST_ENTRIES: u32 = (32 << 20) / 8;

/// The part of an entry that says where the second level is; the rest is bookkeeping.
const PLACE: u64 = 0x00ff_ffff_ffff_fe00;

/// Bytes compared at a time.
const PIECE: usize = 64 << 10;

/// A first level: where it is in the file, and how many entries it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    at: u64,
    entries: u32,
}

/// Whether the disk in `file` has the contents of its snapshot of this name. `false` also where
/// that cannot be told for certain: the disk is in use or damaged, or lies over another file and
/// `same_base` does not say that this is still the same.
///
/// # Errors
/// When it cannot be read, or its tables are beyond its end.
pub(super) fn stands_at(file: &File, name: &str, same_base: bool) -> io::Result<bool> {
    let mut header = [0; HEADER];
    match file.read_exact_at(&mut header, 0) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
        other => other?,
    }
    let (word, long) = (|at| u32_at(&header, at), |at| u64_at(&header, at));
    let features = match word(4) {
        2 => 0,
        3 => long(72),
        _ => return Ok(false),
    };
    let lies_over_another = long(8) != 0;
    if word(0) != MAGIC || features & !HARMLESS != 0 || (lies_over_another && !same_base) {
        return Ok(false);
    }
    let active = Level { at: long(40), entries: word(36) };
    match snapshot(file, long(64), word(60), name)? {
        Some((level, size)) if size.is_none_or(|size| size == long(24)) => {
            equal(file, active, level)
        }
        _ => Ok(false),
    }
}

/// The first level of a snapshot, and the size of the disk in it where it was written down. `None`
/// where there is not exactly one of that name.
fn snapshot(
    file: &File,
    mut at: u64,
    count: u32,
    name: &str,
) -> io::Result<Option<(Level, Option<u64>)>> {
    let mut found = None;
    if count > MOST_SNAPSHOTS {
        return Ok(None);
    }
    for _ in 0..count {
        let mut entry = [0; ENTRY];
        read(file, &mut entry, at)?;
        let more = u64::from(u32_at(&entry, 36));
        let (id, own) = (u64::from(u16_at(&entry, 12)), u16_at(&entry, 14));
        let place = |offset: u64| at.checked_add(offset).ok_or_else(beyond);
        let extra = place(ENTRY as u64)?;
        let mut own_name = vec![0; usize::from(own)];
        read(file, &mut own_name, place(ENTRY as u64 + more + id)?)?;
        if own_name == name.as_bytes() {
            if found.is_some() {
                return Ok(None);
            }
            let mut size = [0; 8];
            let sized = more >= 16;
            if sized {
                read(file, &mut size, extra + 8)?;
            }
            let level = Level { at: u64_at(&entry, 0), entries: u32_at(&entry, 8) };
            found = Some((level, sized.then(|| u64::from_be_bytes(size))));
        }
        let end = place(ENTRY as u64 + more + id + u64::from(own))?;
        at = end.checked_next_multiple_of(8).ok_or_else(beyond)?;
    }
    Ok(found)
}

/// Whether two first levels have the same entries; what one is longer has to be empty.
fn equal(file: &File, one: Level, other: Level) -> io::Result<bool> {
    if one.entries.max(other.entries) > MOST_ENTRIES {
        return Ok(false);
    }
    let (mut ours, mut theirs) = ([0; PIECE], [0; PIECE]);
    let length = u64::from(one.entries.max(other.entries)) * 8;
    for from in (0..length).step_by(PIECE) {
        piece(file, one, from, &mut ours)?;
        piece(file, other, from, &mut theirs)?;
        let entries = ours.chunks_exact(8).zip(theirs.chunks_exact(8));
        let same = |(a, b): (&[u8], &[u8])| u64_at(a, 0) & PLACE == u64_at(b, 0) & PLACE;
        if !entries.into_iter().all(same) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A piece of a first level, with zeros behind its end.
fn piece(file: &File, level: Level, from: u64, into: &mut [u8; PIECE]) -> io::Result<()> {
    into.fill(0);
    let left = (u64::from(level.entries) * 8).saturating_sub(from);
    let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
    let at = level.at.checked_add(from).ok_or_else(beyond)?;
    read(file, &mut into[..length], at)
}

/// Reads at a place that the disk itself names: no file is as long as some of these numbers.
fn read(file: &File, into: &mut [u8], at: u64) -> io::Result<()> {
    i64::try_from(at).map_err(|_| beyond())?;
    file.read_exact_at(into, at)
}

fn beyond() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "a table of the disk is beyond its end")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

/// Bytes of a record whose length its caller knows.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two first levels of two entries, and one snapshot called "one" of the second.
    fn disk(active: [u64; 2], kept: [u64; 2]) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC.to_be_bytes());
        put(4, &3_u32.to_be_bytes());
        put(24, &(1_u64 << 20).to_be_bytes());
        put(36, &2_u32.to_be_bytes());
        put(40, &1024_u64.to_be_bytes());
        put(60, &1_u32.to_be_bytes());
        put(64, &3072_u64.to_be_bytes());
        for (at, entries) in [(1024, active), (2048, kept)] {
            put(at, &entries[0].to_be_bytes());
            put(at + 8, &entries[1].to_be_bytes());
        }
        put(3072, &2048_u64.to_be_bytes());
        put(3080, &2_u32.to_be_bytes());
        put(3084, &1_u16.to_be_bytes());
        put(3086, &3_u16.to_be_bytes());
        put(3108, &16_u32.to_be_bytes());
        put(3120, &(1_u64 << 20).to_be_bytes());
        put(3128, b"1one");
        bytes
    }

    /// A file of its own for each question.
    fn asked(bytes: &[u8], name: &str, same_base: bool) -> io::Result<bool> {
        let fd = nix::sys::memfd::memfd_create(c"disk", nix::sys::memfd::MFdFlags::empty())?;
        let file = File::from(fd);
        file.write_all_at(bytes, 0)?;
        stands_at(&file, name, same_base)
    }

    fn with(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut bytes = disk([1 << 16, 0], [1 << 16, 0]);
        change(&mut bytes);
        bytes
    }

    #[test]
    fn a_disk_has_the_contents_of_a_snapshot_when_their_tables_agree() {
        let is = |active, kept| asked(&disk(active, kept), "one", false).unwrap();
        assert!(is([1 << 16, 0], [1 << 16, 0]));
        // Who counts how often a table is used is bookkeeping.
        assert!(is([1 << 63 | 1 << 16, 0], [1 << 16, 0]));
        assert!(!is([2 << 16, 0], [1 << 16, 0]), "a cluster was written");
        assert!(!is([1 << 16, 3 << 16], [1 << 16, 0]), "one was added");
        assert!(!is([0, 0], [1 << 16, 0]), "one was given back");
        assert!(!asked(&disk([0, 0], [0, 0]), "two", false).unwrap(), "there is no such snapshot");
    }

    #[test]
    fn what_cannot_be_told_for_certain_is_not_so() {
        let no = |bytes: &[u8]| !asked(bytes, "one", false).unwrap();
        assert!(no(b""));
        assert!(no(&with(|disk| disk[0] = 0)), "it is no qcow2");
        assert!(no(&with(|disk| disk[7] = 4)), "of a later version");
        for bit in [0, 1, 2, 5] {
            assert!(no(&with(|disk| disk[79] = 1 << bit)), "feature {bit}");
        }
        assert!(!no(&with(|disk| disk[79] = 1 << 4)));
        assert!(no(&with(|disk| disk[31] = 1)), "of another size");
        let over = with(|disk| disk[15] = 200);
        assert!(no(&over), "over another file");
        assert!(asked(&over, "one", true).unwrap());
        let twice = with(|disk| {
            disk[63] = 2;
            disk.copy_within(3072..3132, 3136);
        });
        assert!(no(&twice), "two of one name");
        assert!(no(&with(|disk| disk[60] = 0xff)), "too many snapshots");
        assert!(no(&with(|disk| disk[36] = 0xff)), "too long a table");
    }

    #[test]
    fn tables_beyond_the_end_are_errors_and_nothing_panics() {
        asked(&with(|disk| disk[40] = 0x7f), "one", false).unwrap_err();
        asked(&with(|disk| disk[64] = 0xff), "one", false).unwrap_err();
        let whole = with(|_| ());
        for end in (0..whole.len()).step_by(7) {
            drop(asked(&whole[..end], "one", false));
        }
        for at in (0..HEADER).chain(3072..3140) {
            for value in [0, 1, 0x7f, 0xff] {
                drop(asked(&with(|disk| disk[at] = value), "one", false));
            }
        }
    }
}
