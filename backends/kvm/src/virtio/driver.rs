//! A driver for tests: it sets a device up as a guest does, builds rings in guest memory and waits
//! for interrupts.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::transport::{QUEUE_NOTIFY, status};
use super::{
    Device, EVENT_IDX, Handle, Log, Observer, Setup, State, Told, Transport, VERSION_1, attach,
    signal,
};
use crate::bus::BusDevice;
use crate::memory::{Backing, Memory, map};

/// Where a test may put its buffers.
pub(crate) const DATA: u64 = 0x10_0000;

/// Entries of each ring.
const SIZE: u16 = 16;

const READABLE: u16 = 0;
const NEXT: u16 = 1;
const WRITABLE: u16 = 2;
const INDIRECT: u16 = 4;

/// A buffer of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Buffer {
    /// For the device to read.
    In(u64, u32),
    /// For the device to write.
    Out(u64, u32),
}

#[derive(Clone, Debug)]
struct Ring {
    descriptors: u64,
    available: u64,
    used: u64,
    free: Vec<u16>,
    offered: u16,
    seen: u16,
    /// Descriptors of each request, by head.
    chains: Vec<Vec<u16>>,
}

impl Ring {
    fn new(queue: usize) -> Self {
        let base = 0x1000 + 0x1000 * queue as u64;
        let chains = vec![Vec::new(); usize::from(SIZE)];
        let (available, used) = (base + 0x400, base + 0x800);
        let free = (0..SIZE).rev().collect();
        Self { descriptors: base, available, used, free, offered: 0, seen: 0, chains }
    }
}

pub(crate) struct Driver<D: Device> {
    pub(crate) transport: Transport,
    pub(crate) handle: Arc<Handle<D>>,
    pub(crate) memory: Memory,
    irq: EventFd,
    /// What the machine is told.
    pub(crate) told: Receiver<Told>,
    features: u64,
    rings: Vec<Ring>,
}

pub(crate) fn memory() -> Memory {
    map(4, &Backing::Anonymous).unwrap()
}

/// A device that no driver has touched, in this memory.
pub(crate) fn bare<D: Device>(device: D, memory: &Memory) -> Driver<D> {
    let irq = EventFd::new(EFD_NONBLOCK).unwrap();
    let (heard, told) = channel();
    let setup = Setup {
        name: "test".to_owned(),
        memory: memory.clone(),
        irq: irq.try_clone().unwrap(),
        log: Log::new(|line| println!("{line}")),
        observer: Observer::new(move |what| drop(heard.send(what))),
    };
    let (transport, handle) = attach(device, setup).unwrap();
    Driver { transport, handle, memory: memory.clone(), irq, told, features: 0, rings: Vec::new() }
}

/// A device with a driver that has negotiated everything but `without`.
pub(crate) fn driven<D: Device>(device: D, without: u64) -> Driver<D> {
    let mut driver = bare(device, &memory());
    driver.start(without);
    driver
}

impl<D: Device> Driver<D> {
    pub(crate) fn read(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    pub(crate) fn config<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.transport.read(0x100 + offset, &mut data);
        data
    }

    pub(crate) fn offered(&mut self) -> u64 {
        self.write(0x14, 1);
        let high = u64::from(self.read(0x10)) << 32;
        self.write(0x14, 0);
        high | u64::from(self.read(0x10))
    }

    /// From reset to `DRIVER_OK`.
    pub(crate) fn start(&mut self, without: u64) {
        self.negotiate(without);
        self.rings.clear();
        let mut queue = 0;
        loop {
            self.write(0x30, u32::try_from(queue).unwrap());
            if self.read(0x34) == 0 {
                break;
            }
            assert_eq!(self.read(0x44), 0);
            let ring = Ring::new(queue);
            self.write(0x38, u32::from(SIZE));
            for (register, address) in
                [(0x80, ring.descriptors), (0x90, ring.available), (0xa0, ring.used)]
            {
                self.memory.write_slice(&[0; 0x400], GuestAddress(address)).unwrap();
                self.write(register, u32::try_from(address).unwrap());
                self.write(register + 4, 0);
            }
            self.write(0x44, 1);
            self.rings.push(ring);
            queue += 1;
        }
        let all = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        self.write(0x70, all);
        assert_eq!(self.read(0x70), all);
    }

    /// From reset to `FEATURES_OK`.
    pub(crate) fn negotiate(&mut self, without: u64) {
        self.write(0x70, 0);
        assert_eq!(self.read(0x70), 0);
        self.write(0x70, status::ACKNOWLEDGE);
        self.write(0x70, status::ACKNOWLEDGE | status::DRIVER);
        self.features = self.offered() & !without;
        assert_ne!(self.features & VERSION_1, 0);
        let halves = self.features.to_le_bytes();
        for (sel, half) in (0..).zip(halves.chunks(4)) {
            self.write(0x24, sel);
            self.write(0x20, u32::from_le_bytes(half.try_into().unwrap()));
        }
        let settled = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        self.write(0x70, settled);
        assert_eq!(self.read(0x70), settled);
    }

    fn descriptor(&self, table: u64, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        let at = GuestAddress(table + 16 * u64::from(index));
        self.memory.write_slice(&bytes, at).unwrap();
    }

