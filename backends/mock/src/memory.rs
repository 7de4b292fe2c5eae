//! The guest's memory: a function of its seed and of how much the guest has written, so that it
//! takes no room and whoever reads it back knows each byte.
//!
//! The guest writes its touched pages in turn, over and over; a page's contents follow from the
//! seed, its place and how often it was written. Every fourth writing leaves zeros.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use kxl_backend::StateSink;
use kxl_domain::image::{MemoryLayout, PAGE};

/// Pages handed over at once where they lie side by side.
const RUN: u64 = 16;

/// [`PAGE`], as the size of an array.
const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == PAGE);

/// The layout of a memory and what fills it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pages: u64,
    touched: u64,
    seed: u64,
}

impl Memory {
    /// So many bytes, of which the guest has touched so many percent.
    pub(crate) const fn new(bytes: u64, percent: u64, seed: u64) -> Self {
        let pages = bytes / PAGE;
        Self { pages, touched: pages * percent / 100, seed }
    }

    /// As the store knows it.
    pub(crate) fn layout(&self) -> MemoryLayout {
        MemoryLayout { id: "ram".to_owned(), size: self.pages * PAGE }
    }

    /// Bytes that the guest has touched.
    pub(crate) const fn touched(&self) -> u64 {
        self.touched * PAGE
    }

    /// Where the touched page of this number lies: they are spread over the whole.
    const fn place(&self, number: u64) -> u64 {
        number * self.pages / self.touched
    }

    /// The page of this number after so many writes. False where it is all zeros.
    fn fill(&self, number: u64, writes: u64, page: &mut [u8]) -> bool {
        let times = writes / self.touched + u64::from(number < writes % self.touched);
        if times % 4 == 3 {
            page.fill(0);
            return false;
        }
        // A xorshift generator stands still at zero.
        let mut word = (self.seed ^ number.rotate_left(32) ^ times.rotate_left(13)).max(1);
        for bytes in page.chunks_mut(8) {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
        }
        true
    }

    /// Puts the whole memory as it is after `writes`: zeros of some gaps are told, of others not,
    /// as a sink has to expect. `each` hears of every portion of bytes and may end it all.
    pub(crate) fn put_all<E: From<io::Error>>(
        &self,
        writes: u64,
        sink: &mut dyn StateSink,
        mut each: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        self.put(0..self.touched, writes, sink, &mut each)?;
        for number in (0..self.touched).step_by(2) {
            let next = if number + 1 < self.touched { self.place(number + 1) } else { self.pages };
            let gap = self.place(number) + 1..next;
            if !gap.is_empty() {
                sink.zeros(gap.start * PAGE, (gap.end - gap.start) * PAGE)?;
            }
        }
        Ok(())
    }

