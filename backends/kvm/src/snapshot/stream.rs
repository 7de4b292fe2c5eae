//! The outer framing of QEMU's migration stream, version 3, as far as it is needed to carry one
//! block of memory and one device section (QEMU's docs/devel/migration and migration/ram.c).
//! All numbers are big-endian.

use std::io::{self, Read};

use thiserror::Error;

use super::{BLOCK, MACHINE};
use crate::memory::PAGE as PAGE_BYTES;

const MAGIC: &[u8; 8] = b"QEVM\x00\x00\x00\x03";
const CONFIGURATION: u8 = 7;
const START: u8 = 1;
const PART: u8 = 2;
const END: u8 = 3;
const FULL: u8 = 4;
const FOOTER: u8 = 0x7e;
const END_OF_STREAM: u8 = 0;

const MEMORY_SECTION: u32 = 2;
const DEVICE_SECTION: u32 = 3;
const RAM: &str = "ram";
const RAM_VERSION: u32 = 4;
/// The one device section and its version: [`super::records`] have one of their own.
const DEVICES: &str = "kxl-vmm";
const DEVICES_VERSION: u32 = 1;

/// Flags in the low bits of a page's address.
const ZERO: u64 = 0x02;
const MEM_SIZE: u64 = 0x04;
const PAGE_DATA: u64 = 0x08;
const END_OF_RECORDS: u64 = 0x10;
const SAME_BLOCK: u64 = 0x20;

/// Bytes of a page.
const PAGE: u64 = PAGE_BYTES as u64;
/// Bytes that the device section may have: 64 processors and all devices are far below.
const MOST_DEVICES: u32 = 16 << 20;

