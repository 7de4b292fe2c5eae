//! Writes JSON the way YAJL's beautifier does.
//!
//! Scripts read `xl list -l` and `xl create -n` with grep and sed, so the layout is part of the
//! interface: four blanks a level, one blank after the colon, an empty line inside an empty map
//! or array, and a newline after the outermost end.

use crate::text::add;

/// A JSON value whose members keep their order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Number(i64),
    /// Text.
    Text(String),
    /// `[ … ]`.
    List(Vec<Self>),
    /// `{ … }`.
    Map(Map),
}

/// An object under construction.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Map(Vec<(String, Value)>);

impl Map {
    /// Adds a member.
    pub(crate) fn put(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.0.push((key.to_owned(), value.into()));
        self
    }

    /// Adds a member if there is a value.
    pub(crate) fn put_some(&mut self, key: &str, value: Option<impl Into<Value>>) -> &mut Self {
        if let Some(value) = value {
            self.put(key, value);
        }
        self
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Self {
        Self::Map(map)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<Vec<Self>> for Value {
    fn from(list: Vec<Self>) -> Self {
        Self::List(list)
    }
}

/// The document as text, with its final newline.
pub(crate) fn render(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value, 0);
    out.push('\n');
    out
}

fn write(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => add(out, format_args!("{number}")),
        Value::Text(text) => quote(out, text),
        Value::List(items) => {
            out.push_str("[\n");
            for (at, item) in items.iter().enumerate() {
                separate(out, at);
                indent(out, depth + 1);
                write(out, item, depth + 1);
            }
            out.push('\n');
            indent(out, depth);
            out.push(']');
        }
        Value::Map(map) => {
            out.push_str("{\n");
            for (at, (key, value)) in map.0.iter().enumerate() {
                separate(out, at);
                indent(out, depth + 1);
                quote(out, key);
                out.push_str(": ");
                write(out, value, depth + 1);
            }
            out.push('\n');
            indent(out, depth);
            out.push('}');
        }
    }
}

fn separate(out: &mut String, at: usize) {
    if at > 0 {
        out.push_str(",\n");
    }
}

fn indent(out: &mut String, depth: usize) {
    for _ in 0..depth {
        out.push_str("    ");
    }
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => add(out, format_args!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_yajl() {
        let mut inner = Map::default();
        inner.put("name", "a/b").put("empty", Map::default()).put("none", Vec::new());
        let mut outer = Map::default();
        outer.put("domid", 1u32).put("config", inner);
        let text = render(&vec![Value::from(outer)].into());
        assert_eq!(
            text,
            "[\n    {\n        \"domid\": 1,\n        \"config\": {\n            \
             \"name\": \"a/b\",\n            \"empty\": {\n\n            },\n            \
             \"none\": [\n\n            ]\n        }\n    }\n]\n"
        );
    }

    #[test]
    fn control_characters_are_escaped_and_utf8_is_not() {
        assert_eq!(render(&Value::from("a\u{1}\t\"\\ü")), "\"a\\u0001\\t\\\"\\\\ü\"\n");
    }

    #[test]
    fn any_value_reads_back_as_json() {
        let text =
            render(&Value::List(vec![Value::Null, true.into(), (-3i64).into(), "\n".into()]));
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back, serde_json::json!([null, true, -3, "\n"]));
    }
}
