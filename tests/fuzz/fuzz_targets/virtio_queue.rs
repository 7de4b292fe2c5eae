//! Virtio devices against drivers that do anything: a device is set up as it should be, then the
//! input says what is written into its registers, its rings and its buffers, when it is rung for,
//! and what comes as a saved state.

#![no_main]

use std::fs::File;
use std::path::Path;

use kxl_vmm::bus::BusDevice;
use kxl_vmm::endpoint::Endpoint;
use kxl_vmm::memory::{Backing, Memory, map};
use kxl_vmm::virtio::balloon::Balloon;
use kxl_vmm::virtio::block::{Block, Disk};
use kxl_vmm::virtio::console::Console;
use kxl_vmm::virtio::net::Net;
use kxl_vmm::virtio::rng::Rng;
use kxl_vmm::virtio::{Device, Log, Observer, Setup, State, Transport, attach};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

/// Entries of each ring, and where the rings are: a page for each, from the second one on.
const SIZE: u8 = 8;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    match kind % 5 {
        0 => drive(disk, rest),
        1 => drive(|| Net::new([2; 6], None, None), rest),
        2 => drive(console, rest),
        3 => drive(Balloon::default, rest),
        _ => drive(|| Rng, rest),
    }
});

fn disk() -> Block {
    let path = Path::new("/dev/shm").join(format!("kxl-fuzz-virtio-{}", std::process::id()));
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.expect("a file of memory");
    file.set_len(64 << 10).expect("a size");
    Block::new(Some(Disk::new(file, "fuzz", false).expect("a disk")), "fuzz")
}

fn console() -> Console {
    let end = || Endpoint::null().expect("descriptors");
    Console::new(Some(end()), Some(("fuzz".to_owned(), end())))
}

fn write(transport: &mut Transport, offset: u64, value: u32) {
    transport.write(offset, &value.to_le_bytes());
}

/// What a driver does from reset to its being ready.
fn start(transport: &mut Transport) {
    for status in [0, 1, 3] {
        write(transport, 0x70, status);
    }
    for half in 0..2 {
        write(transport, 0x14, half);
        let mut features = [0; 4];
        transport.read(0x10, &mut features);
        write(transport, 0x24, half);
        transport.write(0x20, &features);
    }
    write(transport, 0x70, 11);
    for queue in 0..6 {
        write(transport, 0x30, queue);
        write(transport, 0x38, SIZE.into());
        let page = 0x1000 * (queue + 1);
        for (register, place) in [(0x80, page), (0x90, page + 0x400), (0xa0, page + 0x800)] {
            write(transport, register, place);
            write(transport, register + 4, 0);
        }
        write(transport, 0x44, 1);
    }
    write(transport, 0x70, 15);
}

/// Bytes of the input, from the front; zeros behind its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let count = N.min(self.0.len());
        out[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        out
    }

    fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }
}

fn put(memory: &Memory, at: u64, bytes: &[u8]) {
    // What is written beyond memory is written nowhere.
    drop(memory.write_slice(bytes, GuestAddress(at)));
}

fn drive<D: Device>(make: impl Fn() -> D, input: &[u8]) {
    let memory = map(1, &Backing::Anonymous).expect("memory");
    let setup = || Setup {
        name: "fuzz".to_owned(),
        memory: memory.clone(),
        irq: EventFd::new(0).expect("a descriptor"),
        log: Log::none(),
        observer: Observer::none(),
    };
    let (mut transport, mut handle) = attach(make(), setup()).expect("a thread");
    start(&mut transport);
    let mut input = Input(input);
    while !input.0.is_empty() {
        match input.byte() % 8 {
            0 => {
                let at = u64::from(input.byte() % 64) * 4;
                transport.write(at, &input.take::<4>());
            }
            1 => {
                // A descriptor of a ring.
                let (queue, index) = (input.byte() % 6, input.byte() % SIZE);
                let at = 0x1000 * (u64::from(queue) + 1) + 16 * u64::from(index);
                let mut descriptor = input.take::<16>();
                // Most addresses are to be within memory.
                descriptor[3..7].fill(0);
                put(&memory, at, &descriptor);
            }
            2 => {
                // An entry that is offered, and the index behind it.
                let (queue, head) = (input.byte() % 6, input.byte());
                let at = 0x1000 * (u64::from(queue) + 1) + 0x400;
                let index: u16 = memory.read_obj(GuestAddress(at + 2)).unwrap_or(0);
                put(&memory, at + 4 + 2 * u64::from(index % u16::from(SIZE)), &[head, 0]);
                put(&memory, at + 2, &index.wrapping_add(1).to_le_bytes());
            }
            3 => {
                write(&mut transport, 0x50, (input.byte() % 7).into());
                handle.call(|_, _| ()).expect("the thread lives");
            }
            4 => {
                let at = u64::from(u32::from_le_bytes(input.take())) % (1 << 20);
                put(&memory, at, &input.take::<16>());
            }
            5 => transport.write(0x100 + u64::from(input.byte()), &input.take::<4>()),
            6 => start(&mut transport),
            _ => {
                // On another device, in the state of this one as the input has changed it.
                transport.pause().expect("the thread lives");
                let config = bincode::config::standard();
                let state = transport.state().expect("the thread lives");
                let mut bytes = bincode::encode_to_vec(state, config).expect("a state");
                for _ in 0..input.byte() % 4 {
                    let (at, value) = (input.byte(), input.byte());
                    if let Some(byte) = bytes.get_mut(usize::from(at)) {
                        *byte = value;
                    }
                }
                let limited = config.with_limit::<{ 1 << 20 }>();
                let Ok((state, _)) = bincode::decode_from_slice::<State, _>(&bytes, limited) else {
                    transport.resume().expect("the thread lives");
                    continue;
                };
                let (mut next, next_handle) = attach(make(), setup()).expect("a thread");
                if next.restore(state).is_ok() {
                    (transport, handle) = (next, next_handle);
                }
                transport.resume().expect("the thread lives");
            }
        }
    }
    handle.call(|_, _| ()).expect("the thread lives");
}
