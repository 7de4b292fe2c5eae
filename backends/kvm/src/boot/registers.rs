//! The first processor's registers at each entry.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress};

use super::params::{PARAMS, START_INFO};
use super::{BootError, Entry, put};
use crate::memory::Memory;

/// Where the descriptor table is; four entries.
const GDT: u64 = 0x500;

/// Page tables: the root, a table of 512 GiB, and tables of 1 GiB each behind one another.
const ROOT: u64 = 0x9000;
const DIRECTORY: u64 = 0xa000;
const TABLES: u64 = 0xb000;

/// GiB that are mapped one to one: all addresses a kernel is loaded to and told of.
const MAPPED: u64 = 4;

/// Present and writable; with `LARGE`, 2 MiB at once.
const ENTRY: u64 = 0b11;
const LARGE: u64 = 1 << 7;

/// Bits of control registers and of EFER.
const PE: u64 = 1;
const ET: u64 = 1 << 4;
const PG: u64 = 1 << 31;
const PAE: u64 = 1 << 5;
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;

/// General and segment registers of the first processor.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    /// General registers.
    pub regs: kvm_regs,
    /// Segments, control registers and tables, made out of what the processor had.
    pub sregs: kvm_sregs,
}

/// The registers for an entry, and what they point to in memory.
///
/// # Errors
/// [`BootError::Memory`].
pub fn of_entry(memory: &Memory, entry: Entry, fresh: kvm_sregs) -> Result<Registers, BootError> {
    match entry {
        Entry::Linux64(rip) => long_mode(memory, rip, fresh),
        Entry::Pvh(rip) => protected_mode(memory, rip, fresh),
    }
}

/// A flat segment of 4 GiB with this selector; `code` in 64 or 32 bit.
fn flat(selector: u16, code: bool, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        // Accessed; code may be read, data written.
        type_: if code { 0xb } else { 0x3 },
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..kvm_segment::default()
    }
}

fn task() -> kvm_segment {
    kvm_segment { limit: 0x67, selector: 0x18, type_: 0xb, present: 1, ..kvm_segment::default() }
}

/// The descriptor of a segment, as the processor would load it from the table.
fn descriptor(segment: &kvm_segment) -> u64 {
    let flags = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7
        | u64::from(segment.l) << 13
        | u64::from(segment.db) << 14
        | u64::from(segment.g) << 15;
    let limit = u64::from(segment.limit) >> if segment.g == 1 { 12 } else { 0 };
    (limit & 0xffff) | flags << 40 | (limit & 0xf_0000) << 32
}

fn tables(memory: &Memory, sregs: &mut kvm_sregs, code: kvm_segment) -> Result<(), BootError> {
    let data = flat(0x10, false, false);
    let task = task();
    let table = [0, descriptor(&code), descriptor(&data), descriptor(&task)];
    for (index, entry) in (0u64..).zip(table) {
        put(memory, &entry, GDT + index * 8)?;
    }
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 4 * 8 - 1;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cs = code;
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = data;
    }
    sregs.tr = task;
    Ok(())
}

fn long_mode(memory: &Memory, rip: u64, fresh: kvm_sregs) -> Result<Registers, BootError> {
    let mut sregs = fresh;
    tables(memory, &mut sregs, flat(0x8, true, true))?;
    put(memory, &(DIRECTORY | ENTRY), ROOT)?;
    for gib in 0..MAPPED {
        let table = TABLES + gib * 0x1000;
        put(memory, &(table | ENTRY), DIRECTORY + gib * 8)?;
        let entries: Vec<u8> = (0..512u64)
            .flat_map(|index| ((gib << 30 | index << 21) | ENTRY | LARGE).to_le_bytes())
            .collect();
        memory.write_slice(&entries, GuestAddress(table)).map_err(|_| BootError::Memory)?;
    }
    sregs.cr3 = ROOT;
    sregs.cr4 |= PAE;
    sregs.cr0 = PE | ET | PG;
    sregs.efer |= LME | LMA;
    // The protocol wants no stack; a kernel that uses one early finds some room below its parameters.
    let regs =
        kvm_regs { rflags: 2, rip, rsi: PARAMS, rsp: 0x8ff0, rbp: 0x8ff0, ..kvm_regs::default() };
    Ok(Registers { regs, sregs })
}

fn protected_mode(memory: &Memory, rip: u64, fresh: kvm_sregs) -> Result<Registers, BootError> {
    let mut sregs = fresh;
    tables(memory, &mut sregs, flat(0x8, true, false))?;
    sregs.cr0 = PE | ET;
    sregs.cr4 = 0;
    sregs.efer = 0;
    let regs = kvm_regs { rflags: 2, rip, rbx: START_INFO, ..kvm_regs::default() };
    Ok(Registers { regs, sregs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_what_the_boot_protocol_shows() {
        assert_eq!(descriptor(&flat(0x8, true, true)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&flat(0x8, true, false)), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&flat(0x10, false, false)), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&task()), 0x0000_8b00_0000_0067);
    }
}
