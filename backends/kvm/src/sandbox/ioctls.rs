//! The requests of ioctl(2) that the threads make, by what they are made to. A request's number
//! holds the size of what it carries: a number that is not in these lists is none of ours.

use kvm_bindings as kvm;

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

const fn request<T>(direction: u32, group: u8, number: u8) -> u32 {
    // A size of 14 bits; everything here is smaller.
    #[allow(clippy::cast_possible_truncation, reason = "const; asserted")]
    let size = size_of::<T>() as u32;
    assert!(size < 1 << 14, "no request carries so much");
    direction << 30 | size << 16 | (group as u32) << 8 | number as u32
}

const KVM: u8 = 0xae;

const fn does(number: u8) -> u32 {
    request::<()>(NONE, KVM, number)
}

const fn gets<T>(number: u8) -> u32 {
    request::<T>(READ, KVM, number)
}

const fn sets<T>(number: u8) -> u32 {
    request::<T>(WRITE, KVM, number)
}

const fn trades<T>(number: u8) -> u32 {
    request::<T>(READ | WRITE, KVM, number)
}

/// First of a processor's requests, as it is made most often by far.
pub(super) const KVM_RUN: u32 = does(0x80);

/// The state of a processor, taken and given.
pub(super) const KVM_VCPU: &[u32] = &[
    gets::<kvm::kvm_regs>(0x81),
    sets::<kvm::kvm_regs>(0x82),
    gets::<kvm::kvm_sregs>(0x83),
    sets::<kvm::kvm_sregs>(0x84),
    trades::<kvm::kvm_msrs>(0x88),
    sets::<kvm::kvm_msrs>(0x89),
    gets::<kvm::kvm_fpu>(0x8c),
    sets::<kvm::kvm_fpu>(0x8d),
    gets::<kvm::kvm_lapic_state>(0x8e),
    sets::<kvm::kvm_lapic_state>(0x8f),
    sets::<kvm::kvm_cpuid2>(0x90),
    trades::<kvm::kvm_cpuid2>(0x91),
    gets::<kvm::kvm_mp_state>(0x98),
    sets::<kvm::kvm_mp_state>(0x99),
    // KVM_NMI
    does(0x9a),
    gets::<kvm::kvm_vcpu_events>(0x9f),
    sets::<kvm::kvm_vcpu_events>(0xa0),
    gets::<kvm::kvm_debugregs>(0xa1),
    sets::<kvm::kvm_debugregs>(0xa2),
    // KVM_SET_TSC_KHZ and KVM_GET_TSC_KHZ
    does(0xa2),
    does(0xa3),
    gets::<kvm::kvm_xsave>(0xa4),
    sets::<kvm::kvm_xsave>(0xa5),
    gets::<kvm::kvm_xcrs>(0xa6),
    sets::<kvm::kvm_xcrs>(0xa7),
    // KVM_KVMCLOCK_CTRL
    does(0xad),
    // KVM_GET_XSAVE2
    gets::<kvm::kvm_xsave>(0xcf),
];

/// Interrupts of devices and the ways their queues are kicked.
pub(super) const KVM_INTERRUPTS: &[u32] = &[
    // KVM_IRQ_LINE and KVM_IRQ_LINE_STATUS
    sets::<kvm::kvm_irq_level>(0x61),
    trades::<kvm::kvm_irq_level>(0x67),
    // KVM_IRQFD and KVM_IOEVENTFD
    sets::<kvm::kvm_irqfd>(0x76),
    sets::<kvm::kvm_ioeventfd>(0x79),
    // KVM_SIGNAL_MSI
    sets::<kvm::kvm_msi>(0xa5),
];

/// The machine as a whole: made before the guest runs, taken and given when it moves.
pub(super) const KVM_MACHINE: &[u32] = &[
    // KVM_CREATE_VM: a reset makes the machine anew
    does(0x01),
    // KVM_CHECK_EXTENSION, KVM_GET_VCPU_MMAP_SIZE
    does(0x03),
    does(0x04),
    // KVM_GET_MSR_INDEX_LIST, KVM_GET_SUPPORTED_CPUID
    trades::<kvm::kvm_msr_list>(0x02),
    trades::<kvm::kvm_cpuid2>(0x05),
    // KVM_CREATE_VCPU, KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR
    does(0x41),
    does(0x47),
    sets::<u64>(0x48),
    sets::<kvm::kvm_userspace_memory_region>(0x46),
    // KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2, KVM_SET_GSI_ROUTING
    does(0x60),
    sets::<kvm::kvm_pit_config>(0x77),
    sets::<kvm::kvm_irq_routing>(0x6a),
    trades::<kvm::kvm_irqchip>(0x62),
    gets::<kvm::kvm_irqchip>(0x63),
    sets::<kvm::kvm_clock_data>(0x7b),
    gets::<kvm::kvm_clock_data>(0x7c),
    gets::<kvm::kvm_pit_state2>(0x9f),
    sets::<kvm::kvm_pit_state2>(0xa0),
];

