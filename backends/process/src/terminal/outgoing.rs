//! What is on its way to an emulator's line: it outlives the line.

use std::collections::VecDeque;

use crate::telnet::Telnet;

/// How much of what is typed is made ready at once.
const PIECE: usize = 1024;

/// The bytes for the emulator.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// Typed, not yet taken by the emulator, as it was typed.
    typed: VecDeque<u8>,
    /// Answers to what this line proposed.
    replies: Vec<u8>,
    /// Made ready, with how much of it was taken.
    ready: Vec<u8>,
    taken: usize,
    /// How many bytes at the front of `typed` it stands for.
    piece: usize,
}

impl Outgoing {
    /// What was typed.
    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.typed.extend(bytes);
    }

    /// What the protocol says.
    pub(super) fn reply(&mut self, bytes: &[u8]) {
        self.replies.extend_from_slice(bytes);
    }

    /// How much waits.
    pub(super) fn len(&self) -> usize {
        self.typed.len() + self.replies.len() + (self.ready.len() - self.taken)
    }

    /// Whether anything that was typed waits.
    pub(super) fn has_typed(&self) -> bool {
        !self.typed.is_empty()
    }

    /// Makes ready what is to be written next.
    pub(super) fn prepare(&mut self, telnet: Option<&Telnet>) {
        if self.taken == self.ready.len() {
            self.typed.drain(..self.piece);
            (self.piece, self.taken) = (0, 0);
            self.ready = std::mem::take(&mut self.replies);
            if self.ready.is_empty() {
                self.piece = self.typed.len().min(PIECE);
                self.ready = encoded(&self.front(), telnet);
            }
        }
    }

    /// What is to be written next; empty when there is nothing.
    pub(super) fn ready(&self) -> &[u8] {
        &self.ready[self.taken..]
    }

    /// So much of that was written.
    pub(super) fn wrote(&mut self, count: usize) {
        self.taken = (self.taken + count).min(self.ready.len());
    }

    /// The line broke off: what was typed and not written waits for the next one.
    pub(super) fn broke_off(&mut self, telnet: Option<&Telnet>) {
        let piece = self.front();
        let written = |count: &usize| encoded(&piece[..*count], telnet).len() <= self.taken;
        let whole = (0..=piece.len()).take_while(written).last().unwrap_or(0);
        self.typed.drain(..whole);
        (self.piece, self.taken) = (0, 0);
        self.ready.clear();
        self.replies.clear();
    }

    fn front(&self) -> Vec<u8> {
        self.typed.iter().take(self.piece).copied().collect()
    }
}

fn encoded(bytes: &[u8], telnet: Option<&Telnet>) -> Vec<u8> {
    telnet.map_or_else(|| bytes.to_vec(), |telnet| telnet.put(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Outgoing {
        fn next(&mut self, telnet: Option<&Telnet>) -> &[u8] {
            self.prepare(telnet);
            self.ready()
        }
    }

    #[test]
    fn what_was_typed_and_not_written_waits_for_the_next_line_and_answers_do_not() {
        let telnet = Telnet::client();
        let mut outgoing = Outgoing::default();
        outgoing.say(b"a\xffbc");
        assert_eq!(outgoing.next(Some(&telnet)), b"a\xff\xffbc");
        outgoing.wrote(2);
        outgoing.say(b"d");
        outgoing.reply(b"\xff\xfc\x01");
        outgoing.broke_off(Some(&telnet));
        // Half of the byte in the middle was gone: it is said again as a whole.
        assert_eq!((outgoing.len(), outgoing.has_typed()), (4, true));
        assert_eq!(outgoing.next(None), b"\xffbcd");
        outgoing.wrote(4);
        assert_eq!(outgoing.next(None), b"");
        assert_eq!((outgoing.len(), outgoing.has_typed()), (0, false));
    }

    #[test]
    fn answers_come_before_what_is_typed_later() {
        let mut outgoing = Outgoing::default();
        outgoing.reply(b"1");
        outgoing.say(b"2");
        assert_eq!(outgoing.next(None), b"1");
        outgoing.wrote(1);
        outgoing.reply(b"3");
        assert_eq!(outgoing.next(None), b"3");
        outgoing.wrote(1);
        assert_eq!(outgoing.next(None), b"2");
        // A line that breaks off while nothing is on its way loses nothing.
        outgoing.broke_off(None);
        assert_eq!(outgoing.next(None), b"2");
    }

    #[test]
    fn a_long_paste_arrives_whole() {
        let mut outgoing = Outgoing::default();
        let text: Vec<u8> = (0..10_000_u32).map(|n| (n % 251) as u8).collect();
        outgoing.say(&text);
        let mut came = Vec::new();
        loop {
            let next = outgoing.next(None);
            let count = next.len().min(700);
            if count == 0 {
                break;
            }
            came.extend_from_slice(&next[..count]);
            outgoing.wrote(count);
        }
        assert!(came == text);
    }
}
