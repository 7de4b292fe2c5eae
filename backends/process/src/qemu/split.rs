//! QEMU's migration stream, taken apart on its way to an image.
//!
//! Pages of the domain's main memory block leave the stream and go to their own offset; everything
//! else goes on unchanged, in order, as the device stream. That one still has its memory sections,
//! without a page of the main block, so that QEMU loads it as it loads any other stream: the memory
//! is there already when it does.
//!
//! What is understood is version 3 of the stream with nothing but plain memory sections before the
//! devices: no compression, no postcopy, no second channel. Anything else is an error, never a
//! guess; nothing of a stream that was not understood to its end may be kept.

pub(crate) mod compose;
mod reader;

use std::io;
use std::ops::Range;

use kxl_backend::StateSink;
use kxl_domain::image::{MemoryLayout, PAGE};
use thiserror::Error;

use reader::Reader;

/// Bytes of the stream held at a time.
const INPUT: usize = 1 << 20;

/// Bytes of the device stream that are gathered while memory sections go by.
const KEPT: usize = 64 << 10;

/// [`PAGE`] for slices.
pub(crate) const PAGE_BYTES: usize = 4096;

/// `QEVM` and the version.
const HEAD: &[u8] = b"QEVM\x00\x00\x00\x03";

/// Kinds of section.
const END_OF_STREAM: u8 = 0;
const START: u8 = 1;
const PART: u8 = 2;
const END: u8 = 3;
const FULL: u8 = 4;
const FOOTER: u8 = 0x7e;

/// Version of the memory sections.
const RAM_VERSION: u32 = 4;

/// Flags of a memory record, in the low bits of its address.
const ZERO: u64 = 0x02;
const MEM_SIZE: u64 = 0x04;
const PAGE_DATA: u64 = 0x08;
const END_OF_RECORDS: u64 = 0x10;
const SAME_BLOCK: u64 = 0x20;
const FLAGS: u64 = PAGE - 1;

/// Why a stream cannot be taken apart.
#[derive(Debug, Error)]
pub enum SplitError {
    /// The sink refused something.
    #[error("cannot write the state")]
    Sink(#[from] io::Error),
    /// It is not a stream as it is understood here.
    #[error("the migration stream is not as expected at byte {at}: {what}")]
    Stream {
        /// Offset of the item in the stream.
        at: u64,
        /// What was found.
        what: String,
    },
}

/// Where in the stream the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Head,
    Configuration,
    /// Between sections, the memory not yet complete.
    Section,
    /// In the records of a memory section; `first` holds the table of blocks.
    Records {
        first: bool,
        last: bool,
    },
    Footer {
        last: bool,
    },
    /// The memory is complete: the next byte must begin the devices.
    Devices,
    /// In the devices: everything goes on unchanged.
    Rest,
}

/// A memory block by the stream's table.
#[derive(Debug)]
struct Block {
    name: String,
    used: u64,
}

/// The splitter. Reads are made into [`room`](Self::room); [`filled`](Self::filled) takes them
/// apart; [`finish`](Self::finish) tells whether that was all.
#[derive(Debug)]
pub struct Splitter {
    /// The main block's name.
    main: String,
    input: Vec<u8>,
    /// What of the input is not yet taken apart.
    start: usize,
    end: usize,
    /// Offset in the stream of `start`.
    at: u64,
    place: Place,
    /// The stream of a guest that goes on: its memory has no last section.
    endless: bool,
    /// The memory's section.
    section: Option<u32>,
    machine: String,
    blocks: Vec<Block>,
    /// Index of the main block.
    main_index: Option<usize>,
    /// Index of the block that was named last.
    current: Option<usize>,
    /// Neighbouring pages of zeros on their way to the sink.
    zeros: Option<Range<u64>>,
    kept: Vec<u8>,
}

/// How an item was read.
enum Item {
    /// It takes so many bytes of the input.
    Whole(usize),
    /// Its end is not there yet.
    Cut,
}

