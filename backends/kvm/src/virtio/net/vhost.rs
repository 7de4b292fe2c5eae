//! Packets through the kernel: vhost-net takes the rings over, and gives them back when the
//! machine stands still or its memory is watched.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::tap::Tap;
use crate::memory::Memory;
use crate::virtio::queue::VirtQueue;
use crate::virtio::{EVENT_IDX, INDIRECT_DESC, VERSION_1};

const GROUP: libc::Ioctl = 0xaf << 8;
const WRITE: libc::Ioctl = 1 << 30;
const READ: libc::Ioctl = 2 << 30;

const fn number(direction: libc::Ioctl, size: libc::Ioctl, number: libc::Ioctl) -> libc::Ioctl {
    direction | size << 16 | GROUP | number
}

const GET_FEATURES: libc::Ioctl = number(READ, 8, 0x00);
const SET_FEATURES: libc::Ioctl = number(WRITE, 8, 0x00);
const SET_OWNER: libc::Ioctl = number(0, 0, 0x01);
const SET_MEM_TABLE: libc::Ioctl = number(WRITE, 8, 0x03);
const SET_VRING_NUM: libc::Ioctl = number(WRITE, 8, 0x10);
const SET_VRING_ADDR: libc::Ioctl = number(WRITE, 40, 0x11);
const SET_VRING_BASE: libc::Ioctl = number(WRITE, 8, 0x12);
const GET_VRING_BASE: libc::Ioctl = number(READ | WRITE, 8, 0x12);
const SET_VRING_KICK: libc::Ioctl = number(WRITE, 8, 0x20);
const SET_VRING_CALL: libc::Ioctl = number(WRITE, 8, 0x21);
const SET_BACKEND: libc::Ioctl = number(WRITE, 8, 0x30);

/// What changes the layout of rings and packets.
const RING_FEATURES: u64 = VERSION_1 | INDIRECT_DESC | EVENT_IDX | super::MRG_RXBUF;