/// What the guest has written since it was last asked.
pub(super) const KVM_DIRTY: &[u32] =
    &[sets::<kvm::kvm_dirty_log>(0x42), trades::<kvm::kvm_clear_dirty_log>(0xc0)];

/// A tap: TUNSETIFF, TUNGETFEATURES, TUNSETOFFLOAD, TUNGETIFF, TUNGETVNETHDRSZ, TUNSETVNETHDRSZ.
pub(super) const TAP: &[u32] = &[
    request::<u32>(WRITE, b'T', 202),
    request::<u32>(READ, b'T', 207),
    request::<u32>(WRITE, b'T', 208),
    request::<u32>(READ, b'T', 210),
    request::<u32>(READ, b'T', 215),
    request::<u32>(WRITE, b'T', 216),
];

const VHOST_GROUP: u8 = 0xaf;

/// The kernel's own virtio-net: features, memory, and then ring by ring.
pub(super) const VHOST: &[u32] = &[
    // VHOST_GET_FEATURES, VHOST_SET_FEATURES, VHOST_SET_OWNER, VHOST_RESET_OWNER
    request::<u64>(READ, VHOST_GROUP, 0x00),
    request::<u64>(WRITE, VHOST_GROUP, 0x00),
    request::<()>(NONE, VHOST_GROUP, 0x01),
    request::<()>(NONE, VHOST_GROUP, 0x02),
    // VHOST_SET_MEM_TABLE, VHOST_SET_LOG_BASE, VHOST_SET_LOG_FD
    request::<u64>(WRITE, VHOST_GROUP, 0x03),
    request::<u64>(WRITE, VHOST_GROUP, 0x04),
    request::<u32>(WRITE, VHOST_GROUP, 0x07),
    // VHOST_SET_VRING_NUM, _ADDR, _BASE, VHOST_GET_VRING_BASE
    request::<[u32; 2]>(WRITE, VHOST_GROUP, 0x10),
    request::<[u64; 5]>(WRITE, VHOST_GROUP, 0x11),
    request::<[u32; 2]>(WRITE, VHOST_GROUP, 0x12),
    request::<[u32; 2]>(READ | WRITE, VHOST_GROUP, 0x12),
    // VHOST_SET_VRING_KICK, _CALL, _ERR
    request::<[u32; 2]>(WRITE, VHOST_GROUP, 0x20),
    request::<[u32; 2]>(WRITE, VHOST_GROUP, 0x21),
    request::<[u32; 2]>(WRITE, VHOST_GROUP, 0x22),
    // VHOST_SET_BACKEND_FEATURES, VHOST_GET_BACKEND_FEATURES, VHOST_NET_SET_BACKEND
    request::<u64>(WRITE, VHOST_GROUP, 0x25),
    request::<u64>(READ, VHOST_GROUP, 0x26),
    request::<[u32; 2]>(WRITE, VHOST_GROUP, 0x30),
];

/// A block device: BLKGETSIZE64, BLKSSZGET, BLKDISCARD, BLKZEROOUT.
pub(super) const DISK: &[u32] = &[
    request::<u64>(READ, 0x12, 114),
    request::<()>(NONE, 0x12, 104),
    request::<()>(NONE, 0x12, 119),
    request::<()>(NONE, 0x12, 127),
];

/// Copies of a file that share its blocks: FICLONE and FICLONERANGE.
pub(super) const CLONE: &[u32] =
    &[request::<u32>(WRITE, 0x94, 9), request::<[u64; 4]>(WRITE, 0x94, 13)];

/// FIONBIO and FIOCLEX, which the standard library sets on descriptors.
pub(super) const DESCRIPTOR: &[u32] = &[0x5421, 0x5451];

/// A terminal as console: TCGETS, TCSETS, TCSETSW, TCSETSF, TIOCGWINSZ. None of them types.
pub(super) const TERMINAL: &[u32] = &[0x5401, 0x5402, 0x5403, 0x5404, 0x5413];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_of_the_kernel() {
        assert_eq!(KVM_RUN, 0xae80);
        assert_eq!(KVM_VCPU[0], 0x8090_ae81, "KVM_GET_REGS");
        assert_eq!(KVM_VCPU[4], 0xc008_ae88, "KVM_GET_MSRS");
        assert_eq!(KVM_INTERRUPTS[2], 0x4020_ae76, "KVM_IRQFD");
        assert_eq!(KVM_DIRTY, [0x4010_ae42, 0xc018_aec0]);
        assert_eq!(TAP[0], 0x4004_54ca, "TUNSETIFF");
        assert_eq!(VHOST[8], 0x4028_af11, "VHOST_SET_VRING_ADDR");
        assert_eq!(DISK[0], 0x8008_1272, "BLKGETSIZE64");
        assert_eq!(CLONE, [0x4004_9409, 0x4020_940d]);
    }

    #[test]
    fn no_list_lets_a_terminal_be_typed_into() {
        let tiocsti = 0x5412;
        let all = [TERMINAL, TAP, DESCRIPTOR, KVM_MACHINE, VHOST, DISK, CLONE];
        assert!(all.iter().all(|list| !list.contains(&tiocsti)));
    }
}
