use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use super::*;
use crate::virtio::driver::Buffer::{self, In, Out};
use crate::virtio::driver::{DATA, Driver, driven};
use crate::virtio::transport::status;
use crate::virtio::{EVENT_IDX, Told};

const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
const BUFFER: u64 = DATA + 0x1000;

struct Image(PathBuf);

impl Image {
    /// 1 MiB in which each sector begins with its number.
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kxl-block-{}-{name}", std::process::id()));
        let mut bytes = vec![0x5a; 1 << 20];
        for (number, sector) in (0u32..).zip(bytes.chunks_mut(512)) {
            sector[..4].copy_from_slice(&number.to_le_bytes());
        }
        fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn disk(&self, readonly: bool) -> Disk {
        open(&self.0, readonly).unwrap()
    }

    fn read(&self, sector: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        File::open(&self.0).unwrap().read_exact_at(&mut data, sector * 512).unwrap();
        data
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

fn disk(image: &Image) -> Driver<Block> {
    driven(Block::new(Some(image.disk(false)), "disk0"), 0)
}

/// One request; its status and the length given back.
fn ask(driver: &mut Driver<Block>, kind: u32, sector: u64, buffers: &[Buffer]) -> (u8, u32) {
    offer(driver, 0, kind, sector, buffers);
    driver.ring(0);
    let (_head, length) = driver.wait(0);
    (driver.get(STATUS, 1)[0], length)
}

/// Request `number` has a header and a status of its own.
fn offer(driver: &mut Driver<Block>, number: u64, kind: u32, sector: u64, buffers: &[Buffer]) {
    let header = HEADER + 16 * number;
    let status = STATUS + number;
    driver.put(header, &[kind.to_le_bytes(), [0; 4]].concat());
    driver.put(header + 8, &sector.to_le_bytes());
    driver.put(status, &[0xff]);
    let mut all = vec![In(header, 16)];
    all.extend(buffers);
    all.push(Out(status, 1));
    driver.offer(0, &all);
}

#[test]
fn sectors_are_read_into_the_buffers_in_order() {
    let image = Image::new("read");
    let mut driver = disk(&image);
    let buffers = [Out(BUFFER, 512), Out(BUFFER + 0x1000, 1024)];
    assert_eq!(ask(&mut driver, 0, 5, &buffers), (0, 1537));
    let expected = image.read(5, 1536);
    assert_eq!(driver.get(BUFFER, 512), expected[..512]);
    assert_eq!(driver.get(BUFFER + 0x1000, 1024), expected[512..]);
}

#[test]
fn what_is_read_from_the_disk_is_marked_as_written_memory() {
    use vm_memory::bitmap::Bitmap;
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    let image = Image::new("dirty");
    let mut driver = disk(&image);
    let dirty = |driver: &Driver<Block>, at: u64| {
        let region = driver.memory.iter().next().unwrap();
        region.bitmap().dirty_at(usize::try_from(at).unwrap())
    };
    let far = BUFFER + 0x8_0000;
    assert!(!dirty(&driver, far));
    ask(&mut driver, 0, 0, &[Out(far, 4096)]);
    assert!(dirty(&driver, far) && !dirty(&driver, far + 4096));
}

#[test]
fn sectors_are_written_from_the_buffers_and_flushed() {
    let image = Image::new("write");
    let mut driver = disk(&image);
    driver.put(BUFFER, &[1; 512]);
    driver.put(BUFFER + 0x2000, &[2; 512]);
    let buffers = [In(BUFFER, 512), In(BUFFER + 0x2000, 512)];
    assert_eq!(ask(&mut driver, 1, 7, &buffers), (0, 1));
    assert_eq!(ask(&mut driver, 4, 0, &[]), (0, 1));
    let got = image.read(7, 1024);
    assert!(got[..512].iter().all(|byte| *byte == 1) && got[512..].iter().all(|byte| *byte == 2));
    assert_eq!(image.read(6, 4), 6u32.to_le_bytes());
    assert_eq!(image.read(9, 4), 9u32.to_le_bytes());
}

#[test]
fn a_request_of_hundreds_of_buffers_comes_through_a_table_of_its_own() {
    let image = Image::new("many");
    let mut driver = disk(&image);
    let table = DATA + 0x8_0000;
    driver.put(HEADER, &[0; 16]);
    driver.put(STATUS, &[0xff]);
    let mut buffers = vec![In(HEADER, 16)];
    buffers.extend((0..600u64).map(|at| Out(BUFFER + at * 512, 512)));
    buffers.push(Out(STATUS, 1));
    driver.offer_indirect(0, table, &buffers);
    driver.ring(0);
    assert_eq!(driver.wait(0).1, 600 * 512 + 1);
    assert_eq!(driver.get(STATUS, 1), [0]);
    assert_eq!(driver.get(BUFFER, 600 * 512), image.read(0, 600 * 512));
}

#[test]
fn several_requests_for_one_ring_of_the_bell_are_all_served() {
    for without in [0, EVENT_IDX] {
        let image = Image::new("batch");
        let mut driver = driven(Block::new(Some(image.disk(false)), ""), without);
        for round in 0..50 {
            for number in 0..5u64 {
                let to = Out(BUFFER + 512 * number, 512);
                offer(&mut driver, number, 0, round + number, &[to]);
            }
            driver.ring(0);
            for _ in 0..5 {
                driver.wait(0);
            }
            assert_eq!(driver.get(STATUS, 5), [0; 5]);
            let sectors = image.read(round, 5 * 512);
            assert_eq!(driver.get(BUFFER, 5 * 512), sectors, "round {round}");
        }
    }
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let image = Image::new("discard");
    let mut driver = disk(&image);
    let before = fs::metadata(&image.0).unwrap().blocks();
    let range = |sector: u64, sectors: u32, flags: u32| {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    driver.put(BUFFER, &range(0, 512, 0));
    assert_eq!(ask(&mut driver, 11, 0, &[In(BUFFER, 16)]), (0, 1));
    assert!(image.read(0, 512 * 512).iter().all(|byte| *byte == 0));
    assert!(fs::metadata(&image.0).unwrap().blocks() < before, "space is given back");
    for (sector, flags) in [(600, 0), (700, 1)] {
        driver.put(BUFFER, &range(sector, 8, flags));
        assert_eq!(ask(&mut driver, 13, 0, &[In(BUFFER, 16)]), (0, 1));
        assert!(image.read(sector, 8 * 512).iter().all(|byte| *byte == 0));
        assert_eq!(image.read(sector + 8, 1), [u8::try_from((sector + 8) & 0xff).unwrap()]);
    }
    driver.put(BUFFER, &range(2040, 9, 0));
    assert_eq!(ask(&mut driver, 11, 0, &[In(BUFFER, 16)]).0, 1, "beyond the end");
    driver.put(BUFFER, &range(0, 1, 8));
    assert_eq!(ask(&mut driver, 13, 0, &[In(BUFFER, 16)]).0, 2, "unknown flags");
    assert_eq!(ask(&mut driver, 11, 0, &[In(BUFFER, 15)]).0, 1, "half a range");
}

#[test]
fn a_disk_says_its_name_its_size_and_its_limits() {
    let image = Image::new("name");
    let mut driver = disk(&image);
    assert_eq!(ask(&mut driver, 8, 0, &[Out(BUFFER, 20)]), (0, 21));
    assert_eq!(driver.get(BUFFER, 20), *b"disk0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(u64::from_le_bytes(driver.config(0)), 2048);
    assert_eq!(u32::from_le_bytes(driver.config(8)), 128 << 10);
    assert_eq!(u32::from_le_bytes(driver.config(12)), 254);
    assert_eq!(u32::from_le_bytes(driver.config(20)), 512);
    assert_eq!(ask(&mut driver, 99, 0, &[]), (2, 1), "a request that nobody knows");
}

#[test]
fn what_lies_beyond_the_end_fails_and_the_disk_goes_on() {
    let image = Image::new("end");
    let mut driver = disk(&image);
    for (sector, length) in [(2048, 512), (2047, 1024), (u64::MAX, 512), (0, 100)] {
        assert_eq!(ask(&mut driver, 0, sector, &[Out(BUFFER, length)]).0, 1, "{sector} {length}");
        assert_eq!(ask(&mut driver, 1, sector, &[In(BUFFER, length)]).0, 1, "{sector} {length}");
    }
    assert_eq!(driver.handle.errors(), 8);
    assert_eq!(ask(&mut driver, 0, 2047, &[Out(BUFFER, 512)]).0, 0);
}

#[test]
fn the_machine_is_told_when_the_host_cannot_write() {
    // Everything there is is full for this one.
    let full = File::options().read(true).write(true).open("/dev/full").unwrap();
    let image = Image::new("full");
    let disk = image.disk(false).with_id("vda").over(full);
    let mut driver = driven(Block::new(Some(disk), ""), 0);
    for _ in 0..3 {
        assert_eq!(ask(&mut driver, 1, 0, &[In(BUFFER, 512)]).0, 1);
    }
    let Told::DiskError { disk, write, reason } = driver.told.recv().unwrap() else {
        panic!("something else was told");
    };
    assert!(disk == "vda" && write && reason.contains("No space"), "{disk} {write} {reason}");
    assert_eq!(driver.handle.errors(), 3);
}

#[test]
fn a_readonly_disk_refuses_to_be_written() {
    let image = Image::new("ro");
    let mut driver = driven(Block::new(Some(image.disk(true)), ""), 0);
    assert_eq!(driver.offered() & feature::RO, feature::RO);
    assert_eq!(driver.offered() & feature::DISCARD, 0);
    assert_eq!(ask(&mut driver, 1, 0, &[In(BUFFER, 512)]).0, 1);
    assert_eq!(ask(&mut driver, 13, 0, &[In(BUFFER, 16)]).0, 1);
    assert_eq!(ask(&mut driver, 0, 0, &[Out(BUFFER, 512)]).0, 0);
}

#[test]
fn a_slot_has_no_sectors_until_a_disk_is_plugged_in() {
    let image = Image::new("slot");
    let mut driver = driven(Block::new(None, "slot"), 0);
    assert_eq!(u64::from_le_bytes(driver.config(0)), 0);
    assert_eq!(ask(&mut driver, 0, 0, &[Out(BUFFER, 512)]).0, 1);
    let generation = driver.read(0xfc);
    driver.handle.plug(image.disk(false)).unwrap();
    driver.wait_changed();
    assert_ne!(driver.read(0xfc), generation);
    assert_eq!(u64::from_le_bytes(driver.config(0)), 2048);
    assert_eq!(ask(&mut driver, 0, 3, &[Out(BUFFER, 512)]).0, 0);
    assert_eq!(driver.get(BUFFER, 4), 3u32.to_le_bytes());
    driver.handle.unplug().unwrap();
    driver.wait_changed();
    assert_eq!(u64::from_le_bytes(driver.config(0)), 0);
    assert_eq!(ask(&mut driver, 0, 3, &[Out(BUFFER, 512)]).0, 1);
}

#[test]
fn a_file_that_has_grown_is_a_disk_that_has_grown() {
    let image = Image::new("grow");
    let mut driver = disk(&image);
    File::options().write(true).open(&image.0).unwrap().set_len(2 << 20).unwrap();
    driver.handle.resized().unwrap();
    driver.wait_changed();
    assert_eq!(u64::from_le_bytes(driver.config(0)), 4096);
    assert_eq!(ask(&mut driver, 0, 4095, &[Out(BUFFER, 512)]).0, 0);
}

#[test]
fn what_is_asked_during_a_pause_is_served_after_it() {
    let image = Image::new("pause");
    let mut driver = disk(&image);
    driver.transport.pause().unwrap();
    offer(&mut driver, 0, 0, 4, &[Out(BUFFER, 512)]);
    driver.ring(0);
    driver.handle.call(|_, _| ()).unwrap();
    assert_eq!(driver.used(0), None);
    driver.transport.resume().unwrap();
    driver.wait(0);
    assert_eq!(driver.get(BUFFER, 4), 4u32.to_le_bytes());
}

#[test]
fn a_disk_goes_on_in_another_process_where_it_stood() {
    let image = Image::new("move");
    let mut driver = disk(&image);
    for sector in 0..40 {
        assert_eq!(ask(&mut driver, 0, sector, &[Out(BUFFER, 512)]).0, 0);
    }
    driver.transport.pause().unwrap();
    offer(&mut driver, 0, 0, 77, &[Out(BUFFER, 512)]);
    driver.ring(0);
    let mut driver = driver.moved(Block::new(Some(image.disk(false)), "disk0"));
    driver.wait(0);
    assert_eq!(driver.get(BUFFER, 4), 77u32.to_le_bytes());
    for sector in 0..40u32 {
        assert_eq!(ask(&mut driver, 0, u64::from(sector), &[Out(BUFFER, 512)]).0, 0);
        assert_eq!(driver.get(BUFFER, 4), sector.to_le_bytes());
    }
}

#[test]
fn a_request_that_cannot_be_answered_is_given_back_and_counted() {
    let image = Image::new("mute");
    let mut driver = disk(&image);
    assert_eq!(driver.request(0, &[In(HEADER, 16)]), 0);
    assert_eq!(driver.handle.errors(), 1);
    driver.put(STATUS, &[0xff]);
    assert_eq!(driver.request(0, &[In(HEADER, 7), Out(STATUS, 1)]), 1);
    assert_eq!(driver.get(STATUS, 1), [2], "a header that is too short");
    assert_eq!(driver.read(0x70) & status::NEEDS_RESET, 0);
}

#[test]
fn what_the_host_has_to_fetch_from_its_disk_first_comes_as_well() {
    let image = Image::new("cold");
    let file = File::open(&image.0).unwrap();
    let mut driver = disk(&image);
    for round in 0..16 {
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        for number in 0..5u64 {
            let to = [Out(BUFFER + 0x2000 * number, 4608)];
            offer(&mut driver, number, 0, 100 * round + 77 * number, &to);
        }
        driver.ring(0);
        for _ in 0..5 {
            assert_eq!(driver.wait(0).1, 4609);
        }
        assert_eq!(driver.get(STATUS, 5), [0; 5]);
        for number in 0..5u64 {
            let sectors = image.read(100 * round + 77 * number, 4608);
            assert!(driver.get(BUFFER + 0x2000 * number, 4608) == sectors);
        }
    }
}

/// A disk of 512 MiB, and requests that read nearly `mib` of it into the same few buffers.
fn long_reads(name: &str, mib: u32, count: u64) -> (Image, Driver<Block>) {
    let image = Image::new(name);
    File::options().write(true).open(&image.0).unwrap().set_len(512 << 20).unwrap();
    let mut driver = disk(&image);
    for number in 0..count {
        let (header, status) = (HEADER + 16 * number, STATUS + number);
        driver.put(header, &[0; 16]);
        driver.put(status, &[0xff]);
        let mut buffers = vec![In(header, 16)];
        buffers.extend((0..mib).map(|_| Out(BUFFER + 0x1_0000, 1 << 20)));
        buffers.push(Out(status, 1));
        driver.offer_indirect(0, DATA + 0x2000 + 0x800 * number, &buffers);
    }
    (image, driver)
}

#[test]
fn orders_are_looked_for_after_so_much_work_however_few_requests_it_is() {
    let (_image, mut driver) = long_reads("turns", 24, 8);
    let served = driver.handle.call(|block, env| {
        block.serve(0, env).unwrap();
        env.queues[0].as_ref().unwrap().state().next_used
    });
    assert_eq!(served.unwrap(), 3, "of 8, each of 24 MiB");
    for _ in 0..8 {
        assert_eq!(driver.wait(0).1, (24 << 20) + 1);
    }
    assert_eq!(driver.get(STATUS, 8), [0; 8]);
}

#[test]
fn flushes_and_ranges_end_a_turn_as_well() {
    let image = Image::new("flushes");
    let mut driver = disk(&image);
    for (kind, most, buffer) in [(4, 4, None), (13, 2, Some(In(BUFFER, 16)))] {
        driver.put(BUFFER, &[0; 16]);
        let all: u16 = if buffer.is_some() { 5 } else { 8 };
        let count = |driver: &Driver<Block>, serve: bool| {
            let count = driver.handle.call(move |block, env| {
                if serve {
                    block.serve(0, env).unwrap();
                }
                env.queues[0].as_ref().unwrap().state().next_used
            });
            count.unwrap()
        };
        let before = count(&driver, false);
        for number in 0..u64::from(all) {
            offer(&mut driver, number, kind, 0, buffer.as_slice());
        }
        assert_eq!(count(&driver, true) - before, most);
        for _ in 0..all {
            driver.wait(0);
        }
        assert_eq!(driver.get(STATUS, usize::from(all)), vec![0; usize::from(all)]);
    }
}

#[test]
fn a_request_that_is_too_large_is_refused() {
    for (mib, status) in [(32, 0), (33, 1)] {
        let (_image, mut driver) = long_reads("large", mib, 1);
        driver.ring(0);
        driver.wait(0);
        assert_eq!(driver.get(STATUS, 1), [status], "{mib} MiB");
    }
    let image = Image::new("ranges");
    File::options().write(true).open(&image.0).unwrap().set_len(512 << 20).unwrap();
    let mut driver = disk(&image);
    for (kind, sectors, status) in
        [(11, 1u32 << 18, 0), (11, (1 << 18) + 1, 1), (13, 1 << 16, 0), (13, (1 << 16) + 1, 1)]
    {
        driver.put(BUFFER, &[&[0; 8][..], &sectors.to_le_bytes(), &[0; 4]].concat());
        assert_eq!(ask(&mut driver, kind, 0, &[In(BUFFER, 16)]).0, status, "{kind} {sectors}");
    }
    driver.put(BUFFER, &[0; 32]);
    assert_eq!(ask(&mut driver, 13, 0, &[In(BUFFER, 32)]).0, 1, "zeroes in two ranges");
}

#[test]
fn a_state_is_refused_while_the_disk_cannot_be_flushed_and_the_guest_goes_on() {
    let image = Image::new("flush");
    // It can be written, but knows of no flushing.
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let disk = image.disk(false).with_id("vda").over(null);
    let mut driver = driven(Block::new(Some(disk), ""), 0);
    driver.transport.pause().unwrap();
    let error = driver.transport.state().unwrap_err();
    assert!(matches!(&error, StateError::Flush { disk, .. } if disk == "vda"), "{error}");
    driver.transport.resume().unwrap();
    assert_eq!(ask(&mut driver, 1, 0, &[In(BUFFER, 512)]), (0, 1));
    // One that nobody writes needs no flushing.
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let disk = image.disk(true).over(null);
    let driver = driven(Block::new(Some(disk), ""), 0);
    driver.transport.pause().unwrap();
    driver.transport.state().unwrap();
}
