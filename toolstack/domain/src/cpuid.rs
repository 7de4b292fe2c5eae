//! Processor features by the names that libxl gives them (libxl's cpuid.c; xl.cfg(5), `cpuid=`), where
//! CPUID tells of them (Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E), and what QEMU calls them.

/// One feature, which is one bit of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag {
    /// libxl's name.
    pub name: &'static str,
    /// QEMU's name.
    pub qemu: &'static str,
    /// The leaf.
    pub leaf: u32,
    /// The subleaf of a leaf that has some.
    pub subleaf: Option<u32>,
    /// `eax`, `ebx`, `ecx` or `edx`.
    pub register: &'static str,
    /// The bit, from 0.
    pub bit: u8,
}

const fn f(
    name: &'static str,
    qemu: &'static str,
    leaf: u32,
    subleaf: Option<u32>,
    register: &'static str,
    bit: u8,
) -> Flag {
    Flag { name, qemu, leaf, subleaf, register, bit }
}

/// Other spellings that libxl takes.
const ALIASES: &[(&str, &str)] = &[("sse4.1", "sse4_1"), ("sse4.2", "sse4_2"), ("itsc", "invtsc")];

/// What libxl lets a configuration set to a number and neither QEMU's models nor kxl-vmm have a place
/// for: the processor's identity and its topology.
const NUMBERS: &[&str] = &[
    "maxleaf",
    "family",
    "model",
    "stepping",
    "localapicid",
    "proccount",
    "clflush",
    "brandid",
    "maxhvleaf",
    "procpkg",
    "apicidsize",
    "nc",
    "svm_npt",
    "svm_lbrv",
    "svm_nrips",
    "svm_tscrate",
    "svm_vmcbclean",
    "svm_decode",
    "svm_pausefilt",
];

/// The feature of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Flag> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    FLAGS.iter().find(|flag| flag.name == name)
}

/// Whether libxl knows the name as that of a number.
#[must_use]
pub fn is_number(name: &str) -> bool {
    NUMBERS.contains(&name)
}

/// All names, for advice.
pub fn names() -> impl Iterator<Item = &'static str> {
    FLAGS.iter().map(|flag| flag.name)
}

