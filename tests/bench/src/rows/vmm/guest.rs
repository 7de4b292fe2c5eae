//! Guests of a few bytes: an ELF kernel for the 64-bit entry that says one byte on COM1.

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
    /// Says it over and over.
    Repeat,
    /// Writes to so many of its pages, over and over.
    Write(u32),
}

/// A guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    /// How many pages it fills before it speaks, from [`FILLED`] on.
    pub(super) fill: u32,
    /// What it does then.
    pub(super) then: Then,
}

/// What it says.
pub(super) const WORD: u8 = b'K';

/// Where it is loaded and entered.
const ADDRESS: u64 = 0x100_0000;

/// Where the pages are that it fills. The first GiB is mapped when it is entered.
pub(super) const FILLED: u32 = 0x200_0000;

/// Where its instructions are in the file.
const PAGE: usize = 0x1000;

/// Between two words of one that repeats itself, in turns of a loop.
const PAUSE: u32 = 500;

/// Writes the kernel.
pub(super) fn write(path: &Path, guest: Guest) -> Result<(), BenchError> {
    let attempt = format!("write {}", path.display());
    fs::write(path, elf(&instructions(guest))).map_err(BenchError::io(attempt))
}

fn instructions(Guest { fill, then }: Guest) -> Vec<u8> {
    let mut code = Vec::new();
    if fill > 0 {
        pages(&mut code, fill);
    }
    let again = code.len();
    // mov dx, 0x3f8; mov al, WORD; out dx, al
    code.extend([0x66, 0xba, 0xf8, 0x03, 0xb0, WORD, 0xee]);
    match then {
        // again: hlt; jmp again
        Then::Halt => code.extend([0xf4, 0xeb, 0xfd]),
        // again: jmp again
        Then::Spin => code.extend([0xeb, 0xfe]),
        Then::Repeat => {
            // mov ecx, PAUSE; turn: dec ecx; jnz turn
            code.push(0xb9);
            code.extend(PAUSE.to_le_bytes());
            code.extend([0xff, 0xc9, 0x75, 0xfc]);
            back(&mut code, again);
        }
        Then::Write(count) => {
            let again = code.len();
            pages(&mut code, count);
            back(&mut code, again);
        }
    }
    code
}

/// Writes to the beginning of so many pages: mov edi, FILLED; mov ecx, count; one: mov [rdi], rdi;
/// add edi, 4096; dec ecx; jnz one.
fn pages(code: &mut Vec<u8>, count: u32) {
    code.push(0xbf);
    code.extend(FILLED.to_le_bytes());
    code.push(0xb9);
    code.extend(count.to_le_bytes());
    code.extend([0x48, 0x89, 0x3f, 0x81, 0xc7, 0, 0x10, 0, 0, 0xff, 0xc9, 0x75, 0xf3]);
}

/// jmp to a place before.
fn back(code: &mut Vec<u8>, to: usize) {
    let next = code.len() + 5;
    let distance = u32::try_from(next - to).unwrap_or(0).wrapping_neg();
    code.push(0xe9);
    code.extend(distance.to_le_bytes());
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
        let code = instructions(Guest { fill: 3, then: Then::Repeat });
        let file = elf(&code);
        assert_eq!(file[..4], *b"\x7fELF");
        assert_eq!(file[24..32], ADDRESS.to_le_bytes());
        assert_eq!(file[54..58], [56, 0, 1, 0], "one segment header of 56 bytes");
        assert_eq!(file[72..80], (PAGE as u64).to_le_bytes());
        assert_eq!(file[96..104], (code.len() as u64).to_le_bytes());
        assert_eq!(&file[PAGE..], code);
    }
}
