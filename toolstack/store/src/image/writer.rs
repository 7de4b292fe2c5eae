//! Writing an image.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use kxl_domain::ImageId;
use kxl_domain::image::{MemoryLayout, PAGE};

use super::buffer::{Mask, PAGE_LEN, is_zero};
use super::codec::{DeviceFacts, Manifest, MemoryFacts};
use super::reserve::Reserve;
use super::target::{Place, Target};
use super::worker::{Crew, Job};
use super::{CHUNK, Committed, Digest, Facts, Need, index};
use crate::Result;
use crate::error::StoreError;

/// Device bytes are hashed and written in pieces of this size.
const PIECE: usize = 256 << 10;

/// An image while it is written. Nothing of it can be seen before [`commit`](Self::commit), and
/// dropping it leaves nothing.
///
/// Calls block for the disk. Memory and device bytes may come in any mixture; pages may come again,
/// and the last word for a page counts. After an error nothing but dropping makes sense.
#[derive(Debug)]
pub struct Writer {
    // Before the place: threads end before the file they write is given up.
    memory: Option<Memory>,
    device: Device,
    place: Place,
    id: ImageId,
    need: Need,
    reserve: Arc<Reserve>,
    digests: Option<Digests>,
}

struct Memory {
    layout: MemoryLayout,
    crew: Crew,
    open: Option<Job>,
    /// Chunks that were handed over, one bit each.
    known: Vec<u64>,
}

struct Device {
    file: File,
    base: u64,
    hasher: blake3::Hasher,
    waiting: Vec<u8>,
    written: u64,
}

#[derive(Debug)]
struct Digests {
    device: DeviceFacts,
    memory: Option<MemoryFacts>,
}

impl Writer {
    /// Begins an image: makes its temporary and reserves the space that it needs.
    ///
    /// # Errors
    /// `NoRoom` with figures; `Image` where the target cannot be one (a directory, a pipe); `Io`.
    pub fn begin(target: &Target, id: ImageId, need: &Need) -> Result<Self> {
        if need.memory.is_some_and(|size| size == 0 || !size.is_multiple_of(PAGE)) {
            let error = io::Error::new(ErrorKind::InvalidInput, "the memory is not whole pages");
            return Err(StoreError::io("begin an image", target.path(id), error));
        }
        let place = Place::make(target, id, need.memory.unwrap_or(0))?;
        let reserve = Arc::new(Reserve::take(place.dir(), need)?);
        let (file, base) = place.device().map_err(|error| place.failed("open", error))?;
        let device = Device {
            file,
            base,
            hasher: blake3::Hasher::new(),
            waiting: Vec::with_capacity(PIECE),
            written: 0,
        };
        let need = need.clone();
        Ok(Self { memory: None, device, place, id, need, reserve, digests: None })
    }

    /// Announces the memory block; once, before its first page, and of the size that was needed.
    ///
    /// # Errors
    /// `InvalidInput` for a second block or another size; the system's refusal.
    pub fn memory(&mut self, layout: &MemoryLayout) -> io::Result<()> {
        if self.memory.is_some() || self.digests.is_some() {
            return Err(invalid("the memory was announced already".into()));
        }
        if self.need.memory != Some(layout.size) {
            let planned = self.need.memory.unwrap_or(0);
            return Err(invalid(format!(
                "a memory of {} bytes, where {planned} were planned",
                layout.size
            )));
        }
        let (file, base) = self.place.memory(layout.size)?;
        let scratch = self.place.scratch()?;
        let crew = Crew::start(&file, scratch, base, layout.size, Arc::clone(&self.reserve))?;
        let chunks = usize::try_from(layout.size.div_ceil(CHUNK)).map_err(io::Error::other)?;
        let known = vec![0; chunks.div_ceil(64)];
        self.memory = Some(Memory { layout: layout.clone(), crew, open: None, known });
        Ok(())
    }

