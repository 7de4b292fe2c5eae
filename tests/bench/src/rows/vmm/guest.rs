//! A guest of a few bytes: an ELF kernel for the 64-bit entry that says one byte on COM1.

use std::fs;
use std::path::Path;

use crate::error::BenchError;

/// What it does when it has spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Waits for an interrupt that never comes.
    Halt,
    /// Runs on the spot.
    Spin,
}

/// What it says.
pub(super) const WORD: u8 = b'K';

/// Where it is loaded and entered.
const ADDRESS: u64 = 0x100_0000;

/// Where its instructions are in the file.
const PAGE: usize = 0x1000;

/// Writes the kernel.
pub(super) fn write(path: &Path, then: Then) -> Result<(), BenchError> {
    let attempt = format!("write {}", path.display());
    fs::write(path, elf(&instructions(then))).map_err(BenchError::io(attempt))
}

fn instructions(then: Then) -> Vec<u8> {
    // mov dx, 0x3f8; mov al, WORD; out dx, al
    let mut code = vec![0x66, 0xba, 0xf8, 0x03, 0xb0, WORD, 0xee];
    match then {
        // again: hlt; jmp again
        Then::Halt => code.extend([0xf4, 0xeb, 0xfd]),
        // again: jmp again
        Then::Spin => code.extend([0xeb, 0xfe]),
    }
    code
}

/// An executable of one segment.
fn elf(code: &[u8]) -> Vec<u8> {
    let length = code.len() as u64;
    let mut file = Vec::new();
    file.extend(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    // An executable for x86-64.
    for half in [2_u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1_u32.to_le_bytes());
    // Entry, segments, no sections.
    for word in [ADDRESS, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // To be loaded, readable and executable.
    for word in [1_u32, 5] {
        file.extend(word.to_le_bytes());
    }
    for word in [PAGE as u64, ADDRESS, ADDRESS, length, length, PAGE as u64] {
        file.extend(word.to_le_bytes());
    }
    file.resize(PAGE, 0);
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_where_the_instructions_are() {
        let code = instructions(Then::Halt);
        let file = elf(&code);
        assert_eq!(file[..4], *b"\x7fELF");
        assert_eq!(file[24..32], ADDRESS.to_le_bytes());
        assert_eq!(file[54..58], [56, 0, 1, 0], "one segment header of 56 bytes");
        assert_eq!(file[72..80], (PAGE as u64).to_le_bytes());
        assert_eq!(file[96..104], (code.len() as u64).to_le_bytes());
        assert_eq!(&file[PAGE..], code);
    }
}
