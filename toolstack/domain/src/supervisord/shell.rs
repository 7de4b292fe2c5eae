//! Words of a command line and pairs of an environment, as supervisord divides them.

/// The words of a command, by the rules of a shell: quotes, backslashes, nothing else.
///
/// # Errors
/// A quote or a backslash that is not ended.
pub(super) fn words(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("a quote is not closed")? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or("a quote is not closed")? {
                        '"' => break,
                        '\\' => {
                            let next = chars.next().ok_or("a quote is not closed")?;
                            if !matches!(next, '"' | '\\') {
                                word.push('\\');
                            }
                            word.push(next);
                        }
                        c => word.push(c),
                    }
                }
            }
            '\\' => {
                let next = chars.next().ok_or("nothing follows the last backslash")?;
                word.get_or_insert_default().push(next);
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

/// The pairs of `A=1,B="x,y"` as entries `NAME=value`.
///
/// # Errors
/// What is no pair.
pub(super) fn pairs(text: &str) -> Result<Vec<String>, String> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, behind) = rest
            .split_once('=')
            .map(|(name, behind)| (name.trim(), behind.trim_start()))
            .filter(|(name, _)| !name.is_empty() && !name.contains(char::is_whitespace))
            .ok_or_else(|| "is not a list of NAME=\"value\" with commas between".to_owned())?;
        let quote = behind.chars().next().filter(|c| matches!(c, '"' | '\''));
        let (value, behind) = match quote {
            Some(quote) => behind[1..]
                .split_once(quote)
                .ok_or_else(|| format!("the value of {name} is not closed"))?,
            None => behind.split_at(behind.find([',', '\n']).unwrap_or(behind.len())),
        };
        pairs.push(format!("{name}={}", if quote.is_some() { value } else { value.trim() }));
        let behind = behind.trim_start();
        rest = match behind.strip_prefix(',') {
            Some(behind) => behind.trim_start(),
            None if behind.is_empty() => behind,
            None if quote.is_none() => behind,
            None => return Err(format!("a comma is missing behind the value of {name}")),
        };
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_words_with_quotes_and_backslashes() {
        for (text, want) in [
            ("/bin/cat", vec!["/bin/cat"]),
            ("a  'b c'\t\"d \\\"e\\\\ \\f\"", vec!["a", "b c", "d \"e\\ \\f"]),
            ("a\\ b ''\n c", vec!["a b", "", "c"]),
            ("x'y'\"z\"", vec!["xyz"]),
            ("", vec![]),
        ] {
            assert_eq!(
                words(text).as_deref(),
                Ok(want.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>().as_slice()),
                "{text}"
            );
        }
        for text in ["'a", "\"a", "a\\", "\"a\\"] {
            assert!(words(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_environment_has_pairs_with_commas_between() {
        for (text, want) in [
            ("A=1", vec!["A=1"]),
            ("A=\"1,2\",B='x y',\n C=z", vec!["A=1,2", "B=x y", "C=z"]),
            ("A=1\nB=2,", vec!["A=1", "B=2"]),
            ("", vec![]),
        ] {
            assert_eq!(pairs(text).unwrap(), want, "{text}");
        }
        for text in ["A", "A=\"1", "=1", "A=\"1\"B=2", "A B=1"] {
            assert!(pairs(text).is_err(), "{text}");
        }
    }
}
