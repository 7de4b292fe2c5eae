//! The last words of a thread that made a forbidden system call: which one it was.

use std::io;

/// What the kernel tells with SIGSYS; the beginning of its `siginfo_t`.
#[repr(C)]
struct Forbidden {
    signal: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    address: *const libc::c_void,
    call: libc::c_int,
    architecture: libc::c_uint,
}

/// Registers the handler for the process.
pub(super) fn install() -> io::Result<()> {
    let handler: extern "C" fn(_, _, _) = report;
    // SAFETY: A zeroed sigaction is a valid one: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // The handler makes a second forbidden call, which finds the default action: the end.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
    // SAFETY: The structure is valid and lives through the call; the handler keeps to what may
    // be done in one.
    let result = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes one line and ends the process by SIGSYS. Takes no lock and no memory.
extern "C" fn report(_signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let mut line = Line { bytes: [0; 160], length: 0 };
    let mut name = [0_u8; 16];
    // SAFETY: The kernel writes at most 16 bytes, the last of them 0.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    // SAFETY: SIGSYS comes with this structure, which fits into a siginfo_t.
    let call = unsafe { (*info.cast::<Forbidden>()).call };
    // SAFETY: The kernel hands a ucontext_t to a handler with SA_SIGINFO.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    line.text(b"kxl-vmm: thread ");
    line.text(name.split(|byte| *byte == 0).next().unwrap_or_default());
    line.text(b" tried system call ");
    line.number(u64::from(call.unsigned_abs()), 10);
    line.text(b", which its sandbox forbids; arguments 0x");
    for (number, register) in [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX].iter().enumerate() {
        if number > 0 {
            line.text(b" 0x");
        }
        let value = usize::try_from(*register).ok().and_then(|index| registers.get(index));
        line.number(value.map_or(0, |value| value.cast_unsigned()), 16);
    }
    line.text(b"\n");
    // SAFETY: The bytes are valid. That nobody reads them changes nothing.
    unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.length) };
    // SAFETY: Forbidden to every thread, with nothing to execute if it were not.
    unsafe { libc::syscall(libc::SYS_execve, 0, 0, 0) };
    // SAFETY: Takes nothing. Reached only where the filter has gone, which it cannot.
    unsafe { libc::_exit(128 + libc::SIGSYS) };
}

/// A line that is put together without an allocator.
struct Line {
    bytes: [u8; 160],
    length: usize,
}

impl Line {
    fn text(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = *byte;
                self.length += 1;
            }
        }
    }

    fn number(&mut self, mut value: u64, base: u64) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [b'0'; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = DIGITS[usize::try_from(value % base).unwrap_or_default() & 15];
            value /= base;
            if value == 0 || first == 0 {
                break;
            }
        }
        self.text(&digits[first..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_they_are() {
        let mut line = Line { bytes: [0; 160], length: 0 };
        for (value, base) in [(0, 10), (257, 10), (0xae80, 16), (u64::MAX, 10), (u64::MAX, 16)] {
            line.number(value, base);
            line.text(b" ");
        }
        let text = std::str::from_utf8(&line.bytes[..line.length]).unwrap();
        assert_eq!(text, "0 257 ae80 18446744073709551615 ffffffffffffffff ");
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let mut line = Line { bytes: [0; 160], length: 0 };
        line.text(&[b'x'; 200]);
        assert_eq!(line.length, 160);
    }
}
