//! Drivers that do anything: whatever they write into registers and memory, the device's thread
//! stays, answers orders, and serves a well-behaved driver after a reset.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use crate::bus::BusDevice;
use crate::endpoint::Endpoint;
use crate::virtio::balloon::Balloon;
use crate::virtio::block::{Block, Disk};
use crate::virtio::console::Console;
use crate::virtio::driver::Buffer::{In, Out};
use crate::virtio::driver::{DATA, Driver, bare, memory};
use crate::virtio::net::{Net, Tap};
use crate::virtio::rng::Rng;
use crate::virtio::{Device, EVENT_IDX};

/// One thing that a driver does.
#[derive(Clone, Debug)]
enum Action {
    Register(u64, u32),
    Config(u64, Vec<u8>),
    Descriptor {
        queue: usize,
        index: u16,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    },
    /// Writes an entry of the ring of what is offered; the index goes behind it.
    Offer {
        queue: usize,
        head: u16,
    },
    Index {
        queue: usize,
        value: u16,
    },
    Ring(u32),
    /// Bytes of headers and of tables of descriptors.
    Data(u64, Vec<u8>),
    Restart,
    Pause,
    Move,
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => (0..16u64).prop_map(|slot| DATA + 0x1000 * slot),
        2 => 0..0x8000u64,
        2 => ((4 << 20) - 64u64)..((4 << 20) + 64),
        1 => any::<u64>(),
        1 => (u64::MAX - 64)..=u64::MAX,
    ]
}

fn length() -> impl Strategy<Value = u32> {
    let odd = [0, 1, 8, 12, 15, 16, 17, 20, 512, 513, 4096, 65_550, u32::MAX, 1 << 31];
    prop_oneof![4 => prop::sample::select(odd.to_vec()), 1 => any::<u32>()]
}

