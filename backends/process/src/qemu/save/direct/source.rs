//! A guest's memory where it is: in the emulator, and for what it has not written since it came back
//! in the image that it came from.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kxl_backend::Process;
use kxl_backend::tracking::{Page, PageMap, Tracked};
use kxl_domain::image::MemoryLayout;
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::{Pid, Whence, lseek64};

use super::super::super::machine::Facts;
use super::super::super::maps::{self, Mapping, RamBlock};
use super::super::super::split::PAGE_BYTES;
use super::super::super::split::compose::Composer;

/// Memory is looked at in parts of this size: what is kept of a look stays small.
pub(super) const PART: u64 = 64 << 20;

/// What the main block was mapped from.
#[derive(Debug)]
struct Base {
    file: File,
    /// The guest writes copies of its pages, and the file stays as it is.
    private: bool,
}

/// Any other block of the machine.
#[derive(Debug)]
struct Other {
    block: RamBlock,
    place: Place,
}

/// Where a block is mapped.
#[derive(Debug)]
enum Place {
    /// There.
    At(Range<u64>),
    /// In one of several of its size, which one does not matter: nothing is in any of them.
    Empty(Vec<Range<u64>>),
}

/// Where a run of pages is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Offsets in the block.
    pub(super) pages: Range<u64>,
    /// In the emulator; otherwise in the file.
    pub(super) own: bool,
}

/// All memory of a machine.
#[derive(Debug)]
pub(in super::super) struct Source {
    pid: Pid,
    pub(super) layout: MemoryLayout,
    start: u64,
    tracked: Tracked,
    base: Option<Base>,
    others: Vec<Other>,
}

impl Source {
    /// Finds it, by QEMU's answer to `info ramblock`.
    pub(super) fn find(process: &Process, facts: &Facts, answer: &str) -> io::Result<Self> {
        let mappings = maps::of(process)?;
        let unknown = |what: &str| io::Error::new(io::ErrorKind::NotFound, what.to_owned());
        let layout = facts.memory.clone();
        let main = maps::only(&mappings, layout.size).ok_or_else(|| unknown(&layout.id))?;
        let base = match facts.memory_fd {
            Some(number) => Some(Base::open(process, number, facts.memory_own)?),
            None => None,
        };
        let blocks = maps::blocks(answer);
        if !blocks.iter().any(|block| block.name == layout.id && block.used == layout.size) {
            return Err(unknown(&layout.id));
        }
        let mut tracked = Tracked::begin(process, main.addresses.clone())?;
        let mut others = Vec::new();
        for block in blocks.iter().filter(|block| block.name != layout.id) {
            let place = Place::of(block, &blocks, &mappings);
            let place = place.ok_or_else(|| unknown(&block.name))?;
            match place.pages(block, tracked.pages()) {
                Ok(_) => others.push(Other { block: block.clone(), place }),
                Err(error) if !made_by_qemu(&block.name) => return Err(error),
                Err(error) => tracing::debug!(%error, "a block is not saved"),
            }
        }
        let (start, pid) = (main.addresses.start, Pid::from_raw(process.identity().pid));
        let source = Self { pid, layout, start, tracked, base, others };
        // Whether we may.
        source.read(source.start, &mut [0; PAGE_BYTES])?;
        Ok(source)
    }

    /// Offsets at which the parts of the block begin and end.
    pub(super) fn parts(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let size = self.layout.size;
        (0..size.div_ceil(PART)).map(move |part| part * PART..size.min((part + 1) * PART))
    }

    /// What of a part is to be read for the first time, in ascending order: all that is not zero.
    pub(super) fn everything(&mut self, part: Range<u64>) -> io::Result<Vec<Run>> {
        let mut own = self.written(part.clone())?;
        let Some(base) = &self.base else { return Ok(own) };
        let mut runs = Vec::new();
        for extent in base.extents(part)? {
            runs.extend(without(extent, &own).map(|pages| Run { pages, own: false }));
        }
        runs.append(&mut own);
        runs.sort_unstable_by_key(|run| run.pages.start);
        Ok(runs)
    }

