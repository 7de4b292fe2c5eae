//! The virtio devices in their slots.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bincode::{Decode, Encode};
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::board::{Parts, locked};
use super::vm::{Vm, VmError};
use crate::bus::{Bus, Shared};
use crate::config::Config;
use crate::memory::Memory;
use crate::virtio::balloon::Balloon;
use crate::virtio::block::Block;
use crate::virtio::console::Console;
use crate::virtio::net::{Net, Vhost};
use crate::virtio::rng::Rng;
use crate::virtio::transport::QUEUE_NOTIFY;
use crate::virtio::{
    self, Device, Gone, Handle, Log, Notify, Observer, Setup, StateError, Transport,
};
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
    /// One that cannot be saved.
    #[error("cannot save the device in slot {slot}")]
    Save {
        /// The slot.
        slot: u32,
        /// Why not.
        #[source]
        source: StateError,
    },
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

/// The address of an interface that was given none: the same whenever the same machine is started,
/// and locally administered. A machine without a name and a uuid has others each time.
fn address(config: &Config, slot: usize) -> [u8; 6] {
    let named = config.uuid.as_ref().or(config.name.as_ref());
    let hash = named.map_or_else(random, |name| crc32fast::hash(name.as_bytes()));
    let [a, b, c, d] = hash.to_be_bytes();
    [0x52, 0x54, a, b, c, d.wrapping_add(u8::try_from(slot).unwrap_or(0))]
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without it they are those of every such machine, which is still an address.
    let _none = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u32::from_ne_bytes(bytes)
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

/// A slot for a network interface.
#[derive(Debug)]
pub struct NicSlot {
    /// The id of the interface that is plugged in.
    pub holds: Option<String>,
    /// The address by which the guest knows it, plugged in or not.
    pub mac: [u8; 6],
    /// The kernel's device for an interface that comes later, opened while it still could be.
    pub spare: Option<Vhost>,
    /// The device.
    pub handle: Arc<Handle<Net>>,
}

/// All of them. A device's slot is its place: disks, interfaces, console, random source, balloon;
/// with the disks and interfaces that are reserved.
#[derive(Debug, Default)]
pub struct Slots {
    slots: Vec<Slot>,
    /// The slots for disks.
    pub disks: Vec<DiskSlot>,
    /// The slots for interfaces.
    pub nics: Vec<NicSlot>,
    /// Devices that taps are attached through later, opened while they still could be.
    pub taps: Vec<File>,
    /// The balloon.
    pub balloon: Option<Arc<Handle<Balloon>>>,
}

impl Slots {
    /// Starts the devices that a configuration asks for.
    ///
    /// # Errors
    /// [`SlotError::Start`], [`SlotError::Full`].
    pub fn new(
        config: &Config,
        memory: &Memory,
        parts: Parts,
        observer: &Observer,
    ) -> Result<Self, SlotError> {
        let mut all = Self { taps: parts.taps, ..Self::default() };
        let mut disks = parts.disks.into_iter();
        for index in 0..disks.len().max(config.hotplug.disks) {
            let (holds, disk, serial) = match disks.next() {
                Some(open) => {
                    let serial = open.serial.unwrap_or_else(|| open.id.clone());
                    let holds = Some((open.id, open.path, open.disk.is_readonly()));
                    (holds, Some(open.disk), serial)
                }
                None => (None, None, format!("slot{index}")),
            };
            let handle =
                all.add(&format!("disk{index}"), Block::new(disk, &serial), memory, observer)?;
            all.disks.push(DiskSlot { holds, handle });
        }
        let (mut nics, mut spares) = (parts.nics.into_iter(), parts.spares.into_iter());
        for index in 0..nics.len().max(config.hotplug.nics) {
            let (holds, mac, tap, vhost, spare) = match nics.next() {
                Some(open) => (Some(open.id), open.mac, Some(open.tap), open.vhost, None),
                None => (None, None, None, None, spares.next()),
            };
            let mac = mac.unwrap_or_else(|| address(config, index));
            let handle =
                all.add(&format!("eth{index}"), Net::new(mac, tap, vhost), memory, observer)?;
            all.nics.push(NicSlot { holds, mac, spare, handle });
        }
        if parts.console.is_some() || parts.channel.is_some() {
            all.add("console", Console::new(parts.console, parts.channel), memory, observer)?;
        }
        if config.rng {
            all.add("rng", Rng, memory, observer)?;
        }
        if config.balloon {
            all.balloon = Some(all.add("balloon", Balloon::default(), memory, observer)?);
        }
        Ok(all)
    }

    fn add<D: Device>(
        &mut self,
        name: &str,
        device: D,
        memory: &Memory,
        observer: &Observer,
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
            observer: observer.clone(),
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

    /// Whether what devices write into memory has to be noted, for as long as a live save goes on.
    ///
    /// # Errors
    /// [`SlotError::Gone`].
    pub fn note_writes(&self, noting: bool) -> Result<(), SlotError> {
        Ok(self.nics.iter().try_for_each(|nic| nic.handle.note_writes(noting))?)
    }

    /// The state of devices that stand still.
    ///
    /// # Errors
    /// [`SlotError::Save`].
    pub fn state(&self) -> Result<Vec<State>, SlotError> {
        (0u32..)
            .zip(&self.slots)
            .map(|(slot, device)| {
                let state = locked(&device.transport).state();
                let device = state.map_err(|source| SlotError::Save { slot, source })?;
                Ok(State { slot, device })
            })
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