/// Why a stream cannot be read.
#[derive(Debug, Error)]
pub enum StreamError {
    /// The system's refusal, or an early end.
    #[error("cannot read the stream")]
    Read(#[from] io::Error),
    /// Another thing than was expected.
    #[error("the stream is not one of kxl-vmm: {0}")]
    Shape(String),
}

fn shape(what: impl Into<String>) -> StreamError {
    StreamError::Shape(what.into())
}

fn name(out: &mut Vec<u8>, name: &str) {
    out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.extend(name.bytes());
}

/// The stream up to its first pages, for a block of so many bytes.
#[must_use]
pub fn head(memory: u64) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.push(CONFIGURATION);
    out.extend(u32::try_from(MACHINE.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(MACHINE.bytes());
    out.push(START);
    out.extend(MEMORY_SECTION.to_be_bytes());
    name(&mut out, RAM);
    out.extend(0u32.to_be_bytes());
    out.extend(RAM_VERSION.to_be_bytes());
    out.extend((memory | MEM_SIZE).to_be_bytes());
    name(&mut out, BLOCK);
    out.extend(memory.to_be_bytes());
    out.extend(end_of_pages());
    out
}

/// Before the pages of one pass; the first page behind it names the block.
#[must_use]
pub fn pages(last: bool) -> Vec<u8> {
    let mut out = vec![if last { END } else { PART }];
    out.extend(MEMORY_SECTION.to_be_bytes());
    out
}

/// Behind the pages of one pass.
#[must_use]
pub fn end_of_pages() -> Vec<u8> {
    let mut out = END_OF_RECORDS.to_be_bytes().to_vec();
    out.push(FOOTER);
    out.extend(MEMORY_SECTION.to_be_bytes());
    out
}

/// Before a page's bytes.
#[must_use]
pub fn page(offset: u64, first: bool) -> Vec<u8> {
    record(offset, PAGE_DATA, first)
}

/// A page of zeros.
#[must_use]
pub fn zero(offset: u64, first: bool) -> Vec<u8> {
    let mut out = record(offset, ZERO, first);
    out.push(0);
    out
}

fn record(offset: u64, flags: u64, first: bool) -> Vec<u8> {
    if !first {
        return (offset | flags | SAME_BLOCK).to_be_bytes().to_vec();
    }
    let mut out = (offset | flags).to_be_bytes().to_vec();
    name(&mut out, BLOCK);
    out
}

/// The devices and the end.
#[must_use]
pub fn devices(records: &[u8]) -> Vec<u8> {
    let mut out = vec![FULL];
    out.extend(DEVICE_SECTION.to_be_bytes());
    name(&mut out, DEVICES);
    out.extend(0u32.to_be_bytes());
    out.extend(DEVICES_VERSION.to_be_bytes());
    out.extend(u32::try_from(records.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(records);
    out.push(FOOTER);
    out.extend(DEVICE_SECTION.to_be_bytes());
    out.push(END_OF_STREAM);
    out
}

/// Where the pages of a stream go.
pub trait Pages {
    /// The memory has so many bytes.
    ///
    /// # Errors
    /// Where the machine has not.
    fn size(&mut self, bytes: u64) -> Result<(), StreamError>;

    /// A page, or `None` for zeros. The offset was compared with the size.
    ///
    /// # Errors
    /// Where it cannot be put.
    fn page(&mut self, offset: u64, bytes: Option<&[u8; PAGE_BYTES]>) -> Result<(), StreamError>;
}

/// Reads a stream to its end; its device records.
///
/// # Errors
/// Any [`StreamError`].
pub fn read(from: &mut dyn Read, into: &mut dyn Pages) -> Result<Vec<u8>, StreamError> {
    let mut reader = Reader { from, into, size: 0 };
    reader.head()?;
    loop {
        match reader.byte()? {
            PART | END => {
                reader.expect(MEMORY_SECTION, "section of pages")?;
                reader.records()?;
            }
            FULL => return reader.devices(),
            other => return Err(shape(format!("a section of kind {other}"))),
        }
    }
}

struct Reader<'a> {
    from: &'a mut dyn Read,
    into: &'a mut dyn Pages,
    size: u64,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], StreamError> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, StreamError> {
        Ok(self.take::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, StreamError> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, StreamError> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn text(&mut self, length: usize) -> Result<String, StreamError> {
        let mut bytes = vec![0; length];
        self.from.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn name(&mut self) -> Result<String, StreamError> {
        let length = self.byte()?;
        self.text(length.into())
    }

    fn expect(&mut self, number: u32, what: &str) -> Result<(), StreamError> {
        let found = self.u32()?;
        if found == number { Ok(()) } else { Err(shape(format!("{what} with number {found}"))) }
    }

    fn named(&mut self, expected: &str, what: &str) -> Result<(), StreamError> {
        let found = self.name()?;
        if found == expected { Ok(()) } else { Err(shape(format!("{what} \"{found}\""))) }
    }

    fn head(&mut self) -> Result<(), StreamError> {
        if self.take::<8>()? != *MAGIC {
            return Err(shape("its head is another"));
        }
        if self.byte()? != CONFIGURATION {
            return Err(shape("no machine is named"));
        }
        let length = self.u32()? as usize;
        let machine = if length > 64 { String::new() } else { self.text(length)? };
        if machine != MACHINE {
            return Err(shape(format!(
                "it is that of the machine \"{machine}\", this is {MACHINE}"
            )));
        }
        if self.byte()? != START {
            return Err(shape("the memory does not come first"));
        }
        self.expect(MEMORY_SECTION, "a first section")?;
        self.named(RAM, "a first section")?;
        self.expect(0, "a memory section")?;
        self.expect(RAM_VERSION, "a memory section")?;
        let total = self.u64()?;
        self.named(BLOCK, "a memory block")?;
        self.size = self.u64()?;
        if total != self.size | MEM_SIZE || !self.size.is_multiple_of(PAGE) {
            return Err(shape("more than one memory block"));
        }
        self.into.size(self.size)?;
        self.records()
    }

    /// Pages up to the end of their section.
    fn records(&mut self) -> Result<(), StreamError> {
        loop {
            let word = self.u64()?;
            let (offset, flags) = (word & !(PAGE - 1), word & (PAGE - 1));
            if flags == END_OF_RECORDS && offset == 0 {
                break;
            }
            if flags & SAME_BLOCK == 0 {
                self.named(BLOCK, "a page of")?;
            }
            if offset >= self.size {
                return Err(shape(format!("a page at {offset:#x}, behind the memory's end")));
            }
            match flags & !SAME_BLOCK {
                ZERO if self.byte()? == 0 => self.into.page(offset, None)?,
                PAGE_DATA => {
                    let bytes = self.take()?;
                    self.into.page(offset, Some(&bytes))?;
                }
                other => return Err(shape(format!("a page with flags {other:#x}"))),
            }
        }
        if self.byte()? != FOOTER {
            return Err(shape("no end of the pages"));
        }
        self.expect(MEMORY_SECTION, "an end of the pages")
    }

    fn devices(&mut self) -> Result<Vec<u8>, StreamError> {
        self.expect(DEVICE_SECTION, "a device section")?;
        self.named(DEVICES, "a device section")?;
        self.expect(0, "a device section")?;
        self.expect(DEVICES_VERSION, "a device section")?;
        let length = self.u32()?;
        if length > MOST_DEVICES {
            return Err(shape(format!("{length} bytes of devices")));
        }
        let mut records = Vec::new();
        (&mut *self.from).take(length.into()).read_to_end(&mut records)?;
        if records.len() != length as usize {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if self.byte()? != FOOTER {
            return Err(shape("no end of the devices"));
        }
        self.expect(DEVICE_SECTION, "an end of the devices")?;
        match self.byte()? {
            END_OF_STREAM => Ok(records),
            other => Err(shape(format!("a section of kind {other} behind the devices"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Memory(Vec<Option<u8>>);

    impl Pages for Memory {
        fn size(&mut self, bytes: u64) -> Result<(), StreamError> {
            // A test's memory is small.
            self.0 = vec![None; usize::try_from(bytes.min(1 << 20) / PAGE).unwrap()];
            Ok(())
        }

        fn page(&mut self, offset: u64, bytes: Option<&[u8; 4096]>) -> Result<(), StreamError> {
            let place = usize::try_from(offset / PAGE).unwrap();
            if let Some(page) = self.0.get_mut(place) {
                *page = Some(bytes.map_or(0, |bytes| bytes[17]));
            }
            Ok(())
        }
    }

    fn sample() -> Vec<u8> {
        let mut stream = head(4 * PAGE);
        stream.extend(pages(false));
        stream.extend(page(0, true));
        stream.extend([5; 4096]);
        stream.extend(page(3 * PAGE, false));
        stream.extend([6; 4096]);
        stream.extend(end_of_pages());
        stream.extend(pages(true));
        stream.extend(zero(0, true));
        stream.extend(end_of_pages());
        stream.extend(devices(b"records"));
        stream
    }

    #[test]
    fn what_comes_last_for_a_page_counts() {
        let mut memory = Memory::default();
        assert_eq!(read(&mut sample().as_slice(), &mut memory).unwrap(), b"records");
        assert_eq!(memory.0, [Some(0), None, None, Some(6)]);
    }

    #[test]
    fn a_stream_of_another_machine_is_refused_by_its_name() {
        let stream = String::from_utf8_lossy(&sample()).replace(MACHINE, "pc-q35-72");
        let refused = read(&mut stream.as_bytes(), &mut Memory::default()).unwrap_err();
        assert!(refused.to_string().contains("\"pc-q35-72\""), "{refused}");
    }

    proptest! {
        #[test]
        fn a_damaged_stream_is_refused_or_read_and_never_more(
            at in 0usize..9000, bit in 0u8..8, cut in 0usize..9000,
        ) {
            let mut stream = sample();
            let length = stream.len();
            prop_assert!(read(&mut &stream[..cut % length], &mut Memory::default()).is_err());
            stream[at % length] ^= 1 << bit;
            let _refused = read(&mut stream.as_slice(), &mut Memory::default());
        }
    }
}
