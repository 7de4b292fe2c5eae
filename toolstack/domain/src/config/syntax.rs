//! The grammar: statements `key = value` and `key += value`, where a value is a string, a number
//! or a list of values.
//!
//! Every error is found that xl finds, in its order and with its wording: after one, reading goes
//! on at the next newline, and no further error of the grammar is reported until three tokens in a
//! row have fitted. Text that is no token is reported and skipped, as if it were not there. Errors
//! that xl does not come to are found as well and marked.

use std::collections::BTreeMap;
use std::ops::Range;

use super::lexer::{EscapeError, Lexer, Token, TokenKind, unquote};
use super::text::SourceText;

/// A value with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) kind: ValueKind,
    pub(crate) span: Range<usize>,
}

/// What a value is. xl keeps numbers as text as well; whether a text is a number is asked by the
/// key that wants one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ValueKind {
    /// A string or a number.
    Atom(String),
    List(Vec<Value>),
}

/// The value that a key has at the end of the text.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) value: Value,
    /// Where the key's name stands.
    pub(crate) key_span: Range<usize>,
    /// Made by `+=`: no longer readable as a number.
    pub(crate) appended: bool,
}

/// What was wrong with one statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SyntaxErrorKind {
    Lexical,
    Unexpected {
        found: TokenKind,
        place: Expecting,
    },
    Escape(EscapeError),
    /// A list added to a string, or a string to a list.
    Mixed,
}

/// Where in a statement the parser stands, which decides what it expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expecting {
    Statement,
    Operator,
    Value,
    EndOfStatement,
    InList,
    BehindItem,
}

impl Expecting {
    /// xl's list of what it expects.
    pub(crate) const fn xl_text(self) -> &'static str {
        match self {
            Self::Statement => "$end or IDENT or NEWLINE or ';'",
            Self::Operator => "+= or '='",
            Self::Value => "STRING or NUMBER or '['",
            Self::EndOfStatement => "$end",
            Self::InList | Self::BehindItem => "']'",
        }
    }

    /// The same for people; more exact than xl, which names only one of what would do.
    pub(crate) const fn plain_text(self) -> &'static str {
        match self {
            Self::Statement => "a statement: key = value",
            Self::Operator => "\"=\" or \"+=\" behind the key",
            Self::Value => "a string in quotes, a number or a list in brackets",
            Self::EndOfStatement => "the end of the line or \";\"",
            Self::InList => "a value or \"]\"",
            Self::BehindItem => "\",\" or \"]\"",
        }
    }
}

/// An error with its place and with what xl says about the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) kind: SyntaxErrorKind,
    pub(crate) span: Range<usize>,
    /// The line number xl prints, which is one too low at newlines.
    pub(crate) xl_line: usize,
    /// The text xl prints behind `near`; `None` for a newline.
    pub(crate) xl_near: Option<String>,
    /// xl does not come to it: it stops reading at junk behind a complete statement, and after a
    /// first error it no longer looks into strings.
    pub(crate) beyond_xl: bool,
}

/// What a text says.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) settings: BTreeMap<String, Setting>,
    pub(crate) errors: Vec<SyntaxError>,
    /// xl would add that Python is no longer supported.
    pub(crate) likely_python: bool,
}

/// Reads a whole text.
pub(crate) fn read(source: &SourceText) -> Document {
    let mut parser = Parser {
        source,
        lexer: Lexer::new(&source.text),
        ahead: None,
        settle: 0,
        quiet_line: None,
        last_line: 1,
        bad_newline: false,
        xl_stopped: false,
        document: Document::default(),
    };
    parser.file();
    if !parser.xl_stopped {
        parser.document.likely_python = parser.lexer.likely_python;
    }
    parser.document
}

