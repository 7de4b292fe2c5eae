//! The grammar of Python's `ConfigParser`, as supervisord has it: sections in brackets, `key = value`
//! or `key: value`, keys in letters of any case, values that go on in indented lines, comments
//! behind `;` and `#` at the start of a line or behind a blank.

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// In small letters.
    pub(super) key: String,
    pub(super) value: String,
    /// From 1.
    pub(super) line: usize,
}

/// A section; of a key that is given twice the last value holds, in the place of the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) entries: Vec<Entry>,
}

/// A line that is nothing of this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    pub(super) line: usize,
    pub(super) text: &'static str,
}

/// What a text says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ini {
    pub(super) sections: Vec<Section>,
    pub(super) bad: Vec<BadLine>,
}

/// Reads a text; sections of one name are one section.
pub(super) fn read(text: &str) -> Ini {
    let mut reader = Reader { ini: Ini::default(), section: None, entry: None, indent: 0 };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        reader.line(index + 1, line);
    }
    for entry in reader.ini.sections.iter_mut().flat_map(|section| &mut section.entries) {
        entry.value.truncate(entry.value.trim_end().len());
    }
    reader.ini
}

struct Reader {
    ini: Ini,
    /// The section that lines belong to, and the entry that they may go on with.
    section: Option<usize>,
    entry: Option<usize>,
    /// How far the line of that entry was indented.
    indent: usize,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) {
        let (text, commented) = without_comment(line);
        let value = text.trim();
        if value.is_empty() {
            // An empty line within a value belongs to it, a comment does not.
            if !commented {
                self.go_on("");
            }
            return;
        }
        let indent = text.chars().take_while(|c| c.is_whitespace()).count();
        if self.entry.is_some() && indent > self.indent {
            self.go_on(value);
            return;
        }
        self.indent = indent;
        if let Some(name) = value.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            self.begin(number, name.0);
        } else {
            self.setting(number, value);
        }
    }

    fn begin(&mut self, line: usize, name: &str) {
        self.entry = None;
        let known = self.ini.sections.iter().position(|section| section.name == name);
        self.section = Some(known.unwrap_or_else(|| {
            let name = name.to_owned();
            self.ini.sections.push(Section { name, line, entries: Vec::new() });
            self.ini.sections.len() - 1
        }));
    }

    fn setting(&mut self, line: usize, text: &str) {
        self.entry = None;
        let Some(section) = self.section else {
            self.bad(line, "stands before the first [section]");
            return;
        };
        let Some((key, value)) = text.split_once(['=', ':']) else {
            self.bad(line, "is neither [section] nor key = value");
            return;
        };
        let key = key.trim().to_lowercase();
        if key.is_empty() {
            self.bad(line, "has no key in front of its value");
            return;
        }
        let entry = Entry { key, value: value.trim().to_owned(), line };
        let entries = &mut self.ini.sections[section].entries;
        let known = entries.iter().position(|other| other.key == entry.key);
        self.entry = Some(match known {
            Some(index) => {
                entries[index] = entry;
                index
            }
            None => {
                entries.push(entry);
                entries.len() - 1
            }
        });
    }

    fn go_on(&mut self, text: &str) {
        if let (Some(section), Some(entry)) = (self.section, self.entry) {
            let value = &mut self.ini.sections[section].entries[entry].value;
            value.push('\n');
            value.push_str(text);
        }
    }

    fn bad(&mut self, line: usize, text: &'static str) {
        self.ini.bad.push(BadLine { line, text });
    }
}

/// A line up to its comment, and whether it has one.
fn without_comment(line: &str) -> (&str, bool) {
    let mut blank = true;
    for (at, c) in line.char_indices() {
        if blank && matches!(c, ';' | '#') {
            return (&line[..at], true);
        }
        blank = c.is_whitespace();
    }
    (line, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys and values of the first section.
    fn first(text: &str) -> Vec<(String, String)> {
        let ini = read(text);
        assert_eq!(ini.bad, [], "{text}");
        let entries = ini.sections.into_iter().next().unwrap().entries;
        entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.into(), value.into())
    }

    #[test]
    fn keys_are_of_any_case_and_stand_before_an_equals_sign_or_a_colon() {
        let read = first("[s]\nKey = a = b\nother:c:d\nempty =\n");
        assert_eq!(read, [pair("key", "a = b"), pair("other", "c:d"), pair("empty", "")]);
    }

    #[test]
    fn comments_stand_at_the_start_of_a_line_or_behind_a_blank() {
        let read = first("; one\n# two\n[s]\na = 1;2#3 ; three\nb = x #four\n  ; five\nc=;six\n");
        assert_eq!(read, [pair("a", "1;2#3"), pair("b", "x"), pair("c", ";six")]);
    }

    #[test]
    fn indented_lines_go_on_with_a_value_and_comments_between_them_do_not() {
        let read = first("[s]\na = 1,\n  2,\n; no\n\n\t3\n\nb = 4\n");
        assert_eq!(read, [pair("a", "1,\n2,\n\n3"), pair("b", "4")]);
    }

    #[test]
    fn the_last_of_two_values_holds_and_two_sections_of_one_name_are_one() {
        let text = "[s]\na = 1\n[t]\n[s]\nA = 2\nb = 3\n";
        assert_eq!(first(text), [pair("a", "2"), pair("b", "3")]);
        let ini = read(text);
        assert_eq!(ini.sections.len(), 2);
        assert_eq!(ini.sections[0].entries[0].line, 5);
    }

    #[test]
    fn lines_that_are_nothing_are_told_by_their_number() {
        let ini = read("a = 1\n[s]\nwhat is this\n= 3\n");
        let lines: Vec<_> = ini.bad.iter().map(|bad| bad.line).collect();
        assert_eq!(lines, [1, 3, 4]);
    }

    #[test]
    fn odd_bytes_and_dos_line_ends_are_text_like_any_other() {
        assert_eq!(first("\u{feff}[s]\r\nä = ö\r\n"), [pair("ä", "ö")]);
        assert_eq!(read("[\n]\n[]\n").sections[0].name, "");
    }
}