    /// Puts a request into the ring, without ringing.
    pub(crate) fn offer(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let mut ring = self.rings[queue].clone();
        let chain: Vec<u16> = buffers.iter().map(|_| ring.free.pop().unwrap()).collect();
        for (at, buffer) in buffers.iter().enumerate() {
            let next = chain.get(at + 1).copied();
            let (address, length, flags) = match *buffer {
                Buffer::In(address, length) => (address, length, READABLE),
                Buffer::Out(address, length) => (address, length, WRITABLE),
            };
            let flags = flags | if next.is_some() { NEXT } else { 0 };
            let next = next.unwrap_or(0);
            self.descriptor(ring.descriptors, chain[at], address, length, flags, next);
        }
        self.publish(&mut ring, chain);
        let head = self.rings[queue].free.last().copied().unwrap();
        self.rings[queue] = ring;
        head
    }

    /// The same through a table of its own at `table`.
    pub(crate) fn offer_indirect(&mut self, queue: usize, table: u64, buffers: &[Buffer]) {
        for (at, buffer) in (0..).zip(buffers) {
            let last = usize::from(at) + 1 == buffers.len();
            let (address, length, flags) = match *buffer {
                Buffer::In(address, length) => (address, length, READABLE),
                Buffer::Out(address, length) => (address, length, WRITABLE),
            };
            let flags = flags | if last { 0 } else { NEXT };
            self.descriptor(table, at, address, length, flags, at + 1);
        }
        let mut ring = self.rings[queue].clone();
        let head = ring.free.pop().unwrap();
        let length = u32::try_from(16 * buffers.len()).unwrap();
        self.descriptor(ring.descriptors, head, table, length, INDIRECT, 0);
        self.publish(&mut ring, vec![head]);
        self.rings[queue] = ring;
    }

    fn publish(&self, ring: &mut Ring, chain: Vec<u16>) {
        let head = chain[0];
        ring.chains[usize::from(head)] = chain;
        let slot = ring.available + 4 + 2 * u64::from(ring.offered % SIZE);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        ring.offered = ring.offered.wrapping_add(1);
        self.memory.write_obj(ring.offered, GuestAddress(ring.available + 2)).unwrap();
    }

    pub(crate) fn ring(&mut self, queue: usize) {
        self.write(QUEUE_NOTIFY, u32::try_from(queue).unwrap());
    }

    /// What came back, if anything did: head and length.
    pub(crate) fn used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let ring = &mut self.rings[queue];
        let index: u16 = self.memory.read_obj(GuestAddress(ring.used + 2)).unwrap();
        if index == ring.seen {
            return None;
        }
        let slot = ring.used + 4 + 8 * u64::from(ring.seen % SIZE);
        let head: u32 = self.memory.read_obj(GuestAddress(slot)).unwrap();
        let length: u32 = self.memory.read_obj(GuestAddress(slot + 4)).unwrap();
        ring.seen = ring.seen.wrapping_add(1);
        if self.features & EVENT_IDX != 0 {
            let at = ring.available + 4 + 2 * u64::from(SIZE);
            self.memory.write_obj(ring.seen, GuestAddress(at)).unwrap();
        }
        let head = u16::try_from(head).unwrap();
        let chain = std::mem::take(&mut ring.chains[usize::from(head)]);
        assert!(!chain.is_empty(), "given back twice");
        ring.free.extend(chain.into_iter().rev());
        Some((head, length))
    }

    /// Waits for an interrupt and takes it; its causes.
    pub(crate) fn interrupt(&mut self) -> u32 {
        let epoll = Epoll::new().unwrap();
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, self.irq.as_raw_fd(), event).unwrap();
        let count = epoll.wait(20_000, &mut [EpollEvent::default()]).unwrap();
        assert_eq!(count, 1, "no interrupt came");
        self.irq.read().unwrap();
        let causes = self.read(0x60);
        self.write(0x64, causes);
        causes
    }

    /// Waits until it is told that the configuration, or the status, has changed.
    pub(crate) fn wait_changed(&mut self) {
        while self.interrupt() & signal::CHANGED == 0 {}
    }

    /// Waits for the next request to come back.
    pub(crate) fn wait(&mut self, queue: usize) -> (u16, u32) {
        loop {
            if let Some(used) = self.used(queue) {
                return used;
            }
            self.interrupt();
        }
    }

    /// One request from beginning to end: the bytes written.
    pub(crate) fn request(&mut self, queue: usize, buffers: &[Buffer]) -> u32 {
        self.offer(queue, buffers);
        self.ring(queue);
        self.wait(queue).1
    }

    pub(crate) fn put(&self, address: u64, data: &[u8]) {
        self.memory.write_slice(data, GuestAddress(address)).unwrap();
    }

    pub(crate) fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        self.memory.read_slice(&mut data, GuestAddress(address)).unwrap();
        data
    }

    /// The state, and a new device in the same memory that has taken it.
    pub(crate) fn moved(self, device: D) -> Self {
        self.transport.pause().unwrap();
        let bytes =
            bincode::encode_to_vec(self.transport.state().unwrap(), bincode::config::standard());
        let (state, _): (State, usize) =
            bincode::decode_from_slice(&bytes.unwrap(), bincode::config::standard()).unwrap();
        let mut next = bare(device, &self.memory);
        next.transport.restore(state.clone()).unwrap();
        assert_eq!(next.transport.state().unwrap().queues, state.queues);
        next.transport.resume().unwrap();
        next.features = self.features;
        next.rings.clone_from(&self.rings);
        next
    }
}
