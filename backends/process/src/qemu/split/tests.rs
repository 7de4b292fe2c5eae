//! Streams made by a model of QEMU's, cut anywhere, and what must come of them.

use kxl_domain::image::MemoryLayout;
use proptest::prelude::*;

use super::*;

/// A page record: block, page, filling byte; 0 is sent as a zero page.
type Record = (usize, u64, u8);

/// Pages of the two memory blocks.
const PAGES: [u64; 2] = [40, 6];
const NAMES: [&str; 2] = ["ram0", "vga.vram"];

/// A stream and what a splitter has to make of it.
#[derive(Clone, Debug)]
struct Model {
    stream: Vec<u8>,
    device: Vec<u8>,
    memory: Vec<u8>,
    /// Where the devices begin in the stream.
    rest: usize,
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    out.push(u8::try_from(name.len()).unwrap());
    out.extend_from_slice(name.as_bytes());
}

/// The model: `arm` adds the size of pages to the configuration.
fn model(arm: bool, passes: &[Vec<Record>], rest: &[u8]) -> Model {
    let both = |bytes: &[u8], stream: &mut Vec<u8>, device: &mut Vec<u8>| {
        stream.extend_from_slice(bytes);
        device.extend_from_slice(bytes);
    };
    let (mut stream, mut device) = (Vec::new(), Vec::new());
    let mut head = b"QEVM\0\0\0\x03\x07\0\0\0\x08virt-7.2".to_vec();
    if arm {
        head.push(5);
        put_name(&mut head, "configuration/target-page-bits");
        head.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 12]);
    }
    head.extend_from_slice(b"\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04");
    let total = PAGES.iter().sum::<u64>() * PAGE;
    head.extend_from_slice(&(total | MEM_SIZE).to_be_bytes());
    for (name, pages) in NAMES.iter().zip(PAGES) {
        put_name(&mut head, name);
        head.extend_from_slice(&(pages * PAGE).to_be_bytes());
    }
    let mut end = END_OF_RECORDS.to_be_bytes().to_vec();
    end.extend_from_slice(b"\x7e\0\0\0\x02");
    head.extend_from_slice(&end);
    both(&head, &mut stream, &mut device);

    let mut memory = vec![0; usize::try_from(PAGES[0] * PAGE).unwrap()];
    let mut last = None;
    for (number, records) in passes.iter().enumerate() {
        let kind = if number + 1 == passes.len() { END } else { PART };
        both(&[kind, 0, 0, 0, 2], &mut stream, &mut device);
        for &(block, page, fill) in records {
            let page = page % PAGES[block];
            let mut flags = if fill == 0 { ZERO } else { PAGE_DATA };
            if last == Some(block) {
                flags |= SAME_BLOCK;
            }
            let mut record = ((page * PAGE) | flags).to_be_bytes().to_vec();
            if last != Some(block) {
                put_name(&mut record, NAMES[block]);
            }
            let length = if fill == 0 { 1 } else { PAGE_BYTES };
            record.extend(std::iter::repeat_n(fill, length));
            last = Some(block);
            stream.extend_from_slice(&record);
            if block == 0 {
                let at = usize::try_from(page * PAGE).unwrap();
                memory[at..at + PAGE_BYTES].fill(fill);
            } else {
                device.extend_from_slice(&record);
            }
        }
        both(&end, &mut stream, &mut device);
    }
    let start = stream.len();
    both(&[FULL], &mut stream, &mut device);
    both(rest, &mut stream, &mut device);
    Model { stream, device, memory, rest: start }
}

/// A sink into vectors.
#[derive(Debug, Default, PartialEq)]
struct Out {
    memory: Vec<u8>,
    device: Vec<u8>,
    runs: Vec<(u64, u64)>,
    calls: usize,
}

