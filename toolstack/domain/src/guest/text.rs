//! Text from a guest, made fit for a terminal and a log.

use std::fmt::Write as _;

/// What a cut text ends with.
const CUT: char = '…';

/// One line without control characters, at most `max` bytes long: blanks of every kind become a
/// space, other control characters and those that turn or hide text are spelled out, a text that is
/// too long is cut and ends with `…`. What is clean stays as it is.
#[must_use]
pub fn clean(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.trim().chars() {
        if c.is_whitespace() {
            out.push(' ');
        } else if c.is_control() || is_hidden(c) {
            let code = u32::from(c);
            // Writing to a string cannot fail.
            let _written = if code < 0x100 {
                write!(out, "\\x{code:02x}")
            } else {
                write!(out, "\\u{{{code:x}}}")
            };
        } else {
            out.push(c);
        }
        if out.len() > max {
            return cut(out, max);
        }
    }
    out
}

fn cut(mut text: String, max: usize) -> String {
    let room = max.saturating_sub(CUT.len_utf8());
    let end = (0..=room.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
    if max >= CUT.len_utf8() {
        text.push(CUT);
    }
    text
}

/// Characters that show nothing, and change how what follows them is shown.
const fn is_hidden(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}