    /// What of a part was written since it was looked at last.
    pub(super) fn written(&mut self, part: Range<u64>) -> io::Result<Vec<Run>> {
        let (start, private) = (self.start, self.is_private());
        let mut runs = Vec::new();
        self.tracked.written(start + part.start..start + part.end, |run, page| {
            keep(&mut runs, start, run, page, private);
        })?;
        Ok(runs)
    }

    /// What of a part is the emulator's own, written or not.
    pub(super) fn own(&mut self, part: Range<u64>) -> io::Result<Vec<Run>> {
        let (start, private) = (self.start, self.is_private());
        let mut runs = Vec::new();
        self.tracked.pages().existing(start + part.start..start + part.end, |run, page| {
            keep(&mut runs, start, run, page, private);
        })?;
        Ok(runs)
    }

    /// Lets go of what the system holds of a part of an image: nobody is going to want it again, and
    /// it need not be freed when somebody waits for the emulator's end.
    pub(super) fn let_go(&self, part: Range<u64>) {
        let Some(base) = self.base.as_ref().filter(|base| base.private) else { return };
        let (start, length) = (part.start.cast_signed(), (part.end - part.start).cast_signed());
        let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        if let Err(error) = posix_fadvise(&base.file, start, length, advice) {
            tracing::debug!(%error, "the system keeps what it holds of the image");
        }
    }

    /// Reads pages of the main block; what is not there is zero.
    pub(super) fn fetch(&self, offset: u64, own: bool, bytes: &mut [u8]) -> io::Result<()> {
        match &self.base {
            _ if own => self.read(self.start + offset, bytes),
            Some(base) => base.file.read_exact_at(bytes, offset),
            None => {
                bytes.fill(0);
                Ok(())
            }
        }
    }

    /// Puts every other block into a device stream, and returns that with the devices behind.
    pub(super) fn compose(
        &mut self,
        machine: &str,
        page_bits: bool,
        devices: &[u8],
    ) -> io::Result<Vec<u8>> {
        let main = (self.layout.id.as_str(), self.layout.size);
        let others = self.others.iter().map(|other| (other.block.name.as_str(), other.block.used));
        let blocks: Vec<_> = std::iter::once(main).chain(others).collect();
        let mut stream = Composer::new(machine, page_bits, &blocks);
        let mut bytes = [0; PAGE_BYTES];
        for Other { block, place } in &self.others {
            let mut runs = place.pages(block, self.tracked.pages())?.into_iter().peekable();
            for offset in (0..block.used).step_by(PAGE_BYTES) {
                while runs.next_if(|(pages, _)| pages.end <= offset).is_some() {}
                match runs.peek() {
                    Some((pages, address)) if pages.start <= offset => {
                        read(self.pid, address + offset - pages.start, &mut bytes)?;
                        stream.page(&block.name, offset, &bytes);
                    }
                    _ => stream.zero(&block.name, offset),
                }
            }
        }
        let unknown = || io::Error::other("the devices' state is not as expected");
        stream.finish(devices).ok_or_else(unknown)
    }

    fn is_private(&self) -> bool {
        self.base.as_ref().is_some_and(|base| base.private)
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> io::Result<()> {
        read(self.pid, address, bytes)
    }
}

impl Base {
    fn open(process: &Process, number: i32, own: bool) -> io::Result<Self> {
        let path = format!("/proc/{}/fd/{number}", process.identity().pid);
        Ok(Self { file: File::open(Path::new(&path))?, private: !own })
    }