/// Rings of tests have 16 entries.
fn index() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 0..16u16, 1 => any::<u16>()]
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    let header = (0..16u32, 0..4000u64).prop_map(|(kind, sector)| {
        [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
    });
    let descriptor =
        (address(), length(), 0..8u16, index()).prop_map(|(at, length, flags, next)| {
            let (at, length) = (at.to_le_bytes(), length.to_le_bytes());
            [&at[..], &length, &flags.to_le_bytes(), &next.to_le_bytes()].concat()
        });
    let message = (0..4u32, 0..9u16, 0..2u16).prop_map(|(id, event, value)| {
        [&id.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat()
    });
    prop_oneof![header, descriptor, message, prop::collection::vec(any::<u8>(), 0..64)]
}

fn action() -> impl Strategy<Value = Action> {
    let queue = 0..6usize;
    prop_oneof![
        2 => ((0..0x40u64).prop_map(|at| at * 4), any::<u32>())
            .prop_map(|(at, value)| Action::Register(at, value)),
        1 => (0..80u64, prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Action::Config(at, bytes)),
        12 => (queue.clone(), index(), address(), length(), 0..8u16, index()).prop_map(
            |(queue, index, address, length, flags, next)| {
                Action::Descriptor { queue, index, address, length, flags, next }
            }
        ),
        8 => (queue.clone(), index()).prop_map(|(queue, head)| Action::Offer { queue, head }),
        1 => (queue, any::<u16>()).prop_map(|(queue, value)| Action::Index { queue, value }),
        6 => (0..7u32).prop_map(Action::Ring),
        6 => (address(), data()).prop_map(|(at, bytes)| Action::Data(at, bytes)),
        1 => Just(Action::Restart),
        1 => Just(Action::Pause),
        1 => Just(Action::Move),
    ]
}

/// Where the fake driver has its rings.
fn ring(queue: usize) -> (u64, u64) {
    let base = 0x1000 + 0x1000 * queue as u64;
    (base, base + 0x400)
}

fn act<D: Device>(
    mut driver: Driver<D>,
    action: Action,
    make: impl Fn() -> D,
    without: u64,
) -> Driver<D> {
    // A driver that writes beyond memory has written nothing.
    let put = |driver: &Driver<D>, at: u64, bytes: &[u8]| {
        drop(driver.memory.write_slice(bytes, GuestAddress(at)));
    };
    match action {
        Action::Register(offset, value) => driver.write(offset, value),
        Action::Config(offset, bytes) => driver.transport.write(0x100 + offset, &bytes),
        Action::Descriptor { queue, index, address, length, flags, next } => {
            let (address, length) = (address.to_le_bytes(), length.to_le_bytes());
            let bytes = [&address[..], &length, &flags.to_le_bytes(), &next.to_le_bytes()].concat();
            put(&driver, ring(queue).0 + 16 * u64::from(index % 16), &bytes);
        }
        Action::Offer { queue, head } => {
            let at = ring(queue).1;
            let index: u16 = driver.memory.read_obj(GuestAddress(at + 2)).unwrap();
            put(&driver, at + 4 + 2 * u64::from(index % 16), &head.to_le_bytes());
            put(&driver, at + 2, &index.wrapping_add(1).to_le_bytes());
        }
        Action::Index { queue, value } => put(&driver, ring(queue).1 + 2, &value.to_le_bytes()),
        Action::Ring(queue) => {
            driver.write(0x50, queue);
            // Until the thread has heard it.
            driver.handle.call(|_, _| ()).unwrap();
        }
        Action::Data(at, bytes) => put(&driver, at, &bytes),
        Action::Restart => driver.start(without),
        Action::Pause => {
            driver.transport.pause().unwrap();
            driver.transport.resume().unwrap();
        }
        Action::Move => {
            driver.transport.pause().unwrap();
            let state = driver.transport.state().unwrap();
            let mut next = bare(make(), &driver.memory);
            if next.transport.restore(state).is_ok() {
                next.transport.resume().unwrap();
                return next;
            }
            driver.transport.resume().unwrap();
        }
    }
    driver
}

/// Lets a driver do all that and then behave; the device in use afterwards.
fn survives<D: Device>(
    make: impl Fn() -> D + Copy,
    actions: Vec<Action>,
    without: u64,
) -> Driver<D> {
    let mut driver = bare(make(), &memory());
    driver.start(without);
    for action in actions {
        driver = act(driver, action, make, without);
    }
    driver.handle.call(|_, _| ()).unwrap();
    driver.start(0);
    driver
}

fn disk() -> Block {
    let path = std::env::temp_dir().join(format!("kxl-hostile-{:?}", std::thread::current().id()));
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    file.set_len(1 << 20).unwrap();
    Block::new(Some(Disk::new(file, "test", false).unwrap()), "test")
}

fn net() -> Net {
    let (near, far) = UnixDatagram::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    for length in [12, 60, 1500, 9000, 60_000] {
        far.send(&vec![0; length]).unwrap();
    }
    Net::new([2; 6], Some(Tap::stand_in(OwnedFd::from(near))), None)
}

fn console() -> Console {
    let end = || Endpoint::null().unwrap();
    let (input, mut feed) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut feed, &[b'x'; 5000]).unwrap();
    let sink = std::fs::File::options().write(true).open("/dev/null").unwrap();
    let first = Endpoint::stdio(input.into(), sink.into()).unwrap();
    Console::new(Some(first), Some(("test".to_owned(), end())))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_disk_survives_any_driver(
        actions in prop::collection::vec(action(), 0..80),
        without in prop::sample::select(vec![0, EVENT_IDX]),
    ) {
        let mut driver = survives(disk, actions, without);
        driver.put(DATA, &[0; 16]);
        prop_assert_eq!(driver.request(0, &[In(DATA, 16), Out(DATA + 0x1000, 512), Out(DATA + 16, 1)]), 513);
        prop_assert_eq!(driver.get(DATA + 16, 1), [0]);
    }

    #[test]
    fn an_interface_survives_any_driver(
        actions in prop::collection::vec(action(), 0..80),
        without in prop::sample::select(vec![0, EVENT_IDX]),
    ) {
        let mut driver = survives(net, actions, without);
        driver.put(DATA, &[0; 60]);
        prop_assert_eq!(driver.request(1, &[In(DATA, 60)]), 0);
    }

    #[test]
    fn a_console_survives_any_driver(
        actions in prop::collection::vec(action(), 0..80),
        without in prop::sample::select(vec![0, EVENT_IDX]),
    ) {
        let mut driver = survives(console, actions, without);
        driver.put(DATA, &[0, 0, 0, 0, 0, 0, 1, 0]);
        prop_assert_eq!(driver.request(3, &[In(DATA, 8)]), 0);
        prop_assert_eq!(driver.request(2, &[Out(DATA, 8)]), 8);
    }

    #[test]
    fn a_balloon_survives_any_driver(
        actions in prop::collection::vec(action(), 0..80),
        without in prop::sample::select(vec![0, EVENT_IDX]),
    ) {
        let mut driver = survives(Balloon::default, actions, without);
        prop_assert_eq!(driver.request(1, &[In(DATA, 4)]), 0);
    }

    #[test]
    fn a_random_source_survives_any_driver(
        actions in prop::collection::vec(action(), 0..80),
        without in prop::sample::select(vec![0, EVENT_IDX]),
    ) {
        let mut driver = survives(|| Rng, actions, without);
        prop_assert_eq!(driver.request(0, &[Out(DATA, 32)]), 32);
    }
}