    /// Puts what was written between the writes of these numbers, as it is after the last one.
    pub(crate) fn put_written<E: From<io::Error>>(
        &self,
        written: Range<u64>,
        sink: &mut dyn StateSink,
        mut each: impl FnMut(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.touched == 0 || written.is_empty() {
            return Ok(());
        }
        if written.end - written.start >= self.touched {
            return self.put(0..self.touched, written.end, sink, &mut each);
        }
        let (from, to) = (written.start % self.touched, written.end % self.touched);
        if from < to {
            return self.put(from..to, written.end, sink, &mut each);
        }
        self.put(from..self.touched, written.end, sink, &mut each)?;
        self.put(0..to, written.end, sink, &mut each)
    }

    fn put<E: From<io::Error>>(
        &self,
        numbers: Range<u64>,
        writes: u64,
        sink: &mut dyn StateSink,
        each: &mut impl FnMut(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut run = Vec::new();
        let mut start = 0;
        let mut page = [0; PAGE_BYTES];
        for number in numbers {
            let place = self.place(number) * PAGE;
            let beside = start + run.len() as u64 == place && run.len() as u64 != RUN * PAGE;
            if !beside && !run.is_empty() {
                sink.pages(start, &run)?;
                each(run.len() as u64)?;
                run.clear();
            }
            if self.fill(number, writes, &mut page) {
                if run.is_empty() {
                    start = place;
                }
                run.extend_from_slice(&page);
            } else {
                sink.zeros(place, PAGE)?;
                each(PAGE)?;
            }
        }
        if !run.is_empty() {
            sink.pages(start, &run)?;
            each(run.len() as u64)?;
        }
        Ok(())
    }

    /// Compares a file with what the memory is after `writes`; where they differ first, in bytes.
    pub(crate) fn differs(&self, writes: u64, file: &File) -> io::Result<Option<u64>> {
        let (mut expected, mut found) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
        let mut number = 0;
        for place in 0..self.pages {
            if number < self.touched && self.place(number) == place {
                self.fill(number, writes, &mut expected);
                number += 1;
            } else {
                expected.fill(0);
            }
            file.read_exact_at(&mut found, place * PAGE)?;
            if expected != found {
                let same = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
                return Ok(Some(place * PAGE + same as u64));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sink that is a block of bytes.
    #[derive(Default)]
    struct Block(Vec<u8>);

    impl StateSink for Block {
        fn memory(&mut self, layout: &MemoryLayout) -> io::Result<()> {
            self.0.resize(usize::try_from(layout.size).unwrap(), 0);
            Ok(())
        }

        fn pages(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            assert_eq!((offset % PAGE, bytes.len() as u64 % PAGE), (0, 0));
            let start = usize::try_from(offset).unwrap();
            self.0[start..start + bytes.len()].copy_from_slice(bytes);
            Ok(())
        }

        fn zeros(&mut self, offset: u64, length: u64) -> io::Result<()> {
            let start = usize::try_from(offset).unwrap();
            self.0[start..start + usize::try_from(length).unwrap()].fill(0);
            Ok(())
        }

        fn device(&mut self, _bytes: &[u8]) -> io::Result<()> {
            panic!("no device stream here")
        }
    }

    fn block(memory: &Memory) -> Block {
        let mut block = Block::default();
        block.memory(&memory.layout()).unwrap();
        block
    }

    #[test]
    fn passes_add_up_to_what_one_at_the_end_would_have_put() {
        for percent in [0, 1, 33, 75, 100] {
            let memory = Memory::new(64 * PAGE, percent, 7);
            let mut once = block(&memory);
            memory.put_all::<io::Error>(200, &mut once, |_| Ok(())).unwrap();
            let mut often = block(&memory);
            memory.put_all::<io::Error>(0, &mut often, |_| Ok(())).unwrap();
            for written in [0..10, 10..10, 10..70, 70..190, 190..200] {
                memory.put_written::<io::Error>(written, &mut often, |_| Ok(())).unwrap();
            }
            assert!(once.0 == often.0, "{percent} %");
        }
    }

    #[test]
    fn a_file_is_known_by_each_of_its_bytes() {
        let memory = Memory::new(16 * PAGE, 50, 9);
        let mut block = block(&memory);
        memory.put_all::<io::Error>(20, &mut block, |_| Ok(())).unwrap();
        let path = std::env::temp_dir().join(format!("kxl-mock-memory-{}", std::process::id()));
        std::fs::write(&path, &block.0).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(memory.differs(20, &file).unwrap(), None);
        assert!(memory.differs(21, &file).unwrap().is_some());
        assert!(Memory { seed: 8, ..memory }.differs(20, &file).unwrap().is_some());
        file.write_all_at(&[0x55], 5 * PAGE + 17).unwrap();
        assert_eq!(memory.differs(20, &file).unwrap(), Some(5 * PAGE + 17));
        file.set_len(4 * PAGE).unwrap();
        memory.differs(20, &file).unwrap_err();
    }

    #[test]
    fn portions_are_told_and_can_end_it() {
        let memory = Memory::new(64 * PAGE, 100, 7);
        let mut told = 0;
        memory
            .put_all::<io::Error>(0, &mut block(&memory), |bytes| {
                told += bytes;
                Ok(())
            })
            .unwrap();
        assert_eq!(told, 64 * PAGE);
        let end = |_| Err(io::Error::other("enough"));
        memory.put_all::<io::Error>(0, &mut block(&memory), end).unwrap_err();
    }
}
