//! A filter of system calls for programs that map a file which must not change.

/// The architecture's number in what the kernel shows a filter; 0 where none is written here.
const ARCH: u32 = match () {
    () if cfg!(target_arch = "x86_64") => 0xc000_003e,
    () if cfg!(target_arch = "aarch64") => 0xc000_00b7,
    () => 0,
};

/// Offsets in what the kernel shows: the call, the architecture, the low half of the second
/// argument (both architectures are little-endian).
const CALL: u32 = 0;
const ARCHITECTURE: u32 = 4;
const SECOND: u32 = 24;

/// Steps of the program.
pub(super) const STEPS: u16 = 8;

/// A program for the kernel.
pub(super) type Filter = [libc::sock_filter; STEPS as usize];

/// The program: fallocate(2) with a hole to be punched is refused as not supported; everything else
/// is allowed. `None` for a processor that it was not written for.
pub(super) fn no_holes() -> Option<Filter> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const ANSWER: u32 = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, k: u32, jt: u8, jf: u8| {
        Some(libc::sock_filter { code: u16::try_from(code).ok()?, jt, jf, k })
    };
    let number = u32::try_from(libc::SYS_fallocate).ok()?;
    let punch = u32::try_from(libc::FALLOC_FL_PUNCH_HOLE).ok()?;
    let refused = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EOPNOTSUPP).ok()?;
    if ARCH == 0 {
        return None;
    }
    Some([
        step(LOAD, ARCHITECTURE, 0, 0)?,
        step(EQUAL, ARCH, 0, 5)?,
        step(LOAD, CALL, 0, 0)?,
        step(EQUAL, number, 0, 3)?,
        step(LOAD, SECOND, 0, 0)?,
        step(ANY_BIT, punch, 0, 1)?,
        step(ANSWER, refused, 0, 0)?,
        step(ANSWER, libc::SECCOMP_RET_ALLOW, 0, 0)?,
    ])
}
