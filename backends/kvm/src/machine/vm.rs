//! KVM's virtual machine: memory slots, interrupt controllers, timer and clock.

use std::sync::Arc;

use bincode::{Decode, Encode};
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY,
    kvm_clock_data, kvm_irqchip, kvm_pit_config, kvm_pit_state2,
};
use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;
use zerocopy::{FromBytes, IntoBytes};

use crate::layout;
use crate::memory::Memory;
use crate::sys::{self, Logging};

/// Why KVM has no machine for us.
#[derive(Debug, Error)]
pub enum VmError {
    /// A step that it refused.
    #[error("KVM refuses to {0}")]
    Kvm(&'static str, #[source] kvm_ioctls::Error),
    /// More vector state than is understood here.
    #[error("this host's processors have more vector state than kxl-vmm can save")]
    Vectors,
    /// The bytes are not what they should be.
    #[error("the {0} in the state has another size than this kernel's")]
    Size(&'static str),
}

fn refused(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> VmError {
    move |source| VmError::Kvm(what, source)
}

/// The machine's own state, as the bytes of KVM's structures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct State {
    /// The two 8259 and the I/O APIC.
    pub irqchips: [Vec<u8>; 3],
    /// The 8254.
    pub pit: Vec<u8>,
    /// Nanoseconds of the guest's clock.
    pub clock_ns: u64,
}

/// A machine without processors.
#[derive(Debug)]
pub struct Vm {
    fd: Arc<VmFd>,
    memory: Memory,
}

const IRQCHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

impl Vm {
    /// Makes one around this memory.
    ///
    /// # Errors
    /// Any [`VmError`].
    pub fn create(kvm: &Kvm, memory: &Memory) -> Result<Self, VmError> {
        let fd = kvm.create_vm().map_err(refused("make a virtual machine"))?;
        if !sys::xsave_fits(&fd) {
            return Err(VmError::Vectors);
        }
        sys::set_memory(&fd, memory, Logging::Off).map_err(refused("take guest memory"))?;
        fd.set_identity_map_address(layout::IDENTITY_MAP)
            .map_err(refused("place its identity map"))?;
        let tss = usize::try_from(layout::TSS).unwrap_or(usize::MAX);
        fd.set_tss_address(tss).map_err(refused("place its task state"))?;
        fd.create_irq_chip().map_err(refused("make interrupt controllers"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..kvm_pit_config::default() };
        fd.create_pit2(pit).map_err(refused("make a timer"))?;
        Ok(Self { fd: Arc::new(fd), memory: memory.clone() })
    }

    /// The machine's descriptor.
    #[must_use]
    pub const fn fd(&self) -> &Arc<VmFd> {
        &self.fd
    }

    /// Makes a processor.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn vcpu(&self, id: u8) -> Result<VcpuFd, VmError> {
        self.fd.create_vcpu(u64::from(id)).map_err(refused("make a processor"))
    }

    /// Has an event raise an interrupt.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn irqfd(&self, event: &EventFd, gsi: u32) -> Result<(), VmError> {
        self.fd.register_irqfd(event, gsi).map_err(refused("connect an interrupt"))
    }

    /// Has a 32-bit write of `value` at a guest address signal an event.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn ioeventfd(&self, event: &EventFd, address: u64, value: u32) -> Result<(), VmError> {
        let address = IoEventAddress::Mmio(address);
        self.fd.register_ioevent(event, &address, value).map_err(refused("connect a doorbell"))
    }

    /// Has KVM note which pages the processors write, or no longer.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn log_writes(&self, on: bool) -> Result<(), VmError> {
        let logging = if on { Logging::On } else { Logging::Off };
        sys::set_memory(&self.fd, &self.memory, logging).map_err(refused("note writes"))
    }

    /// The pages of a region that the processors have written since the last look: a bit each.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn written(&self, slot: u32, bytes: usize) -> Result<Vec<u64>, VmError> {
        self.fd.get_dirty_log(slot, bytes).map_err(refused("say what was written"))
    }

    /// Nanoseconds of the guest's clock.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn clock(&self) -> Result<u64, VmError> {
        Ok(self.fd.get_clock().map_err(refused("give the clock"))?.clock)
    }

    /// Sets the guest's clock.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn set_clock(&self, clock: u64) -> Result<(), VmError> {
        let clock = kvm_clock_data { clock, ..kvm_clock_data::default() };
        self.fd.set_clock(&clock).map_err(refused("take the clock"))
    }

    /// Takes its state; no processor may run.
    ///
    /// # Errors
    /// [`VmError::Kvm`].
    pub fn state(&self) -> Result<State, VmError> {
        let mut irqchips = <[Vec<u8>; 3]>::default();
        for (bytes, chip_id) in irqchips.iter_mut().zip(IRQCHIPS) {
            let mut chip = kvm_irqchip { chip_id, ..kvm_irqchip::default() };
            self.fd.get_irqchip(&mut chip).map_err(refused("give interrupt controllers"))?;
            *bytes = chip.as_bytes().to_vec();
        }
        let pit = self.fd.get_pit2().map_err(refused("give the timer"))?.as_bytes().to_vec();
        let clock_ns = self.clock()?;
        Ok(State { irqchips, pit, clock_ns })
    }

    /// Puts a state into a new machine, before its processors'.
    ///
    /// # Errors
    /// Any [`VmError`].
    pub fn restore(&self, state: &State) -> Result<(), VmError> {
        let pit =
            kvm_pit_state2::read_from_bytes(&state.pit).map_err(|_| VmError::Size("timer"))?;
        self.fd.set_pit2(&pit).map_err(refused("take the timer"))?;
        self.set_clock(state.clock_ns)?;
        for bytes in &state.irqchips {
            let chip = kvm_irqchip::read_from_bytes(bytes)
                .map_err(|_| VmError::Size("interrupt controllers"))?;
            self.fd.set_irqchip(&chip).map_err(refused("take interrupt controllers"))?;
        }
        Ok(())
    }
}
