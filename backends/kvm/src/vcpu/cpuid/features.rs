//! Features by name: the baseline, and what a host lacks that a state needs.

use std::fmt;

use kvm_bindings::kvm_cpuid_entry2;

/// A register of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}
use Register::{Eax, Ebx, Ecx, Edx};

/// The registers whose bits are features: leaf, subleaf, register, and the bits that are none
/// (they follow the guest's own doing, or are set here whatever the host has).
const WORDS: [(u32, u32, Register, u32); 11] = [
    // OSXSAVE, MONITOR, the deadline timer, and that there is a hypervisor.
    (1, 0, Ecx, 1 << 27 | 1 << 3 | 1 << 24 | 1 << 31),
    // APIC and several threads.
    (1, 0, Edx, 1 << 9 | 1 << 28),
    (7, 0, Ebx, 0),
    // OSPKE.
    (7, 0, Ecx, 1 << 4),
    (7, 0, Edx, 0),
    (7, 1, Eax, 0),
    (0xd, 0, Eax, 0),
    (0xd, 1, Eax, 0),
    (0x8000_0001, 0, Ecx, 0),
    (0x8000_0001, 0, Edx, 1 << 9),
    (0x4000_0001, 0, Eax, 0),
];

/// Names of the bits that people know; others are shown by their place.
const NAMES: &[(u32, u32, Register, u32, &str)] = &[
    (1, 0, Ecx, 0, "sse3"),
    (1, 0, Ecx, 1, "pclmulqdq"),
    (1, 0, Ecx, 9, "ssse3"),
    (1, 0, Ecx, 12, "fma"),
    (1, 0, Ecx, 13, "cx16"),
    (1, 0, Ecx, 17, "pcid"),
    (1, 0, Ecx, 19, "sse4.1"),
    (1, 0, Ecx, 20, "sse4.2"),
    (1, 0, Ecx, 21, "x2apic"),
    (1, 0, Ecx, 22, "movbe"),
    (1, 0, Ecx, 23, "popcnt"),
    (1, 0, Ecx, 25, "aes"),
    (1, 0, Ecx, 26, "xsave"),
    (1, 0, Ecx, 28, "avx"),
    (1, 0, Ecx, 29, "f16c"),
    (1, 0, Ecx, 30, "rdrand"),
    (1, 0, Edx, 4, "tsc"),
    (1, 0, Edx, 8, "cx8"),
    (1, 0, Edx, 23, "mmx"),
    (1, 0, Edx, 24, "fxsr"),
    (1, 0, Edx, 25, "sse"),
    (1, 0, Edx, 26, "sse2"),
    (7, 0, Ebx, 0, "fsgsbase"),
    (7, 0, Ebx, 3, "bmi1"),
    (7, 0, Ebx, 5, "avx2"),
    (7, 0, Ebx, 7, "smep"),
    (7, 0, Ebx, 8, "bmi2"),
    (7, 0, Ebx, 9, "erms"),
    (7, 0, Ebx, 10, "invpcid"),
    (7, 0, Ebx, 16, "avx512f"),
    (7, 0, Ebx, 18, "rdseed"),
    (7, 0, Ebx, 19, "adx"),
    (7, 0, Ebx, 20, "smap"),
    (7, 0, Ebx, 23, "clflushopt"),
    (7, 0, Ebx, 24, "clwb"),
    (7, 0, Ebx, 29, "sha-ni"),
    (7, 0, Ecx, 2, "umip"),
    (7, 0, Ecx, 3, "pku"),
    (7, 0, Ecx, 16, "la57"),
    (7, 0, Ecx, 22, "rdpid"),
    (7, 0, Edx, 26, "spec-ctrl"),
    (7, 0, Edx, 27, "stibp"),
    (7, 0, Edx, 29, "arch-capabilities"),
    (7, 0, Edx, 31, "ssbd"),
    (0xd, 1, Eax, 0, "xsaveopt"),
    (0xd, 1, Eax, 1, "xsavec"),
    (0xd, 1, Eax, 3, "xsaves"),
    (0x8000_0001, 0, Ecx, 0, "lahf_lm"),
    (0x8000_0001, 0, Ecx, 5, "abm"),
    (0x8000_0001, 0, Ecx, 6, "sse4a"),
    (0x8000_0001, 0, Edx, 11, "syscall"),
    (0x8000_0001, 0, Edx, 20, "nx"),
    (0x8000_0001, 0, Edx, 26, "pdpe1gb"),
    (0x8000_0001, 0, Edx, 27, "rdtscp"),
    (0x8000_0001, 0, Edx, 29, "lm"),
    (0x4000_0001, 0, Eax, 0, "kvmclock"),
    (0x4000_0001, 0, Eax, 3, "kvmclock2"),
    (0x4000_0001, 0, Eax, 5, "kvm-steal-time"),
    (0x4000_0001, 0, Eax, 6, "kvm-pv-eoi"),
    (0x4000_0001, 0, Eax, 7, "kvm-pv-unhalt"),
];