struct Parser<'s> {
    source: &'s SourceText,
    lexer: Lexer<'s>,
    ahead: Option<Token>,
    /// Tokens that still have to fit before the next error of the grammar is reported.
    settle: u8,
    /// The line of the last lexical error: one is enough for a line.
    quiet_line: Option<usize>,
    /// The line of the last token before the end, which is where xl sees the end.
    last_line: usize,
    /// The newline ahead came with a stray character in front.
    bad_newline: bool,
    /// xl would not read on.
    xl_stopped: bool,
    document: Document,
}

/// A statement was given up; an error has been recorded if one was due.
struct GivenUp;

/// How deep lists may be nested; deeper ones are an error rather than a deep recursion.
const MAX_DEPTH: usize = 64;

impl<'s> Parser<'s> {
    fn peek(&mut self) -> &Token {
        while self.ahead.is_none() {
            let mut token = self.lexer.next();
            match token.kind {
                TokenKind::Bad => {
                    self.last_line = self.source.line_of(token.span.start);
                    self.lexical(SyntaxErrorKind::Lexical, token.span, 0);
                    continue;
                }
                TokenKind::BadNewline => {
                    let character = token.span.start..token.span.end - 1;
                    self.lexical(SyntaxErrorKind::Lexical, character, 1);
                    token.kind = TokenKind::Newline;
                    token.span.start += 1;
                    self.bad_newline = true;
                }
                TokenKind::String => {
                    if let Err(error) = unquote(self.slice(&token.span)) {
                        self.lexical(SyntaxErrorKind::Escape(error), token.span.clone(), 0);
                    }
                }
                _ => {}
            }
            if token.kind != TokenKind::End {
                let further = usize::from(self.bad_newline);
                self.last_line = self.source.line_of(token.span.start) + further;
            }
            self.ahead = Some(token);
        }
        self.ahead.as_ref().expect("the loop ends with a token")
    }

    fn kind(&mut self) -> TokenKind {
        self.peek().kind
    }

    /// Takes the token ahead as fitting.
    fn shift(&mut self) -> Token {
        self.peek();
        self.bad_newline = false;
        self.settle = self.settle.saturating_sub(1);
        self.ahead.take().expect("peek filled it")
    }

