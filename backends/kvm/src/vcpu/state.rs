//! A processor's state: taken and put back in the order that KVM needs.
//!
//! Everything is kept as the bytes of KVM's own structures, which are part of the kernel's binary
//! interface and only ever grow by new calls.

use bincode::{Decode, Encode};
use kvm_bindings::{
    CpuId, Msrs, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Why a state cannot be taken or put back.
#[derive(Debug, Error)]
pub enum StateError {
    /// KVM refused.
    #[error("KVM refuses to {what} a processor's {which}")]
    Kvm {
        /// Give or take.
        what: &'static str,
        /// Of which registers.
        which: &'static str,
        /// Its refusal.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The bytes are not what they should be.
    #[error("a processor's {0} in the state has another size than this kernel's")]
    Size(&'static str),
    /// A register that cannot be set.
    #[error("the model-specific register {0:#x} cannot be set on this host")]
    Msr(u32),
}

/// One processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct State {
    /// Whether it runs, is halted or waits to be started.
    pub mp_state: Vec<u8>,
    /// General registers.
    pub regs: Vec<u8>,
    /// Segment and control registers.
    pub sregs: Vec<u8>,
    /// Floating point and vectors.
    pub xsave: Vec<u8>,
    /// Extended control registers.
    pub xcrs: Vec<u8>,
    /// Debug registers.
    pub debug: Vec<u8>,
    /// The local interrupt controller.
    pub lapic: Vec<u8>,
    /// Pending exceptions and interrupts.
    pub events: Vec<u8>,
    /// What it shows of itself.
    pub cpuid: Vec<u8>,
    /// Model-specific registers: index and value.
    pub msrs: Vec<(u32, u64)>,
    /// Frequency of its time-stamp counter; 0 = unknown.
    pub tsc_khz: u32,
}

impl State {
    /// What it shows of itself.
    ///
    /// # Errors
    /// [`StateError::Size`].
    pub fn leaves(&self) -> Result<Vec<kvm_cpuid_entry2>, StateError> {
        let entries = self.cpuid.chunks(size_of::<kvm_cpuid_entry2>());
        entries.map(|entry| of(entry, "identification")).collect()
    }
}

fn bytes<T: IntoBytes + Immutable>(value: &T) -> Vec<u8> {
    value.as_bytes().to_vec()
}

fn of<T: FromBytes>(bytes: &[u8], which: &'static str) -> Result<T, StateError> {
    T::read_from_bytes(bytes).map_err(|_| StateError::Size(which))
}

fn give(which: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> StateError {
    move |source| StateError::Kvm { what: "give", which, source }
}

fn take(which: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> StateError {
    move |source| StateError::Kvm { what: "take", which, source }
}

/// Takes the state of a processor that stands still and was described by `cpuid`, with these
/// model-specific registers as far as it has them.
///
/// # Errors
/// [`StateError::Kvm`].
pub fn save(vcpu: &VcpuFd, indices: &[u32], cpuid: &CpuId) -> Result<State, StateError> {
    // The run state comes first: asking for it makes KVM deliver a pending start-up message.
    let mp_state = bytes(&vcpu.get_mp_state().map_err(give("run state"))?);
    let regs = bytes(&vcpu.get_regs().map_err(give("registers"))?);
    let sregs = bytes(&vcpu.get_sregs().map_err(give("control registers"))?);
    let xsave = bytes(&vcpu.get_xsave().map_err(give("vectors"))?);
    let xcrs = bytes(&vcpu.get_xcrs().map_err(give("extended control registers"))?);
    let debug = bytes(&vcpu.get_debug_regs().map_err(give("debug registers"))?);
    // Not every host can tell.
    let tsc_khz = vcpu.get_tsc_khz().unwrap_or(0);
    // As it was given: not every KVM gives back what it was given.
    let cpuid = cpuid.as_slice().iter().flat_map(bytes).collect();
    let msrs = read_msrs(vcpu, indices)?;
    // Behind the deadline of its timer: one that passes in between is then in both, and not in none.
    let lapic = bytes(&vcpu.get_lapic().map_err(give("interrupt controller"))?);
    // Last: the calls before may have changed what is pending.
    let events = bytes(&vcpu.get_vcpu_events().map_err(give("events"))?);
    Ok(State { mp_state, regs, sregs, xsave, xcrs, debug, lapic, events, cpuid, msrs, tsc_khz })
}

/// Reads all at once; one that KVM refuses ends that read, and the next goes on behind it.
fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, StateError> {
    let mut found = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .map(|index| kvm_msr_entry { index: *index, ..Default::default() })
            .collect();
        let mut msrs = Msrs::from_entries(&entries)
            .map_err(|_| StateError::Size("model-specific registers"))?;
        let read = vcpu.get_msrs(&mut msrs).map_err(give("model-specific registers"))?;
        found.extend(msrs.as_slice()[..read].iter().map(|entry| (entry.index, entry.data)));
        rest = rest.get(read + 1..).unwrap_or_default();
    }
    Ok(found)
}

/// Puts a state into a new processor; what it was described by.
///
/// # Errors
/// Any [`StateError`]; the processor is of no use then.
pub fn restore(vcpu: &VcpuFd, state: &State) -> Result<CpuId, StateError> {
    let entries = state.leaves()?;
    let cpuid = CpuId::from_entries(&entries).map_err(|_| StateError::Size("identification"))?;
    // Control registers are checked against it.
    vcpu.set_cpuid2(&cpuid).map_err(take("identification"))?;
    let mp_state: kvm_mp_state = of(&state.mp_state, "run state")?;
    vcpu.set_mp_state(mp_state).map_err(take("run state"))?;
    if state.tsc_khz != 0 && vcpu.get_tsc_khz().is_ok_and(|here| here != state.tsc_khz) {
        vcpu.set_tsc_khz(state.tsc_khz).map_err(take("time-stamp frequency"))?;
    }
    let regs: kvm_regs = of(&state.regs, "registers")?;
    vcpu.set_regs(&regs).map_err(take("registers"))?;
    let sregs: kvm_sregs = of(&state.sregs, "control registers")?;
    vcpu.set_sregs(&sregs).map_err(take("control registers"))?;
    let xsave: kvm_xsave = of(&state.xsave, "vectors")?;
    crate::sys::set_xsave(vcpu, &xsave).map_err(take("vectors"))?;
    let xcrs: kvm_xcrs = of(&state.xcrs, "extended control registers")?;
    // A processor without XSAVE has none, and KVM refuses to be given none.
    if xcrs.nr_xcrs > 0 {
        vcpu.set_xcrs(&xcrs).map_err(take("extended control registers"))?;
    }
    let debug: kvm_debugregs = of(&state.debug, "debug registers")?;
    vcpu.set_debug_regs(&debug).map_err(take("debug registers"))?;
    let lapic: kvm_lapic_state = of(&state.lapic, "interrupt controller")?;
    vcpu.set_lapic(&lapic).map_err(take("interrupt controller"))?;
    write_msrs(vcpu, &state.msrs)?;
    let events: kvm_vcpu_events = of(&state.events, "events")?;
    vcpu.set_vcpu_events(&events).map_err(take("events"))?;
    // Tells the guest's clock that time has passed without it; refused where the guest has none.
    let _without_clock = vcpu.kvmclock_ctrl();
    Ok(cpuid)
}

fn write_msrs(vcpu: &VcpuFd, msrs: &[(u32, u64)]) -> Result<(), StateError> {
    let mut rest = msrs;
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .map(|(index, data)| kvm_msr_entry { index: *index, data: *data, ..Default::default() })
            .collect();
        let list = Msrs::from_entries(&entries)
            .map_err(|_| StateError::Size("model-specific registers"))?;
        let written = vcpu.set_msrs(&list).map_err(take("model-specific registers"))?;
        match rest.get(written) {
            None => break,
            // Some can only be read; what a new processor has in them anyway is no loss.
            Some((index, value))
                if read_msrs(vcpu, &[*index])?.first() == Some(&(*index, *value)) =>
            {
                rest = &rest[written + 1..];
            }
            Some((_, 0)) => rest = &rest[written + 1..],
            Some((index, _)) => return Err(StateError::Msr(*index)),
        }
    }
    Ok(())
}
