//! A device stream put together by ourselves, as QEMU writes it and [`Splitter`](super::Splitter)
//! leaves it.

use super::reader::{CONFIGURATION, PAGE_BITS, SUBSECTION};
use super::{
    END, END_OF_RECORDS, FOOTER, HEAD, MEM_SIZE, PAGE_BYTES, PAGE_DATA, RAM_VERSION, SAME_BLOCK,
    START, ZERO,
};

/// The number of the memory's section: none of QEMU's own comes near.
const RAM: u32 = u32::MAX;

/// What ends the devices: a description of them, for programs that cannot do without. QEMU reads
/// it, and looks at nothing of it.
const DESCRIPTION: &[u8] = b"\x06\x00\x00\x00\x02{}";

/// A stream in the making: the head, the memory without the main block's pages, the devices.
#[derive(Debug)]
pub(crate) struct Composer {
    bytes: Vec<u8>,
    /// The block that was named last.
    current: Option<String>,
}

impl Composer {
    /// Begins the stream of a machine with these blocks (name, bytes used). `page_bits` for a
    /// processor whose pages may be of several sizes: that they are of 4 KiB is part of its state.
    pub(crate) fn new(machine: &str, page_bits: bool, blocks: &[(&str, u64)]) -> Self {
        let mut new = Self { bytes: HEAD.to_vec(), current: None };
        new.configuration(machine, page_bits);
        new.byte(START);
        new.u32(RAM);
        new.name("ram");
        new.u32(0);
        new.u32(RAM_VERSION);
        let total: u64 = blocks.iter().map(|(_, used)| used).sum();
        new.u64(total | MEM_SIZE);
        for (name, used) in blocks {
            new.name(name);
            new.u64(*used);
        }
        new.end_of_records();
        new.byte(END);
        new.u32(RAM);
        new
    }

    /// A page of a block.
    pub(crate) fn page(&mut self, block: &str, offset: u64, bytes: &[u8; PAGE_BYTES]) {
        self.record(block, offset | PAGE_DATA);
        self.bytes.extend_from_slice(bytes);
    }

    /// A page of zeros.
    pub(crate) fn zero(&mut self, block: &str, offset: u64) {
        self.record(block, offset | ZERO);
        self.byte(0);
    }

    /// The whole stream; `devices` is what QEMU says of them, a stream without memory. `None` when
    /// it is no such stream.
    pub(crate) fn finish(mut self, devices: &[u8]) -> Option<Vec<u8>> {
        self.end_of_records();
        self.bytes.extend_from_slice(devices.strip_prefix(HEAD)?);
        self.bytes.extend_from_slice(DESCRIPTION);
        Some(self.bytes)
    }

    fn configuration(&mut self, machine: &str, page_bits: bool) {
        self.byte(CONFIGURATION);
        self.u32(u32::try_from(machine.len()).unwrap_or(u32::MAX));
        self.bytes.extend_from_slice(machine.as_bytes());
        if page_bits {
            self.byte(SUBSECTION);
            self.name(PAGE_BITS);
            self.u32(1);
            self.u32(PAGE_BYTES.trailing_zeros());
        }
    }

    fn record(&mut self, block: &str, word: u64) {
        if self.current.as_deref() == Some(block) {
            self.u64(word | SAME_BLOCK);
        } else {
            self.u64(word);
            self.name(block);
            self.current = Some(block.to_owned());
        }
    }

    fn end_of_records(&mut self) {
        self.u64(END_OF_RECORDS);
        self.byte(FOOTER);
        self.u32(RAM);
    }

    fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    /// A length byte and so many bytes.
    fn name(&mut self, name: &str) {
        // QEMU has no longer ones.
        let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
        self.bytes.push(length);
        self.bytes.extend_from_slice(&name.as_bytes()[..length.into()]);
    }
}
