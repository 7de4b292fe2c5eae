//! Reading memory back, chunk by chunk, each compared with its digest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Whence, lseek};

use super::buffer::{Buffer, Mask, PAGE_LEN};
use super::codec::MemoryFacts;
use super::fault::ImageFault;
use super::open::{Image, Part, Problem, read_exact};
use super::reserve::Reserve;
use super::tree;
use super::worker::{DIRECT, reopened};
use super::{CHUNK, index};
use crate::Result;
use crate::error::StoreError;

/// Threads that read and hash: some hash while the others wait for the disk.
const THREADS: usize = 4;

/// How the memory of an image is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Past the page cache, by several threads: an image that is only looked at once must not push
    /// out what others read again, and one that is not in there is read several times faster.
    Once,
    /// Through the page cache, by one thread: for a guest that maps it, and is going to need it.
    Shared,
    /// The same by several threads: somebody waits for it.
    Awaited,
}

/// What a complete verification has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Bytes that were read; holes are not.
    pub bytes: u64,
    /// Chunks of memory, holes and all.
    pub chunks: u64,
}

impl Image {
    /// Copies the memory into a file of its own, from its beginning: the data only, so that holes
    /// stay holes. Each chunk is compared with its digest before it is written.
    ///
    /// `moved` is told the bytes that were copied since the last time, and ends it with `false`.
    ///
    /// # Errors
    /// `Image` naming the first chunk that is not what was written, `GivenUp`, `NoSpace`, `Io`.
    /// The file is of no use then.
    pub fn copy_memory(&self, into: &File, moved: &mut dyn FnMut(u64) -> bool) -> Result<()> {
        let Some(memory) = &self.manifest.memory else { return Ok(()) };
        into.set_len(memory.layout.size)
            .map_err(|error| self.failed("copy the memory of", error))?;
        self.each_chunk(moved, &|chunk, buffer, data| {
            for run in data.runs() {
                let at = chunk * CHUNK + (run.start * PAGE_LEN) as u64;
                let end = (chunk * CHUNK + (run.end * PAGE_LEN) as u64).min(memory.layout.size);
                let bytes = &buffer.pages(run)[..index(end - at)];
                Reserve::none().write(into, bytes, at)?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Reads everything and compares it with its digests.
    ///
    /// `moved` is told the bytes that were read since the last time, and ends it with `false`.
    ///
    /// # Errors
    /// `Image` naming the device stream or the first chunk of memory that is not what was written,
    /// `GivenUp`, `Io`.
    pub fn verify(&self, moved: &mut dyn FnMut(u64) -> bool) -> Result<Verified> {
        self.verify_by(Reading::Once, moved)
    }

    /// The same without haste, for an image that a guest maps: what was read stays in the page
    /// cache, where the guest finds it, and with it whoever saves that guest again.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_shared(&self, moved: &mut dyn FnMut(u64) -> bool) -> Result<Verified> {
        self.verify_by(Reading::Shared, moved)
    }

    /// The same with haste, for an image that is going to be mapped when it is verified.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_ahead(&self, moved: &mut dyn FnMut(u64) -> bool) -> Result<Verified> {
        self.verify_by(Reading::Awaited, moved)
    }

    fn verify_by(&self, how: Reading, moved: &mut dyn FnMut(u64) -> bool) -> Result<Verified> {
        drop(self.device()?);
        let device = self.manifest.device.length;
        if !moved(device) {
            return Err(self.given_up());
        }
        let memory = self.walk(how, moved, &|_, _, _| Ok(()))?;
        let chunks = self.manifest.memory.as_ref().map_or(0, |memory| memory.chunks.len() as u64);
        Ok(Verified { bytes: device + memory, chunks })
    }

    pub(super) fn given_up(&self) -> StoreError {
        StoreError::GivenUp { path: self.path.clone() }
    }

    /// Reads and verifies every chunk on several threads; hands those with data to `take`. Gives
    /// the bytes that were read.
    pub(super) fn each_chunk(
        &self,
        moved: &mut dyn FnMut(u64) -> bool,
        take: &(dyn Fn(u64, &Buffer, &Mask) -> io::Result<()> + Sync),
    ) -> Result<u64> {
        self.walk(Reading::Once, moved, take)
    }

    fn walk(
        &self,
        how: Reading,
        moved: &mut dyn FnMut(u64) -> bool,
        take: &(dyn Fn(u64, &Buffer, &Mask) -> io::Result<()> + Sync),
    ) -> Result<u64> {
        let (Some(part), Some(facts)) = (&self.memory, &self.manifest.memory) else {
            return Ok(0);
        };
        let walk = Walk {
            part,
            direct: match how {
                Reading::Once => reopened(&part.file, OFlag::O_DIRECT, false),
                Reading::Shared | Reading::Awaited => None,
            },
            facts,
            take,
            next: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            failed: Mutex::new(None),
        };
        let (mut all, mut go_on) = (0, true);
        std::thread::scope(|scope| {
            let (progress, news) = channel();
            let threads = if how == Reading::Shared { 1 } else { THREADS };
            for _ in 0..threads.min(facts.chunks.len()) {
                let (walk, progress) = (&walk, progress.clone());
                scope.spawn(move || walk.run(&progress));
            }
            drop(progress);
            for bytes in news {
                all += bytes;
                if go_on && !moved(bytes) {
                    go_on = false;
                    walk.stopped.store(true, Ordering::Relaxed);
                }
            }
        });
        let failed = walk.failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        match failed {
            Some((_, problem)) => Err(problem.of(self.path.clone())),
            None if go_on => Ok(all),
            None => Err(self.given_up()),
        }
    }
}

struct Walk<'a> {
    part: &'a Part,
    /// The same file past the page cache.
    direct: Option<File>,
    facts: &'a MemoryFacts,
    take: &'a (dyn Fn(u64, &Buffer, &Mask) -> io::Result<()> + Sync),
    next: AtomicU64,
    stopped: AtomicBool,
    failed: Mutex<Option<(u64, Problem)>>,
}

impl Walk<'_> {
    fn run(&self, progress: &Sender<u64>) {
        let mut buffer = Buffer::new();
        while !self.stopped.load(Ordering::Relaxed) {
            let chunk = self.next.fetch_add(1, Ordering::Relaxed);
            if chunk >= self.facts.chunks.len() as u64 {
                return;
            }
            match self.one(chunk, &mut buffer) {
                Ok(0) => {}
                Ok(bytes) => {
                    if progress.send(bytes).is_err() {
                        return;
                    }
                }
                Err(problem) => {
                    self.stopped.store(true, Ordering::Relaxed);
                    let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                    // Chunks are begun in their order, so that the first bad one is met by
                    // somebody even if a later one is met before it.
                    if failed.as_ref().is_none_or(|(earlier, _)| chunk < *earlier) {
                        *failed = Some((chunk, problem));
                    }
                }
            }
        }
    }

