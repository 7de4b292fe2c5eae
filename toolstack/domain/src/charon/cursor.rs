//! Words, keys and values of one line.

use std::ops::Range;

use super::error::Mistake;

/// A mistake and the byte of the line that it is at.
pub(super) type Slip = (usize, Mistake);

/// The double quotes of a keyboard, and those that a word processor puts in their place.
const QUOTES: [char; 6] = ['"', '\u{201c}', '\u{201d}', '\u{201e}', '\u{201f}', '\u{2033}'];

/// The lines of a text as ranges, without the ends of lines of either system.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = 0;
    text.split('\n').map(move |line| {
        let start = at;
        at += line.len() + 1;
        start..start + line.trim_end_matches('\r').len()
    })
}

/// A place in a line.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'l> {
    line: &'l str,
    at: usize,
}

/// A word or a value and where it stands, quotes left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word<'l> {
    pub(super) text: &'l str,
    pub(super) span: Range<usize>,
}

impl<'l> Cursor<'l> {
    pub(super) const fn new(line: &'l str) -> Self {
        Self { line, at: 0 }
    }

    pub(super) const fn at(&self) -> usize {
        self.at
    }

    fn rest(&self) -> &'l str {
        &self.line[self.at..]
    }

    /// Goes on to the next character that is no space; the end of the line is a comment's start.
    fn skip_spaces(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches(is_space).len();
    }

    /// Whether nothing is left but spaces and a comment.
    pub(super) fn at_end(&mut self) -> bool {
        self.skip_spaces();
        self.rest().is_empty() || self.rest().starts_with('#')
    }

    /// Takes a character if it is next, spaces before it included.
    pub(super) fn take(&mut self, wanted: char) -> bool {
        self.skip_spaces();
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    /// Characters up to one that ends a word.
    fn bare(&mut self, ends: impl Fn(char) -> bool) -> Word<'l> {
        let rest = self.rest();
        let length = rest.find(|c| is_space(c) || c == '#' || ends(c)).unwrap_or(rest.len());
        let span = self.at..self.at + length;
        self.at = span.end;
        Word { text: &rest[..length], span }
    }

    /// A name of an object or a key; `None` where the line is at its end, empty where it goes on
    /// with something that is none.
    pub(super) fn name(&mut self) -> Option<Word<'l>> {
        (!self.at_end()).then(|| self.bare(|c| "=[]".contains(c) || QUOTES.contains(&c)))
    }

    /// A value or a file's name, in quotes or not; `None` where the line is at its end.
    pub(super) fn value(&mut self) -> Result<Option<Word<'l>>, Slip> {
        if self.at_end() {
            return Ok(None);
        }
        let Some(open) = self.rest().chars().next().filter(|c| QUOTES.contains(c)) else {
            return Ok(Some(self.bare(|_| false)));
        };
        let from = self.at + open.len_utf8();
        let Some(length) = self.line[from..].find(QUOTES) else {
            return Err((self.at, Mistake::OpenQuotes));
        };
        let span = from..from + length;
        let close = self.line[span.end..].chars().next().map_or(0, char::len_utf8);
        self.at = span.end + close;
        match self.rest().chars().next() {
            Some(c) if !is_space(c) && c != '#' => Err((self.at, Mistake::BehindQuotes)),
            _ => Ok(Some(Word { text: &self.line[span.clone()], span })),
        }
    }

    /// An index in brackets, if one is next: `None` in the result is one that is no number.
    pub(super) fn index(&mut self) -> Option<Option<u32>> {
        if !self.take('[') {
            return None;
        }
        self.skip_spaces();
        let number = self.bare(|c| c == ']').text.parse().ok();
        Some(number.filter(|_| self.take(']')))
    }
}

/// Word processors make spaces that do not break, too; a stray mark of the byte order is nothing.
fn is_space(c: char) -> bool {
    c.is_whitespace() || c == '\u{feff}'
}
