//! Whether an emulator keeps a disk in its own memory, by what it says when it attaches one.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::PathBuf;

/// Reads along and remembers; a note in the runtime directory tells a later monitor.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// What it says; empty where the profile knows of no such thing.
    sign: String,
    any: Cell<bool>,
    /// The end of what was read: the text may come in pieces.
    tail: RefCell<Vec<u8>>,
    note: PathBuf,
}

impl Buffers {
    /// With what an earlier monitor has noted.
    pub(crate) fn new(sign: Option<&str>, note: PathBuf) -> Self {
        Self {
            sign: sign.unwrap_or_default().to_owned(),
            any: Cell::new(note.exists()),
            tail: RefCell::default(),
            note,
        }
    }

    /// Whether there is such a disk.
    pub(crate) fn any(&self) -> bool {
        self.any.get()
    }

    /// Takes what the emulator has said next.
    pub(crate) fn read(&self, bytes: &[u8]) {
        if self.sign.is_empty() || self.any.get() {
            return;
        }
        let mut tail = self.tail.borrow_mut();
        tail.extend_from_slice(bytes);
        if tail.windows(self.sign.len()).any(|part| part == self.sign.as_bytes()) {
            self.any.set(true);
            if let Err(error) = fs::write(&self.note, "") {
                tracing::warn!(%error, "a later monitor will not know of disks in memory");
            }
        }
        let excess = tail.len().saturating_sub(self.sign.len() - 1);
        tail.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn the_sign_is_seen_in_pieces_and_remembered() {
        let scratch = Scratch::new("buffers");
        let note = || scratch.0.join("buffers");
        let buffers = Buffers::new(Some("in memory"), note());
        for piece in ["RX: buffering file in", " mem", "or"] {
            buffers.read(piece.as_bytes());
            assert!(!buffers.any());
        }
        buffers.read(b"y\r\n");
        assert!(buffers.any());
        assert!(Buffers::new(Some("in memory"), note()).any());
        let none = Buffers::new(None, scratch.0.join("other"));
        none.read(b"in memory");
        assert!(!none.any());
    }
}