    fn slice(&self, span: &Range<usize>) -> &'s str {
        &self.source.text[span.clone()]
    }

    /// Records an error of the scanner's kind; at most one for each line, where the line is the one
    /// that xl has arrived at: `newlines` further down.
    fn lexical(&mut self, kind: SyntaxErrorKind, span: Range<usize>, newlines: usize) {
        let xl_line = self.source.line_of(span.start);
        let line = xl_line + newlines;
        let beyond_xl = self.xl_stopped
            || (kind != SyntaxErrorKind::Lexical && !self.document.errors.is_empty());
        if self.quiet_line == Some(line) && !beyond_xl {
            return;
        }
        if !beyond_xl {
            self.quiet_line = Some(line);
        }
        let xl_near = Some(self.slice(&span).to_owned());
        self.document.errors.push(SyntaxError { kind, span, xl_line, xl_near, beyond_xl });
    }

    /// The token ahead does not fit.
    fn unexpected(&mut self, place: Expecting) -> GivenUp {
        let Token { kind: found, span } = self.peek().clone();
        let line = match found {
            TokenKind::End => self.last_line,
            _ => self.source.line_of(span.start),
        };
        // A newline behind a stray character is not worth a second message.
        let told = found == TokenKind::Newline && self.bad_newline;
        if self.settle == 0 && self.quiet_line != Some(line) && !told {
            let text = self.slice(&span);
            let newline = found == TokenKind::Newline;
            self.document.errors.push(SyntaxError {
                kind: SyntaxErrorKind::Unexpected { found, place },
                span: span.clone(),
                xl_line: if newline { line - 1 } else { line },
                xl_near: (text != "\n")
                    .then(|| text.trim_end_matches(['\n', ' ', '\t']).to_owned()),
                beyond_xl: self.xl_stopped,
            });
        }
        if place == Expecting::EndOfStatement && !self.xl_stopped {
            self.xl_stopped = true;
            self.document.likely_python = self.lexer.likely_python;
        }
        GivenUp
    }

    fn file(&mut self) {
        loop {
            let done = match self.kind() {
                TokenKind::End => return,
                TokenKind::Newline | TokenKind::Semicolon => {
                    self.shift();
                    Ok(())
                }
                TokenKind::Ident => self.statement(),
                _ => Err(self.unexpected(Expecting::Statement)),
            };
            if done.is_err() && !self.recover() {
                return;
            }
        }
    }

    /// Skips to behind the next newline; false if there is none.
    fn recover(&mut self) -> bool {
        self.settle = 3;
        loop {
            match self.kind() {
                TokenKind::End => return false,
                TokenKind::Newline => {
                    self.shift();
                    return true;
                }
                _ => self.ahead = None,
            }
        }
    }

    fn statement(&mut self) -> Result<(), GivenUp> {
        let key = self.shift();
        let appended = match self.kind() {
            TokenKind::Assign => false,
            TokenKind::Append => true,
            _ => return Err(self.unexpected(Expecting::Operator)),
        };
        self.shift();
        let (value, last) = self.value(0, Expecting::Value)?;
        self.store(&key, value, appended, last);
        match self.kind() {
            TokenKind::End => Ok(()),
            TokenKind::Newline | TokenKind::Semicolon => {
                self.shift();
                Ok(())
            }
            _ => Err(self.unexpected(Expecting::EndOfStatement)),
        }
    }

    /// A value and the place of its last token.
    fn value(&mut self, depth: usize, place: Expecting) -> Result<(Value, Range<usize>), GivenUp> {
        match self.kind() {
            TokenKind::String => {
                let span = self.peek().span.clone();
                // What is wrong with it was told when it was first looked at.
                let text = unquote(self.slice(&span)).unwrap_or_default();
                self.shift();
                Ok((Value { kind: ValueKind::Atom(text), span: span.clone() }, span))
            }
            TokenKind::Number => {
                let span = self.shift().span;
                let kind = ValueKind::Atom(self.slice(&span).to_owned());
                Ok((Value { kind, span: span.clone() }, span))
            }
            TokenKind::Open if depth < MAX_DEPTH => self.list(depth),
            _ => Err(self.unexpected(place)),
        }
    }

    fn list(&mut self, depth: usize) -> Result<(Value, Range<usize>), GivenUp> {
        let start = self.shift().span.start;
        let mut items = Vec::new();
        let mut comma_due = false;
        loop {
            match self.kind() {
                TokenKind::Newline => {
                    self.shift();
                }
                TokenKind::Close => {
                    let last = self.shift().span;
                    let span = start..last.end;
                    return Ok((Value { kind: ValueKind::List(items), span }, last));
                }
                TokenKind::Comma if comma_due => {
                    self.shift();
                    comma_due = false;
                }
                _ if comma_due => return Err(self.unexpected(Expecting::BehindItem)),
                _ => {
                    items.push(self.value(depth + 1, Expecting::InList)?.0);
                    comma_due = true;
                }
            }
        }
    }

    fn store(&mut self, key: &Token, mut value: Value, appended: bool, last: Range<usize>) {
        let name = self.slice(&key.span);
        if appended && let Some(before) = self.document.settings.get(name) {
            match (&before.value.kind, &mut value.kind) {
                (ValueKind::Atom(old), ValueKind::Atom(new)) => new.insert_str(0, old),
                (ValueKind::List(old), ValueKind::List(new)) => {
                    new.splice(0..0, old.iter().cloned());
                }
                _ => return self.lexical(SyntaxErrorKind::Mixed, last, 0),
            }
        }
        let setting = Setting { value, key_span: key.span.clone(), appended };
        self.document.settings.insert(name.to_owned(), setting);
    }
}

#[cfg(test)]
#[path = "syntax_tests.rs"]
mod tests;
