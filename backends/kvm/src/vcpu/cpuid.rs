//! What the processors show of themselves (Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E;
//! the kernel's Documentation/virt/kvm/x86/cpuid.rst).

mod features;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use thiserror::Error;

use crate::config::{Cpu, CpuidMask, Template};
pub use features::{Lacking, lacking};

/// Why a processor cannot be described.
#[derive(Debug, Error)]
pub enum CpuidError {
    /// KVM does not say what it offers.
    #[error("KVM does not say what processors it offers")]
    Ask(#[source] kvm_ioctls::Error),
    /// More leaves than there can be.
    #[error("the processor has more leaves than KVM takes")]
    Many,
    /// This host has less than the template.
    #[error("this host's processor lacks what cpu {template} needs: {lacking}")]
    Template {
        /// Its name.
        template: &'static str,
        /// What is missing.
        lacking: Lacking,
    },
}

/// What KVM offers on this host.
///
/// # Errors
/// [`CpuidError::Ask`].
pub fn offered(kvm: &Kvm) -> Result<Vec<kvm_cpuid_entry2>, CpuidError> {
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(CpuidError::Ask)?;
    Ok(cpuid.as_slice().to_vec())
}

/// The leaves of all processors by template and masks, without what differs between them.
///
/// # Errors
/// [`CpuidError::Template`].
pub fn common(
    offered: &[kvm_cpuid_entry2],
    cpu: &Cpu,
) -> Result<Vec<kvm_cpuid_entry2>, CpuidError> {
    let mut leaves = offered.to_vec();
    hide_nesting(&mut leaves);
    if cpu.template == Template::Baseline {
        features::baseline(&mut leaves)
            .map_err(|lacking| CpuidError::Template { template: "baseline", lacking })?;
    }
    for leaf in &mut leaves {
        let place = (leaf.function, leaf.index);
        for mask in cpu.masks.iter().filter(|mask| applies(mask, place)) {
            for (register, (keep, set)) in
                [&mut leaf.eax, &mut leaf.ebx, &mut leaf.ecx, &mut leaf.edx]
                    .into_iter()
                    .zip(mask.keep.into_iter().zip(mask.set))
            {
                *register = *register & keep | set;
            }
        }
    }
    Ok(leaves)
}

/// A guest that runs guests has state in KVM that is not saved here: it is not offered to.
fn hide_nesting(leaves: &mut Vec<kvm_cpuid_entry2>) {
    leaves.retain(|leaf| leaf.function != 0x8000_000a);
    for leaf in leaves {
        match leaf.function {
            1 => leaf.ecx &= !(1 << 5),
            0x8000_0001 => leaf.ecx &= !(1 << 2),
            _ => {}
        }
    }
}

fn applies(mask: &CpuidMask, (function, index): (u32, u32)) -> bool {
    mask.leaf == function && mask.subleaf.is_none_or(|subleaf| subleaf == index)
}

/// The leaves of one processor of `count`.
///
/// # Errors
/// [`CpuidError::Many`].
pub fn of(common: &[kvm_cpuid_entry2], id: u8, count: u8) -> Result<CpuId, CpuidError> {
    let mut leaves: Vec<_> =
        common.iter().filter(|leaf| !matches!(leaf.function, 0xb | 0x1f)).copied().collect();
    let (id, count) = (u32::from(id), u32::from(count));
    for leaf in &mut leaves {
        match leaf.function {
            1 => {
                leaf.ebx = leaf.ebx & 0x0000_ffff | count << 16 | id << 24;
                // Runs under a hypervisor; its timer has a deadline mode, which KVM always has.
                leaf.ecx |= 1 << 31 | 1 << 24;
                let several = 1 << 28;
                leaf.edx = if count > 1 { leaf.edx | several } else { leaf.edx & !several };
            }
            // Caches: each core has its own; all cores are in one package.
            4 => leaf.eax = leaf.eax & 0x3fff | (count - 1) << 26,
            0x8000_001d => leaf.eax &= 0x3fff,
            0x8000_0008 => leaf.ecx = leaf.ecx & !0xf0ff | (count - 1),
            0x8000_001e => {
                leaf.eax = id;
                leaf.ebx = id;
                leaf.ecx = 0;
            }
            _ => {}
        }
    }
    if common.iter().any(|leaf| leaf.function == 0xb) {
        leaves.extend(topology(id, count));
    }
    CpuId::from_entries(&leaves).map_err(|_| CpuidError::Many)
}

/// Leaf 0xb: one thread a core, all cores in one package.
fn topology(id: u32, count: u32) -> [kvm_cpuid_entry2; 2] {
    let level = |index, shift, number, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: number,
        ecx: index | kind << 8,
        edx: id,
        ..kvm_cpuid_entry2::default()
    };
    [level(0, 0, 1, 1), level(1, count.next_power_of_two().trailing_zeros(), count, 2)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..kvm_cpuid_entry2::default() }
    }

    #[test]
    fn each_processor_has_its_own_number_and_knows_of_the_others() {
        let common = [leaf(1, 0, [0; 4]), leaf(0xb, 0, [9; 4]), leaf(0x8000_001e, 0, [9; 4])];
        let cpuid = of(&common, 2, 3).unwrap();
        let find = |function, index| {
            *cpuid.as_slice().iter().find(|l| (l.function, l.index) == (function, index)).unwrap()
        };
        assert_eq!(find(1, 0).ebx, 3 << 16 | 2 << 24);
        assert_eq!((find(1, 0).ecx >> 31, find(1, 0).edx >> 28), (1, 1));
        assert_eq!((find(0xb, 1).eax, find(0xb, 1).ebx, find(0xb, 1).edx), (2, 3, 2));
        assert_eq!((find(0xb, 0).ebx, find(0x8000_001e, 0).eax), (1, 2));
    }

    #[test]
    fn a_guest_is_not_told_that_it_could_run_guests() {
        let offered = [
            leaf(1, 0, [0, 0, 1 << 5 | 1, 0]),
            leaf(0x8000_0001, 0, [0, 0, 1 << 2 | 1, 0]),
            leaf(0x8000_000a, 0, [1; 4]),
        ];
        let leaves = common(&offered, &Cpu::default()).unwrap();
        assert_eq!(leaves.iter().map(|leaf| leaf.ecx).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn masks_change_what_they_name_and_nothing_else() {
        let offered = [leaf(7, 0, [1, 0xff, 2, 3]), leaf(7, 1, [0xff; 4])];
        let mask =
            CpuidMask { leaf: 7, subleaf: Some(0), keep: [!0, 0xf0, !0, 0], set: [0, 1, 0, 8] };
        let cpu = Cpu { template: Template::Host, masks: vec![mask] };
        let leaves = common(&offered, &cpu).unwrap();
        assert_eq!(leaves[0], leaf(7, 0, [1, 0xf1, 2, 8]));
        assert_eq!(leaves[1], offered[1]);
    }
}
