//! What a document of the stream means.

use serde_json::{Map, Value};

/// An event, as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `STOP`, `SHUTDOWN`, …; not necessarily one that we know.
    pub name: String,
    /// Its `data`, or null.
    pub data: Value,
    /// Seconds and microseconds since the epoch by the other side's clock; `None` where it gives
    /// none.
    pub timestamp: Option<(i64, i64)>,
}

/// The first document of a connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Greeting {
    /// The key under `version`: `qemu`, `StratoVirt`, …
    pub product: String,
    /// Major, minor, micro; zeros where it does not say.
    pub version: [u64; 3],
    /// The packager's text, such as `Debian 1:7.2+dfsg-7`.
    pub package: String,
    /// Capabilities that can be enabled, `oob` for one.
    pub capabilities: Vec<String>,
}

/// One document of the stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The greeting.
    Greeting(Greeting),
    /// An answer: its id as text where it has one, and the result or (class, description).
    Answer {
        /// The id as text, where it has one.
        id: Option<String>,
        /// `return`, or class and description of `error`.
        result: Result<Value, (String, String)>,
    },
    /// An event.
    Event(Event),
    /// None of these.
    Unknown(Value),
}

impl Message {
    /// Reads a document. Never fails: what is not understood is [`Message::Unknown`].
    #[must_use]
    pub fn of(document: Value) -> Self {
        let Value::Object(mut map) = document else {
            return Self::Unknown(document);
        };
        if let Some(Value::Object(qmp)) = map.get("QMP") {
            return Self::Greeting(greeting(qmp));
        }
        if let Some(Value::String(name)) = map.get("event") {
            let name = name.clone();
            let timestamp = map.get("timestamp").and_then(|stamp| {
                Some((stamp.get("seconds")?.as_i64()?, stamp.get("microseconds")?.as_i64()?))
            });
            let data = map.remove("data").unwrap_or(Value::Null);
            return Self::Event(Event { name, data, timestamp });
        }
        // Ours are texts; one of another type is somebody else's and must match nothing.
        let id = map.get("id").map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
        if let Some(value) = map.remove("return") {
            return Self::Answer { id, result: Ok(value) };
        }
        if let Some(error) = map.get("error") {
            let text = |key: &str, default: &str| {
                error.get(key).and_then(Value::as_str).unwrap_or(default).to_owned()
            };
            let desc = text("desc", &error.to_string());
            return Self::Answer { id, result: Err((text("class", "GenericError"), desc)) };
        }
        Self::Unknown(Value::Object(map))
    }
}

fn greeting(qmp: &Map<String, Value>) -> Greeting {
    let mut greeting = Greeting::default();
    if let Some(Value::Object(version)) = qmp.get("version") {
        for (key, value) in version {
            if key == "package" {
                value.as_str().unwrap_or_default().trim().clone_into(&mut greeting.package);
            } else if value.is_object() {
                key.clone_into(&mut greeting.product);
                for (place, part) in greeting.version.iter_mut().zip(["major", "minor", "micro"]) {
                    *place = value.get(part).and_then(Value::as_u64).unwrap_or(0);
                }
            }
        }
    }
    if let Some(Value::Array(list)) = qmp.get("capabilities") {
        greeting.capabilities = list.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    }
    greeting
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_greetings_of_different_products_are_understood() {
        let qemu = json!({"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7},
            "package": "Debian 1:7.2"}, "capabilities": ["oob"]}});
        let Message::Greeting(greeting) = Message::of(qemu) else { panic!("a greeting") };
        assert_eq!((greeting.product.as_str(), greeting.version), ("qemu", [7, 2, 22]));
        assert_eq!(greeting.capabilities, ["oob"]);

        let other = json!({"QMP": {"version": {"StratoVirt": {"major": 2, "minor": 4, "micro": 0},
            "package": ""}, "capabilities": []}});
        let Message::Greeting(greeting) = Message::of(other) else { panic!("a greeting") };
        assert_eq!((greeting.product.as_str(), greeting.version), ("StratoVirt", [2, 4, 0]));

        assert_eq!(Message::of(json!({"QMP": {}})), Message::Greeting(Greeting::default()));
    }

    #[test]
    fn an_unknown_event_with_unknown_fields_is_an_event() {
        let document = json!({"event": "NOVELTY", "data": {"x": [1]}, "colour": 3,
            "timestamp": {"seconds": 5, "microseconds": 6}});
        let expected =
            Event { name: "NOVELTY".into(), data: json!({"x": [1]}), timestamp: Some((5, 6)) };
        assert_eq!(Message::of(document), Message::Event(expected));
    }

    #[test]
    fn errors_without_the_usual_fields_are_still_errors() {
        let message = Message::of(json!({"error": {"code": 7}, "id": "k1"}));
        let Message::Answer { id, result } = message else { panic!("an answer") };
        assert_eq!(id.as_deref(), Some("k1"));
        assert_eq!(result, Err(("GenericError".into(), "{\"code\":7}".into())));
    }

    #[test]
    fn anything_else_is_kept_as_it_is() {
        assert_eq!(Message::of(json!([1])), Message::Unknown(json!([1])));
        assert_eq!(Message::of(json!({"a": 1})), Message::Unknown(json!({"a": 1})));
    }
}
