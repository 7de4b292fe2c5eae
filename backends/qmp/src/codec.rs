//! JSON documents out of a byte stream.
//!
//! QMP has no framing: documents follow one another, with or without line ends, and arrive in
//! pieces of any size. The decoder follows the grammar byte by byte, so that it knows where a
//! document ends, costs the same whatever the pieces are, and after something broken goes on at
//! the very byte that broke the rule instead of waiting for a bracket that never comes.

use serde_json::Value;

/// Documents longer than this are skipped: far above the largest real answer (the schema of
/// QEMU 7.2 has about 400 kB), far below what would hurt a host with a thousand monitors.
pub const DEFAULT_LIMIT: usize = 4 << 20;

/// The deepest nesting that is followed; serde_json itself stops at 128.
const MAX_DEPTH: usize = 120;

/// What the stream held.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// A document: an object or an array.
    Document(Value),
    /// Something that is no document; skipped.
    Garbage(Garbage),
}

/// Why bytes were skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Garbage {
    /// This many bytes, other than white space, before a line end or the start of a document.
    Between(usize),
    /// A document that breaks the grammar.
    Malformed,
    /// A document longer than the limit or nested too deeply.
    TooLong,
}

/// What may come next inside a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
}

/// Where the decoder is inside a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    None,
    Text { key: bool, escaped: bool },
    Scalar,
}

/// The outcome of one byte inside a document.
enum Step {
    More,
    Complete,
    Broken,
}

/// The decoder: bytes in, frames out. Holds at most its limit of bytes.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    buffer: Vec<u8>,
    /// Open brackets: true = object.
    stack: Vec<bool>,
    expect: Expect,
    token: Token,
    between: usize,
    overflow: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(DEFAULT_LIMIT)
    }
}

