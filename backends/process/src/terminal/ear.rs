//! Listening for a text on the console, beside whoever reads it.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tokio::sync::Notify;

/// What is kept of a console that is listened to; the oldest goes first.
const KEPT: usize = 64 << 10;

/// The listener. It costs nothing while nobody waits for anything.
#[derive(Debug, Default)]
pub(crate) struct Ear {
    open: Cell<bool>,
    heard: RefCell<Vec<u8>>,
    more: Notify,
}

impl Ear {
    /// Begins to listen: what came before does not count.
    pub(crate) fn open(&self) {
        self.heard.borrow_mut().clear();
        self.open.set(true);
    }

    /// Listens no more.
    pub(crate) fn close(&self) {
        self.open.set(false);
        self.heard.take();
    }

    /// The console said something.
    pub(crate) fn hear(&self, bytes: &[u8]) {
        if !self.open.get() {
            return;
        }
        let mut heard = self.heard.borrow_mut();
        heard.extend_from_slice(bytes);
        let excess = heard.len().saturating_sub(KEPT);
        heard.drain(..excess);
        self.more.notify_one();
    }

    /// Waits until `text` was heard and forgets everything up to its end; false when that has not
    /// come to pass in time.
    pub(crate) async fn until(&self, text: &str, patience: Duration) -> bool {
        let heard = async {
            while !self.take(text.as_bytes()) {
                self.more.notified().await;
            }
        };
        tokio::time::timeout(patience, heard).await.is_ok()
    }

    fn take(&self, text: &[u8]) -> bool {
        let mut heard = self.heard.borrow_mut();
        let at = heard.windows(text.len().max(1)).position(|part| part == text);
        if let Some(at) = at {
            heard.drain(..at + text.len());
        }
        at.is_some() || text.is_empty()
    }

    /// The last line that was heard, for errors.
    pub(crate) fn last_line(&self) -> String {
        let heard = self.heard.borrow();
        let text = String::from_utf8_lossy(&heard);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
        line.unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::monitor;

    #[test]
    fn a_text_is_heard_in_pieces_and_once() {
        monitor(async {
            let ear = Ear::default();
            ear.hear(b"login:");
            ear.open();
            let moment = Duration::from_millis(1);
            assert!(!ear.until("login:", moment).await, "it came before");
            for piece in [b"log".as_slice(), b"in", b": x"] {
                ear.hear(piece);
            }
            assert!(ear.until("login:", moment).await);
            assert!(!ear.until("login:", moment).await);
            assert_eq!(ear.last_line(), "x");
        });
    }

    #[test]
    fn an_endless_console_is_kept_in_part() {
        let ear = Ear::default();
        ear.open();
        for _ in 0..100 {
            ear.hear(&[b'x'; 10_000]);
        }
        assert_eq!(ear.heard.borrow().len(), KEPT);
    }
}
