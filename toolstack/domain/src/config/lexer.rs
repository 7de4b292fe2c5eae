//! Splits a configuration into tokens, by the rules of xl's own scanner.
//!
//! Its oddities are kept on purpose, because files that rely on them exist: a comment needs its
//! newline, a carriage return is an error, a single stray character makes one token with the newline
//! right behind it, and one that is the very last of the text is overlooked.

use std::ops::Range;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Ident,
    String,
    Number,
    Newline,
    Semicolon,
    Comma,
    Assign,
    Append,
    Open,
    Close,
    /// Text that is no token.
    Bad,
    /// A single character that is no token, with the newline right behind it.
    BadNewline,
    End,
}

impl TokenKind {
    /// The name xl's messages use.
    pub(crate) const fn xl_name(self) -> &'static str {
        match self {
            Self::Ident => "IDENT",
            Self::String => "STRING",
            Self::Number => "NUMBER",
            Self::Newline | Self::BadNewline => "NEWLINE",
            Self::Semicolon => "';'",
            Self::Comma => "','",
            Self::Assign => "'='",
            Self::Append => "+=",
            Self::Open => "'['",
            Self::Close => "']'",
            Self::Bad => "LEXERR",
            Self::End => "$end",
        }
    }

    /// The words people use.
    pub(crate) const fn plain_name(self) -> &'static str {
        match self {
            Self::Ident => "a name",
            Self::String => "a string",
            Self::Number => "a number",
            Self::Newline | Self::BadNewline => "the end of the line",
            Self::Semicolon => "\";\"",
            Self::Comma => "\",\"",
            Self::Assign => "\"=\"",
            Self::Append => "\"+=\"",
            Self::Open => "\"[\"",
            Self::Close => "\"]\"",
            Self::Bad => "this",
            Self::End => "the end of the text",
        }
    }
}

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) span: Range<usize>,
}

/// The scanner.
#[derive(Debug)]
pub(crate) struct Lexer<'t> {
    text: &'t str,
    at: usize,
    /// A character was met that only Python would want; xl then adds three lines to its errors.
    pub(crate) likely_python: bool,
}

const fn is_ident(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.')
}

const fn is_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'x')
}

impl<'t> Lexer<'t> {
    pub(crate) const fn new(text: &'t str) -> Self {
        Self { text, at: 0, likely_python: false }
    }

    const fn bytes(&self) -> &'t [u8] {
        self.text.as_bytes()
    }

    /// The next token; `End` for ever after the last.
    pub(crate) fn next(&mut self) -> Token {
        while matches!(self.bytes().get(self.at), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        let start = self.at;
        let rest = &self.bytes()[start..];
        let Some(&first) = rest.first() else { return self.token(TokenKind::End, 0) };
        let run = |wanted: fn(u8) -> bool| rest.iter().take_while(|b| wanted(**b)).count();
        match first {
            b'a'..=b'z' => self.token(TokenKind::Ident, run(is_ident)),
            b'0'..=b'9' => self.token(TokenKind::Number, run(is_number)),
            b'\n' => self.token(TokenKind::Newline, 1),
            b';' => self.token(TokenKind::Semicolon, 1),
            b',' => self.token(TokenKind::Comma, 1),
            b'=' => self.token(TokenKind::Assign, 1),
            b'[' => self.token(TokenKind::Open, 1),
            b']' => self.token(TokenKind::Close, 1),
            b'+' if rest.get(1) == Some(&b'=') => self.token(TokenKind::Append, 2),
            // A comment is the newline that ends it.
            b'#' => match rest.iter().position(|b| *b == b'\n') {
                Some(newline) => self.token(TokenKind::Newline, newline + 1),
                None => self.bad(),
            },
            b'\'' | b'"' => match string_length(rest) {
                Some(length) => self.token(TokenKind::String, length),
                None => self.bad(),
            },
            _ => self.bad(),
        }
    }

    fn token(&mut self, kind: TokenKind, length: usize) -> Token {
        let start = self.at;
        self.at += length;
        Token { kind, span: start..self.at }
    }

    /// Text that begins no token, up to the next blank.
    fn bad(&mut self) -> Token {
        let rest = &self.bytes()[self.at..];
        if matches!(rest[0], b'+' | b'-' | b'.' | b'(' | b')' | b':') {
            self.likely_python = true;
        }
        match rest.get(1) {
            None => self.token(TokenKind::End, 1),
            Some(b'\n') => self.token(TokenKind::BadNewline, 2),
            Some(_) => {
                let more =
                    rest[1..].iter().take_while(|b| !matches!(b, b' ' | b'\t' | b'\n')).count();
                self.token(TokenKind::Bad, 1 + more)
            }
        }
    }
}

/// The length of a quoted string at the start of `rest`, quotes included, if it is closed on its
/// line.
fn string_length(rest: &[u8]) -> Option<usize> {
    let quote = rest[0];
    let mut at = 1;
    loop {
        match rest.get(at)? {
            b'\n' | 0 => return None,
            b'\\' => {
                if matches!(rest.get(at + 1)?, b'\n' | 0) {
                    return None;
                }
                at += 2;
            }
            byte if *byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// Why a quoted string cannot be read, in xl's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EscapeError {
    /// `\xNN`.
    Hex,
    /// An octal escape of fewer than three digits.
    Octal,
    /// A backslash before a character that has no meaning there.
    Unknown,
}

impl EscapeError {
    /// xl's message, its spelling included: scripts may search for it.
    #[must_use]
    pub const fn xl_text(self) -> &'static str {
        match self {
            Self::Hex => {
                "invalid digit after backslash hexnumerical character escape in quoted string"
            }
            Self::Octal => {
                "invalid digit after backslash octalnumerical character escape in quoted string"
            }
            Self::Unknown => "invalid character after backlash in quoted string",
        }
    }
}

/// The text inside a quoted string.
///
/// An octal escape stands for nothing at all; that is xl's behaviour, kept.
pub(crate) fn unquote(quoted: &str) -> Result<String, EscapeError> {
    let inner = &quoted[1..quoted.len() - 1];
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some(c @ ('"' | '\'' | '\\')) => out.push(c),
            Some('a') => out.push('\x07'),
            Some('b') => out.push('\x08'),
            Some('f') => out.push('\x0c'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('v') => out.push('\x0b'),
            Some('x') => return Err(EscapeError::Hex),
            Some('0'..='7') => {
                // xl reads what follows as a decimal number of two characters, sign and blanks
                // included.
                let second = chars.next();
                let third = chars.next();
                let fits =
                    matches!(second, Some('0'..='9' | ' ' | '\t' | '\x0b'..='\r' | '+' | '-'))
                        && matches!(third, Some('0'..='9'));
                if !fits {
                    return Err(EscapeError::Octal);
                }
            }
            _ => return Err(EscapeError::Unknown),
        }
    }
    Ok(out)
}
