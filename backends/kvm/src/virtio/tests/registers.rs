use vm_memory::{Bytes, GuestAddress};

use crate::bus::BusDevice;
use crate::virtio::block::Block;
use crate::virtio::driver::Buffer::{In, Out};
use crate::virtio::driver::{DATA, Driver, bare, driven, memory};
use crate::virtio::transport::status::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, NEEDS_RESET,
};
use crate::virtio::{EVENT_IDX, StateError, VERSION_1};

fn slot() -> Driver<Block> {
    bare(Block::new(None, "slot"), &memory())
}

#[test]
fn a_device_says_what_it_is() {
    let mut driver = slot();
    assert_eq!(driver.read(0x00), 0x7472_6976);
    assert_eq!(driver.read(0x04), 2);
    assert_eq!(driver.read(0x08), 2);
    assert_eq!(driver.read(0x0c), u32::from_le_bytes(*b"kxl "));
    assert_ne!(driver.offered() & VERSION_1, 0);
    assert_ne!(driver.offered() & EVENT_IDX, 0);
    driver.write(0x14, 2);
    assert_eq!(driver.read(0x10), 0);
    assert_eq!(driver.read(0xb0), u32::MAX, "no shared memory");
    driver.write(0x30, 1);
    assert_eq!(driver.read(0x34), 0, "it has one queue");
}

