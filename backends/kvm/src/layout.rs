//! Where the guest finds its devices. The ACPI tables say the same.

/// The first serial line.
pub const COM1: u64 = 0x3f8;
/// Its interrupt.
pub const COM1_GSI: u32 = 4;

/// Power management: PM1a event block (4 bytes), control block (2 bytes), reset register.
pub const PM: u64 = 0x600;
/// PM1a control block.
pub const PM_CONTROL: u64 = 0x604;
/// ACPI's reset register.
pub const RESET: u64 = 0x606;
/// Bytes of all three.
pub const PM_LENGTH: u64 = 7;
/// ACPI's own interrupt: level, active high.
pub const SCI: u32 = 9;

/// Index and data port of the clock's registers.
pub const CMOS: u64 = 0x70;
/// The clock's interrupt, which is never raised.
pub const CMOS_GSI: u32 = 8;

/// Command port of the keyboard controller, of which only the reset line exists.
pub const I8042: u64 = 0x64;

/// Where a guest that panics says so.
pub const PVPANIC: u64 = 0x505;

/// The I/O APIC and the local ones.
pub const IOAPIC: u32 = 0xfec0_0000;
/// See [`IOAPIC`].
pub const LAPIC: u32 = 0xfee0_0000;

/// Three pages that Intel's processors need in real mode, and one for identity mapping before them.
pub const TSS: u64 = 0xfffb_d000;
/// See [`TSS`].
pub const IDENTITY_MAP: u64 = 0xfffb_c000;

/// Registers of the virtio devices: a window for each slot.
pub const VIRTIO: u64 = 0xd000_0000;
/// Bytes of a window.
pub const VIRTIO_WINDOW: u64 = 0x1000;
/// Windows there are: as many as there are free interrupts.
pub const VIRTIO_SLOTS: usize = 17;

/// Where the ACPI tables begin; the first is the root pointer.
pub const ACPI: u64 = 0xe_0000;
/// And where they have to end.
pub const ACPI_END: u64 = 0x10_0000;

/// The interrupt of a virtio slot: 5 to 23 without the clock's, which kernels take whether they are
/// told of it or not, and ACPI's own.
#[must_use]
pub fn virtio_gsi(slot: usize) -> u32 {
    let gsi = 5 + u32::try_from(slot).unwrap_or(u32::MAX - 7);
    if gsi >= CMOS_GSI { gsi + 2 } else { gsi }
}

/// The window of a virtio slot.
#[must_use]
pub const fn virtio_window(slot: usize) -> u64 {
    VIRTIO + slot as u64 * VIRTIO_WINDOW
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_an_interrupt_of_its_own() {
        let all: std::collections::BTreeSet<_> = (0..VIRTIO_SLOTS).map(virtio_gsi).collect();
        assert_eq!(all.len(), VIRTIO_SLOTS);
        for other in [COM1_GSI, CMOS_GSI, SCI] {
            assert!(!all.contains(&other));
        }
        assert_eq!(all.last(), Some(&23));
    }
}
