//! Chains of descriptors that make no sense, one by one.

use vm_memory::{Bytes, GuestAddress};

use crate::virtio::QueueError;
use crate::virtio::driver::memory;
use crate::virtio::queue::{Chain, MAX_SEGMENTS, VirtQueue};
use crate::virtio::state::QueueState;

const NEXT: u16 = 1;
const WRITABLE: u16 = 2;
const INDIRECT: u16 = 4;

const TABLE: u64 = 0x1_0000;
const RAM: u64 = 4 << 20;

type Descriptor = (u64, u32, u16, u16);

/// What a queue of 8 makes of these descriptors, with another table at [`TABLE`].
fn pop(direct: &[Descriptor], indirect: &[Descriptor], head: u16) -> Result<Chain, QueueError> {
    let memory = memory();
    let put = |at: u64, all: &[Descriptor]| {
        for (index, (address, length, flags, next)) in (0..).zip(all) {
            let (address, length) = (address.to_le_bytes(), length.to_le_bytes());
            let bytes = [&address[..], &length, &flags.to_le_bytes(), &next.to_le_bytes()].concat();
            memory.write_slice(&bytes, GuestAddress(at + 16 * index)).unwrap();
        }
    };
    put(0x1000, direct);
    put(TABLE, indirect);
    memory.write_obj([0u16, 1, head], GuestAddress(0x2000)).unwrap();
    let state = QueueState {
        ready: true,
        descriptors: 0x1000,
        available: 0x2000,
        used: 0x3000,
        ..QueueState::fresh(8)
    };
    let mut queue = VirtQueue::new(0, &state, &memory).unwrap();
    queue.pop(&memory).map(Option::unwrap)
}

fn refusal(direct: &[Descriptor], indirect: &[Descriptor]) -> &'static str {
    match pop(direct, indirect, 0).unwrap_err() {
        QueueError::Chain { what, head: 0, queue: 0 } => what,
        other => panic!("{other}"),
    }
}

#[test]
fn a_chain_is_its_buffers_in_order() {
    let chain =
        pop(&[(0x5000, 4, NEXT, 3), (0, 0, 0, 0), (0, 0, 0, 0), (0x6000, 8, WRITABLE, 0)], &[], 0);
    let chain = chain.unwrap();
    assert_eq!((chain.readable.total(), chain.writable.total()), (4, 8));
}

#[test]
fn loops_end() {
    assert_eq!(refusal(&[(0x5000, 4, NEXT, 0)], &[]), "does not end");
    assert_eq!(refusal(&[(0x5000, 4, NEXT, 1), (0x5000, 4, NEXT, 0)], &[]), "does not end");
    let table = (TABLE, 32, INDIRECT, 0);
    let around = [(0x5000, 4, NEXT, 1), (0x5000, 4, NEXT, 0)];
    assert_eq!(refusal(&[table], &around), "does not end");
}

#[test]
fn descriptors_outside_their_table_end_a_chain() {
    assert_eq!(refusal(&[(0x5000, 4, NEXT, 8)], &[]), "does not end");
    assert_eq!(refusal(&[(TABLE, 16, INDIRECT, 0)], &[(0x5000, 4, NEXT, 1)]), "does not end");
    assert!(matches!(pop(&[], &[], 8).unwrap_err(), QueueError::Head { head: 8, size: 8, .. }));
}

#[test]
fn tables_of_no_whole_descriptors_or_within_tables_are_refused() {
    for length in [0, 8, 17] {
        assert_eq!(refusal(&[(TABLE, length, INDIRECT, 0)], &[]), "does not end", "{length}");
    }
    assert_eq!(refusal(&[(RAM, 16, INDIRECT, 0)], &[]), "does not end");
    assert_eq!(refusal(&[(u64::MAX - 7, 16, INDIRECT, 0)], &[]), "does not end");
    let within = [(TABLE, 16, INDIRECT, 0)];
    assert_eq!(refusal(&[(TABLE, 16, INDIRECT, 0)], &within), "does not end");
}

#[test]
fn buffers_outside_memory_are_refused() {
    for (address, length) in [(RAM, 1), (RAM - 1, 2), (u64::MAX, 2), (0, u32::MAX)] {
        assert_eq!(refusal(&[(address, length, 0, 0)], &[]), "leaves guest memory");
    }
    let empty = pop(&[(RAM, 0, WRITABLE, 0)], &[], 0).unwrap();
    assert_eq!(empty.writable.total(), 0, "no bytes are nowhere");
}

#[test]
fn buffers_to_read_come_before_those_to_write() {
    let mixed = [(0x5000, 4, WRITABLE | NEXT, 1), (0x5000, 4, 0, 0)];
    assert_eq!(refusal(&mixed, &[]), "has a buffer to read behind one to write");
}

#[test]
fn a_table_may_be_long_but_not_endless() {
    let long = |count: usize| -> Vec<Descriptor> {
        let descriptor = |index: usize| {
            let last = index + 1 == count;
            let next = u16::try_from(index + 1).unwrap();
            (0x5000, 16, if last { 0 } else { NEXT }, next)
        };
        (0..count).map(descriptor).collect()
    };
    let table = |count: usize| (TABLE, u32::try_from(16 * count).unwrap(), INDIRECT, 0);
    let chain = pop(&[table(MAX_SEGMENTS)], &long(MAX_SEGMENTS), 0).unwrap();
    assert_eq!(chain.readable.total(), 16 * MAX_SEGMENTS);
    let over = MAX_SEGMENTS + 1;
    assert_eq!(refusal(&[table(over)], &long(over)), "has too many buffers");
}

#[test]
fn buffers_are_eaten_from_the_front_and_cut_at_the_back() {
    let chain =
        pop(&[(0x5000, 4, NEXT, 1), (0x6000, 8, NEXT, 2), (0x7000, 2, 0, 0)], &[], 0).unwrap();
    let mut buffers = chain.readable;
    buffers.skip(5);
    assert_eq!((buffers.total(), buffers.segments()[0].address), (9, GuestAddress(0x6001)));
    assert_eq!(buffers.pop_last_byte(), Some(GuestAddress(0x7001)));
    assert_eq!(buffers.pop_last_byte(), Some(GuestAddress(0x7000)));
    assert_eq!((buffers.total(), buffers.segments().len()), (7, 1));
    buffers.truncate(3);
    assert_eq!(buffers.total(), 3);
    buffers.skip(100);
    assert_eq!((buffers.total(), buffers.pop_last_byte()), (0, None));
    buffers.truncate(3);
    assert_eq!(buffers.total(), 0);
}