/// Regions of guest memory at most: below and above the gap.
const REGIONS: usize = 8;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct VringState {
    index: u32,
    value: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct VringFile {
    index: u32,
    fd: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct VringAddresses {
    index: u32,
    flags: u32,
    descriptors: u64,
    used: u64,
    available: u64,
    log: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    guest: u64,
    size: u64,
    host: u64,
    padding: u64,
}

#[repr(C)]
struct MemoryTable {
    count: u32,
    padding: u32,
    regions: [Region; REGIONS],
}

/// The kernel's device. One is for one machine and one tap.
#[derive(Debug)]
pub struct Vhost {
    file: File,
    /// What the kernel rings when the driver is to be interrupted, one for each queue.
    calls: [EventFd; 2],
    owned: bool,
}

/// Opens the kernel's device.
///
/// # Errors
/// The system's refusal, where the module is not there for instance.
pub fn open() -> io::Result<Vhost> {
    let file = File::options().read(true).write(true).open("/dev/vhost-net")?;
    Vhost::new(file)
}

impl Vhost {
    /// Takes a device that is open.
    ///
    /// # Errors
    /// The system's refusal of a descriptor.
    pub fn new(file: File) -> io::Result<Self> {
        let calls = [EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?];
        Ok(Self { file, calls, owned: false })
    }

    pub(super) fn call(&self, queue: usize) -> Option<&EventFd> {
        self.calls.get(queue)
    }

    /// Tells the kernel where both queues stand. It serves none of them yet.
    pub(super) fn prepare(
        &mut self,
        features: u64,
        memory: &Memory,
        queues: [(&VirtQueue, &EventFd); 2],
    ) -> io::Result<()> {
        if !self.owned {
            self.plain(SET_OWNER)?;
            self.owned = true;
        }
        let mut offered = 0u64;
        self.with(GET_FEATURES, &mut offered)?;
        // It needs to know the rings; what is in the headers of packets is the tap's business.
        if features & RING_FEATURES & !offered != 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.with(SET_FEATURES, &mut (features & offered))?;
        self.set_memory(memory)?;
        for (index, (queue, kick)) in (0..).zip(queues) {
            self.set_ring(index, queue, kick, memory)?;
        }
        Ok(())
    }

    /// Has the kernel serve both queues. On an error it may serve one of them until
    /// [`Vhost::stop`].
    pub(super) fn start(&self, tap: &Tap) -> io::Result<()> {
        (0..2).try_for_each(|index| self.attach(index, tap.as_raw_fd()))
    }

    fn set_memory(&self, memory: &Memory) -> io::Result<()> {
        let mut table = MemoryTable { count: 0, padding: 0, regions: [Region::default(); REGIONS] };
        for (to, region) in table.regions.iter_mut().zip(memory.iter()) {
            let host = region.get_host_address(vm_memory::MemoryRegionAddress(0));
            let host = host.map_err(io::Error::other)?;
            *to = Region {
                guest: region.start_addr().raw_value(),
                size: region.len(),
                host: host as u64,
                padding: 0,
            };
            table.count += 1;
        }
        self.with(SET_MEM_TABLE, &mut table)
    }

    fn set_ring(
        &self,
        index: u32,
        queue: &VirtQueue,
        kick: &EventFd,
        memory: &Memory,
    ) -> io::Result<()> {
        let state = queue.state();
        let host = |address: u64| {
            let host = memory.get_host_address(vm_memory::GuestAddress(address));
            host.map(|host| host as u64).map_err(io::Error::other)
        };
        let mut size = VringState { index, value: u32::from(state.size) };
        self.with(SET_VRING_NUM, &mut size)?;
        let mut addresses = VringAddresses {
            index,
            flags: 0,
            descriptors: host(state.descriptors)?,
            used: host(state.used)?,
            available: host(state.available)?,
            log: 0,
        };
        self.with(SET_VRING_ADDR, &mut addresses)?;
        let mut base = VringState { index, value: u32::from(state.next_available) };
        self.with(SET_VRING_BASE, &mut base)?;
        let call =
            self.calls.get(index as usize).ok_or_else(|| io::Error::other("no such ring"))?;
        self.with(SET_VRING_CALL, &mut VringFile { index, fd: call.as_raw_fd() })?;
        self.with(SET_VRING_KICK, &mut VringFile { index, fd: kick.as_raw_fd() })
    }

    /// Takes both queues back: the next entries of the driver, where the kernel has stopped. It
    /// touches guest memory no more for one that is given back; for one that is not it may until
    /// its device is closed.
    pub(super) fn stop(&self) -> [io::Result<u16>; 2] {
        [self.stop_ring(0), self.stop_ring(1)]
    }

    fn stop_ring(&self, index: u32) -> io::Result<u16> {
        self.attach(index, -1)?;
        let mut base = VringState { index, value: 0 };
        self.with(GET_VRING_BASE, &mut base)?;
        Ok(u16::try_from(base.value & 0xffff).unwrap_or(0))
    }

    fn attach(&self, index: u32, fd: RawFd) -> io::Result<()> {
        self.with(SET_BACKEND, &mut VringFile { index, fd })
    }

    fn plain(&self, request: libc::Ioctl) -> io::Result<()> {
        // SAFETY: the request carries nothing; the descriptor is open.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), request, 0) })
    }

    /// A request that carries what its number says: every caller above pairs the two.
    fn with<T>(&self, request: libc::Ioctl, carried: &mut T) -> io::Result<()> {
        // SAFETY: the request reads or writes a value of the layout of `T`, of which the kernel
        // takes no more than its size; guest memory and descriptors that are named in it stay
        // while the device that holds both is there; the descriptor is open.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), request, std::ptr::from_mut(carried)) })
    }
}

fn check(done: libc::c_int) -> io::Result<()> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
