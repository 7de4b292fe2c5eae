//! The virtio devices in their slots.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bincode::{Decode, Encode};
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::board::locked;
use super::resources::OpenDisk;
use super::vm::{Vm, VmError};
use crate::bus::{Bus, Shared};
use crate::config::Config;
use crate::memory::Memory;
use crate::virtio::block::Block;
use crate::virtio::transport::QUEUE_NOTIFY;
use crate::virtio::{self, Device, Gone, Handle, Log, Notify, Setup, StateError, Transport};
use crate::{layout, log};

/// Why there are no virtio devices.
#[derive(Debug, Error)]
pub enum SlotError {
    /// No thread or no descriptor.
    #[error("cannot start the device {name}")]
    Start {
        /// Its name.
        name: String,
        /// The system's refusal.
        #[source]
        source: std::io::Error,
    },
    /// More devices than slots.
    #[error("the machine has {0} virtio devices, and there is room for {max}", max = layout::VIRTIO_SLOTS)]
    Full(usize),
    /// KVM refuses to connect one.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// Its thread has ended.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// A state that does not fit.
    #[error("cannot bring the device in slot {slot} back")]
    State {
        /// The slot.
        slot: usize,
        /// Why not.
        #[source]
        source: StateError,
    },
    /// A state of other devices.
    #[error("the state has devices in {have} virtio slots, the machine in {want}")]
    Count {
        /// In the state.
        have: usize,
        /// In the machine.
        want: usize,
    },
}

/// A device, as it is saved: its slot and what is in it.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct State {
    /// The number of the slot.
    pub slot: u32,
    /// The device.
    pub device: virtio::State,
}

#[derive(Debug)]
struct Slot {
    transport: Shared<Transport>,
    irq: EventFd,
    notifies: Vec<Notify>,
}

/// A slot for a disk.
#[derive(Debug)]
pub struct DiskSlot {
    /// The disk that is in it: id, path where there is one, whether it refuses writes.
    pub holds: Option<(String, Option<PathBuf>, bool)>,
    /// The device.
    pub handle: Arc<Handle<Block>>,
}

/// All of them. A device's slot is its place: disks first, with those that are reserved.
#[derive(Debug, Default)]
pub struct Slots {
    slots: Vec<Slot>,
    disks: Vec<DiskSlot>,
}

impl Slots {
    /// Starts the devices that a configuration asks for.
    ///
    /// # Errors
    /// [`SlotError::Start`], [`SlotError::Full`].
    pub fn new(config: &Config, memory: &Memory, disks: Vec<OpenDisk>) -> Result<Self, SlotError> {
        let mut all = Self::default();
        let count = disks.len().max(config.hotplug.disks);
        let mut disks = disks.into_iter();
        for index in 0..count {
            let (holds, disk, serial) = match disks.next() {
                Some(open) => {
                    let serial = open.serial.unwrap_or_else(|| open.id.clone());
                    let holds = Some((open.id, open.path, open.disk.is_readonly()));
                    (holds, Some(open.disk), serial)
                }
                None => (None, None, format!("slot{index}")),
            };
            let handle = all.add(&format!("disk{index}"), Block::new(disk, &serial), memory)?;
            all.disks.push(DiskSlot { holds, handle });
        }
        Ok(all)
    }

    fn add<D: Device>(
        &mut self,
        name: &str,
        device: D,
        memory: &Memory,
    ) -> Result<Arc<Handle<D>>, SlotError> {
        if self.slots.len() == layout::VIRTIO_SLOTS {
            return Err(SlotError::Full(self.slots.len() + 1));
        }
        let failed = |source| SlotError::Start { name: name.to_owned(), source };
        let irq = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(failed)?;
        let setup = Setup {
            name: name.to_owned(),
            memory: memory.clone(),
            irq: irq.try_clone().map_err(failed)?,
            log: Log::new(log::line),
        };
        let (transport, handle) = virtio::attach(device, setup).map_err(failed)?;
        let notifies = transport.notifies().map_err(failed)?;
        self.slots.push(Slot { transport: Arc::new(Mutex::new(transport)), irq, notifies });
        Ok(handle)
    }

    /// Numbers of the slots that hold a device.
    #[must_use]
    pub fn numbers(&self) -> Vec<usize> {
        (0..self.slots.len()).collect()
    }

    /// The slots for disks.
    #[must_use]
    pub fn disks(&self) -> &[DiskSlot] {
        &self.disks
    }

    /// The slots for disks, to be changed.
    pub fn disks_mut(&mut self) -> &mut [DiskSlot] {
        &mut self.disks
    }

    /// Puts every device's registers on the bus.
    pub fn insert(&self, mmio: &mut Bus) {
        for (number, slot) in self.slots.iter().enumerate() {
            let window = layout::virtio_window(number);
            mmio.insert(window, layout::VIRTIO_WINDOW, slot.transport.clone());
        }
    }

    /// Connects interrupts and doorbells to a new VM.
    ///
    /// # Errors
    /// [`SlotError::Vm`].
    pub fn connect(&self, vm: &Vm) -> Result<(), SlotError> {
        for (number, slot) in self.slots.iter().enumerate() {
            vm.irqfd(&slot.irq, layout::virtio_gsi(number))?;
            let bell = layout::virtio_window(number) + QUEUE_NOTIFY;
            for notify in &slot.notifies {
                vm.ioeventfd(&notify.event, bell, notify.queue)?;
            }
        }
        Ok(())
    }

    /// Has every device stand still.
    ///
    /// # Errors
    /// [`SlotError::Gone`].
    pub fn pause(&self) -> Result<(), SlotError> {
        Ok(self.slots.iter().try_for_each(|slot| locked(&slot.transport).pause())?)
    }

    /// Lets every device go on.
    ///
    /// # Errors
    /// [`SlotError::Gone`].
    pub fn resume(&self) -> Result<(), SlotError> {
        Ok(self.slots.iter().try_for_each(|slot| locked(&slot.transport).resume())?)
    }

    /// As after power-on.
    ///
    /// # Errors
    /// [`SlotError::Gone`].
    pub fn reset(&self) -> Result<(), SlotError> {
        Ok(self.slots.iter().try_for_each(|slot| locked(&slot.transport).reset())?)
    }

    /// The state of devices that stand still.
    ///
    /// # Errors
    /// [`SlotError::Gone`].
    pub fn state(&self) -> Result<Vec<State>, SlotError> {
        (0u32..)
            .zip(&self.slots)
            .map(|(slot, device)| Ok(State { slot, device: locked(&device.transport).state()? }))
            .collect()
    }

    /// Puts states back into devices that no driver has touched; they stand still afterwards.
    ///
    /// # Errors
    /// [`SlotError::Count`], [`SlotError::State`].
    pub fn restore(&self, states: Vec<State>) -> Result<(), SlotError> {
        if states.len() != self.slots.len() {
            return Err(SlotError::Count { have: states.len(), want: self.slots.len() });
        }
        for (number, (slot, state)) in self.slots.iter().zip(states).enumerate() {
            locked(&slot.transport)
                .restore(state.device)
                .map_err(|source| SlotError::State { slot: number, source })?;
        }
        Ok(())
    }
}
