//! The registers of a device: virtio-mmio, version 2.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::queue::VirtQueue;
use super::state::{QueueState, Registers, State, StateError};
use super::worker::{Board, Gone, Work};
use super::{COMMON_FEATURES, EVENT_IDX, VERSION_1};
use crate::bus::BusDevice;

/// Bytes of a device's registers and configuration space.
pub const WINDOW: u64 = 0x1000;

/// Where the guest rings: the value is the number of a queue.
pub const QUEUE_NOTIFY: u64 = 0x50;

/// Where the configuration space begins.
const SPACE: u64 = 0x100;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"kxl ");

/// Bits of the device status.
pub(crate) mod status {
    /// The guest has seen the device.
    pub(crate) const ACKNOWLEDGE: u32 = 1;
    /// It has a driver for it.
    pub(crate) const DRIVER: u32 = 2;
    /// The driver is ready.
    pub(crate) const DRIVER_OK: u32 = 4;
    /// The features are settled.
    pub(crate) const FEATURES_OK: u32 = 8;
    /// The device needs a reset.
    pub(crate) const NEEDS_RESET: u32 = 64;
    /// The guest has given up.
    pub(crate) const FAILED: u32 = 128;
    /// What a driver may set.
    pub(crate) const DRIVERS: u32 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

/// A bell of the guest: an ioeventfd at [`QUEUE_NOTIFY`] that matches `queue` as 32 bits.
#[derive(Debug)]
pub struct Notify {
    /// The number that is written.
    pub queue: u32,
    /// What is signalled.
    pub event: EventFd,
}

/// A device as the guest sees it.
#[derive(Debug)]
pub struct Transport {
    id: u32,
    features: u64,
    registers: Registers,
    queues: Vec<QueueState>,
    sizes: Vec<u16>,
    board: Board,
    worker: Arc<dyn Work>,
}

impl Transport {
    pub(crate) fn new(
        id: u32,
        features: u64,
        sizes: &[u16],
        board: Board,
        worker: Arc<dyn Work>,
    ) -> Self {
        Self {
            id,
            features: features | COMMON_FEATURES,
            registers: Registers::default(),
            queues: sizes.iter().copied().map(QueueState::fresh).collect(),
            sizes: sizes.to_vec(),
            board,
            worker,
        }
    }

    /// The kind of the device.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What is to be registered with KVM, so that a guest that rings does not leave it.
    ///
    /// # Errors
    /// The system's refusal of a descriptor.
    pub fn notifies(&self) -> io::Result<Vec<Notify>> {
        (0..)
            .zip(&self.board.bells)
            .map(|(queue, bell)| Ok(Notify { queue, event: bell.try_clone()? }))
            .collect()
    }

    /// Stands still: when this returns, nothing of the device touches guest memory, and nothing
    /// that the guest has asked for is half done.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn pause(&self) -> Result<(), Gone> {
        self.worker.pause()
    }

