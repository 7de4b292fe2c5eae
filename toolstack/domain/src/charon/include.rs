//! A configuration with what it includes, as one text that remembers where its lines are from.

use std::ops::Range;

use super::cursor::Slip;
use super::error::{CharonError, Mistake};
use super::statement::{self, Statement, Verb};

/// More files than any configuration is made of; files that include each other end here.
const MAX_INCLUDES: usize = 64;

/// More text than any configuration has; what is looked up in it takes the square of its length.
const MAX_BYTES: usize = 512 << 10;

/// One line of the flat text.
#[derive(Debug)]
struct Line {
    /// Where it stands in the flat text, without its end.
    span: Range<usize>,
    /// The included file that it is from.
    file: Option<String>,
    /// Its number there, from 1.
    number: usize,
}

/// The one text.
#[derive(Debug)]
pub(super) struct Flat {
    text: String,
    lines: Vec<Line>,
}

impl Flat {
    /// Puts a text and what it includes together.
    pub(super) fn read(
        text: &str,
        mut include: impl FnMut(&str) -> Option<String>,
    ) -> Result<Self, CharonError> {
        let mut flat = Self { text: String::new(), lines: Vec::new() };
        let mut files = 0;
        // What is still to be read: text, its file, how far it is read, the line that comes next.
        let mut open = vec![(text.to_owned(), None::<String>, 0, 1)];
        while let Some((text, file, at, number)) = open.last_mut() {
            let Some(line) = text.get(*at..).filter(|rest| !rest.is_empty()) else {
                open.pop();
                continue;
            };
            let whole = line.find('\n').map_or(line.len(), |end| end + 1);
            let line = line[..whole].trim_end_matches(['\n', '\r']);
            let included = match statement::read(line) {
                Ok(Some(Statement { verb: Verb::Include, object, .. })) => Some(object),
                _ => None,
            };
            let place = Line {
                span: flat.text.len()..flat.text.len() + line.len(),
                file: file.clone(),
                number: *number,
            };
            let line = line.to_owned();
            (*at, *number) = (*at + whole, *number + 1);
            let told = |mistake| error(&place, &line, (0, mistake));
            match included {
                Some(name) => {
                    files += 1;
                    if files > MAX_INCLUDES {
                        return Err(told(Mistake::TooManyIncludes(MAX_INCLUDES)));
                    }
                    let text =
                        include(&name).ok_or_else(|| told(Mistake::NotIncluded(name.clone())))?;
                    open.push((text, Some(name), 0, 1));
                }
                None => {
                    if flat.text.len() + line.len() >= MAX_BYTES {
                        return Err(told(Mistake::TooLong(MAX_BYTES)));
                    }
                    flat.text.push_str(&line);
                    flat.text.push('\n');
                    flat.lines.push(place);
                }
            }
        }
        Ok(flat)
    }

    /// The statements of all lines.
    pub(super) fn statements(&self) -> Result<Vec<Statement>, CharonError> {
        let mut statements = Vec::new();
        for line in &self.lines {
            let text = &self.text[line.span.clone()];
            match statement::read(text) {
                Ok(Some(statement)) => statements.push(statement.moved(line.span.start)),
                Ok(None) => {}
                Err(slip) => return Err(error(line, text, slip)),
            }
        }
        Ok(statements)
    }

    /// A mistake at a byte of the flat text.
    pub(super) fn error(&self, at: usize, mistake: Mistake) -> CharonError {
        let line = self.lines.iter().find(|line| line.span.end >= at).or(self.lines.last());
        match line {
            Some(line) => {
                let text = &self.text[line.span.clone()];
                error(line, text, (at.saturating_sub(line.span.start), mistake))
            }
            None => CharonError { file: None, line: 1, column: 1, mistake, text: String::new() },
        }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

fn error(line: &Line, text: &str, (at, mistake): Slip) -> CharonError {
    CharonError {
        file: line.file.clone(),
        line: line.number,
        column: text.get(..at).map_or(0, |before| before.chars().count()) + 1,
        mistake,
        text: text.to_owned(),
    }
}