impl Decoder {
    /// A decoder that skips documents of more than `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            buffer: Vec::new(),
            stack: Vec::new(),
            expect: Expect::Value,
            token: Token::None,
            between: 0,
            overflow: false,
        }
    }

    /// Takes the next piece of the stream and returns what it completes, in order. How the stream
    /// is cut into pieces makes no difference.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        for &byte in bytes {
            if self.stack.is_empty() {
                self.outside(byte, &mut frames);
                continue;
            }
            self.keep(byte);
            match self.inside(byte) {
                Step::More => {}
                Step::Complete => frames.push(self.finish()),
                Step::Broken => {
                    self.reset();
                    frames.push(Frame::Garbage(Garbage::Malformed));
                    self.outside(byte, &mut frames);
                }
            }
        }
        frames
    }

    /// Bytes held back for the document under way.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    fn outside(&mut self, byte: u8, frames: &mut Vec<Frame>) {
        match byte {
            b'{' | b'[' => {
                self.tell_between(frames);
                self.keep(byte);
                self.open(byte == b'{');
            }
            // Somebody who types words waits for an answer.
            b'\n' => self.tell_between(frames),
            b' ' | b'\t' | b'\r' => {}
            _ => self.between += 1,
        }
    }

    fn tell_between(&mut self, frames: &mut Vec<Frame>) {
        let between = std::mem::take(&mut self.between);
        if between > 0 {
            frames.push(Frame::Garbage(Garbage::Between(between)));
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.buffer.len() >= self.limit {
            self.overflow = true;
            self.buffer = Vec::new();
        }
        if !self.overflow {
            self.buffer.push(byte);
        }
    }

    fn open(&mut self, object: bool) {
        self.stack.push(object);
        self.expect = if object { Expect::KeyOrEnd } else { Expect::ValueOrEnd };
    }

    fn close(&mut self, object: bool) -> Step {
        if self.stack.pop() != Some(object) {
            return Step::Broken;
        }
        self.expect = Expect::CommaOrEnd;
        if self.stack.is_empty() { Step::Complete } else { Step::More }
    }

    fn inside(&mut self, byte: u8) -> Step {
        match self.token {
            Token::Text { key, escaped } => return self.in_text(byte, key, escaped),
            Token::Scalar if is_scalar(byte) => return Step::More,
            Token::Scalar => self.token = Token::None,
            Token::None => {}
        }
        match (byte, self.expect) {
            (b' ' | b'\t' | b'\r' | b'\n', _) => {}
            (b'"', Expect::Value | Expect::ValueOrEnd) => {
                self.token = Token::Text { key: false, escaped: false };
            }
            (b'"', Expect::Key | Expect::KeyOrEnd) => {
                self.token = Token::Text { key: true, escaped: false };
            }
            (b'{' | b'[', Expect::Value | Expect::ValueOrEnd) => {
                if self.stack.len() == MAX_DEPTH {
                    return Step::Broken;
                }
                self.open(byte == b'{');
            }
            (b'}', Expect::KeyOrEnd | Expect::CommaOrEnd) => return self.close(true),
            (b']', Expect::ValueOrEnd | Expect::CommaOrEnd) => return self.close(false),
            (b':', Expect::Colon) => self.expect = Expect::Value,
            (b',', Expect::CommaOrEnd) => {
                let object = self.stack.last().copied().unwrap_or(false);
                self.expect = if object { Expect::Key } else { Expect::Value };
            }
            (_, Expect::Value | Expect::ValueOrEnd) if is_scalar(byte) => {
                self.token = Token::Scalar;
                self.expect = Expect::CommaOrEnd;
            }
            _ => return Step::Broken,
        }
        Step::More
    }

    fn in_text(&mut self, byte: u8, key: bool, escaped: bool) -> Step {
        match byte {
            // A text that runs over a line end was cut off: JSON escapes every control character.
            0..0x20 => return Step::Broken,
            b'"' if !escaped => {
                self.token = Token::None;
                self.expect = if key { Expect::Colon } else { Expect::CommaOrEnd };
            }
            _ => self.token = Token::Text { key, escaped: byte == b'\\' && !escaped },
        }
        Step::More
    }

    /// The grammar says that the document is whole; numbers, literals and escapes are checked here.
    fn finish(&mut self) -> Frame {
        let frame = if self.overflow {
            Frame::Garbage(Garbage::TooLong)
        } else {
            // Emulators copy guest-made bytes into some texts: not always UTF-8.
            serde_json::from_str(&String::from_utf8_lossy(&self.buffer))
                .map_or(Frame::Garbage(Garbage::Malformed), Frame::Document)
        };
        self.reset();
        frame
    }

    fn reset(&mut self) {
        // One large answer must not pin its memory for the life of an idle domain.
        if self.buffer.capacity() > 64 << 10 {
            self.buffer = Vec::new();
        }
        self.buffer.clear();
        self.stack.clear();
        self.token = Token::None;
        self.expect = Expect::Value;
        self.overflow = false;
    }
}

