//! The terminal kept for ourselves while we talk to the emulator at its prompt.
//!
//! Viewers see nothing of such a talk, and what they type waits until the guest has its console
//! back. A note in the runtime directory tells a later monitor that the prompt is ours.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Output of the emulator that is kept in a talk; the oldest goes first.
const KEPT: usize = 1 << 20;

/// How soon a simulated machine has taken what was typed: what is still in the terminal when it
/// comes to its prompt is thrown away by the emulator.
const TAKEN: Duration = Duration::from_millis(50);

/// What a note says of the emulator at its prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// Its guest's state is not in it yet.
    Empty,
    /// Its guest stands still.
    Still,
}

impl Note {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Still => "still",
        }
    }
}

/// Whose the terminal is.
#[derive(Debug)]
pub(crate) struct Hold {
    held: Cell<bool>,
    /// What the emulator has said since then.
    heard: RefCell<Vec<u8>>,
    /// What turned out to be the guest's.
    released: RefCell<Vec<u8>>,
    /// When something was typed for the guest.
    typed: Cell<Option<Instant>>,
    note: PathBuf,
    /// For the talk: more was heard.
    pub(crate) more: Notify,
    /// For the task: the terminal has changed hands.
    pub(crate) turned: Notify,
}

impl Hold {
    /// The guest's, with the place of the note.
    pub(crate) fn new(note: PathBuf) -> Self {
        Self {
            held: Cell::new(false),
            heard: RefCell::default(),
            released: RefCell::default(),
            typed: Cell::new(None),
            note,
            more: Notify::new(),
            turned: Notify::new(),
        }
    }

    /// Whether it is ours.
    pub(crate) fn held(&self) -> bool {
        self.held.get()
    }

    /// Takes it. The note is written first: without it a later monitor would show viewers the
    /// prompt, nothing worse.
    pub(crate) fn take(&self, note: Note) {
        self.note(note);
        if !self.held.replace(true) {
            self.heard.borrow_mut().clear();
        }
        self.turned.notify_one();
    }

    /// Writes the note.
    pub(crate) fn note(&self, note: Note) {
        if let Err(error) = fs::write(&self.note, note.as_str()) {
            tracing::warn!(%error, "a later monitor will not know whose the prompt is");
        }
    }

    /// The note that an earlier monitor has left.
    pub(crate) fn left(&self) -> Option<Note> {
        let text = fs::read_to_string(&self.note).ok()?;
        [Note::Empty, Note::Still].into_iter().find(|note| note.as_str() == text)
    }

    /// Gives it back, with everything heard from `from` on.
    pub(crate) fn give_back(&self, from: usize) {
        let heard = self.heard.take();
        self.released.borrow_mut().extend_from_slice(heard.get(from..).unwrap_or_default());
        self.held.set(false);
        let _absent = fs::remove_file(&self.note);
        self.turned.notify_one();
    }

    /// Hands the guest's part of what was heard to the viewers and forgets the rest.
    pub(crate) fn release(&self, guest: usize) {
        let heard = self.heard.take();
        self.released.borrow_mut().extend_from_slice(&heard[..guest.min(heard.len())]);
        self.turned.notify_one();
    }

    /// Takes what was released.
    pub(crate) fn released(&self) -> Vec<u8> {
        self.released.take()
    }

    /// The emulator said something.
    pub(crate) fn hear(&self, bytes: &[u8]) {
        let mut heard = self.heard.borrow_mut();
        heard.extend_from_slice(bytes);
        let excess = heard.len().saturating_sub(KEPT);
        heard.drain(..excess);
        self.more.notify_one();
    }

    /// Forgets what was heard.
    pub(crate) fn forget(&self) {
        self.heard.borrow_mut().clear();
    }

    /// Looks at what was heard.
    pub(crate) fn heard<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.heard.borrow())
    }

    /// Something was typed for the guest.
    pub(crate) fn typed(&self) {
        self.typed.set(Some(Instant::now()));
    }

    /// Waits until the guest has taken what was typed last.
    pub(crate) async fn settled(&self) {
        if let Some(left) = self.typed.get().and_then(|then| TAKEN.checked_sub(then.elapsed())) {
            tokio::time::sleep(left).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn a_talk_is_kept_from_the_viewers_and_the_guests_part_is_not() {
        let scratch = Scratch::new("hold");
        let hold = Hold::new(scratch.0.join("prompt"));
        hold.take(Note::Still);
        hold.hear(b"N=1\r\nstopped> ");
        hold.release(5);
        assert_eq!(hold.released(), b"N=1\r\n");
        hold.hear(b"cont\r\nN=2\r\n");
        assert_eq!(hold.heard(<[u8]>::len), 11);
        hold.give_back(6);
        assert_eq!(hold.released(), b"N=2\r\n");
        assert!(!hold.held());
        assert_eq!(hold.left(), None, "and no later monitor believes otherwise");
    }

    #[test]
    fn the_note_outlives_the_monitor() {
        let scratch = Scratch::new("hold");
        for note in [Note::Empty, Note::Still] {
            Hold::new(scratch.0.join("prompt")).take(note);
            assert_eq!(Hold::new(scratch.0.join("prompt")).left(), Some(note));
        }
    }

    #[test]
    fn an_endless_answer_is_kept_in_part() {
        let scratch = Scratch::new("hold");
        let hold = Hold::new(scratch.0.join("prompt"));
        hold.take(Note::Still);
        for _ in 0..20 {
            hold.hear(&[b'x'; 100_000]);
        }
        assert_eq!(hold.heard(<[u8]>::len), KEPT);
    }
}
