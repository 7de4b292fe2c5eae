//! JSON with the place of everything in it, so that a mistake can be pointed at.

use std::fmt;

/// Arrays and objects within each other. The keys of a machine have three.
const DEPTH: usize = 16;

/// Line and column, from 1; a column is a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) at: Place,
    pub(crate) value: Value,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// As it is written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(Key, Node)>),
}

impl Value {
    /// What it is called in a message.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a switch",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// The name of a value in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) at: Place,
    pub(crate) name: String,
}

/// What is wrong, and where.
pub(crate) type Mistake = (Place, String);

/// Reads one value and nothing behind it.
pub(crate) fn read(text: &str) -> Result<Node, Mistake> {
    let mut reader = Reader { rest: text, at: Place { line: 1, column: 1 } };
    // Editors of some systems begin a file with it.
    reader.rest = reader.rest.strip_prefix('\u{feff}').unwrap_or(reader.rest);
    let node = reader.node(0)?;
    reader.space();
    match reader.peek() {
        None => Ok(node),
        Some(_) => Err(reader.expected("the end of the file")),
    }
}

struct Reader<'a> {
    rest: &'a str,
    at: Place,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            self.at = Place { line: self.at.line + 1, column: 1 };
        } else {
            self.at.column += 1;
        }
        Some(c)
    }

    fn skip(&mut self) {
        let _taken = self.next();
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|c| matches!(c, ' ' | '\t' | '\r' | '\n')) {
            self.next();
        }
    }

    fn expected(&self, what: &str) -> Mistake {
        let found = self.peek().map_or_else(
            || "the file ends".to_owned(),
            |c| if c.is_control() { "a control character".into() } else { format!("found '{c}'") },
        );
        (self.at, format!("{found}: expected {what}"))
    }

    /// Takes this character or complains that something else is there.
    fn take(&mut self, wanted: char, what: &str) -> Result<(), Mistake> {
        if self.peek() != Some(wanted) {
            return Err(self.expected(what));
        }
        self.next();
        Ok(())
    }

    fn node(&mut self, depth: usize) -> Result<Node, Mistake> {
        self.space();
        let at = self.at;
        if depth > DEPTH {
            return Err((at, format!("more than {DEPTH} levels within each other")));
        }
        let value = match self.peek() {
            Some('{') => self.object(depth)?,
            Some('[') => self.list(depth)?,
            Some('"') => Value::Text(self.string()?),
            Some('-' | '0'..='9') => self.number()?,
            Some('a'..='z') => self.word()?,
            _ => return Err(self.expected("a value")),
        };
        Ok(Node { at, value })
    }

    fn object(&mut self, depth: usize) -> Result<Value, Mistake> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        self.next();
        self.space();
        if self.peek() == Some('}') {
            self.next();
            return Ok(Value::Object(entries));
        }
        loop {
            self.space();
            let at = self.at;
            if self.peek() != Some('"') {
                return Err(self.expected("a key in double quotes"));
            }
            let name = self.string()?;
            if let Some((before, _)) = entries.iter().find(|(key, _)| key.name == name) {
                let why = format!("{name:?} is here a second time, first at {}", before.at);
                return Err((at, why));
            }
            self.space();
            self.take(':', "':' behind the key")?;
            let node = self.node(depth + 1)?;
            entries.push((Key { at, name }, node));
            self.space();
            match self.peek() {
                Some(',') => self.skip(),
                Some('}') => break self.skip(),
                _ => return Err(self.expected("',' or '}'")),
            }
        }
        Ok(Value::Object(entries))
    }

    fn list(&mut self, depth: usize) -> Result<Value, Mistake> {
        let mut nodes = Vec::new();
        self.next();
        self.space();
        if self.peek() == Some(']') {
            self.next();
            return Ok(Value::List(nodes));
        }
        loop {
            nodes.push(self.node(depth + 1)?);
            self.space();
            match self.peek() {
                Some(',') => self.skip(),
                Some(']') => break self.skip(),
                _ => return Err(self.expected("',' or ']'")),
            }
        }
        Ok(Value::List(nodes))
    }

    fn word(&mut self) -> Result<Value, Mistake> {
        let words =
            [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)];
        let length = self.rest.bytes().take_while(u8::is_ascii_alphanumeric).count();
        for (word, value) in words {
            if self.rest[..length] == *word {
                (0..length).for_each(|_| self.skip());
                return Ok(value);
            }
        }
        Err(self.expected("a value: text stands in double quotes"))
    }

    fn digits(&mut self, number: &mut String) -> Result<(), Mistake> {
        if !self.peek().is_some_and(|c| c.is_ascii_digit()) {
            return Err(self.expected("a digit"));
        }
        while let Some(c) = self.peek().filter(char::is_ascii_digit) {
            number.push(c);
            self.next();
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Value, Mistake> {
        let mut number = String::new();
        if self.peek() == Some('-') {
            number.extend(self.next());
        }
        if self.peek() == Some('0') {
            number.extend(self.next());
        } else {
            self.digits(&mut number)?;
        }
        if self.peek() == Some('.') {
            number.extend(self.next());
            self.digits(&mut number)?;
        }
        if matches!(self.peek(), Some('e' | 'E')) {
            number.extend(self.next());
            if matches!(self.peek(), Some('+' | '-')) {
                number.extend(self.next());
            }
            self.digits(&mut number)?;
        }
        Ok(Value::Number(number))
    }

    fn string(&mut self) -> Result<String, Mistake> {
        let begin = self.at;
        let mut text = String::new();
        self.next();
        loop {
            match self.peek() {
                Some('"') => break self.skip(),
                Some('\\') => text.push(self.escape()?),
                Some(c) if c >= ' ' => {
                    text.push(c);
                    self.next();
                }
                _ => return Err((begin, "a text that has no end on its line".to_owned())),
            }
        }
        Ok(text)
    }

    fn escape(&mut self) -> Result<char, Mistake> {
        let at = self.at;
        self.next();
        match self.next() {
            Some(c @ ('"' | '\\' | '/')) => Ok(c),
            Some('b') => Ok('\u{8}'),
            Some('f') => Ok('\u{c}'),
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some('u') => self.unicode(at),
            _ => Err((at, "no escape of JSON".to_owned())),
        }
    }

    /// `XXXX`, and another `\uXXXX` where the first is half of a character.
    fn unicode(&mut self, at: Place) -> Result<char, Mistake> {
        let half = (at, "half of a character outside the first 65,536".to_owned());
        let first = self.hex(at)?;
        if !(0xd800..0xe000).contains(&first) {
            return char::from_u32(first).ok_or(half);
        }
        if first >= 0xdc00 || self.next() != Some('\\') || self.next() != Some('u') {
            return Err(half);
        }
        let second = self.hex(at)?;
        if !(0xdc00..0xe000).contains(&second) {
            return Err(half);
        }
        char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or(half)
    }

    fn hex(&mut self, at: Place) -> Result<u32, Mistake> {
        (0..4).try_fold(0, |value, _| {
            let digit = self.next().and_then(|c| c.to_digit(16));
            digit.map(|digit| value << 4 | digit).ok_or((at, "no escape of JSON".to_owned()))
        })
    }
}