impl Out {
    fn place(&mut self, offset: u64, length: u64) -> &mut [u8] {
        assert!(offset.is_multiple_of(PAGE) && length.is_multiple_of(PAGE) && length > 0);
        self.calls += 1;
        self.runs.push((offset, length));
        let at = usize::try_from(offset).unwrap();
        &mut self.memory[at..at + usize::try_from(length).unwrap()]
    }
}

impl StateSink for Out {
    fn memory(&mut self, layout: &MemoryLayout) -> io::Result<()> {
        assert!(self.memory.is_empty() && layout.id == "ram0");
        // A stream may name any size; the test does not have as much.
        if layout.size > 1 << 24 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.memory = vec![0xee; usize::try_from(layout.size).unwrap()];
        self.memory.fill(0);
        Ok(())
    }

    fn pages(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.place(offset, bytes.len() as u64).copy_from_slice(bytes);
        Ok(())
    }

    fn zeros(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.place(offset, length).fill(0);
        Ok(())
    }

    fn device(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.calls += 1;
        self.device.extend_from_slice(bytes);
        Ok(())
    }
}

/// Feeds the stream in pieces of these lengths, over and over.
fn split(stream: &[u8], pieces: &[usize]) -> Result<(Out, String), SplitError> {
    split_by(Splitter::new("ram0"), stream, pieces)
}

fn split_by(
    mut splitter: Splitter,
    stream: &[u8],
    pieces: &[usize],
) -> Result<(Out, String), SplitError> {
    let mut out = Out::default();
    let (mut rest, mut lengths) = (stream, pieces.iter().cycle());
    while !rest.is_empty() {
        let room = splitter.room();
        let length = rest.len().min(room.len()).min(*lengths.next().unwrap());
        room[..length].copy_from_slice(&rest[..length]);
        splitter.filled(length, &mut out)?;
        rest = &rest[length..];
    }
    splitter.finish(&mut out)?;
    Ok((out, splitter.machine().to_owned()))
}

fn records() -> impl Strategy<Value = Vec<Vec<Record>>> {
    let record = (0usize..2, 0u64..40, prop_oneof![Just(0u8), 1u8..4]);
    proptest::collection::vec(proptest::collection::vec(record, 0..60), 1..5)
}

proptest! {
    #[test]
    fn however_it_is_cut_pages_and_devices_come_apart_and_nothing_is_lost(
        arm: bool,
        passes in records(),
        rest in proptest::collection::vec(any::<u8>(), 0..300),
        pieces in proptest::collection::vec(1usize..9000, 1..20),
    ) {
        let model = model(arm, &passes, &rest);
        let (out, machine) = split(&model.stream, &pieces).unwrap();
        prop_assert_eq!(machine.as_str(), "virt-7.2");
        prop_assert!(out.memory == model.memory, "another memory");
        prop_assert!(out.device == model.device, "another device stream");
    }

    #[test]
    fn what_is_broken_is_an_error_or_another_stream_and_never_a_panic(
        passes in records(),
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let mut model = model(false, &passes, b"devices");
        let at = at.index(model.rest);
        model.stream[at] = byte;
        let _either = split(&model.stream, &[5000]);
    }
}

#[test]
fn a_stream_that_is_cut_off_before_its_devices_is_an_error_wherever_that_is() {
    let model = model(true, &[vec![(0, 1, 2), (1, 1, 1), (0, 2, 0)]], b"");
    // All of what is not a page's inside, and some of that.
    for length in (0..250).chain((250..model.rest).step_by(97)).chain([model.rest]) {
        let error = split(&model.stream[..length], &[4096]).unwrap_err().to_string();
        assert!(error.ends_with("it ends here"), "{length}: {error}");
    }
    split(&model.stream, &[1]).unwrap();
}