#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    f("sse3", "pni", 1, None, "ecx", 0),
    f("pclmulqdq", "pclmulqdq", 1, None, "ecx", 1),
    f("dtes64", "dtes64", 1, None, "ecx", 2),
    f("monitor", "monitor", 1, None, "ecx", 3),
    f("dscpl", "ds-cpl", 1, None, "ecx", 4),
    f("vmx", "vmx", 1, None, "ecx", 5),
    f("smx", "smx", 1, None, "ecx", 6),
    f("est", "est", 1, None, "ecx", 7),
    f("tm2", "tm2", 1, None, "ecx", 8),
    f("ssse3", "ssse3", 1, None, "ecx", 9),
    f("cntxid", "cid", 1, None, "ecx", 10),
    f("fma", "fma", 1, None, "ecx", 12),
    f("cmpxchg16", "cx16", 1, None, "ecx", 13),
    f("xtpr", "xtpr", 1, None, "ecx", 14),
    f("pdcm", "pdcm", 1, None, "ecx", 15),
    f("pcid", "pcid", 1, None, "ecx", 17),
    f("dca", "dca", 1, None, "ecx", 18),
    f("sse4_1", "sse4.1", 1, None, "ecx", 19),
    f("sse4_2", "sse4.2", 1, None, "ecx", 20),
    f("x2apic", "x2apic", 1, None, "ecx", 21),
    f("movbe", "movbe", 1, None, "ecx", 22),
    f("popcnt", "popcnt", 1, None, "ecx", 23),
    f("tsc-deadline", "tsc-deadline", 1, None, "ecx", 24),
    f("aes", "aes", 1, None, "ecx", 25),
    f("xsave", "xsave", 1, None, "ecx", 26),
    f("avx", "avx", 1, None, "ecx", 28),
    f("f16c", "f16c", 1, None, "ecx", 29),
    f("rdrand", "rdrand", 1, None, "ecx", 30),
    f("hypervisor", "hypervisor", 1, None, "ecx", 31),

    f("fpu", "fpu", 1, None, "edx", 0),
    f("vme", "vme", 1, None, "edx", 1),
    f("de", "de", 1, None, "edx", 2),
    f("pse", "pse", 1, None, "edx", 3),
    f("tsc", "tsc", 1, None, "edx", 4),
    f("msr", "msr", 1, None, "edx", 5),
    f("pae", "pae", 1, None, "edx", 6),
    f("mce", "mce", 1, None, "edx", 7),
    f("cmpxchg8", "cx8", 1, None, "edx", 8),
    f("apic", "apic", 1, None, "edx", 9),
    f("sysenter", "sep", 1, None, "edx", 11),
    f("mtrr", "mtrr", 1, None, "edx", 12),
    f("pge", "pge", 1, None, "edx", 13),
    f("mca", "mca", 1, None, "edx", 14),
    f("cmov", "cmov", 1, None, "edx", 15),
    f("pat", "pat", 1, None, "edx", 16),
    f("pse36", "pse36", 1, None, "edx", 17),
    f("psn", "pn", 1, None, "edx", 18),
    f("clfsh", "clflush", 1, None, "edx", 19),
    f("ds", "ds", 1, None, "edx", 21),
    f("acpi", "acpi", 1, None, "edx", 22),
    f("mmx", "mmx", 1, None, "edx", 23),
    f("fxsr", "fxsr", 1, None, "edx", 24),
    f("sse", "sse", 1, None, "edx", 25),
    f("sse2", "sse2", 1, None, "edx", 26),
    f("ss", "ss", 1, None, "edx", 27),
    f("htt", "ht", 1, None, "edx", 28),
    f("tm", "tm", 1, None, "edx", 29),
    f("ia64", "ia64", 1, None, "edx", 30),
    f("pbe", "pbe", 1, None, "edx", 31),

    f("arat", "arat", 6, None, "eax", 2),

    f("fsgsbase", "fsgsbase", 7, Some(0), "ebx", 0),
    f("tsc_adjust", "tsc-adjust", 7, Some(0), "ebx", 1),
    f("bmi1", "bmi1", 7, Some(0), "ebx", 3),
    f("hle", "hle", 7, Some(0), "ebx", 4),
    f("avx2", "avx2", 7, Some(0), "ebx", 5),
    f("smep", "smep", 7, Some(0), "ebx", 7),
    f("bmi2", "bmi2", 7, Some(0), "ebx", 8),
    f("erms", "erms", 7, Some(0), "ebx", 9),
    f("invpcid", "invpcid", 7, Some(0), "ebx", 10),
    f("rtm", "rtm", 7, Some(0), "ebx", 11),
    f("mpx", "mpx", 7, Some(0), "ebx", 14),
    f("avx512f", "avx512f", 7, Some(0), "ebx", 16),
    f("avx512dq", "avx512dq", 7, Some(0), "ebx", 17),
    f("rdseed", "rdseed", 7, Some(0), "ebx", 18),
    f("adx", "adx", 7, Some(0), "ebx", 19),
    f("smap", "smap", 7, Some(0), "ebx", 20),
    f("avx512-ifma", "avx512ifma", 7, Some(0), "ebx", 21),
    f("clflushopt", "clflushopt", 7, Some(0), "ebx", 23),
    f("clwb", "clwb", 7, Some(0), "ebx", 24),
    f("proc-trace", "intel-pt", 7, Some(0), "ebx", 25),
    f("avx512pf", "avx512pf", 7, Some(0), "ebx", 26),
    f("avx512er", "avx512er", 7, Some(0), "ebx", 27),
    f("avx512cd", "avx512cd", 7, Some(0), "ebx", 28),
    f("sha", "sha-ni", 7, Some(0), "ebx", 29),
    f("avx512bw", "avx512bw", 7, Some(0), "ebx", 30),
    f("avx512vl", "avx512vl", 7, Some(0), "ebx", 31),

    f("avx512-vbmi", "avx512vbmi", 7, Some(0), "ecx", 1),
    f("umip", "umip", 7, Some(0), "ecx", 2),
    f("pku", "pku", 7, Some(0), "ecx", 3),
    f("avx512-vbmi2", "avx512vbmi2", 7, Some(0), "ecx", 6),
    f("gfni", "gfni", 7, Some(0), "ecx", 8),
    f("vaes", "vaes", 7, Some(0), "ecx", 9),
    f("vpclmulqdq", "vpclmulqdq", 7, Some(0), "ecx", 10),
    f("avx512-vnni", "avx512vnni", 7, Some(0), "ecx", 11),
    f("avx512-bitalg", "avx512bitalg", 7, Some(0), "ecx", 12),
    f("avx512-vpopcntdq", "avx512-vpopcntdq", 7, Some(0), "ecx", 14),
    f("rdpid", "rdpid", 7, Some(0), "ecx", 22),
    f("cldemote", "cldemote", 7, Some(0), "ecx", 25),
    f("movdiri", "movdiri", 7, Some(0), "ecx", 27),
    f("movdir64b", "movdir64b", 7, Some(0), "ecx", 28),

    f("avx512-4vnniw", "avx512-4vnniw", 7, Some(0), "edx", 2),
    f("avx512-4fmaps", "avx512-4fmaps", 7, Some(0), "edx", 3),
    f("fsrm", "fsrm", 7, Some(0), "edx", 4),
    f("avx512-vp2intersect", "avx512-vp2intersect", 7, Some(0), "edx", 8),
    f("md-clear", "md-clear", 7, Some(0), "edx", 10),
    f("serialize", "serialize", 7, Some(0), "edx", 14),
    f("ibrsb", "spec-ctrl", 7, Some(0), "edx", 26),
    f("stibp", "stibp", 7, Some(0), "edx", 27),
    f("arch-caps", "arch-capabilities", 7, Some(0), "edx", 29),
    f("core-caps", "core-capability", 7, Some(0), "edx", 30),
    f("ssbd", "ssbd", 7, Some(0), "edx", 31),

    f("avx-vnni", "avx-vnni", 7, Some(1), "eax", 4),
    f("avx512-bf16", "avx512-bf16", 7, Some(1), "eax", 5),

    f("xsaveopt", "xsaveopt", 0xd, Some(1), "eax", 0),
    f("xsavec", "xsavec", 0xd, Some(1), "eax", 1),
    f("xgetbv1", "xgetbv1", 0xd, Some(1), "eax", 2),
    f("xsaves", "xsaves", 0xd, Some(1), "eax", 3),

    f("lahfsahf", "lahf-lm", 0x8000_0001, None, "ecx", 0),
    f("cmplegacy", "cmp-legacy", 0x8000_0001, None, "ecx", 1),
    f("svm", "svm", 0x8000_0001, None, "ecx", 2),
    f("extapic", "extapic", 0x8000_0001, None, "ecx", 3),
    f("altmovcr8", "cr8legacy", 0x8000_0001, None, "ecx", 4),
    f("abm", "abm", 0x8000_0001, None, "ecx", 5),
    f("sse4a", "sse4a", 0x8000_0001, None, "ecx", 6),
    f("misalignsse", "misalignsse", 0x8000_0001, None, "ecx", 7),
    f("3dnowprefetch", "3dnowprefetch", 0x8000_0001, None, "ecx", 8),
    f("osvw", "osvw", 0x8000_0001, None, "ecx", 9),
    f("ibs", "ibs", 0x8000_0001, None, "ecx", 10),
    f("xop", "xop", 0x8000_0001, None, "ecx", 11),
    f("skinit", "skinit", 0x8000_0001, None, "ecx", 12),
    f("wdt", "wdt", 0x8000_0001, None, "ecx", 13),
    f("lwp", "lwp", 0x8000_0001, None, "ecx", 15),
    f("fma4", "fma4", 0x8000_0001, None, "ecx", 16),
    f("nodeid", "nodeid-msr", 0x8000_0001, None, "ecx", 19),
    f("tbm", "tbm", 0x8000_0001, None, "ecx", 21),
    f("topoext", "topoext", 0x8000_0001, None, "ecx", 22),
    f("perfctr_core", "perfctr-core", 0x8000_0001, None, "ecx", 23),
    f("perfctr_nb", "perfctr-nb", 0x8000_0001, None, "ecx", 24),

    f("syscall", "syscall", 0x8000_0001, None, "edx", 11),
    f("nx", "nx", 0x8000_0001, None, "edx", 20),
    f("mmxext", "mmxext", 0x8000_0001, None, "edx", 22),
    f("ffxsr", "fxsr-opt", 0x8000_0001, None, "edx", 25),
    f("page1gb", "pdpe1gb", 0x8000_0001, None, "edx", 26),
    f("rdtscp", "rdtscp", 0x8000_0001, None, "edx", 27),
    f("lm", "lm", 0x8000_0001, None, "edx", 29),
    f("3dnowext", "3dnowext", 0x8000_0001, None, "edx", 30),
    f("3dnow", "3dnow", 0x8000_0001, None, "edx", 31),

    f("invtsc", "invtsc", 0x8000_0007, None, "edx", 8),

    f("clzero", "clzero", 0x8000_0008, None, "ebx", 0),
    f("wbnoinvd", "wbnoinvd", 0x8000_0008, None, "ebx", 9),
    f("ibpb", "ibpb", 0x8000_0008, None, "ebx", 12),
    f("amd-ssbd", "amd-ssbd", 0x8000_0008, None, "ebx", 24),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_name_and_each_bit_is_there_once() {
        let names: BTreeSet<_> = FLAGS.iter().map(|flag| flag.name).collect();
        let qemu: BTreeSet<_> = FLAGS.iter().map(|flag| flag.qemu).collect();
        let places: BTreeSet<_> =
            FLAGS.iter().map(|flag| (flag.leaf, flag.subleaf, flag.register, flag.bit)).collect();
        assert_eq!([names.len(), qemu.len(), places.len()], [FLAGS.len(); 3]);
        assert!(FLAGS.iter().all(|flag| flag.bit < 32 && !is_number(flag.name)));
        assert!(
            FLAGS.iter().all(|flag| ["eax", "ebx", "ecx", "edx"].contains(&flag.register)),
            "a register that there is not"
        );
    }

    #[test]
    fn other_spellings_are_found() {
        assert_eq!(find("sse4.2"), find("sse4_2"));
        assert_eq!(find("itsc").map(|flag| flag.qemu), Some("invtsc"));
        assert_eq!(find("SSE3"), None);
    }
}