impl Splitter {
    /// A splitter for a domain whose main memory block has this name.
    #[must_use]
    pub fn new(main: &str) -> Self {
        Self {
            main: main.to_owned(),
            input: vec![0; INPUT],
            start: 0,
            end: 0,
            at: 0,
            place: Place::Head,
            endless: false,
            section: None,
            machine: String::new(),
            blocks: Vec::new(),
            main_index: None,
            current: None,
            zeros: None,
            kept: Vec::with_capacity(2 * KEPT),
        }
    }

    /// The same for a snapshot that is taken in the background: the devices follow where another
    /// memory section could.
    #[must_use]
    pub fn endless(self) -> Self {
        Self { endless: true, ..self }
    }

    /// Where to put the next bytes of the stream; never empty.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.input[self.end..]
    }

    /// Takes apart what was put into the first `count` bytes of the room. How the stream is cut
    /// into pieces makes no difference.
    ///
    /// # Errors
    /// Any [`SplitError`]; the splitter is of no further use then.
    pub fn filled(&mut self, count: usize, sink: &mut dyn StateSink) -> Result<(), SplitError> {
        self.end += count;
        while self.start < self.end {
            if self.place == Place::Rest {
                self.flush_kept(sink)?;
                sink.device(&self.input[self.start..self.end])?;
                self.advance(self.end - self.start);
                break;
            }
            match self.item(sink)? {
                Item::Whole(length) => self.advance(length),
                Item::Cut => break,
            }
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.input.len() - self.end < self.input.len() / 4 {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end == self.input.len() {
                return Err(self.wrong("a record without an end"));
            }
        }
        Ok(())
    }

    /// The stream has come to its end; hands on what was still held.
    ///
    /// # Errors
    /// [`SplitError::Stream`] when it was cut off before its devices.
    pub fn finish(&mut self, sink: &mut dyn StateSink) -> Result<(), SplitError> {
        if self.place != Place::Rest {
            return Err(self.wrong("it ends here"));
        }
        self.flush_kept(sink)
    }

    /// The machine that the stream names.
    #[must_use]
    pub fn machine(&self) -> &str {
        &self.machine
    }

    fn advance(&mut self, length: usize) {
        self.start += length;
        self.at += length as u64;
    }

    fn wrong(&self, what: impl Into<String>) -> SplitError {
        SplitError::Stream { at: self.at, what: what.into() }
    }

    /// Takes the next item apart.
    fn item(&mut self, sink: &mut dyn StateSink) -> Result<Item, SplitError> {
        match self.place {
            Place::Head => self.head(),
            Place::Configuration => self.configuration(),
            Place::Section => self.section(sink),
            Place::Records { first, last } => self.records(first, last, sink),
            Place::Footer { last } => self.footer(last, sink),
            Place::Devices => match self.input[self.start] {
                FULL | END_OF_STREAM => {
                    self.place = Place::Rest;
                    Ok(Item::Whole(0))
                }
                kind => Err(self.wrong(format!("a section of kind {kind} behind the memory"))),
            },
            Place::Rest => Ok(Item::Whole(0)),
        }
    }

    fn reader(&self) -> Reader<'_> {
        Reader { bytes: &self.input[self.start..self.end], used: 0 }
    }

    /// Passes an item of this length on unchanged.
    fn keep(&mut self, length: usize) -> Item {
        self.kept.extend_from_slice(&self.input[self.start..self.start + length]);
        Item::Whole(length)
    }

    fn head(&mut self) -> Result<Item, SplitError> {
        let bytes = &self.input[self.start..self.end];
        let length = bytes.len().min(HEAD.len());
        if bytes[..length] != HEAD[..length] {
            return Err(self.wrong("not the head of a stream of version 3"));
        }
        if length < HEAD.len() {
            return Ok(Item::Cut);
        }
        self.place = Place::Configuration;
        Ok(self.keep(length))
    }

    /// The configuration: the machine's name and what goes with it.
    fn configuration(&mut self) -> Result<Item, SplitError> {
        let mut reader = self.reader();
        match reader.configuration() {
            None => Ok(Item::Cut),
            Some(Err(what)) => Err(self.wrong(what)),
            Some(Ok(machine)) => {
                let length = reader.used;
                self.machine = machine;
                self.place = Place::Section;
                Ok(self.keep(length))
            }
        }
    }

    fn section(&mut self, sink: &mut dyn StateSink) -> Result<Item, SplitError> {
        if self.endless && self.main_index.is_some() && self.input[self.start] == FULL {
            self.flush_zeros(sink)?;
            self.place = Place::Rest;
            return Ok(Item::Whole(0));
        }
        let mut reader = self.reader();
        let (Some(kind), Some(number)) = (reader.byte(), reader.u32()) else {
            return Ok(Item::Cut);
        };
        match (kind, self.section) {
            (START, None) => {
                let (Some(name), Some(instance), Some(version)) =
                    (reader.name(), reader.u32(), reader.u32())
                else {
                    return Ok(Item::Cut);
                };
                if (name.as_str(), instance, version) != ("ram", 0, RAM_VERSION) {
                    let what =
                        format!("a streamed section \"{name}\" {instance} of version {version}");
                    return Err(self.wrong(what));
                }
                let length = reader.used;
                self.section = Some(number);
                self.place = Place::Records { first: true, last: false };
                Ok(self.keep(length))
            }
            (PART | END, Some(expected)) if number == expected => {
                self.place = Place::Records { first: false, last: kind == END };
                Ok(self.keep(5))
            }
            _ => Err(self.wrong(format!("section {number} of kind {kind} in the memory"))),
        }
    }

    fn footer(&mut self, last: bool, sink: &mut dyn StateSink) -> Result<Item, SplitError> {
        let mut reader = self.reader();
        let (Some(mark), Some(number)) = (reader.byte(), reader.u32()) else {
            return Ok(Item::Cut);
        };
        if (mark, Some(number)) != (FOOTER, self.section) {
            return Err(self.wrong("no footer of the memory section"));
        }
        if last {
            self.flush_zeros(sink)?;
            self.place = Place::Devices;
        } else {
            self.place = Place::Section;
        }
        Ok(self.keep(5))
    }

    /// One record of a memory section.
    fn records(
        &mut self,
        first: bool,
        last: bool,
        sink: &mut dyn StateSink,
    ) -> Result<Item, SplitError> {
        let mut reader = self.reader();
        let Some(word) = reader.u64() else { return Ok(Item::Cut) };
        let (address, flags) = (word & !FLAGS, word & FLAGS);
        match flags {
            END_OF_RECORDS if address == 0 => {
                if first && self.main_index.is_none() {
                    return Err(self.wrong("no table of memory blocks"));
                }
                self.place = Place::Footer { last };
                self.keep_flushed(8, sink)
            }
            MEM_SIZE if first && self.blocks.is_empty() => self.table(address, sink),
            _ if matches!(flags & !SAME_BLOCK, ZERO | PAGE_DATA) => self.page(address, flags, sink),
            _ => Err(self.wrong(format!("a memory record with flags {flags:#x}"))),
        }
    }

    /// The table of blocks, until their sizes reach the total.
    fn table(&mut self, total: u64, sink: &mut dyn StateSink) -> Result<Item, SplitError> {
        let mut reader = self.reader();
        let mut blocks = Vec::new();
        let parsed = (|| {
            reader.u64()?;
            let mut sum = 0u64;
            while sum < total {
                let (name, used) = (reader.name()?, reader.u64()?);
                sum = match sum.checked_add(used) {
                    Some(sum) if sum <= total && used > 0 && used.is_multiple_of(PAGE) => sum,
                    _ => return Some(Err(format!("block \"{name}\" of {used} of {total} bytes"))),
                };
                if blocks.iter().any(|block: &Block| block.name == name) {
                    return Some(Err(format!("block \"{name}\" twice")));
                }
                blocks.push(Block { name, used });
            }
            Some(Ok(reader.used))
        })();
        let length = match parsed {
            None => return Ok(Item::Cut),
            Some(Err(what)) => return Err(self.wrong(what)),
            Some(Ok(length)) => length,
        };
        let Some(index) = blocks.iter().position(|block| block.name == self.main) else {
            return Err(self.wrong(format!("no memory block \"{}\"", self.main)));
        };
        sink.memory(&MemoryLayout { id: self.main.clone(), size: blocks[index].used })?;
        (self.blocks, self.main_index) = (blocks, Some(index));
        self.keep_flushed(length, sink)
    }

    /// A page, of the main block or of another.
    fn page(
        &mut self,
        address: u64,
        flags: u64,
        sink: &mut dyn StateSink,
    ) -> Result<Item, SplitError> {
        let available = self.end - self.start;
        let (index, mut length) = if flags & SAME_BLOCK == 0 {
            let mut reader = self.reader();
            reader.used = 8;
            let Some(name) = reader.name() else { return Ok(Item::Cut) };
            (self.blocks.iter().position(|block| block.name == name), reader.used)
        } else {
            (self.current, 8)
        };
        let Some(index) = index else {
            return Err(self.wrong("a page of no memory block"));
        };
        let body = length;
        let zero = flags & ZERO != 0;
        length += if zero { 1 } else { PAGE_BYTES };
        if available < length {
            return Ok(Item::Cut);
        }
        if address >= self.blocks[index].used {
            let Block { name, used } = &self.blocks[index];
            return Err(self.wrong(format!("page {address:#x} of \"{name}\" of {used:#x} bytes")));
        }
        self.current = Some(index);
        if Some(index) != self.main_index {
            return self.keep_flushed(length, sink);
        }
        let body = self.start + body;
        if !zero {
            self.data_page(address, body, sink)?;
        } else if self.input[body] == 0 {
            self.zero_page(address, sink)?;
        } else {
            return Err(self.wrong("a page filled with another byte than zero"));
        }
        Ok(Item::Whole(length))
    }

    fn data_page(
        &mut self,
        address: u64,
        body: usize,
        sink: &mut dyn StateSink,
    ) -> Result<(), SplitError> {
        self.flush_zeros(sink)?;
        // Each by itself: to gather them would be one more copy of all memory.
        sink.pages(address, &self.input[body..body + PAGE_BYTES])?;
        Ok(())
    }

    fn zero_page(&mut self, address: u64, sink: &mut dyn StateSink) -> Result<(), SplitError> {
        match &mut self.zeros {
            Some(zeros) if zeros.end == address => zeros.end += PAGE,
            _ => {
                self.flush_zeros(sink)?;
                self.zeros = Some(address..address + PAGE);
            }
        }
        Ok(())
    }

    fn flush_zeros(&mut self, sink: &mut dyn StateSink) -> Result<(), SplitError> {
        if let Some(zeros) = self.zeros.take() {
            sink.zeros(zeros.start, zeros.end - zeros.start)?;
        }
        Ok(())
    }

    /// [`keep`](Self::keep), with what is kept handed on when it has grown.
    fn keep_flushed(
        &mut self,
        length: usize,
        sink: &mut dyn StateSink,
    ) -> Result<Item, SplitError> {
        let item = self.keep(length);
        if self.kept.len() >= KEPT {
            self.flush_kept(sink)?;
        }
        Ok(item)
    }

    fn flush_kept(&mut self, sink: &mut dyn StateSink) -> Result<(), SplitError> {
        if !self.kept.is_empty() {
            sink.device(&self.kept)?;
            self.kept.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
