//! What a guest touches first after it came back, asked for before it runs.
//!
//! A guest that goes on from an image needs some megabytes of it within its first milliseconds, all
//! over its memory, and waits for the disk at each. They are its kernel and what that works on: the
//! same after every return until it boots anew. So they are noted a moment after a return, and
//! asked for at the beginning of the next. The note is a hint: it may be missing, old or damaged.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use kxl_domain::{DomainUuid, ImageId};
use kxl_store::{Paths, image};
use nix::unistd::{SysconfVar, sysconf};

/// Memory is noted in pieces of this many bytes: what the system maps around a page that is
/// touched and was read already.
const PIECE: u64 = 64 << 10;

/// A guest that touches more than this has no use for a note: the system's own reading ahead is
/// faster, and a list as long as this would stand in its way.
const MOST: u64 = 64 << 20;

/// Begins to read what the domain's guest is going to need of an image of the store, on a thread of
/// its own. Nobody waits for it, and what fails is only slower.
pub(crate) fn begin(paths: &Paths, domain: DomainUuid, id: ImageId) {
    let paths = paths.clone();
    let thread = std::thread::Builder::new().name("ahead".into());
    let begun = thread.spawn(move || {
        let noted = fs::read_to_string(file(&paths, domain)).unwrap_or_default();
        if let Err(error) = image::read_ahead(&paths, id, &ranges(&noted)) {
            tracing::debug!(%error, %id, "nothing is read ahead");
        }
    });
    if let Err(error) = begun {
        tracing::debug!(%error, "nothing is read ahead");
    }
}

/// Notes what of the memory of image `id` the emulator has mapped by now.
pub(crate) fn note(paths: &Paths, domain: DomainUuid, id: ImageId, pid: i32) {
    let noted = touched(pid, id).and_then(|ranges| {
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        if ranges.is_empty() || bytes > MOST {
            forget(paths, domain);
            return Ok(());
        }
        let lines = ranges.iter().map(|range| format!("{} {}\n", range.start, range.end));
        let (file, new) = (file(paths, domain), file(paths, domain).with_extension("new"));
        fs::write(&new, lines.collect::<String>())?;
        fs::rename(&new, &file)
    });
    if let Err(error) = noted {
        tracing::debug!(%error, "what the guest touched is not noted");
    }
}

/// The guest boots anew, or is gone: what it touched once tells nothing any more.
pub(crate) fn forget(paths: &Paths, domain: DomainUuid) {
    let _was_there = fs::remove_file(file(paths, domain));
}

fn file(paths: &Paths, domain: DomainUuid) -> PathBuf {
    paths.cache_dir().join(format!("touched-{domain}"))
}

/// The ranges of a note; none of one that is damaged.
fn ranges(text: &str) -> Vec<Range<u64>> {
    let line = |line: &str| {
        let (start, end) = line.split_once(' ')?;
        let range = start.parse::<u64>().ok()?..end.parse().ok()?;
        (range.start < range.end).then_some(range)
    };
    let all: Option<Vec<_>> = text.lines().map(line).collect();
    let all = all.unwrap_or_default();
    let fits = all.iter().try_fold(0u64, |sum, range| sum.checked_add(range.end - range.start));
    if fits.is_some_and(|bytes| bytes <= MOST) { all } else { Vec::new() }
}

/// What of the image's memory has been touched by a process that maps it.
fn touched(pid: i32, id: ImageId) -> io::Result<Vec<Range<u64>>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let Some(mapped) = maps.lines().find_map(|line| mapping(line, &id.to_string())) else {
        return Ok(Vec::new());
    };
    let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| u64::try_from(size).ok());
    let page = page.ok_or(io::ErrorKind::Unsupported)?;
    let mut table = File::open(format!("/proc/{pid}/pagemap"))?;
    table.seek(SeekFrom::Start(mapped.start / page * ENTRY))?;
    let entries = (mapped.end - mapped.start) / page;
    present(&mut table.take(entries * ENTRY), page)
}

/// Bytes of an entry of a process's page table as the system shows it.
const ENTRY: u64 = 8;

/// The bits of an entry that say that its page is there: in memory, or swapped out.
const THERE: u64 = 0b11 << 62;

/// The addresses of a mapping of the memory of image `id`, of all of it from its beginning on.
fn mapping(line: &str, id: &str) -> Option<Range<u64>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (offset, path) = (words.nth(1)?, words.nth(2)?);
    let ours = Path::new(path).ends_with(Path::new(id).join("memory"));
    let number = |text| u64::from_str_radix(text, 16).ok();
    (ours && number(offset)? == 0).then_some(number(start)?..number(end)?)
}

/// The pieces with a page that is there, joined.
fn present(table: &mut impl Read, page: u64) -> io::Result<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let mut at = 0;
    loop {
        let mut length = 0;
        // Whole entries: a pipe may give less than was asked for, in the middle of one.
        while length < chunk.len() {
            match table.read(&mut chunk[length..])? {
                0 => break,
                count => length += count,
            }
        }
        let (entries, _rest) = chunk[..length].as_chunks::<8>();
        for entry in entries {
            if u64::from_ne_bytes(*entry) & THERE != 0 {
                let piece = at / PIECE * PIECE;
                match ranges.last_mut() {
                    Some(last) if piece < last.end => {}
                    Some(last) if piece == last.end => last.end += PIECE,
                    _ => ranges.push(piece..piece + PIECE),
                }
            }
            at += page;
        }
        if length < chunk.len() {
            return Ok(ranges);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_there_are_noted_by_the_piece() {
        let mut table = vec![0u64; 20_000];
        for page in [0, 1, 17, 40, 9_000, 19_999] {
            table[page] = 1 << 63;
        }
        table[41] = 1 << 62;
        table[42] = 1 << 61;
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_ne_bytes()).collect();
        let piece = |first: u64, last: u64| first * PIECE..last * PIECE;
        let expected = [piece(0, 3), piece(562, 563), piece(1249, 1250)];
        assert_eq!(present(&mut bytes.as_slice(), 4096).unwrap(), expected);
    }

    #[test]
    fn the_mapping_of_an_image_is_told_from_others() {
        let id = "74b7c053-6ea2-4241-b02d-a2c479f543fd";
        let line = |offset: &str, path: &str| {
            format!("7f00000000-7f10000000 rw-p {offset} fe:00 174 {path}")
        };
        let ours = format!("/state/images/{id}/memory");
        assert_eq!(mapping(&line("00000000", &ours), id), Some(0x7f_0000_0000..0x7f_1000_0000));
        assert_eq!(mapping(&line("00001000", &ours), id), None);
        assert_eq!(mapping(&line("00000000", "/state/images/other/memory"), id), None);
        assert_eq!(mapping("7f00000000-7f10000000 rw-p 00000000 00:00 0", id), None);
    }

    #[test]
    fn a_note_that_is_damaged_or_too_long_asks_for_nothing() {
        assert_eq!(ranges("0 65536\n131072 196608\n"), [0..65_536, 131_072..196_608]);
        assert!(ranges("").is_empty());
        for text in ["0 65536\n13107", "9 8\n", "0 67108865\n", "0 x\n", "-1 5\n"] {
            assert!(ranges(text).is_empty(), "{text}");
        }
        let most = u64::MAX;
        assert!(ranges(&format!("0 {most}\n1 {most}\n")).is_empty());
    }
}