/// The baseline: what is kept of each word; every bit of `needs` has to be there. It is x86-64-v2
/// with AES and RDRAND where the host has them, without extended state: no AVX, no XSAVE.
const BASELINE: [(u32, u32, Register, u32, u32); 11] = [
    (1, 0, Ecx, 0xc3f8_2203, 0x0098_2201),
    (1, 0, Edx, 0xffff_ffff, 0x0780_8131),
    (7, 0, Ebx, 1 << 7 | 1 << 9 | 1, 0),
    (7, 0, Ecx, 0, 0),
    (7, 0, Edx, 0, 0),
    (7, 1, Eax, 0, 0),
    (0xd, 0, Eax, 0, 0),
    (0xd, 1, Eax, 0, 0),
    (0x8000_0001, 0, Ecx, 1, 1),
    (0x8000_0001, 0, Edx, 0x2fd3_fbff, 0x2010_0800),
    // kvmclock in both forms, no delays after I/O, end of interrupt, unhalt, a stable clock.
    (0x4000_0001, 0, Eax, 0x0100_00cb, 0),
];

fn word(leaf: &kvm_cpuid_entry2, register: Register) -> u32 {
    match register {
        Eax => leaf.eax,
        Ebx => leaf.ebx,
        Ecx => leaf.ecx,
        Edx => leaf.edx,
    }
}

fn word_of(leaves: &[kvm_cpuid_entry2], function: u32, index: u32, register: Register) -> u32 {
    let found = leaves.iter().find(|leaf| (leaf.function, leaf.index) == (function, index));
    found.map_or(0, |leaf| word(leaf, register))
}

/// Features that are not there; shown as a list of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking(Vec<String>);

impl Lacking {
    fn add(&mut self, function: u32, index: u32, register: Register, bits: u32) {
        for bit in (0..32).filter(|bit| bits & 1 << bit != 0) {
            let known = NAMES
                .iter()
                .find(|(f, i, r, b, _)| (*f, *i, *r, *b) == (function, index, register, bit));
            self.0.push(known.map_or_else(
                || format!("bit {bit} of {register:?} of CPUID leaf {function:#x}.{index}"),
                |(.., name)| (*name).to_owned(),
            ));
        }
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// The features that `needed` shows and `offered` does not have.
#[must_use]
pub fn lacking(needed: &[kvm_cpuid_entry2], offered: &[kvm_cpuid_entry2]) -> Option<Lacking> {
    let mut list = Lacking(Vec::new());
    for (function, index, register, none) in WORDS {
        let needed = word_of(needed, function, index, register);
        let have = word_of(offered, function, index, register);
        list.add(function, index, register, needed & !have & !none);
    }
    (!list.0.is_empty()).then_some(list)
}

/// Reduces leaves to the baseline.
pub(super) fn baseline(leaves: &mut Vec<kvm_cpuid_entry2>) -> Result<(), Lacking> {
    let mut list = Lacking(Vec::new());
    for (function, index, register, keep, needs) in BASELINE {
        let have = word_of(leaves, function, index, register);
        list.add(function, index, register, needs & !have);
        for leaf in leaves.iter_mut() {
            if (leaf.function, leaf.index) == (function, index) {
                match register {
                    Eax => leaf.eax &= keep,
                    Ebx => leaf.ebx &= keep,
                    Ecx => leaf.ecx &= keep,
                    Edx => leaf.edx &= keep,
                }
            }
        }
    }
    // Extended state and all that describes it.
    leaves.retain(|leaf| {
        !matches!(leaf.function, 0xd | 0x12 | 0x14 | 0x15..=0x1e)
            && (leaf.function, leaf.index) != (7, 2)
    });
    if list.0.is_empty() { Ok(()) } else { Err(list) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..kvm_cpuid_entry2::default() }
    }

    #[test]
    fn what_a_host_lacks_is_named() {
        let needed = [leaf(1, [0, 0, 1 << 28 | 1 << 27, 0]), leaf(7, [0, 1 << 5 | 1 << 4, 0, 0])];
        let offered = [leaf(1, [0; 4]), leaf(7, [0, 1 << 4, 0, 0])];
        assert_eq!(lacking(&needed, &offered).unwrap().to_string(), "avx, avx2");
        assert_eq!(lacking(&offered, &needed), None);
        let unknown = lacking(&[leaf(7, [0, 0, 0, 1 << 9])], &[]).unwrap().to_string();
        assert_eq!(unknown, "bit 9 of Edx of CPUID leaf 0x7.0");
    }

    #[test]
    fn the_baseline_hides_what_a_newer_processor_has_and_names_what_an_older_one_lacks() {
        let mut new = vec![
            leaf(1, [1, 2, !0, !0]),
            leaf(7, [0, !0, !0, !0]),
            leaf(0xd, [7; 4]),
            leaf(0x8000_0001, [0, 0, !0, !0]),
        ];
        baseline(&mut new).unwrap();
        assert_eq!((new[0].ecx & 1 << 28, new[1].ebx & 1 << 5), (0, 0));
        assert_eq!((new[0].eax, new[0].ebx), (1, 2));
        assert!(new.iter().all(|leaf| leaf.function != 0xd));
        let mut old = vec![leaf(1, [0, 0, 0x0018_2201, !0]), leaf(0x8000_0001, [0, 0, 1, !0])];
        assert_eq!(baseline(&mut old).unwrap_err().to_string(), "popcnt");
    }
}
