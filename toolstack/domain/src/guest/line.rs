//! One line, read and written.

use std::borrow::Cow;

use super::{
    FAILED_TO_START, FIELDS_MAX, Fields, GuestWord, LINE_MAX, Message, NAME_MAX, REFERENCE_MAX,
    Refusal, Severity, TEXT_MAX, VALUE_MAX, clean,
};

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// `ref=`: whoever wrote the line wants an answer under this name.
    pub reference: Option<String>,
    /// The message, or why there is none.
    pub message: Result<Message, Refusal>,
}

/// Reads one line, without its end.
#[must_use]
pub fn decode(line: &[u8]) -> Decoded {
    if line.len() > LINE_MAX {
        return Decoded { reference: None, message: Err(Refusal::TooLong) };
    }
    let text = String::from_utf8_lossy(line);
    let mut fields = match fields(&text) {
        Ok(fields) => fields,
        Err(refusal) => return Decoded { reference: None, message: Err(refusal) },
    };
    let reference = fields.take("ref").filter(|text| {
        (1..=REFERENCE_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    Decoded { reference, message: message(fields) }
}

/// The fields of one line, the first of which is `id`.
struct Named {
    id: String,
    rest: Fields,
}

impl Named {
    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.rest.iter().position(|(name, _)| name == key)?;
        Some(self.rest.remove(at).1)
    }

    /// `text=`, also called after the message: `log_text=`.
    fn text(&mut self) -> Result<String, Refusal> {
        let own = format!("{}_text", self.id);
        let text = match (self.take("text"), self.take(&own)) {
            (Some(_), Some(_)) => return Err(Refusal::Twice { key: "text".to_owned() }),
            (text, other) => text.or(other).unwrap_or_default(),
        };
        Ok(clean(&text, TEXT_MAX))
    }

    /// What is left, fit to be shown.
    fn others(self) -> Fields {
        let clean = |(key, value): (String, String)| (key, super::clean(&value, VALUE_MAX));
        self.rest.into_iter().map(clean).collect()
    }
}

fn message(mut fields: Named) -> Result<Message, Refusal> {
    let text = fields.text()?;
    let id = fields.id.clone();
    let spoken = |text: &str, fields: &Named| {
        let empty = text.is_empty() && fields.rest.is_empty();
        if empty { Err(Refusal::Missing { id: id.clone(), key: "text" }) } else { Ok(()) }
    };
    Ok(match id.as_str() {
        "started" => Message::Word(GuestWord::Started),
        "failed" => {
            let text = if text.is_empty() { FAILED_TO_START.to_owned() } else { text };
            Message::Word(GuestWord::Failed { text })
        }
        "progress" => {
            let missing = Refusal::Missing { id: id.clone(), key: "percent" };
            let percent = percent(&fields.take("percent").ok_or(missing)?)?;
            Message::Word(GuestWord::Progress { percent, text })
        }
        "log" => {
            let severity = severity(fields.take("severity").as_deref())?;
            spoken(&text, &fields)?;
            Message::Log { severity, text, fields: fields.others() }
        }
        "alert" => {
            spoken(&text, &fields)?;
            Message::Alert { text, fields: fields.others() }
        }
        _ => Message::Other { id, text, fields: fields.others() },
    })
}

fn percent(text: &str) -> Result<u8, Refusal> {
    let digits = text.strip_suffix('%').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let number = if plain { digits.parse::<u8>().ok() } else { None };
    number
        .filter(|percent| *percent <= 100)
        .ok_or(Refusal::BadValue { key: "percent", expected: "0 to 100" })
}

fn severity(text: Option<&str>) -> Result<Severity, Refusal> {
    match text {
        None => Ok(Severity::default()),
        Some(text) if text.eq_ignore_ascii_case("info") => Ok(Severity::Info),
        Some(text) if text.eq_ignore_ascii_case("warning") => Ok(Severity::Warning),
        Some(_) => Err(Refusal::BadValue { key: "severity", expected: "info or warning" }),
    }
}

const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

/// Takes a line apart.
fn fields(line: &str) -> Result<Named, Refusal> {
    let line = line.trim_end_matches(is_blank);
    let mut rest = line.trim_start_matches(is_blank);
    let mut id = None;
    let mut found = Fields::new();
    while !rest.is_empty() {
        let at = line.len() - rest.len();
        let end = rest.find(|c| is_blank(c) || c == '=').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let Some(after) = after.strip_prefix('=') else {
            return Err(if id.is_none() { Refusal::NoId } else { Refusal::NoField { at } });
        };
        let name = self::name(name)?;
        let (value, after) = value(after)?;
        rest = after.trim_start_matches(is_blank);
        if id.is_none() {
            if name != "id" {
                return Err(Refusal::NoId);
            }
            id = Some(self::name(&value)?);
            continue;
        }
        if found.len() == FIELDS_MAX {
            return Err(Refusal::TooMany);
        }
        if name == "id" || found.iter().any(|(known, _)| *known == name) {
            return Err(Refusal::Twice { key: name });
        }
        found.push((name, value.into_owned()));
    }
    Ok(Named { id: id.ok_or(Refusal::NoId)?, rest: found })
}

/// A name in small letters: some terminals have capitals only.
fn name(text: &str) -> Result<String, Refusal> {
    let part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let good = text.len() <= NAME_MAX
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && text.bytes().all(part);
    if good { Ok(text.to_ascii_lowercase()) } else { Err(Refusal::BadName) }
}

/// A value, quoted or not, and what follows it.
fn value(text: &str) -> Result<(Cow<'_, str>, &str), Refusal> {
    let Some(inside) = text.strip_prefix('"') else {
        let end = text.find(is_blank).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return Ok((value.into(), rest));
    };
    let mut value = String::new();
    let mut chars = inside.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let rest = &inside[at + 1..];
                if rest.starts_with(|c| !is_blank(c)) {
                    return Err(Refusal::AfterQuote);
                }
                return Ok((value.into(), rest));
            }
            '\\' => match chars.next() {
                Some((_, 'n' | 't')) => value.push(' '),
                Some((_, c)) => value.push(c),
                None => return Err(Refusal::OpenQuote),
            },
            c => value.push(c),
        }
    }
    Err(Refusal::OpenQuote)
}

