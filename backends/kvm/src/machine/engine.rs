//! The part of a machine that a reset makes anew: KVM's VM and the processors.

use std::sync::Arc;

use kvm_bindings::{CpuId, Msrs, kvm_cpuid_entry2, kvm_fpu, kvm_lapic_state, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};
use thiserror::Error;

use super::vm::{self, Vm, VmError};
use crate::boot::{BootError, Registers};
use crate::memory::Memory;
use crate::vcpu::cpuid::{self, CpuidError};
use crate::vcpu::run::{Gone, Surroundings};
use crate::vcpu::state::StateError;
use crate::vcpu::{self, Vcpu};

/// Why there is no running machine.
#[derive(Debug, Error)]
pub enum EngineError {
    /// KVM's part of it.
    #[error("cannot make the virtual machine")]
    Vm(#[from] VmError),
    /// What the processors show.
    #[error("cannot describe the processors")]
    Cpuid(#[from] CpuidError),
    /// Their first registers.
    #[error("KVM refuses to set a processor's {0}")]
    Setup(&'static str, #[source] kvm_ioctls::Error),
    /// Their saved registers.
    #[error("cannot bring a processor back")]
    State(#[from] StateError),
    /// A thread.
    #[error("cannot start a processor's thread")]
    Thread(#[source] std::io::Error),
    /// A thread that is no more.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// What is booted.
    #[error("cannot boot")]
    Boot(#[from] BootError),
    /// A state of another shape.
    #[error("the state has {have} processors, the machine {want}")]
    Count {
        /// In the state.
        have: usize,
        /// In the configuration.
        want: u8,
    },
}

/// KVM's VM with its processors, which stand still at first.
#[derive(Debug)]
pub struct Engine {
    // Dropped in this order: the threads end before the VM goes.
    vcpus: Vec<Vcpu>,
    vm: Vm,
    /// The guest's clock while it stands still.
    stopped_at: Option<u64>,
}

/// What a saved engine is.
#[derive(Clone, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct State {
    /// KVM's VM.
    pub vm: vm::State,
    /// The processors, by number.
    pub vcpus: Vec<vcpu::State>,
}

/// A VM whose processors do not exist yet: devices are connected in between.
#[derive(Debug)]
pub struct Shell {
    /// The VM.
    pub vm: Vm,
    vcpus: Vec<VcpuFd>,
}

fn setup(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> EngineError {
    move |source| EngineError::Setup(what, source)
}

impl Shell {
    /// Makes a VM around this memory, and its processors.
    ///
    /// # Errors
    /// [`EngineError::Vm`].
    pub fn create(kvm: &Kvm, memory: &Memory, vcpus: u8) -> Result<Self, EngineError> {
        let vm = Vm::create(kvm, memory)?;
        let vcpus = (0..vcpus).map(|id| vm.vcpu(id)).collect::<Result<_, _>>()?;
        Ok(Self { vm, vcpus })
    }

    /// The segment and control registers of a new processor.
    ///
    /// # Errors
    /// [`EngineError::Setup`].
    pub fn fresh(&self) -> Result<kvm_bindings::kvm_sregs, EngineError> {
        self.vcpus[0].get_sregs().map_err(setup("control registers"))
    }

    /// Starts it from a kernel's entry: the first processor has these registers, the others wait.
    ///
    /// # Errors
    /// Any [`EngineError`].
    pub fn boot(
        self,
        leaves: &[kvm_cpuid_entry2],
        first: &Registers,
        around: &Surroundings,
    ) -> Result<Engine, EngineError> {
        let count = u8::try_from(self.vcpus.len()).unwrap_or(u8::MAX);
        let mut described = Vec::with_capacity(self.vcpus.len());
        for (id, fd) in (0u8..).zip(&self.vcpus) {
            let cpuid = cpuid::of(leaves, id, count)?;
            fd.set_cpuid2(&cpuid).map_err(setup("identification"))?;
            described.push(cpuid);
            set_msrs(fd)?;
            set_lapic(fd)?;
            if id == 0 {
                fd.set_fpu(&kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..kvm_fpu::default() })
                    .map_err(setup("floating point"))?;
                fd.set_sregs(&first.sregs).map_err(setup("control registers"))?;
                fd.set_regs(&first.regs).map_err(setup("registers"))?;
            }
        }
        self.start(described, around)
    }

    /// Starts it from the state of its processors; the VM has its own back already, and the devices
    /// are connected.
    ///
    /// # Errors
    /// Any [`EngineError`].
    pub fn resume(self, state: &State, around: &Surroundings) -> Result<Engine, EngineError> {
        if state.vcpus.len() != self.vcpus.len() {
            let want = u8::try_from(self.vcpus.len()).unwrap_or(u8::MAX);
            return Err(EngineError::Count { have: state.vcpus.len(), want });
        }
        let described = self
            .vcpus
            .iter()
            .zip(&state.vcpus)
            .map(|(fd, state)| vcpu::state::restore(fd, state))
            .collect::<Result<_, _>>()?;
        let mut engine = self.start(described, around)?;
        engine.stopped_at = Some(state.vm.clock_ns);
        Ok(engine)
    }

    fn start(self, described: Vec<CpuId>, around: &Surroundings) -> Result<Engine, EngineError> {
        vcpu::prepare().map_err(EngineError::Thread)?;
        let vcpus = (0u8..)
            .zip(self.vcpus.into_iter().zip(described))
            .map(|(id, (fd, cpuid))| Vcpu::start(id, fd, cpuid, around.clone()))
            .map(|started| started.map_err(EngineError::Thread))
            .collect::<Result<_, _>>()?;
        Ok(Engine { vcpus, vm: self.vm, stopped_at: None })
    }
}

/// Registers that kernels find set by firmware, or cleared.
fn set_msrs(fd: &VcpuFd) -> Result<(), EngineError> {
    const ZERO: [u32; 9] = [
        0x174,
        0x175,
        0x176,
        0xc000_0081,
        0xc000_0082,
        0xc000_0083,
        0xc000_0084,
        0xc000_0102,
        0x10,
    ];
    /// Fast strings.
    const MISC_ENABLE: (u32, u64) = (0x1a0, 1);
    /// Memory types: on, and write-back where nothing else is said.
    const MTRR_DEFAULT: (u32, u64) = (0x2ff, 1 << 11 | 6);
    let entries: Vec<_> = ZERO
        .into_iter()
        .map(|index| (index, 0))
        .chain([MISC_ENABLE, MTRR_DEFAULT])
        .map(|(index, data)| kvm_msr_entry { index, data, ..kvm_msr_entry::default() })
        .collect();
    let refused = setup("model-specific registers");
    let Ok(msrs) = Msrs::from_entries(&entries) else {
        return Err(refused(kvm_ioctls::Error::new(libc::EINVAL)));
    };
    match fd.set_msrs(&msrs) {
        Ok(set) if set == entries.len() => Ok(()),
        Ok(_) => Err(refused(kvm_ioctls::Error::new(libc::EINVAL))),
        Err(error) => Err(refused(error)),
    }
}

/// LINT0 takes the interrupts of the 8259, LINT1 the NMI.
fn set_lapic(fd: &VcpuFd) -> Result<(), EngineError> {
    let mut lapic = fd.get_lapic().map_err(setup("interrupt controller"))?;
    for (register, mode) in [(0x350, 0x7), (0x360, 0x4)] {
        let bytes: [i8; 4] = u32::to_le_bytes(mode << 8).map(u8::cast_signed);
        lapic.regs[register..register + 4].copy_from_slice(&bytes);
    }
    let lapic: kvm_lapic_state = lapic;
    fd.set_lapic(&lapic).map_err(setup("interrupt controller"))
}

impl Engine {
    /// The processors.
    #[must_use]
    pub fn vcpus(&self) -> &[Vcpu] {
        &self.vcpus
    }

    /// KVM's VM.
    #[must_use]
    pub const fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Lets the processors run. The guest's clock goes on where it stood.
    ///
    /// # Errors
    /// [`EngineError::Gone`].
    pub fn run(&mut self) -> Result<(), EngineError> {
        if let Some(clock) = self.stopped_at.take() {
            self.vm.set_clock(clock)?;
        }
        self.vcpus.iter().try_for_each(Vcpu::run)?;
        Ok(())
    }

    /// Has every processor stand still, and returns when they do.
    ///
    /// # Errors
    /// [`EngineError::Gone`].
    pub fn stand(&mut self) -> Result<(), EngineError> {
        let asked: Vec<_> = self
            .vcpus
            .iter()
            .map(|vcpu| Ok((vcpu.index(), vcpu.stand()?)))
            .collect::<Result<_, Gone>>()?;
        for (index, stands) in asked {
            stands.recv().map_err(|_| Gone(index))?;
        }
        self.stopped_at = Some(self.vm.clock()?);
        Ok(())
    }

    /// Takes the state of a machine that stands still.
    ///
    /// # Errors
    /// [`EngineError::State`], [`EngineError::Vm`], [`EngineError::Gone`].
    pub fn state(&self, msrs: &Arc<[u32]>) -> Result<State, EngineError> {
        let asked: Vec<_> = self
            .vcpus
            .iter()
            .map(|vcpu| Ok((vcpu.index(), vcpu.save(msrs)?)))
            .collect::<Result<_, Gone>>()?;
        let vcpus = asked
            .into_iter()
            .map(|(index, state)| Ok(state.recv().map_err(|_| Gone(index))??))
            .collect::<Result<_, EngineError>>()?;
        let mut vm = self.vm.state()?;
        if let Some(clock) = self.stopped_at {
            vm.clock_ns = clock;
        }
        Ok(State { vm, vcpus })
    }
}