    /// Whole pages at a page-aligned offset of the memory block.
    ///
    /// # Errors
    /// `InvalidInput` outside the block; no space (`StorageFull`) or another refusal of the
    /// system, also of an earlier call: threads write.
    pub fn pages(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let memory = announced(&mut self.memory)?;
        memory.check(offset, bytes.len() as u64)?;
        let (mut offset, mut bytes) = (offset, bytes);
        while !bytes.is_empty() {
            let room = (CHUNK - offset % CHUNK).min(bytes.len() as u64);
            let (now, later) = bytes.split_at(index(room));
            memory.data(offset, now)?;
            (offset, bytes) = (offset + room, later);
        }
        Ok(())
    }

    /// Whole pages that `read` puts into the room that it is given for each part of the range, in
    /// ascending order: for whoever can read to anywhere, one copy less than [`pages`](Self::pages).
    ///
    /// # Errors
    /// As `pages`; the first error of `read`.
    pub fn read(
        &mut self,
        offset: u64,
        length: u64,
        read: &mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let memory = announced(&mut self.memory)?;
        memory.check(offset, length)?;
        let (mut offset, end) = (offset, offset + length);
        while offset < end {
            let next = (offset - offset % CHUNK + CHUNK).min(end);
            memory.read(offset, next - offset, read)?;
            offset = next;
        }
        Ok(())
    }

    /// Pages of zeros. Costs nothing where nothing was written before.
    ///
    /// # Errors
    /// As [`pages`](Self::pages).
    pub fn zeros(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let memory = announced(&mut self.memory)?;
        memory.check(offset, length)?;
        let (mut offset, end) = (offset, offset + length);
        while offset < end {
            let next = (offset - offset % CHUNK + CHUNK).min(end);
            memory.zero(offset, next - offset)?;
            offset = next;
        }
        Ok(())
    }

    /// The next bytes of the device stream.
    ///
    /// # Errors
    /// No space (`StorageFull`), or another refusal of the system.
    pub fn device(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.digests.is_some() {
            return Err(invalid("the image is finished".into()));
        }
        self.device.put(bytes, &self.reserve)
    }

    /// Writes what is left, and returns when all data is on the disk. Only the manifest is missing
    /// then.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; a failure of an earlier call.
    pub fn finish(&mut self) -> Result<()> {
        if self.digests.is_some() {
            return Ok(());
        }
        self.finish_data().map_err(|error| self.place.failed("write the image", error))
    }

    fn finish_data(&mut self) -> io::Result<()> {
        if self.need.memory.is_some() && self.memory.is_none() {
            return Err(io::Error::new(ErrorKind::InvalidData, "its memory never came"));
        }
        let memory = self.memory.take().map(Memory::finish).transpose()?;
        let device = self.device.finish(&self.reserve)?;
        self.place.sync()?;
        self.digests = Some(Digests { device, memory });
        Ok(())
    }

    /// Makes the image whole and visible, durably. [`finish`](Self::finish) is done first where it
    /// was not.
    ///
    /// # Errors
    /// `NoSpace`, `Io`, `ImageTaken`: then there is no image, and where a file was to be replaced,
    /// the earlier one is still there unless the last step (making the new name durable) failed.
    pub fn commit(mut self, facts: &Facts) -> Result<Committed> {
        self.finish()?;
        let Some(Digests { device, memory }) = self.digests.take() else {
            let error = io::Error::other("it was committed already");
            return Err(self.place.failed("write the image", error));
        };
        let size = memory.as_ref().map_or(0, |memory| memory.layout.size) + device.length;
        let manifest = Manifest { facts: facts.clone(), device, memory };
        let bytes = super::codec::encode(&manifest)
            .map_err(|fault| StoreError::Image { path: self.place.path().to_path_buf(), fault })?;
        let reserve = Arc::clone(&self.reserve);
        let on_disk = self.place.commit(&bytes, device.length, &reserve)?;
        let path = self.place.path().to_path_buf();
        Ok(Committed { id: self.id, path, bytes: on_disk, size })
    }
}

impl Memory {
    fn check(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.checked_add(length);
        if offset.is_multiple_of(PAGE)
            && length.is_multiple_of(PAGE)
            && end.is_some_and(|end| end <= self.layout.size)
        {
            return Ok(());
        }
        Err(invalid(format!("{length} bytes of memory at {offset:#x} are no pages of the block")))
    }