    /// The parts of a range that are no holes.
    fn extents(&self, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let mut found = Vec::new();
        let mut next = range.start;
        while next < range.end {
            let from = match lseek64(&self.file, next.cast_signed(), Whence::SeekData) {
                Ok(from) => from.cast_unsigned(),
                Err(Errno::ENXIO) => break,
                Err(error) => return Err(error.into()),
            };
            if from >= range.end {
                break;
            }
            let to = lseek64(&self.file, from.cast_signed(), Whence::SeekHole)?.cast_unsigned();
            // A file system may count in smaller units than pages.
            let page = PAGE_BYTES as u64;
            let (from, to) = (from / page * page, to.next_multiple_of(page).min(range.end));
            found.push(from..to);
            next = to;
        }
        Ok(found)
    }
}

/// Whether what is in a block comes from QEMU's own files, or is made when the machine is reset and
/// copied by the firmware then. No guest writes it: where it cannot be found, a machine that comes
/// back has it as after a start.
fn made_by_qemu(block: &str) -> bool {
    block.starts_with("/rom@") || block.ends_with(".rom")
}

impl Place {
    /// The place of one of these blocks.
    fn of(block: &RamBlock, blocks: &[RamBlock], mappings: &[Mapping]) -> Option<Self> {
        if let Some(only) = maps::only(mappings, block.total) {
            return Some(Self::At(only.addresses.clone()));
        }
        let alike = blocks.iter().filter(|other| other.total == block.total).count();
        let places = mappings.iter().filter(|one| one.guest && one.length() == block.total);
        let places: Vec<_> = places.map(|mapping| mapping.addresses.clone()).collect();
        (alike == places.len()).then_some(Self::Empty(places))
    }

    /// The pages that are not zero: offsets in the block, and the address of the first.
    fn pages(&self, block: &RamBlock, map: &mut PageMap) -> io::Result<Vec<(Range<u64>, u64)>> {
        let places = match self {
            Self::At(place) => std::slice::from_ref(place),
            Self::Empty(places) => places,
        };
        let mut found = Vec::new();
        for place in places {
            map.existing(place.start..place.start + block.used, |run, page| {
                if !page.zero() {
                    let offsets = run.start - place.start..run.end - place.start;
                    found.push((offsets, run.start));
                }
            })?;
        }
        if matches!(self, Self::Empty(_)) && !found.is_empty() {
            let text = format!("which of {} is {}?", places.len(), block.name);
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        Ok(found)
    }
}

/// Adds a run that the kernel told, if its pages hold something of the guest's own.
fn keep(runs: &mut Vec<Run>, start: u64, run: Range<u64>, page: Page, private: bool) {
    // Over an image zeros are the guest's own, also where the host has merged them into one page.
    let nothing = if private { page.of_file() } else { page.zero() };
    if !page.exists() || nothing {
        return;
    }
    let pages = run.start - start..run.end - start;
    match runs.last_mut() {
        Some(last) if last.pages.end == pages.start => last.pages.end = pages.end,
        _ => runs.push(Run { pages, own: true }),
    }
}

/// What of a range is in none of the runs, which ascend.
fn without(range: Range<u64>, runs: &[Run]) -> impl Iterator<Item = Range<u64>> + '_ {
    let first = runs.partition_point(|run| run.pages.end <= range.start);
    let inside = runs[first..].iter().take_while({
        let end = range.end;
        move |run| run.pages.start < end
    });
    let mut next = range.start;
    let edges = inside.map(|run| run.pages.clone()).chain(std::iter::once(range.end..range.end));
    edges.filter_map(move |run| {
        let gap = next..run.start;
        next = run.end;
        (gap.start < gap.end).then_some(gap)
    })
}

fn read(pid: Pid, mut address: u64, mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let base = usize::try_from(address).map_err(io::Error::other)?;
        let remote = [RemoteIoVec { base, len: bytes.len() }];
        let count = process_vm_readv(pid, &mut [IoSliceMut::new(bytes)], &remote)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (address, bytes) = (address + count as u64, &mut bytes[count..]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_has_of_its_own_is_not_read_from_the_file() {
        let own = [2..4, 6..8, 10..20].map(|pages| Run { pages, own: true });
        let gaps = |range| without(range, &own).map(|gap| (gap.start, gap.end)).collect::<Vec<_>>();
        assert_eq!(gaps(0..30), [(0, 2), (4, 6), (8, 10), (20, 30)]);
        assert_eq!(gaps(3..7), [(4, 6)]);
        assert_eq!(gaps(12..15), []);
        assert_eq!(gaps(4..6), [(4, 6)]);
        assert_eq!(gaps(20..21), [(20, 21)]);
    }
}
