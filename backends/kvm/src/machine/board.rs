//! The devices: they live as long as the process, and are connected to one VM after another.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bincode::{Decode, Encode};
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::resources::{OpenDisk, OpenNic};
use super::slots::{self, SlotError, Slots};
use super::vm::{Vm, VmError};
use crate::bus::{Bus, Shared};
use crate::config::Config;
use crate::devices::cmos::Cmos;
use crate::devices::i8042::I8042;
use crate::devices::line::{Connected, Line as SerialLine};
use crate::devices::panic::PvPanic;
use crate::devices::power::Power;
use crate::devices::serial::{Com1, Edge};
use crate::devices::{Ending, cmos, power, serial};
use crate::endpoint::Endpoint;
use crate::irq::Line;
use crate::layout;
use crate::memory::Memory;
use crate::vcpu::run::Surroundings;
use crate::virtio::Observer;
use crate::virtio::net::Vhost;

/// Why there are no devices.
#[derive(Debug, Error)]
pub enum BoardError {
    /// No descriptor is left for an interrupt.
    #[error("cannot make an event for an interrupt")]
    Event(#[source] std::io::Error),
    /// KVM refuses to connect one.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// A state that does not fit.
    #[error("cannot bring a device back: {0}")]
    State(String),
    /// The serial line's thread.
    #[error("cannot start the serial line")]
    Line(#[source] std::io::Error),
    /// A virtio device.
    #[error(transparent)]
    Slot(#[from] SlotError),
}

/// What was opened for the devices.
#[derive(Debug, Default)]
pub struct Parts {
    /// The host's end of COM1; without one there is no serial line.
    pub serial: Option<Endpoint>,
    /// The disks, in the order of their slots.
    pub disks: Vec<OpenDisk>,
    /// The network interfaces, in the order of their slots.
    pub nics: Vec<OpenNic>,
    /// The kernel's devices for interfaces that come later.
    pub spares: Vec<Vhost>,
    /// Devices that taps are attached through later.
    pub taps: Vec<File>,
    /// The host's end of the virtio console.
    pub console: Option<Endpoint>,
    /// The name of the channel to a program in the guest, and the host's end.
    pub channel: Option<(String, Endpoint)>,
}

/// The devices, as they are saved.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct State {
    /// COM1, where there is one.
    pub com1: Option<serial::State>,
    /// ACPI's registers.
    pub power: power::State,
    /// The clock.
    pub cmos: cmos::State,
    /// The virtio devices.
    pub slots: Vec<slots::State>,
}

/// A serial line: its registers, its interrupt and what carries its input.
#[derive(Debug)]
struct Serial {
    // Ends its thread before the registers go.
    _input: Connected,
    com1: Shared<Com1>,
    event: Arc<EventFd>,
}

impl Serial {
    fn new(endpoint: Endpoint) -> Result<Self, BoardError> {
        let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(BoardError::Event)?;
        let event = Arc::new(event);
        let line = SerialLine::new(endpoint);
        let com1 = Com1::new(Edge(Arc::clone(&event)), line.host());
        let com1 = Arc::new(Mutex::new(com1));
        let input = line.connect(com1.clone()).map_err(BoardError::Line)?;
        Ok(Self { _input: input, com1, event })
    }
}

/// The devices.
#[derive(Debug)]
pub struct Board {
    around: Surroundings,
    /// None where there is no serial line.
    serial: Option<Serial>,
    slots: Slots,
    power: Shared<Power>,
    sci: Line,
    cmos: Shared<Cmos>,
}

pub(super) fn locked<T: ?Sized>(device: &Shared<T>) -> MutexGuard<'_, T> {
    // Registers are plain values: a thread that panicked has left no invariant broken.
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// Makes them.
    ///
    /// # Errors
    /// [`BoardError::Event`], [`BoardError::Line`], [`BoardError::Slot`].
    pub fn new(
        config: &Config,
        memory: &Memory,
        ending: &Ending,
        mut parts: Parts,
        observer: &Observer,
    ) -> Result<Self, BoardError> {
        let serial = parts.serial.take().map(Serial::new).transpose()?;
        let sci = Line::new(layout::SCI);
        let power = Arc::new(Mutex::new(Power::new(sci.clone(), ending.clone())));
        let cmos = Arc::new(Mutex::new(Cmos::default()));
        let mut ports = Bus::default();
        if let Some(serial) = &serial {
            ports.insert(layout::COM1, 8, serial.com1.clone());
        }
        ports.insert(layout::PM, layout::PM_LENGTH, power.clone());
        ports.insert(layout::CMOS, 2, cmos.clone());
        ports.insert(layout::I8042, 1, Arc::new(Mutex::new(I8042(ending.clone()))));
        ports.insert(layout::PVPANIC, 1, Arc::new(Mutex::new(PvPanic(ending.clone()))));
        let slots = Slots::new(config, memory, parts, observer)?;
        let mut mmio = Bus::default();
        slots.insert(&mut mmio);
        let (ports, mmio) = (Arc::new(ports), Arc::new(mmio));
        let around = Surroundings { ports, mmio, ending: ending.clone() };
        Ok(Self { around, serial, slots, power, sci, cmos })
    }

    /// What the processors run among.
    #[must_use]
    pub const fn around(&self) -> &Surroundings {
        &self.around
    }

    /// The virtio devices.
    #[must_use]
    pub const fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The virtio devices, to be changed.
    pub const fn slots_mut(&mut self) -> &mut Slots {
        &mut self.slots
    }

    /// Connects the devices to a new VM.
    ///
    /// # Errors
    /// [`BoardError::Vm`], [`BoardError::Slot`].
    pub fn connect(&self, vm: &Vm) -> Result<(), BoardError> {
        self.sci.connect(vm.fd());
        if let Some(serial) = &self.serial {
            vm.irqfd(&serial.event, layout::COM1_GSI)?;
        }
        Ok(self.slots.connect(vm)?)
    }

    /// As after power-on.
    ///
    /// # Errors
    /// [`BoardError::Slot`].
    pub fn reset(&self) -> Result<(), BoardError> {
        locked(&self.power).reset();
        if let Some(serial) = &self.serial {
            locked(&serial.com1).reset();
        }
        Ok(self.slots.reset()?)
    }

    /// Presses the power button.
    pub fn press_power(&self) {
        locked(&self.power).press();
    }

    /// Has the devices stand still: nothing touches memory afterwards, and no input is taken.
    ///
    /// # Errors
    /// [`BoardError::Slot`].
    pub fn pause(&self) -> Result<(), BoardError> {
        if let Some(serial) = &self.serial {
            locked(&serial.com1).stand();
        }
        Ok(self.slots.pause()?)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// [`BoardError::Slot`].
    pub fn resume(&self) -> Result<(), BoardError> {
        self.slots.resume()?;
        if let Some(serial) = &self.serial {
            locked(&serial.com1).go();
        }
        Ok(())
    }

    /// The state of devices that stand still.
    ///
    /// # Errors
    /// [`BoardError::Slot`].
    pub fn state(&self) -> Result<State, BoardError> {
        Ok(State {
            com1: self.serial.as_ref().map(|serial| locked(&serial.com1).state()),
            power: locked(&self.power).state(),
            cmos: locked(&self.cmos).state(),
            slots: self.slots.state()?,
        })
    }

    /// Puts a state back, before the devices are connected to a VM.
    ///
    /// # Errors
    /// [`BoardError::State`], [`BoardError::Slot`].
    pub fn restore(&self, state: State) -> Result<(), BoardError> {
        match (&self.serial, &state.com1) {
            (Some(serial), Some(state)) => {
                locked(&serial.com1).restore(state).map_err(BoardError::State)?;
            }
            (None, None) => {}
            (have, _) => {
                let theirs = if have.is_some() { "without" } else { "with" };
                let text = format!("it is that of a machine {theirs} a serial line");
                return Err(BoardError::State(text));
            }
        }
        locked(&self.power).restore(state.power);
        locked(&self.cmos).restore(state.cmos);
        Ok(self.slots.restore(state.slots)?)
    }

    /// After the interrupt controllers have their state: lines that were high are known to be.
    pub fn settle(&self) {
        let power = locked(&self.power).state();
        self.sci.assume(power.status & power.enable != 0);
    }
}