#[test]
fn neighbouring_zeros_go_in_one_call_and_the_last_copy_counts() {
    let ascending: Vec<Record> = (0..40).map(|page| (0, page, 1)).collect();
    let zeros: Vec<Record> = (0..40).map(|page| (0, page, 0)).collect();
    let model = model(false, &[ascending, zeros, vec![(0, 7, 9)]], b"x");
    let (out, _) = split(&model.stream, &[4096]).unwrap();
    let pages: Vec<_> = (0..40).map(|page| (page * PAGE, PAGE)).collect();
    assert_eq!(out.runs[..40], pages);
    assert_eq!(out.runs[40..], [(0, 40 * PAGE), (7 * PAGE, PAGE)]);
    assert_eq!(out.memory, model.memory);
}

#[test]
fn a_memory_without_a_last_section_is_one_of_a_guest_that_goes_on() {
    let mut model =
        model(false, &[vec![(0, 1, 1), (1, 2, 3)], vec![(0, 2, 5), (0, 1, 0)]], b"rest");
    for bytes in [&mut model.stream, &mut model.device] {
        let at = bytes.windows(5).rposition(|bytes| bytes == [END, 0, 0, 0, 2]).unwrap();
        bytes[at] = PART;
    }
    for piece in [1, 7, 5000] {
        let (out, _) = split_by(Splitter::new("ram0").endless(), &model.stream, &[piece]).unwrap();
        assert_eq!((&out.memory, &out.device), (&model.memory, &model.device), "{piece}");
    }
    let error = split(&model.stream, &[5000]).unwrap_err().to_string();
    assert!(error.contains("of kind 4 in the memory"), "{error}");
    // Devices that come before any memory.
    let head = model.stream.windows(4).position(|bytes| bytes == b"\x03ram").unwrap() - 5;
    let early = [&model.stream[..head], &[FULL, 0, 0, 0, 9]].concat();
    split_by(Splitter::new("ram0").endless(), &early, &[5000]).unwrap_err();
}

#[test]
fn what_is_not_understood_is_named_with_its_place() {
    let refused = |stream: &[u8]| split(stream, &[4096]).unwrap_err().to_string();
    let good = model(false, &[vec![(0, 1, 1)]], b"x");
    assert!(refused(b"QEVM\0\0\0\x02").contains("at byte 0: not the head of a stream"));
    let mut other = good.stream.clone();
    other[good.rest] = PART;
    let error = refused(&other);
    assert!(error.contains("a section of kind 2 behind the memory"), "{error}");
    // Another kind of page: compressed.
    let at = good.stream.windows(5).position(|bytes| bytes == [END, 0, 0, 0, 2]).unwrap() + 5;
    let mut other = good.stream.clone();
    other[at + 6..at + 8].copy_from_slice(&[0x11, 0x00]);
    assert!(refused(&other).contains("a memory record with flags 0x100"), "{}", refused(&other));
    // A page outside of its block.
    let mut other = good.stream.clone();
    other[at..at + 8].copy_from_slice(&((PAGES[0] * PAGE) | PAGE_DATA).to_be_bytes());
    assert!(refused(&other).contains("page 0x28000 of \"ram0\" of 0x28000 bytes"));
    let mut splitter = Splitter::new("ram1");
    splitter.room()[..good.stream.len()].copy_from_slice(&good.stream);
    let error = splitter.filled(good.stream.len(), &mut Out::default()).unwrap_err().to_string();
    assert!(error.contains("no memory block \"ram1\""), "{error}");
}

/// A sink that takes nothing.
struct Full;

impl StateSink for Full {
    fn memory(&mut self, _: &MemoryLayout) -> io::Result<()> {
        Ok(())
    }

    fn pages(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn zeros(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn device(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_sink_that_is_full_ends_it_with_its_own_error() {
    let model = model(false, &[vec![(0, 1, 1)]], b"x");
    let mut splitter = Splitter::new("ram0");
    splitter.room()[..model.stream.len()].copy_from_slice(&model.stream);
    let error = splitter.filled(model.stream.len(), &mut Full).unwrap_err();
    let SplitError::Sink(error) = error else { panic!("{error}") };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}
