//! As much of the D-Bus protocol as one call needs: values are written and read, messages framed.
//!
//! What is read comes from the service manager; lengths are checked all the same.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// Longer messages than this are none of a manager's.
const MAX_MESSAGE: usize = 1 << 20;

/// Longer lines than this are not in a greeting.
const MAX_LINE: usize = 512;

/// The mark of this machine's order of bytes.
const ORDER: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };

const CALL: u8 = 1;
const PROTOCOL: u8 = 1;

const FIELD_PATH: u8 = 1;
const FIELD_INTERFACE: u8 = 2;
const FIELD_MEMBER: u8 = 3;
const FIELD_ERROR: u8 = 4;
const FIELD_REPLY: u8 = 5;
const FIELD_SIGNATURE: u8 = 8;

/// Values in the order and alignment of the protocol.
#[derive(Debug, Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    fn pad(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    /// `u`
    pub(super) fn number(&mut self, value: u32) {
        self.pad(4);
        self.0.extend(value.to_ne_bytes());
    }

    /// `s` or `o`
    pub(super) fn text(&mut self, text: &str) {
        self.number(length(text.len()));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    /// An array of elements that are aligned to `align`.
    pub(super) fn array(&mut self, align: usize, fill: impl FnOnce(&mut Self)) {
        self.number(0);
        let at = self.0.len() - 4;
        // The space before the first element does not count.
        self.pad(align);
        let begin = self.0.len();
        fill(self);
        let filled = length(self.0.len() - begin);
        self.0[at..at + 4].copy_from_slice(&filled.to_ne_bytes());
    }

    /// `(sv)`: a name and a value of the type that `signature` tells.
    pub(super) fn property(&mut self, name: &str, signature: &str, value: impl FnOnce(&mut Self)) {
        self.pad(8);
        self.text(name);
        self.signature(signature);
        value(self);
    }

    /// `(yv)`: a field of a header.
    fn field(&mut self, code: u8, signature: &str, value: impl FnOnce(&mut Self)) {
        self.pad(8);
        self.0.push(code);
        self.signature(signature);
        value(self);
    }
}

/// Lengths in what we write are far below this.
fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A method call as it goes over the wire.
pub(super) fn call(
    serial: u32,
    path: &str,
    interface: &str,
    member: &str,
    signature: &str,
    body: &Body,
) -> Vec<u8> {
    let mut message = Body(vec![ORDER, CALL, 0, PROTOCOL]);
    message.number(length(body.0.len()));
    message.number(serial);
    message.array(8, |fields| {
        fields.field(FIELD_PATH, "o", |value| value.text(path));
        fields.field(FIELD_INTERFACE, "s", |value| value.text(interface));
        fields.field(FIELD_MEMBER, "s", |value| value.text(member));
        fields.field(FIELD_SIGNATURE, "g", |value| value.signature(signature));
    });
    message.pad(8);
    message.0.extend(&body.0);
    message.0
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The answer of a call, or something else that we do not ask for.
    Other,
    /// A call failed.
    Error,
    /// Something happened.
    Signal,
}

/// A message that came.
#[derive(Debug)]
pub(super) struct Message {
    /// What it is.
    pub(super) kind: Kind,
    /// The name of what happened.
    pub(super) member: Option<String>,
    /// The name of the error.
    pub(super) error: Option<String>,
    reply: Option<u32>,
    body: Vec<u8>,
}

impl Message {
    /// Whether it is the answer to the call of this number.
    pub(super) fn answers(&self, serial: u32) -> bool {
        self.reply == Some(serial)
    }

    /// Its values.
    pub(super) fn body(&self) -> Values<'_> {
        Values { bytes: &self.body, at: 0 }
    }

    /// Its first value, where that is a text: what an error says.
    pub(super) fn first_text(&self) -> Option<String> {
        self.body().text().ok()
    }
}

/// Values that are read one after the other.
#[derive(Debug)]
pub(super) struct Values<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Values<'b> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> io::Result<&'b [u8]> {
        let end = self.at.checked_add(count).ok_or_else(broken)?;
        let bytes = self.bytes.get(self.at..end).ok_or_else(broken)?;
        self.at = end;
        Ok(bytes)
    }

    fn byte(&mut self) -> io::Result<u8> {
        self.take(1)?.first().copied().ok_or_else(broken)
    }

    /// `u`
    pub(super) fn number(&mut self) -> io::Result<u32> {
        self.align(4);
        self.take(4)?.try_into().map(u32::from_ne_bytes).map_err(|_| broken())
    }

    /// `s` or `o`
    pub(super) fn text(&mut self) -> io::Result<String> {
        let length = usize::try_from(self.number()?).map_err(|_| broken())?;
        self.ended_text(length)
    }

    fn signature(&mut self) -> io::Result<String> {
        let length = usize::from(self.byte()?);
        self.ended_text(length)
    }

    fn ended_text(&mut self, length: usize) -> io::Result<String> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| broken())?.to_owned();
        self.take(1)?;
        Ok(text)
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is no message of D-Bus")
}

/// Reads a line of the greeting, without its end.
pub(super) fn read_line(stream: &mut UnixStream, until: Instant) -> io::Result<String> {
    let mut line = Vec::new();
    // Byte by byte: what follows is not text.
    while !line.ends_with(b"\r\n") {
        if line.len() == MAX_LINE {
            return Err(broken());
        }
        let mut byte = [0];
        read_exact(stream, &mut byte, until)?;
        line.extend(byte);
    }
    line.truncate(line.len() - 2);
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Reads a message.
pub(super) fn read_message(stream: &mut UnixStream, until: Instant) -> io::Result<Message> {
    let mut head = [0; 16];
    read_exact(stream, &mut head, until)?;
    let [order, kind, _, PROTOCOL, ..] = head else { return Err(broken()) };
    if order != ORDER {
        return Err(broken());
    }
    let mut lengths = Values { bytes: &head, at: 4 };
    let body_length = usize::try_from(lengths.number()?).map_err(|_| broken())?;
    lengths.number()?;
    let fields_length = usize::try_from(lengths.number()?).map_err(|_| broken())?;
    if body_length > MAX_MESSAGE || fields_length > MAX_MESSAGE {
        return Err(broken());
    }
    let mut fields = vec![0; fields_length.next_multiple_of(8)];
    read_exact(stream, &mut fields, until)?;
    let mut body = vec![0; body_length];
    read_exact(stream, &mut body, until)?;
    let kind = match kind {
        3 => Kind::Error,
        4 => Kind::Signal,
        _ => Kind::Other,
    };
    let mut message = Message { kind, member: None, error: None, reply: None, body };
    message.take_fields(fields.get(..fields_length).ok_or_else(broken)?)?;
    Ok(message)
}

impl Message {
    fn take_fields(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut fields = Values { bytes, at: 0 };
        while fields.at < bytes.len() {
            fields.align(8);
            let code = fields.byte()?;
            match fields.signature()?.as_str() {
                "s" | "o" => {
                    let text = fields.text()?;
                    match code {
                        FIELD_MEMBER => self.member = Some(text),
                        FIELD_ERROR => self.error = Some(text),
                        _ => {}
                    }
                }
                "u" => {
                    let number = fields.number()?;
                    if code == FIELD_REPLY {
                        self.reply = Some(number);
                    }
                }
                "g" => drop(fields.signature()?),
                _ => return Err(broken()),
            }
        }
        Ok(())
    }
}

/// Fills `bytes`, or fails when the time is over.
fn read_exact(stream: &mut UnixStream, bytes: &mut [u8], until: Instant) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
