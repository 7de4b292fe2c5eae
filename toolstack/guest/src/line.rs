//! The line of a message. The host's side of this grammar is in toolstack/domain/src/guest.

use crate::trouble::Trouble;

/// Longest line in bytes, without its end, and room in it for a reference.
const LINE_MAX: usize = 1024 - " ref=0123456789abcdef".len();
/// Longest text: the host cuts there, too.
const TEXT_MAX: usize = 512;
const NAME_MAX: usize = 32;
const FIELDS_MAX: usize = 15;

/// A message: its name and its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    id: String,
    fields: Vec<(String, String)>,
}

impl Message {
    pub(crate) fn new(id: &str) -> Self {
        Self { id: id.to_owned(), fields: Vec::new() }
    }

    /// The same with one field more.
    pub(crate) fn with(mut self, key: &str, value: &str) -> Self {
        self.fields.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The same with a text, if there is one.
    pub(crate) fn text(self, text: &str) -> Self {
        if text.is_empty() { self } else { self.with("text", text) }
    }

    /// Its line, without an end.
    pub(crate) fn line(&self) -> Result<String, Trouble> {
        let mut line = format!("id={}", name(&self.id)?);
        if self.fields.len() > FIELDS_MAX {
            return Err(Trouble::Usage(format!("a message has at most {FIELDS_MAX} fields")));
        }
        for (key, value) in &self.fields {
            let key = name(key)?;
            if key == "id" || key == "ref" {
                return Err(Trouble::Usage(format!("{key}= stands for something else here")));
            }
            let is_text = key == "text" || key.ends_with("_text");
            let value = if is_text { quoted(fit(value)) } else { quoted(value) };
            line.push_str(&format!(" {key}={value}"));
        }
        if line.len() > LINE_MAX {
            let text = format!("the message has {} bytes, {LINE_MAX} are possible", line.len());
            return Err(Trouble::Usage(text));
        }
        Ok(line)
    }
}

fn name(text: &str) -> Result<&str, Trouble> {
    let part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let good = text.len() <= NAME_MAX
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && text.bytes().all(part);
    good.then_some(text).ok_or_else(|| {
        let rule = "letters, digits, _ . and -, and begins with a letter";
        Trouble::Usage(format!("{text:?} is no name: one has at most {NAME_MAX} {rule}"))
    })
}

/// The longest beginning of a text that has its place in a line, quotes and all.
fn fit(text: &str) -> &str {
    let mut room = TEXT_MAX;
    for (at, c) in text.char_indices() {
        let size = c.len_utf8() + usize::from(matches!(c, '"' | '\\'));
        match room.checked_sub(size) {
            Some(left) => room = left,
            None => return &text[..at],
        }
    }
    text
}

/// A value as it may stand in a line: line ends and tabs become blanks, no control character stays.
fn quoted(value: &str) -> String {
    let blank = |c: char| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c };
    let clean: String = value.chars().map(blank).filter(|c| !c.is_control()).collect();
    if !clean.is_empty() && !clean.contains([' ', '"', '\\']) {
        return clean;
    }
    let mut out = String::from("\"");
    for c in clean.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &Message) -> String {
        message.line().map_err(|trouble| trouble.to_string()).unwrap()
    }

    #[test]
    fn lines_are_those_of_the_grammar() {
        let rows = [
            (Message::new("started"), "id=started"),
            (Message::new("failed").text("no disk"), "id=failed text=\"no disk\""),
            (Message::new("log").text("say \"no\" \\"), "id=log text=\"say \\\"no\\\" \\\\\""),
            (Message::new("log").text("a\nb\t\u{1b}[2J\u{9b}"), "id=log text=\"a b [2J\""),
            (Message::new("log").with("k", ""), "id=log k=\"\""),
            (Message::new("log").text(""), "id=log"),
            (Message::new("log").with("log_text", "T"), "id=log log_text=T"),
        ];
        for (message, wanted) in rows {
            assert_eq!(line(&message), wanted);
        }
    }

    #[test]
    fn a_text_is_cut_and_fits_whatever_is_in_it() {
        for text in ["x", "ä", "\"", "\\ä"].map(|part| part.repeat(5000)) {
            assert!(line(&Message::new("failed").text(&text)).len() <= LINE_MAX);
        }
        assert_eq!(fit("ä\""), "ä\"");
        assert_eq!(fit(&"ä".repeat(300)).len(), TEXT_MAX);
    }

    #[test]
    fn what_the_host_would_refuse_is_refused_here() {
        let wrong = [
            Message::new("a b"),
            Message::new(""),
            Message::new("log").with("9", "x"),
            Message::new("log").with("id", "x"),
            Message::new("log").with("ref", "x"),
            Message::new("log").with("key", &"x".repeat(1000)),
            (0..16).fold(Message::new("log"), |message, n| message.with(&format!("k{n}"), "v")),
        ];
        for message in wrong {
            assert!(matches!(message.line(), Err(Trouble::Usage(_))), "{message:?}");
        }
    }
}
