//! Where a state goes: a stream, or a file with the memory at its own offset.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress};

use crate::memory::{self, Memory, PAGE};
use crate::snapshot::{file, stream};

/// The target of a save.
#[derive(Debug)]
pub struct Target {
    file: File,
    kind: Kind,
    size: u64,
}

#[derive(Debug)]
enum Kind {
    Stream,
    /// The state begins at `base`.
    File {
        base: u64,
    },
}

/// What became of some pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) bytes: u64,
    pub(super) normal: u64,
    pub(super) zero: u64,
}

fn is_zero(page: &[u8]) -> bool {
    let (pieces, rest) = page.as_chunks::<16>();
    pieces.iter().all(|piece| u128::from_ne_bytes(*piece) == 0) && rest.iter().all(|b| *b == 0)
}

impl Target {
    /// An open file, socket or pipe. In a file the state begins at `base`, which is a multiple of a
    /// page.
    ///
    /// # Errors
    /// The system's refusal to say what it is; a `base` that is no such multiple.
    pub fn new(file: File, base: u64) -> io::Result<Self> {
        let kind = if file.metadata()?.is_file() {
            if !base.is_multiple_of(PAGE as u64) {
                return Err(io::Error::other(format!("offset {base} is no multiple of {PAGE}")));
            }
            Kind::File { base }
        } else {
            Kind::Stream
        };
        Ok(Self { file, kind, size: 0 })
    }

    pub(super) fn begin(&mut self, size: u64) -> io::Result<()> {
        self.size = size;
        match &self.kind {
            Kind::Stream => self.file.write_all(&stream::head(size)),
            Kind::File { base } => {
                // What was there is no state any more, and what is not written is zeros.
                self.file.set_len(*base)?;
                self.file.set_len(base + file::MEMORY + size)
            }
        }
    }

    pub(super) fn begin_pass(&self, last: bool) -> io::Result<u64> {
        self.framing(&stream::pages(last))
    }

    pub(super) fn end_pass(&self) -> io::Result<u64> {
        self.framing(&stream::end_of_pages())
    }

    fn framing(&self, bytes: &[u8]) -> io::Result<u64> {
        match self.kind {
            Kind::Stream => (&self.file).write_all(bytes).map(|()| bytes.len() as u64),
            Kind::File { .. } => Ok(0),
        }
    }

    /// Writes neighbouring pages; `first` of this pass, which has this number.
    pub(super) fn pages(
        &self,
        memory: &Memory,
        page: u64,
        count: u64,
        first: bool,
        pass: u64,
    ) -> io::Result<Done> {
        let offset = page * PAGE as u64;
        // Never across the gap: it is at a multiple of what is copied at once.
        let bytes = usize::try_from(count).unwrap_or(0) * PAGE;
        let mut copy = vec![0; bytes];
        memory
            .read_slice(&mut copy, GuestAddress(memory::address(offset)))
            .map_err(io::Error::other)?;
        match self.kind {
            Kind::Stream => self.stream(&copy, offset, first),
            Kind::File { base } => self.at(&copy, base + file::MEMORY + offset, pass),
        }
    }

    fn stream(&self, copy: &[u8], offset: u64, first: bool) -> io::Result<Done> {
        let mut done = Done::default();
        let mut out = Vec::with_capacity(copy.len() + copy.len() / 256);
        for (number, page) in (0u64..).zip(copy.chunks_exact(PAGE)) {
            let (at, first) = (offset + number * PAGE as u64, first && number == 0);
            if is_zero(page) {
                out.extend(stream::zero(at, first));
                done.zero += 1;
            } else {
                out.extend(stream::page(at, first));
                out.extend(page);
                done.normal += 1;
            }
        }
        (&self.file).write_all(&out)?;
        done.bytes = out.len() as u64;
        Ok(done)
    }

    /// Pages of zeros stay holes in the first pass, and are written where there may be something
    /// from an earlier one.
    fn at(&self, copy: &[u8], at: u64, pass: u64) -> io::Result<Done> {
        let mut done = Done::default();
        let mut from = 0;
        let pages: Vec<bool> =
            copy.chunks_exact(PAGE).map(|page| pass == 1 && is_zero(page)).collect();
        for run in pages.chunk_by(|a, b| a == b) {
            let length = run.len() * PAGE;
            if run[0] {
                done.zero += run.len() as u64;
            } else {
                self.file.write_all_at(&copy[from..from + length], at + from as u64)?;
                done.normal += run.len() as u64;
                done.bytes += length as u64;
            }
            from += length;
        }
        Ok(done)
    }

    /// Has what was written so far reach the disk.
    pub(super) fn settle(&self) -> io::Result<()> {
        match self.kind {
            Kind::Stream => Ok(()),
            Kind::File { .. } => self.file.sync_data(),
        }
    }

    /// Writes the devices; the state is whole then, and in a file also on the disk.
    pub(super) fn finish(&mut self, records: &[u8]) -> io::Result<u64> {
        let devices = stream::devices(records);
        match &self.kind {
            Kind::Stream => {
                self.file.write_all(&devices)?;
                Ok(devices.len() as u64)
            }
            Kind::File { base } => {
                let mut whole = stream::head(self.size);
                whole.extend(stream::pages(true));
                whole.extend(stream::end_of_pages());
                whole.extend(devices);
                file::finish(&self.file, *base, self.size, &whole)?;
                Ok(whole.len() as u64)
            }
        }
    }
}