#[test]
fn registers_are_of_32_bits_and_configuration_is_not() {
    let mut driver = slot();
    let mut byte = [7];
    driver.transport.read(0x00, &mut byte);
    assert_eq!(byte, [0]);
    driver.transport.write(0x70, &[1]);
    driver.transport.write(0x71, &[1, 0, 0, 0]);
    driver.transport.write(0x70, &[1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(driver.read(0x70), 0);
    driver.transport.read(0x100 + 12, &mut byte);
    assert_eq!(byte, [254]);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    for wanted in [VERSION_1 | 1 << 63, EVENT_IDX, 0] {
        let mut driver = slot();
        driver.write(0x70, ACKNOWLEDGE);
        driver.write(0x70, ACKNOWLEDGE | DRIVER);
        for (sel, half) in (0..).zip(wanted.to_le_bytes().chunks(4)) {
            driver.write(0x24, sel);
            driver.write(0x20, u32::from_le_bytes(half.try_into().unwrap()));
        }
        driver.write(0x70, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_eq!(driver.read(0x70), ACKNOWLEDGE | DRIVER);
        driver.write(0x70, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        assert_eq!(driver.read(0x70), ACKNOWLEDGE | DRIVER);
    }
}

#[test]
fn status_bits_go_away_only_with_a_reset() {
    let mut driver = driven(Block::new(None, ""), 0);
    let all = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    driver.write(0x70, ACKNOWLEDGE);
    assert_eq!(driver.read(0x70), all);
    driver.write(0x70, all | NEEDS_RESET | FAILED | 1 << 20);
    assert_eq!(driver.read(0x70), all | FAILED);
    driver.write(0x70, 0);
    assert_eq!(driver.read(0x70), 0);
    assert_eq!(driver.read(0x44), 0, "its queues are gone");
    assert_eq!(driver.read(0x60), 0);
    driver.start(0);
}

#[test]
fn a_queue_is_set_up_before_the_driver_is_ready_and_never_after() {
    let mut driver = driven(Block::new(None, ""), 0);
    driver.write(0x30, 0);
    let before = driver.transport.state().unwrap().queues;
    for register in [0x38, 0x44, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4] {
        driver.write(register, 0x4000);
    }
    assert_eq!(driver.transport.state().unwrap().queues, before);
    assert_eq!(driver.handle.errors(), 8);
    assert_eq!(driver.read(0x44), 1);
}

#[test]
fn a_queue_that_is_ready_is_only_made_not_ready() {
    let mut driver = slot();
    driver.negotiate(0);
    driver.write(0x38, 8);
    driver.write(0x44, 1);
    driver.write(0x38, 4);
    driver.write(0x80, 0x1000);
    let queue = driver.transport.state().unwrap().queues[0];
    assert_eq!((queue.size, queue.descriptors, queue.ready), (8, 0, true));
    driver.write(0x44, 0);
    driver.write(0x38, 4);
    assert_eq!(driver.transport.state().unwrap().queues[0].size, 4);
}

/// `(size, descriptors, available, used)` of a queue that is not to be believed.
const BAD: &[(u32, u64, u64, u64)] = &[
    (0, 0x1000, 0x2000, 0x3000),
    (3, 0x1000, 0x2000, 0x3000),
    (512, 0x1000, 0x2000, 0x3000),
    (65536 + 16, 0x1000, 0x2000, 0x3000),
    (16, 0x1001, 0x2000, 0x3000),
    (16, 0x1000, 0x2001, 0x3000),
    (16, 0x1000, 0x2000, 0x3002),
    (16, 0x1000, 0, 0x3000),
    (16, (4 << 20) - 16, 0x2000, 0x3000),
    (16, 0x1000, (4 << 20) - 4, 0x3000),
    (16, 0x1000, 0x2000, u64::MAX - 3),
    (16, u64::MAX - 15, 0x2000, 0x3000),
];

#[test]
fn queues_that_are_not_in_memory_make_the_device_need_a_reset() {
    for (size, descriptors, available, used) in BAD.iter().copied() {
        let mut driver = slot();
        driver.negotiate(0);
        driver.write(0x38, size);
        for (register, address) in [(0x80, descriptors), (0x90, available), (0xa0, used)] {
            let halves = address.to_le_bytes();
            driver.write(register, u32::from_le_bytes(halves[..4].try_into().unwrap()));
            driver.write(register + 4, u32::from_le_bytes(halves[4..].try_into().unwrap()));
        }
        driver.write(0x44, 1);
        driver.write(0x70, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        let status = driver.read(0x70);
        assert_ne!(status & NEEDS_RESET, 0, "{size} {descriptors:#x} {available:#x} {used:#x}");
        driver.wait_changed();
        driver.ring(0);
        driver.handle.call(|_, _| ()).unwrap();
        driver.start(0);
    }
}

#[test]
fn a_broken_ring_stops_the_device_until_it_is_reset() {
    let mut driver = driven(Block::new(None, ""), 0);
    let available = driver.transport.state().unwrap().queues[0].available;
    driver.memory.write_obj(1000u16, GuestAddress(available + 2)).unwrap();
    driver.ring(0);
    driver.wait_changed();
    assert_ne!(driver.read(0x70) & NEEDS_RESET, 0);
    for _ in 0..100 {
        driver.ring(0);
        driver.handle.call(|_, _| ()).unwrap();
    }
    assert_eq!(driver.handle.errors(), 1, "said once, not for each ring");
    driver.start(0);
    let request = [In(DATA, 16), Out(DATA + 16, 1)];
    assert_eq!(driver.request(0, &request), 1, "after the reset it works");
}

#[test]
fn a_state_is_refused_where_it_does_not_fit() {
    let state = {
        let driver = driven(Block::new(None, ""), 0);
        driver.transport.pause().unwrap();
        driver.transport.state().unwrap()
    };
    let restore = |change: &dyn Fn(&mut crate::virtio::State)| {
        let mut state = state.clone();
        change(&mut state);
        slot().transport.restore(state)
    };
    restore(&|_| ()).unwrap();
    let refused = restore(&|state| state.id = 1).unwrap_err();
    assert!(matches!(refused, StateError::Kind { have: 1, want: 2 }));
    let refused = restore(&|state| state.registers.driver_features |= 1 << 40).unwrap_err();
    assert!(matches!(refused, StateError::Features { missing } if missing == 1 << 40));
    let refused = restore(&|state| state.queues.clear()).unwrap_err();
    assert!(matches!(refused, StateError::Shape(_)));
    let refused = restore(&|state| state.queues[0].used = 1 << 40).unwrap_err();
    assert!(matches!(refused, StateError::Queue(_)));
}

#[test]
fn a_device_that_was_broken_or_idle_is_so_again() {
    let mut driver = slot();
    driver.negotiate(0);
    driver.transport.pause().unwrap();
    let state = driver.transport.state().unwrap();
    let mut next = slot();
    next.transport.restore(state).unwrap();
    next.transport.resume().unwrap();
    assert_eq!(next.read(0x70), ACKNOWLEDGE | DRIVER | FEATURES_OK);

    let mut driver = driven(Block::new(None, ""), 0);
    let available = driver.transport.state().unwrap().queues[0].available;
    driver.memory.write_obj(1000u16, GuestAddress(available + 2)).unwrap();
    driver.ring(0);
    driver.wait_changed();
    driver.transport.pause().unwrap();
    let state = driver.transport.state().unwrap();
    let mut next = bare(Block::new(None, ""), &driver.memory);
    next.transport.restore(state).unwrap();
    next.transport.resume().unwrap();
    assert_ne!(next.read(0x70) & NEEDS_RESET, 0);
    next.start(0);
}