    /// Goes on.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn resume(&self) -> Result<(), Gone> {
        self.worker.resume()
    }

    /// As the device is at power-on.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn reset(&mut self) -> Result<(), Gone> {
        self.worker.reset()?;
        self.registers = Registers::default();
        self.queues = self.sizes.iter().copied().map(QueueState::fresh).collect();
        Ok(())
    }

    /// Everything of the device, which must be paused.
    ///
    /// # Errors
    /// When what it holds is not safe on its disk, or its thread has ended.
    pub fn state(&self) -> Result<State, StateError> {
        let (used, device) = self.worker.save()?;
        let mut queues = self.queues.clone();
        for (queue, used) in queues.iter_mut().zip(used) {
            *queue = used.unwrap_or(*queue);
        }
        let (space, generation) = self.board.space.snapshot();
        Ok(State {
            id: self.id,
            registers: self.registers,
            queues,
            interrupts: self.board.signal.status(),
            broken: self.board.signal.is_broken(),
            space,
            generation,
            device,
        })
    }

    /// Takes a state back. Only on a device that no driver has touched; it is left paused, for
    /// [`Transport::resume`].
    ///
    /// # Errors
    /// When the state does not fit the device, or makes no sense.
    pub fn restore(&mut self, state: State) -> Result<(), StateError> {
        if state.id != self.id {
            return Err(StateError::Kind { have: state.id, want: self.id });
        }
        let missing = state.registers.driver_features & !self.features;
        if missing != 0 {
            return Err(StateError::Features { missing });
        }
        let sizes = state.queues.iter().map(|queue| queue.max_size);
        if !sizes.eq(self.sizes.iter().copied()) {
            return Err(StateError::Shape("it has other queues"));
        }
        let (space, _) = self.board.space.snapshot();
        let kept = kept(self.id);
        if space.get(kept.clone()) != state.space.get(kept) {
            let text = "its disk has another size, or its interface another address";
            return Err(StateError::Shape(text));
        }
        self.worker.pause().map_err(StateError::Gone)?;
        self.worker.load(state.device)?;
        self.registers = state.registers;
        self.queues = state.queues;
        let live = self.registers.status & status::DRIVER_OK != 0 && !state.broken;
        if live {
            let queues = self.open_queues().map_err(StateError::Queue)?;
            let features = self.registers.driver_features;
            self.worker.activate(features, queues).map_err(StateError::Gone)?;
        }
        self.board.signal.restore(state.interrupts, state.broken);
        self.board.space.continue_from(&state.space, state.generation);
        Ok(())
    }

    fn open_queues(&self) -> Result<Vec<Option<VirtQueue>>, super::QueueError> {
        let open = |(index, queue): (usize, &QueueState)| {
            queue.ready.then(|| VirtQueue::new(index, queue, &self.board.memory)).transpose()
        };
        self.queues.iter().enumerate().map(open).collect()
    }

    fn status(&self) -> u32 {
        let broken = if self.board.signal.is_broken() { status::NEEDS_RESET } else { 0 };
        self.registers.status | broken
    }

    /// A bit of the driver that was not there and is there now.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            // A device whose thread is gone is reset as far as the guest can see.
            let _guest_sees_it_reset = self.reset();
            self.registers = Registers::default();
            return;
        }
        let old = self.registers.status;
        let mut new = (old | value) & status::DRIVERS;
        if new & !old & status::FEATURES_OK != 0 && !self.features_fit() {
            self.complain("its driver wants features that were not offered");
            new &= !status::FEATURES_OK;
        }
        if new & !old & status::DRIVER_OK != 0 && new & status::FEATURES_OK == 0 {
            self.complain("its driver goes on without settling the features");
            new &= !status::DRIVER_OK;
        }
        self.registers.status = new;
        if new & !old & status::DRIVER_OK != 0 {
            self.activate();
        }
    }

    fn features_fit(&self) -> bool {
        let wanted = self.registers.driver_features;
        wanted & !self.features == 0 && wanted & VERSION_1 != 0
    }

    fn activate(&mut self) {
        let features = self.registers.driver_features;
        for queue in &mut self.queues {
            queue.event_idx = features & EVENT_IDX != 0;
        }
        match self.open_queues() {
            Ok(queues) => drop(self.worker.activate(features, queues)),
            Err(error) => {
                self.board.errors.report(|| super::errors::chain(&error));
                self.board.signal.set_broken();
                self.board.signal.changed();
            }
        }
    }

    fn complain(&self, what: &'static str) {
        self.board.errors.report(|| what.to_owned());
    }

    /// The queue that the registers are about, if there is one.
    fn queue(&self) -> Option<&QueueState> {
        self.queues.get(usize::try_from(self.registers.queue_sel).ok()?)
    }

    /// The same to be set up: only before the driver has said that it is ready. A queue that is
    /// ready can only be made not ready.
    fn set_up(&mut self, change: impl FnOnce(&mut QueueState), ready_too: bool) {
        let phase = self.registers.status & (status::DRIVER | status::DRIVER_OK | status::FAILED);
        if phase != status::DRIVER {
            return self.complain("its driver changes a queue at the wrong time");
        }
        let selected = usize::try_from(self.registers.queue_sel).ok();
        let queue = selected.and_then(|selected| self.queues.get_mut(selected));
        match queue {
            Some(queue) if !queue.ready || ready_too => change(queue),
            Some(_) => self.complain("its driver changes a queue that is ready"),
            None => self.complain("its driver sets a queue up that does not exist"),
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        let half = |value: u64, sel: u32| match sel {
            0 => low(value),
            1 => low(value >> 32),
            _ => 0,
        };
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.id,
            0x0c => VENDOR,
            0x10 => half(self.features, self.registers.device_features_sel),
            0x34 => self.queue().map_or(0, |queue| u32::from(queue.max_size)),
            0x44 => u32::from(self.queue().is_some_and(|queue| queue.ready)),
            0x60 => self.board.signal.status(),
            0x70 => self.status(),
            // Shared memory: a length of -1 says that there is none.
            0xb0 | 0xb4 | 0xb8 | 0xbc => u32::MAX,
            0xfc => self.board.space.generation(),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            0x14 => self.registers.device_features_sel = value,
            0x20 => self.write_features(value),
            0x24 => self.registers.driver_features_sel = value,
            0x30 => self.registers.queue_sel = value,
            0x38 => self.set_up(|queue| queue.size = size(value), false),
            0x44 => self.set_up(|queue| queue.ready = value & 1 != 0, true),
            QUEUE_NOTIFY => self.ring(value),
            0x64 => self.board.signal.acknowledge(value),
            0x70 => self.set_status(value),
            0x80 => self.set_up(|queue| set_low(&mut queue.descriptors, value), false),
            0x84 => self.set_up(|queue| set_high(&mut queue.descriptors, value), false),
            0x90 => self.set_up(|queue| set_low(&mut queue.available, value), false),
            0x94 => self.set_up(|queue| set_high(&mut queue.available, value), false),
            0xa0 => self.set_up(|queue| set_low(&mut queue.used, value), false),
            0xa4 => self.set_up(|queue| set_high(&mut queue.used, value), false),
            _ => {}
        }
    }

    fn write_features(&mut self, value: u32) {
        let phase = self.registers.status & (status::DRIVER | status::FEATURES_OK);
        if phase != status::DRIVER {
            return self.complain("its driver chooses features at the wrong time");
        }
        match self.registers.driver_features_sel {
            0 => set_low(&mut self.registers.driver_features, value),
            1 => set_high(&mut self.registers.driver_features, value),
            _ if value != 0 => self.complain("its driver wants features that do not exist"),
            _ => {}
        }
    }

    /// A ring that KVM did not take, because no ioeventfd is registered.
    fn ring(&self, queue: u32) {
        let bell = usize::try_from(queue).ok().and_then(|queue| self.board.bells.get(queue));
        if let Some(bell) = bell {
            drop(bell.write(1));
        }
    }
}

/// A size of a queue; what is no 16-bit number is no size.
fn size(value: u32) -> u16 {
    u16::try_from(value).unwrap_or(0)
}

fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn set_low(target: &mut u64, value: u32) {
    *target = *target >> 32 << 32 | u64::from(value);
}

fn set_high(target: &mut u64, value: u32) {
    *target = u64::from(low(*target)) | u64::from(value) << 32;
}

impl BusDevice for Transport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(SPACE) {
            self.board.space.read(offset, data);
        } else if let (4, 0) = (data.len(), offset % 4) {
            data.copy_from_slice(&self.read_register(offset).to_le_bytes());
        } else {
            data.fill(0);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(SPACE) {
            if self.board.space.write(offset, data) {
                drop(self.board.written.write(1));
            }
        } else if let (Ok(value), 0) = (<[u8; 4]>::try_from(data), offset % 4) {
            self.write_register(offset, u32::from_le_bytes(value));
        }
    }
}

/// The part of the configuration space that a driver has read once and for all: an interface's
/// address, and the size of a disk.
const fn kept(id: u32) -> std::ops::Range<usize> {
    match id {
        1 => 0..6,
        2 => 0..8,
        _ => 0..0,
    }
}