    fn one(&self, chunk: u64, buffer: &mut Buffer) -> Result<u64, Problem> {
        let start = chunk * CHUNK;
        let length = (self.facts.layout.size - start).min(CHUNK);
        let (data, bytes) = self.part.load(self.direct.as_ref(), start, length, buffer)?;
        let expected = self.facts.chunks[index(chunk)];
        if data.is_empty() && expected == tree::ALL_ZERO {
            return Ok(0);
        }
        if tree::digest(buffer, &data, index(length)) != expected {
            return Err(ImageFault::Chunk { offset: start, length }.into());
        }
        (self.take)(chunk, buffer, &data)?;
        Ok(bytes)
    }
}

impl Part {
    /// Reads the data within a chunk of the memory; holes are left out of the mask and the buffer.
    fn load(
        &self,
        direct: Option<&File>,
        start: u64,
        length: u64,
        buffer: &mut Buffer,
    ) -> Result<(Mask, u64), Problem> {
        let (base, end) = (self.start + start, self.start + start + length);
        let (mut data, mut bytes, mut at) = (Mask::default(), 0, base);
        while at < end {
            let Some(from) = seek(&self.file, at, Whence::SeekData)?.filter(|from| *from < end)
            else {
                break;
            };
            let to = seek(&self.file, from, Whence::SeekHole)?.unwrap_or(end).min(end);
            // File systems with blocks smaller than a page.
            let first = index(from - base) / PAGE_LEN;
            let last = index(to - base).div_ceil(PAGE_LEN);
            let count = (last * PAGE_LEN).min(index(length)) - first * PAGE_LEN;
            let room = &mut buffer.pages_mut(first..last)[..count];
            let place = base + (first * PAGE_LEN) as u64;
            let whole = direct.filter(|_| last - first >= DIRECT);
            // Refused where the file system or the disk wants it in larger pieces.
            if whole.is_none_or(|file| file.read_exact_at(room, place).is_err()) {
                read_exact(&self.file, room, place, "the memory")?;
            }
            data.add(first..last);
            bytes += count as u64;
            at = base + (last * PAGE_LEN) as u64;
        }
        Ok((data, bytes))
    }
}

/// The next data or hole; `None` where there is no more data. Where the file system cannot tell,
/// all is data.
fn seek(file: &File, at: u64, whence: Whence) -> io::Result<Option<u64>> {
    match lseek(file, at.cast_signed(), whence) {
        Ok(found) => Ok(Some(found.cast_unsigned())),
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL) if matches!(whence, Whence::SeekData) => Ok(Some(at)),
        Err(Errno::EINVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
