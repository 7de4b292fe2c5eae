//! Frames of an attached console: `kind u8, length u32 big-endian, payload`.

use std::io;

/// Longest payload, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Length of a frame's head.
pub const HEAD: usize = 5;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Console bytes, either way.
    Data(Vec<u8>),
    /// The viewer's window: rows, columns.
    Window(u16, u16),
    /// A line from kxl itself for the viewer (not console output): "you may write now".
    Notice(String),
    /// The domain has ended and nothing follows; the text says how.
    End(String),
}

impl Frame {
    /// The frame as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Data(bytes) => encode(b'd', bytes),
            Self::Window(rows, columns) => {
                let mut payload = rows.to_be_bytes().to_vec();
                payload.extend(columns.to_be_bytes());
                encode(b'w', &payload)
            }
            Self::Notice(text) => encode(b'n', text.as_bytes()),
            Self::End(text) => encode(b'e', text.as_bytes()),
        }
    }

    /// Takes the first whole frame off `buffer`; `None` while it is not complete.
    ///
    /// # Errors
    /// `InvalidData` on an unknown kind or a length above [`MAX_PAYLOAD`]; the stream is lost then.
    pub fn take(buffer: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let Some(head) = buffer.first_chunk::<HEAD>() else { return Ok(None) };
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let kind = head[0];
        if length > MAX_PAYLOAD {
            return Err(invalid("a console frame is too long"));
        }
        if buffer.len() < HEAD + length {
            return Ok(None);
        }
        let payload: Vec<u8> = buffer.drain(..HEAD + length).skip(HEAD).collect();
        let text = |payload| String::from_utf8_lossy(payload).into_owned();
        Ok(Some(match (kind, payload.as_slice()) {
            (b'd', _) => Self::Data(payload),
            (b'w', &[a, b, c, d]) => {
                Self::Window(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
            }
            (b'n', payload) => Self::Notice(text(payload)),
            (b'e', payload) => Self::End(text(payload)),
            _ => return Err(invalid("an unknown console frame")),
        }))
    }
}

fn encode(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len().min(MAX_PAYLOAD)).expect("below 64 KiB");
    let mut out = vec![kind];
    out.extend(length.to_be_bytes());
    out.extend(&payload[..length as usize]);
    out
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let frames =
            [Frame::Data(b"abc".to_vec()), Frame::Window(24, 80), Frame::End("gone".into())];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        for cut in 0..bytes.len() {
            let mut buffer = bytes[..cut].to_vec();
            let mut seen = Vec::new();
            while let Some(frame) = Frame::take(&mut buffer).unwrap() {
                seen.push(frame);
            }
            buffer.extend(&bytes[cut..]);
            while let Some(frame) = Frame::take(&mut buffer).unwrap() {
                seen.push(frame);
            }
            assert_eq!(seen, frames);
        }
    }

    #[test]
    fn a_frame_that_claims_too_much_is_an_error_not_an_allocation() {
        for bytes in [[b'd', 0xff, 0xff, 0xff, 0xff], [b'?', 0, 0, 0, 0]] {
            let error = Frame::take(&mut bytes.to_vec()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
