//! Text of which nothing acts on a terminal.

use crate::text::add;

/// Whether a character only shows itself: no control character, and none of those that turn the
/// direction of writing round or break a line.
pub(crate) fn is_tame(c: char) -> bool {
    let turns = matches!(
        c,
        '\u{200e}'
            | '\u{200f}'
            | '\u{061c}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    );
    !turns && !c.is_control()
}

/// The same text in its lines, with blanks for what is not tame.
pub(crate) fn lines(text: &str) -> String {
    text.chars().map(|c| if is_tame(c) || c == '\n' { c } else { ' ' }).collect()
}

/// The text in one line, with blanks for what is not tame.
pub(crate) fn line(text: &str) -> String {
    text.chars().map(|c| if is_tame(c) { c } else { ' ' }).collect()
}

/// The same JSON, with escapes for what is not tame.
pub(crate) fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Of these JSON leaves only such as have four digits; line ends are layout.
        if is_tame(c) || c == '\n' {
            out.push(c);
        } else {
            add(&mut out, format_args!("\\u{:04x}", u32::from(c)));
        }
    }
    out
}
