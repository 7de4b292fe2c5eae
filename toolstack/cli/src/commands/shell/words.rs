//! A typed line as words, quoted as in a shell: `'…'`, `"…"` and `\`. Nothing is expanded.

/// A word of a line, and where it stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// What it says, without its quotes.
    pub(crate) text: String,
    /// The byte at which it begins.
    pub(crate) start: usize,
}

/// What a line comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its words.
    pub(crate) words: Vec<Word>,
    /// The quote that is still open at its end.
    pub(crate) open: Option<char>,
    /// Whether its last word may still go on: nothing stands behind it.
    pub(crate) unfinished: bool,
}

/// Takes a line apart. A `#` that begins a word begins a comment.
pub(crate) fn split(line: &str) -> Line {
    let mut found = Line::default();
    let mut word: Option<Word> = None;
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        if found.open.is_none() && c.is_whitespace() {
            found.words.extend(word.take());
            continue;
        }
        if found.open.is_none() && c == '#' && word.is_none() {
            return found;
        }
        let text = &mut word.get_or_insert_with(|| Word { text: String::new(), start: at }).text;
        match (found.open, c) {
            (Some(quote), c) if c == quote => found.open = None,
            (None, '\'' | '"') => found.open = Some(c),
            (None, '\\') => match chars.next() {
                Some((_, next)) => text.push(next),
                None => found.open = Some('\\'),
            },
            (Some('"'), '\\') => match chars.next() {
                Some((_, next @ ('"' | '\\'))) => text.push(next),
                Some((_, next)) => text.extend(['\\', next]),
                None => text.push('\\'),
            },
            _ => text.push(c),
        }
    }
    found.unfinished = word.is_some();
    found.words.extend(word);
    found
}

/// The words of a line that is to be carried out.
///
/// # Errors
/// A sentence, when a quote is not closed.
pub(crate) fn words(line: &str) -> Result<Vec<String>, String> {
    let line = split(line);
    match line.open {
        Some('\\') => Err("the line ends in the middle, after \\".to_owned()),
        Some(quote) => Err(format!("the quote {quote} is not closed")),
        None => Ok(line.words.into_iter().map(|word| word.text).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_in_a_shell_and_nothing_is_expanded() {
        for (line, wanted) in [
            ("", vec![]),
            ("  status  ", vec!["status"]),
            ("create a.cfg 'name=\"web 2\"'", vec!["create", "a.cfg", "name=\"web 2\""]),
            (r#"a "b \"c\" \d" e\ f ''"#, vec!["a", r#"b "c" \d"#, "e f", ""]),
            (
                "stop $HOME `id` * ~ ; x | y",
                vec!["stop", "$HOME", "`id`", "*", "~", ";", "x", "|", "y"],
            ),
            ("status # all of them", vec!["status"]),
            ("a#b", vec!["a#b"]),
            ("# nothing", vec![]),
        ] {
            assert_eq!(words(line).unwrap(), wanted, "{line}");
        }
    }

    #[test]
    fn a_line_that_is_not_whole_is_refused() {
        for line in ["stop 'web", "stop \"web", "stop web\\", "a 'b\" c"] {
            assert!(words(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_word_knows_where_it_begins_and_whether_it_may_go_on() {
        let line = split("stop 'we");
        assert_eq!(line.words[1], Word { text: "we".into(), start: 5 });
        assert!(line.unfinished);
        assert!(!split("stop ").unfinished);
        assert_eq!(split("ü x").words[1].start, 3);
    }
}
