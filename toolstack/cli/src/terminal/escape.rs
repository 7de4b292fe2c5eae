//! The character that leaves a console.

/// `^]`, the escape character of xl.
pub(crate) const DEFAULT: u8 = 0x1d;

/// Reads an escape character: `^x` is Control-x, one character stands for itself.
///
/// # Errors
/// A sentence, when it is neither.
pub(crate) fn parse(text: &str) -> Result<u8, String> {
    match *text.as_bytes() {
        [b'^', letter] if letter.is_ascii_alphabetic() || b"@[\\]^_?".contains(&letter) => {
            Ok(if letter == b'?' { 0x7f } else { letter.to_ascii_uppercase() ^ 0x40 })
        }
        [byte] if byte.is_ascii() => Ok(byte),
        _ => Err(format!("\"{text}\" is no escape character: one character, or ^ and one")),
    }
}

/// How the character is shown to people.
pub(crate) fn show(byte: u8) -> String {
    match byte {
        0x7f => "^?".to_owned(),
        0..0x20 => format!("^{}", char::from(byte ^ 0x40)),
        _ => char::from(byte).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_form_and_single_characters_are_read() {
        assert_eq!(parse("^]"), Ok(DEFAULT));
        assert_eq!(parse("^a"), Ok(1));
        assert_eq!(parse("^A"), Ok(1));
        assert_eq!(parse("^"), Ok(b'^'));
        assert_eq!(parse("~"), Ok(b'~'));
        for bad in ["", "ab", "^1", "^]x", "ü"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_read_is_shown_as_it_was_written() {
        for text in ["^]", "^A", "~", "^?"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
    }
}
