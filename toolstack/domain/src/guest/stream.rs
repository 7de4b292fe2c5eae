//! Lines out of a stream that comes in pieces.

use super::{LINE_MAX, MARKER};

/// What a stream has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A line, without its end.
    Line(&'a [u8]),
    /// A line longer than [`LINE_MAX`]; none of it is kept.
    TooLong,
}

/// The lines of a port: each ends with LF, or CR LF. Empty ones are passed over, so that a writer
/// can end what another one has left unfinished.
#[derive(Debug, Default)]
pub struct Lines {
    pub(super) line: Vec<u8>,
    /// The line is too long: its end is waited for.
    over: bool,
}

impl Lines {
    /// Takes bytes and gives away the lines that they complete.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Piece<'_>)) {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            self.add(&bytes[..at]);
            self.end(&mut each);
            bytes = &bytes[at + 1..];
        }
        self.add(bytes);
    }

    /// Forgets an unfinished line: the stream is another one now.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.over {
            return;
        }
        // One more for the CR of an end in two bytes.
        if self.line.len() + bytes.len() > LINE_MAX + 1 {
            self.over = true;
            self.line = Vec::new();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end(&mut self, each: &mut impl FnMut(Piece<'_>)) {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        if self.over || line.len() > LINE_MAX {
            each(Piece::TooLong);
        } else if !line.is_empty() {
            each(Piece::Line(line));
        }
        self.over = false;
        // Between two messages nothing is held.
        self.line = Vec::new();
    }
}

/// Where a console stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// At the beginning of a line, but for what shows nothing.
    #[default]
    Start,
    /// Behind an escape character at the beginning of a line.
    Escape,
    /// In a control sequence (`ESC [`).
    Sequence,
    /// In a command to a terminal that ends with BEL (`ESC ]`).
    Command,
    /// Behind telnet's IAC, with so many bytes to come.
    Telnet(u8),
    /// So many bytes of the marker are there.
    Marker(usize),
    /// In a marked line.
    Marked,
    /// In a marked line that is too long.
    Over,
    /// In any other line.
    Other,
}

/// The marked lines of a console: those that begin with [`MARKER`]. Each ends with CR or LF. Before
/// the marker stand, at most, blanks, control characters, escape sequences and bytes beyond ASCII,
/// as terminals, telnet and old printers' carriage controls leave them.
#[derive(Debug, Default)]
pub struct Marked {
    at: At,
    pub(super) line: Vec<u8>,
}

impl Marked {
    /// Takes bytes and gives away what stands behind the marker of the lines that they complete.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Piece<'_>)) {
        while !bytes.is_empty() {
            if matches!(self.at, At::Other | At::Over) {
                // Most of what a console says: passed over as fast as it can be.
                let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
                let Some(end) = end else { return };
                bytes = &bytes[end..];
            }
            self.take(bytes[0], &mut each);
            bytes = &bytes[1..];
        }
    }

    /// Forgets an unfinished line: the stream is another one now.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    fn take(&mut self, byte: u8, each: &mut impl FnMut(Piece<'_>)) {
        if matches!(byte, b'\r' | b'\n') {
            match self.at {
                At::Marked => each(Piece::Line(&self.line)),
                At::Over => each(Piece::TooLong),
                _ => {}
            }
            self.reset();
            return;
        }
        self.at = match (self.at, byte) {
            (At::Start, 0x1b) => At::Escape,
            (At::Start, 0xff) => At::Telnet(1),
            (At::Start, 0..=b' ' | 0x7f..) => At::Start,
            (At::Start, byte) => self.marker(0, byte),
            (At::Escape, b'[') => At::Sequence,
            (At::Escape, b']') => At::Command,
            (At::Sequence, 0x40..=0x7e) | (At::Command, 7) | (At::Escape, _) => At::Start,
            (At::Command, 0x1b) => At::Escape,
            // WILL, WON'T, DO and DON'T have one more.
            (At::Telnet(1), 0xfb..=0xfe) => At::Telnet(0),
            (At::Telnet(_), _) => At::Start,
            (At::Marker(matched), byte) => self.marker(matched, byte),
            // Some lines pad with NUL.
            (At::Marked, 0) => At::Marked,
            (At::Marked, byte) if self.line.len() < LINE_MAX => {
                self.line.push(byte);
                At::Marked
            }
            (At::Marked, _) => {
                self.line = Vec::new();
                At::Over
            }
            (at, _) => at,
        };
    }

    fn marker(&self, matched: usize, byte: u8) -> At {
        match MARKER.as_bytes().get(matched) {
            Some(wanted) if wanted.eq_ignore_ascii_case(&byte) => {
                if matched + 1 == MARKER.len() {
                    At::Marked
                } else {
                    At::Marker(matched + 1)
                }
            }
            _ => At::Other,
        }
    }
}
