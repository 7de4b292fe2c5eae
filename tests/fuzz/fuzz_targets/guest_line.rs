//! What a guest writes to its port and its console.

#![no_main]

use kxl_domain::guest::{LINE_MAX, Lines, Marked, Piece, decode};
use libfuzzer_sys::fuzz_target;

fn look(line: &[u8]) {
    let Ok(message) = decode(line).message else { return };
    let shown = message.to_string();
    assert!(!shown.chars().any(char::is_control) && shown.len() < 4096);
    if let Ok(line) = message.encode() {
        assert_eq!(decode(line.as_bytes()).message, Ok(message));
    }
}

fn each(piece: Piece<'_>) {
    if let Piece::Line(line) = piece {
        assert!(line.len() <= LINE_MAX);
        look(line);
    }
}

fuzz_target!(|bytes: &[u8]| {
    look(bytes);
    let (mut lines, mut marked) = (Lines::default(), Marked::default());
    for part in bytes.chunks(1 + bytes.len() % 7) {
        lines.push(part, each);
        marked.push(part, each);
    }
});