const fn is_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn documents(frames: &[Frame]) -> Vec<Value> {
        frames
            .iter()
            .filter_map(|frame| match frame {
                Frame::Document(value) => Some(value.clone()),
                Frame::Garbage(_) => None,
            })
            .collect()
    }

    #[test]
    fn documents_need_no_line_ends_between_them() {
        let frames = Decoder::default().feed(b"{\"a\":1}{\"b\":[1,2,{}]} [] \r\n{}");
        assert_eq!(
            documents(&frames),
            [json!({"a":1}), json!({"b":[1,2,{}]}), json!([]), json!({})]
        );
        assert_eq!(frames.len(), 4);
    }

    #[test]
    fn a_document_cut_off_by_another_loses_only_itself() {
        let frames = Decoder::default().feed(b"{\"return\": \r\n{\"x\": 1}{\"event\": \"STOP\"}");
        assert_eq!(documents(&frames), [json!({"event": "STOP"})]);
        let frames = Decoder::default().feed(b"{\"text\": \"cut off\r\n{\"event\": \"STOP\"}");
        assert_eq!(documents(&frames), [json!({"event": "STOP"})]);
    }

    #[test]
    fn brackets_and_escapes_inside_texts_are_text() {
        let frames = Decoder::default().feed(br#"{"a":"}]\"{\\"}{"b":2}"#);
        assert_eq!(documents(&frames), [json!({"a":"}]\"{\\"}), json!({"b":2})]);
    }

    #[test]
    fn junk_between_documents_is_counted_and_skipped() {
        let frames = Decoder::default().feed(b"qemu: warning\n{\"a\":1}");
        assert_eq!(frames[0], Frame::Garbage(Garbage::Between(12)));
        assert_eq!(frames[1], Frame::Document(json!({"a":1})));
    }

    #[test]
    fn bytes_that_are_not_utf8_do_not_cost_the_document() {
        let frames = Decoder::default().feed(b"{\"a\":\"x\xffy\"}");
        assert_eq!(frames, [Frame::Document(json!({"a":"x\u{fffd}y"}))]);
    }

    #[test]
    fn an_endless_document_is_skipped_with_bounded_memory() {
        let mut decoder = Decoder::new(1000);
        decoder.feed(b"{\"a\":\"");
        for _ in 0..100 {
            decoder.feed(&[b'x'; 100]);
            assert!(decoder.held() <= 1000);
        }
        let frames = decoder.feed(b"\"}{\"b\":2}");
        assert_eq!(frames, [Frame::Garbage(Garbage::TooLong), Frame::Document(json!({"b":2}))]);
    }

    #[test]
    fn nesting_has_an_end() {
        let mut stream = vec![b'['; 100_000];
        stream.extend(b"\n{\"a\":1}");
        let mut decoder = Decoder::default();
        let frames = decoder.feed(&stream);
        assert!(frames.contains(&Frame::Garbage(Garbage::Malformed)));
        // The brackets left open swallow the object as an element; a byte that fits nowhere frees it.
        let frames = decoder.feed(b"!{\"b\":2}");
        assert_eq!(documents(&frames), [json!({"b":2})]);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn object() -> impl Strategy<Value = Value> {
        prop::collection::btree_map("[a-z]{1,6}", value(), 0..5)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    fn in_pieces(stream: &[u8], cuts: &[usize]) -> Vec<Frame> {
        let mut decoder = Decoder::default();
        let (mut frames, mut rest) = (Vec::new(), stream);
        for cut in cuts.iter().cycle().take(stream.len()) {
            let (piece, tail) = rest.split_at((*cut).min(rest.len()));
            frames.extend(decoder.feed(piece));
            rest = tail;
        }
        frames.extend(decoder.feed(rest));
        frames
    }

    proptest! {
        #[test]
        fn how_the_stream_is_cut_makes_no_difference(
            values in prop::collection::vec((object(), any::<bool>(), "[ \r\n]{0,2}"), 0..6),
            cuts in prop::collection::vec(1usize..40, 1..5),
        ) {
            let mut stream = Vec::new();
            for (value, pretty, gap) in &values {
                let text = if *pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
                stream.extend(text.unwrap());
                stream.extend(gap.as_bytes());
            }
            let frames = in_pieces(&stream, &cuts);
            let expected: Vec<_> = values.into_iter().map(|(v, _, _)| Frame::Document(v)).collect();
            prop_assert_eq!(frames, expected);
        }

        #[test]
        fn any_bytes_are_survived_and_cut_alike(
            stream in prop::collection::vec(prop_oneof![
                prop::sample::select(b"{}[]\",:\\ \n1a-".to_vec()), any::<u8>()], 0..300),
            cuts in prop::collection::vec(1usize..9, 1..4),
        ) {
            let whole = Decoder::default().feed(&stream);
            prop_assert_eq!(in_pieces(&stream, &cuts), whole);
        }

        #[test]
        fn after_junk_a_byte_that_fits_nowhere_brings_the_next_document_back(
            junk in prop::collection::vec(any::<u8>(), 0..100), value in object(),
        ) {
            let mut stream = junk;
            // Ends a text that may be open, then breaks whatever bracket is.
            stream.extend(b"\n!\n");
            stream.extend(serde_json::to_vec(&value).unwrap());
            let frames = Decoder::default().feed(&stream);
            prop_assert_eq!(frames.last(), Some(&Frame::Document(value)));
        }
    }
}
