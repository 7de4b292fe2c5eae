//! The ACPI tables: what a kernel cannot find out about this machine by itself.
//!
//! RSDP, XSDT, FADT (not hardware-reduced: a power button and a reset register), FACS, MADT and a
//! DSDT with the serial line, the panic device and a node for each virtio slot in use. Source:
//! ACPI 6.5.

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Method, Name, Package, Path, ResourceTemplate,
    Return, Scope,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use crate::layout;

const OEM: [u8; 6] = *b"KXL   ";
const TABLE: [u8; 8] = *b"KXLVMM  ";

/// FADT: the machine has no VGA and no message-signalled interrupts; by omission, no keyboard
/// controller, which spares the guest the search for one.
const BOOT_ARCH: u16 = 0b1100;

/// The tables as they lie in memory from [`layout::ACPI`] on, for so many processors and for the
/// virtio slots that exist.
#[must_use]
pub fn tables(vcpus: u8, slots: &[usize]) -> Vec<u8> {
    let mut image = Image::default();
    // The root pointer comes first and names what comes last.
    let root = image.put(&Rsdp::new(OEM, 0));
    let facs = image.put(&FACS::new());
    let dsdt = image.put(&dsdt(slots));
    let fadt = image.put(&fadt(facs, dsdt));
    let madt = image.put(&madt(vcpus));
    let mut xsdt = Sdt::new(*b"XSDT", 36, 1, OEM, TABLE, 1);
    for table in [fadt, madt] {
        xsdt.append(table);
    }
    let xsdt = image.put(&xsdt);
    image.replace(root, &Rsdp::new(OEM, xsdt));
    image.0
}

/// Tables behind one another, each at a multiple of 64 bytes.
#[derive(Default)]
struct Image(Vec<u8>);

impl Image {
    /// The address it is at.
    fn put(&mut self, table: &dyn Aml) -> u64 {
        self.0.resize(self.0.len().next_multiple_of(64), 0);
        let at = layout::ACPI + self.0.len() as u64;
        table.to_aml_bytes(&mut self.0 as &mut dyn AmlSink);
        at
    }

    fn replace(&mut self, at: u64, table: &dyn Aml) {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes as &mut dyn AmlSink);
        let start = usize::try_from(at - layout::ACPI).unwrap_or(usize::MAX);
        self.0.splice(start..start + bytes.len(), bytes);
    }
}

fn port(address: u64, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, address)
}

fn low(address: u64) -> u32 {
    u32::try_from(address).unwrap_or(u32::MAX)
}

fn fadt(facs: u64, dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM, TABLE, 1);
    fadt.firmware_ctrl = low(facs).into();
    fadt.dsdt = low(dsdt).into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = u16::try_from(layout::SCI).unwrap_or(u16::MAX).into();
    fadt.pm1a_evt_blk = low(layout::PM).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = port(layout::PM, 32, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = low(layout::PM_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = port(layout::PM_CONTROL, 16, AccessSize::WordAccess);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = port(layout::RESET, 8, AccessSize::ByteAccess);
    fadt.reset_value = 1;
    // By omission there is a power button among the fixed registers; a sleep button there is not.
    let flags = Flags::Wbinvd as u32 | Flags::ResetRegSup as u32 | Flags::SlpButton as u32;
    fadt.flags = flags.into();
    fadt.finalize()
}

/// Processors, the I/O APIC, the level of ACPI's own interrupt, and the line of the NMI: raw bytes
/// where there are no types for them (ACPI 6.5, 5.2.12).
fn madt(vcpus: u8) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", 36, 5, OEM, TABLE, 1);
    madt.append(layout::LAPIC);
    // PC-AT compatible: there are two 8259 as well.
    madt.append(1u32);
    for id in 0..vcpus {
        madt.append_slice(&[0, 8, id, id, 1, 0, 0, 0]);
    }
    madt.append_slice(&[1, 12, 0, 0]);
    madt.append(layout::IOAPIC);
    madt.append(0u32);
    // Source override: ISA bus, IRQ 9 is GSI 9, active high and level.
    madt.append_slice(&[2, 10, 0, 9]);
    madt.append(layout::SCI);
    madt.append(0xd_u16);
    // The NMI is on LINT1 of every processor.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    madt
}

fn dsdt(slots: &[usize]) -> Sdt {
    let mut aml = Vec::new();
    let mut add = |node: &dyn Aml| node.to_aml_bytes(&mut aml as &mut dyn AmlSink);
    serial(&mut add);
    panic_device(&mut add);
    clock(&mut add);
    for slot in slots {
        virtio(*slot, &mut add);
    }
    // Off is sleep type 5 in both halves of the control register.
    add(&Name::new("_S5_".into(), &Package::new(vec![&5u8, &5u8, &0u8, &0u8])));
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, 1);
    dsdt.append_slice(&aml);
    dsdt
}