/// A value as it may stand in a line.
pub(super) fn quoted(value: &str) -> Cow<'_, str> {
    let plain = |c: char| !is_blank(c) && !matches!(c, '"' | '\\');
    if !value.is_empty() && value.chars().all(plain) {
        return value.into();
    }
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out.into()
}

impl Message {
    /// The line of this message, without its end.
    ///
    /// # Errors
    /// [`Refusal::TooLong`] where it would be longer than [`LINE_MAX`].
    pub fn encode(&self) -> Result<String, Refusal> {
        let mut line = format!("id={}", self.id());
        let mut add = |key: &str, value: &str| {
            line.push(' ');
            line.push_str(key);
            line.push('=');
            line.push_str(&quoted(value));
        };
        let (text, fields) = match self {
            Self::Word(GuestWord::Started) => ("", None),
            Self::Word(GuestWord::Failed { text }) => (text.as_str(), None),
            Self::Word(GuestWord::Progress { percent, text }) => {
                add("percent", &percent.to_string());
                (text.as_str(), None)
            }
            Self::Log { severity, text, fields } => {
                if *severity == Severity::Warning {
                    add("severity", "warning");
                }
                (text.as_str(), Some(fields))
            }
            Self::Alert { text, fields } | Self::Other { text, fields, .. } => {
                (text.as_str(), Some(fields))
            }
        };
        if !text.is_empty() {
            add("text", text);
        }
        for (key, value) in fields.into_iter().flatten() {
            add(key, value);
        }
        if line.len() > LINE_MAX { Err(Refusal::TooLong) } else { Ok(line) }
    }
}
