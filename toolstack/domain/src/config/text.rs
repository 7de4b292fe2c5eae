//! A configuration's text: a file and, behind it, the `key=value` words of a command line, each as
//! a line of its own, and the way back from an offset to the place a person knows.

use std::ops::Range;

/// The source name of the configuration inside a saved image.
pub const SAVED: &str = "<saved>";
/// The source name of a configuration left by `config-update`.
pub const UPDATED: &str = "<updated>";
/// The source name of words on a command line.
pub const COMMAND_LINE: &str = "command line";

/// What a parser reads, and where each piece of it came from.
#[derive(Clone, Debug)]
pub(crate) struct SourceText {
    /// The name of the file as given, or one of the names above.
    pub(crate) name: String,
    /// File and words put together.
    pub(crate) text: String,
    /// Offset in `text` at which each line starts.
    lines: Vec<usize>,
    /// The range of each command-line word in `text`.
    words: Vec<Range<usize>>,
}

/// A place in a configuration, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's name, or `command line`.
    pub source: String,
    /// Line in the file, from 1; for the command line the number of the word.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters the place covers on its line, at least 1.
    pub width: usize,
    /// The whole line.
    pub text: String,
}

impl SourceText {
    /// Puts a file and command-line words together the way xl does: a newline behind the file,
    /// whether it ended with one or not, then one line for each word.
    pub(crate) fn new(name: &str, file: &str, overrides: &[String]) -> Self {
        let mut text = file.to_owned();
        let mut words = Vec::new();
        if !overrides.is_empty() {
            text.push('\n');
            for word in overrides {
                words.push(text.len()..text.len() + word.len());
                text.push_str(word);
                text.push('\n');
            }
        }
        let lines = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(newline, _)| newline + 1))
            .collect();
        Self { name: name.into(), text, lines, words }
    }

    /// The line of an offset as xl counts it: from 1, words counted on behind the file.
    pub(crate) fn line_of(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    /// The place of a range of bytes; one over several lines is shown up to its first line's end.
    pub(crate) fn place(&self, span: &Range<usize>) -> Place {
        let word = self.words.iter().position(|w| w.start <= span.start && span.start <= w.end);
        let line = self.line_of(span.start);
        let line_start = self.lines[line - 1];
        let line_text = self.text[line_start..].split('\n').next().unwrap_or_default();
        let line_end = line_start + line_text.len();
        let count = |range: Range<usize>| self.text.get(range).map_or(0, |t| t.chars().count());
        Place {
            source: if word.is_some() { COMMAND_LINE.into() } else { self.name.clone() },
            line: word.map_or(line, |index| index + 1),
            column: count(line_start..span.start.min(line_end)) + 1,
            width: count(span.start.min(line_end)..span.end.min(line_end)).max(1),
            text: line_text.to_owned(),
        }
    }
}

impl Place {
    /// The line with a caret under the place: two lines of text, each ended by a newline.
    #[must_use]
    pub fn excerpt(&self) -> String {
        // Tabs stay tabs, so that the caret stands right whatever their width.
        let pad: String = self
            .text
            .chars()
            .take(self.column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let shown: String =
            self.text.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect();
        let number = self.line.to_string();
        let gap = " ".repeat(number.len());
        format!("  {number} | {shown}\n  {gap} | {pad}{}\n", "^".repeat(self.width))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.source, self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_command_line_are_lines_behind_the_file() {
        let source = SourceText::new("f", "a=1", &["b=2".into(), "c=3".into()]);
        assert_eq!(source.text, "a=1\nb=2\nc=3\n");
        let place = source.place(&(8..9));
        assert_eq!((place.source.as_str(), place.line, place.column), (COMMAND_LINE, 2, 1));
        assert_eq!(source.line_of(8), 3);
    }

    #[test]
    fn columns_count_characters_and_the_caret_stands_under_them() {
        let source = SourceText::new("f", "ä =\t'ö' ;x\n", &[]);
        let start = source.text.find('\'').unwrap();
        let place = source.place(&(start..start + 4));
        assert_eq!((place.column, place.width), (5, 3));
        assert_eq!(place.excerpt(), "  1 | ä =\t'ö' ;x\n    |    \t^^^\n");
    }

    #[test]
    fn a_place_at_the_very_end_has_a_line_and_a_width() {
        let source = SourceText::new("f", "a=\n", &[]);
        let place = source.place(&(3..3));
        assert_eq!((place.line, place.column, place.width), (2, 1, 1));
    }
}