/// A device below `\_SB`, with its resources.
fn device(
    name: &str,
    id: &dyn Aml,
    unique: u8,
    resources: Vec<&dyn Aml>,
    add: &mut dyn FnMut(&dyn Aml),
) {
    let there = 0xfu8;
    add(&Scope::new(
        "_SB_".into(),
        vec![&Device::new(
            Path::new(name),
            vec![
                &Name::new("_HID".into(), id),
                &Name::new("_UID".into(), &unique),
                &Method::new("_STA".into(), 0, false, vec![&Return::new(&there)]),
                &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
            ],
        )],
    ));
}

fn io(port: u64, length: u8) -> IO {
    let port = u16::try_from(port).unwrap_or(u16::MAX);
    IO::new(port, port, 1, length)
}

fn serial(add: &mut dyn FnMut(&dyn Aml)) {
    let ports = io(layout::COM1, 8);
    let line = Interrupt::new(true, true, false, false, layout::COM1_GSI);
    device("COM1", &EISAName::new("PNP0501"), 0, vec![&ports, &line], add);
}

fn clock(add: &mut dyn FnMut(&dyn Aml)) {
    let ports = io(layout::CMOS, 2);
    device("RTC_", &EISAName::new("PNP0B00"), 0, vec![&ports], add);
}

fn panic_device(add: &mut dyn FnMut(&dyn Aml)) {
    let port = io(layout::PVPANIC, 1);
    device("PEVT", &"QEMU0001", 0, vec![&port], add);
}

fn virtio(slot: usize, add: &mut dyn FnMut(&dyn Aml)) {
    let window =
        Memory32Fixed::new(true, low(layout::virtio_window(slot)), low(layout::VIRTIO_WINDOW));
    let line = Interrupt::new(true, true, false, false, layout::virtio_gsi(slot));
    let unique = u8::try_from(slot).unwrap_or(u8::MAX);
    device(&format!("VR{slot:02X}"), &"LNRO0005", unique, vec![&window, &line], add);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signature, start and length of each table, found as a kernel finds them.
    fn found(image: &[u8]) -> Vec<(String, usize, usize)> {
        let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap());
        let size = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
        let place = |address: u64| usize::try_from(address - layout::ACPI).unwrap();
        assert_eq!(&image[..8], b"RSD PTR ");
        let mut tables = vec![place(word(24))];
        let xsdt = tables[0];
        tables.extend((36..size(xsdt + 4)).step_by(8).map(|at| place(word(xsdt + at))));
        let fadt = tables[1];
        tables.push(place(word(fadt + 140)));
        tables
            .into_iter()
            .map(|at| {
                let name = String::from_utf8(image[at..at + 4].to_vec()).unwrap();
                (name, at, size(at + 4))
            })
            .collect()
    }

    #[test]
    fn the_root_leads_to_every_table_and_all_sums_are_zero() {
        let image = tables(2, &[0, 3]);
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum(&image[..20]), 0);
        assert_eq!(sum(&image[..36]), 0);
        let found = found(&image);
        let names: Vec<_> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["XSDT", "FACP", "APIC", "DSDT"]);
        for (name, at, length) in found {
            assert_eq!(sum(&image[at..at + length]), 0, "{name}");
        }
    }

    #[test]
    fn the_fixed_table_says_where_the_registers_are() {
        let image = tables(1, &[]);
        let (_, fadt, _) = found(&image).into_iter().find(|(name, ..)| name == "FACP").unwrap();
        let u32_at =
            |at: usize| u32::from_le_bytes(image[fadt + at..fadt + at + 4].try_into().unwrap());
        assert_eq!((u32_at(56), u32_at(64)), (0x600, 0x604));
        assert_eq!((image[fadt + 88], image[fadt + 89]), (4, 2));
        // Reset register: in I/O space, at its port, and supported by the flags.
        assert_eq!((image[fadt + 116], u32_at(120)), (1, 0x606));
        assert_ne!(u32_at(112) & 1 << 10, 0);
        assert_eq!(image[fadt + 128], 1);
    }

    #[test]
    fn every_processor_and_every_slot_is_named() {
        let image = tables(64, &(0..layout::VIRTIO_SLOTS).collect::<Vec<_>>());
        let (_, madt, length) =
            found(&image).into_iter().find(|(name, ..)| name == "APIC").unwrap();
        assert_eq!(length, 44 + 64 * 8 + 12 + 10 + 6);
        assert_eq!(&image[madt + 44 + 63 * 8..][..5], &[0, 8, 63, 63, 1]);
        let nodes = image.windows(9).filter(|bytes| bytes == b"LNRO0005\0").count();
        assert_eq!(nodes, layout::VIRTIO_SLOTS);
        assert!((image.len() as u64) < layout::ACPI_END - layout::ACPI);
    }
}