    /// Pages within one chunk.
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let first = index(offset % CHUNK) / PAGE_LEN;
        let job = self.job(offset / CHUNK)?;
        for (page, bytes) in (first..).zip(bytes.chunks(PAGE_LEN)) {
            let pages = page..page + 1;
            if is_zero(bytes) {
                job.data.take(pages.clone());
                job.zero.add(pages);
            } else {
                job.buffer.pages_mut(pages.clone()).copy_from_slice(bytes);
                job.zero.take(pages.clone());
                job.data.add(pages);
            }
        }
        Ok(())
    }

    /// Pages within one chunk, read to their place.
    fn read(
        &mut self,
        offset: u64,
        length: u64,
        read: &mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let first = index(offset % CHUNK) / PAGE_LEN;
        let job = self.job(offset / CHUNK)?;
        let pages = first..first + index(length) / PAGE_LEN;
        read(offset, job.buffer.pages_mut(pages.clone()))?;
        for page in pages {
            let page = page..page + 1;
            if is_zero(job.buffer.pages(page.clone())) {
                job.data.take(page.clone());
                job.zero.add(page);
            } else {
                job.zero.take(page.clone());
                job.data.add(page);
            }
        }
        Ok(())
    }

    /// Zeros within one chunk.
    fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let chunk = offset / CHUNK;
        if self.open.as_ref().is_none_or(|job| job.chunk != chunk) && !self.is_known(chunk) {
            return Ok(());
        }
        let first = index(offset % CHUNK) / PAGE_LEN;
        let pages = first..first + index(length) / PAGE_LEN;
        let job = self.job(chunk)?;
        job.data.take(pages.clone());
        job.zero.add(pages);
        Ok(())
    }

    /// The chunk that is being filled, after handing over the one before.
    fn job(&mut self, chunk: u64) -> io::Result<&mut Job> {
        if let Some(job) = self.open.take_if(|job| job.chunk != chunk) {
            self.hand_over(job)?;
        }
        if self.open.is_none() {
            let buffer = self.crew.buffer()?;
            self.open = Some(Job { chunk, buffer, data: Mask::default(), zero: Mask::default() });
        }
        self.open.as_mut().ok_or_else(|| io::Error::other("no buffer"))
    }

    fn hand_over(&mut self, job: Job) -> io::Result<()> {
        let known = self.is_known(job.chunk);
        self.known[index(job.chunk / 64)] |= 1 << (job.chunk % 64);
        self.crew.put(job, known)
    }

    fn is_known(&self, chunk: u64) -> bool {
        self.known[index(chunk / 64)] & (1 << (chunk % 64)) != 0
    }

    fn finish(mut self) -> io::Result<MemoryFacts> {
        if let Some(job) = self.open.take() {
            self.hand_over(job)?;
        }
        let chunks: Vec<Digest> = self.crew.finish()?;
        Ok(MemoryFacts { layout: self.layout, chunks })
    }
}

impl Device {
    fn put(&mut self, mut bytes: &[u8], reserve: &Reserve) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.waiting.len()));
            self.waiting.extend_from_slice(now);
            if self.waiting.len() == PIECE {
                self.flush(reserve)?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn flush(&mut self, reserve: &Reserve) -> io::Result<()> {
        self.hasher.update(&self.waiting);
        reserve.write(&self.file, &self.waiting, self.base + self.written)?;
        self.written += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    fn finish(&mut self, reserve: &Reserve) -> io::Result<DeviceFacts> {
        self.flush(reserve)?;
        Ok(DeviceFacts { length: self.written, digest: self.hasher.finalize().into() })
    }
}

fn announced(memory: &mut Option<Memory>) -> io::Result<&mut Memory> {
    memory.as_mut().ok_or_else(|| invalid("pages before their memory was announced".into()))
}

fn invalid(text: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, text)
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("written", &self.written).finish_non_exhaustive()
    }
}
