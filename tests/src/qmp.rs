//! A client of an api-channel, as simple as one can be.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "helpers of tests fail and tell like tests"
)]

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

/// A client; it fails where it waits longer than it was told.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    input: BufReader<UnixStream>,
    /// Events that came before an answer.
    events: Vec<Value>,
    patience: Duration,
}

impl Qmp {
    /// Connects, waiting for the socket to appear, and leaves the greeting behind.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: &Path, patience: Duration) -> std::io::Result<Self> {
        let end = Instant::now() + patience;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > end => return Err(error),
                // Another process makes it.
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        stream.set_read_timeout(Some(patience))?;
        let input = BufReader::new(stream.try_clone()?);
        let mut qmp = Self { stream, input, events: Vec::new(), patience };
        let greeting = qmp.message();
        assert!(greeting["QMP"].is_object(), "{greeting}");
        drop(qmp.ok("qmp_capabilities", &json!({})));
        Ok(qmp)
    }

    fn message(&mut self) -> Value {
        let mut values = serde_json::Deserializer::from_reader(ByteByByte(&mut self.input));
        Deserialize::deserialize(&mut values).unwrap_or_else(|error| panic!("qmp: {error}"))
    }

    /// A command; the whole answer.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        let message = json!({"execute": command, "arguments": arguments});
        self.stream.write_all(message.to_string().as_bytes()).unwrap();
        loop {
            let answer = self.message();
            if answer.get("event").is_none() {
                return answer;
            }
            self.events.push(answer);
        }
    }

    /// A command that has to succeed; what it returns.
    pub fn ok(&mut self, command: &str, arguments: &Value) -> Value {
        let answer = self.ask(command, arguments);
        assert!(answer.get("return").is_some(), "{command}: {answer}");
        answer["return"].clone()
    }

    /// A command without arguments that has to succeed; what it returns.
    pub fn say(&mut self, command: &str) -> Value {
        self.ok(command, &json!({}))
    }

    /// A command that has to be refused; the class of the refusal and its text.
    pub fn refused(&mut self, command: &str, arguments: &Value) -> (String, String) {
        let answer = self.ask(command, arguments);
        let text = |key: &str| {
            let text = answer["error"][key].as_str();
            text.unwrap_or_else(|| panic!("{command} is not refused: {answer}")).to_owned()
        };
        (text("class"), text("desc"))
    }

    /// Waits for an event; what it carries.
    pub fn event(&mut self, name: &str) -> Value {
        loop {
            if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
                return self.events.remove(at)["data"].clone();
            }
            let message = self.message();
            assert!(message.get("event").is_some(), "{message}");
            self.events.push(message);
        }
    }

    /// What `query-status` says.
    pub fn status(&mut self) -> String {
        self.say("query-status")["status"].as_str().unwrap().to_owned()
    }

    /// Moves the machine to `uri` and waits for it; the last word of `query-migrate`.
    pub fn migrate(&mut self, uri: &str) -> Value {
        drop(self.ok("migrate", &json!({"uri": uri})));
        let end = Instant::now() + self.patience;
        loop {
            let state = self.say("query-migrate");
            match state["status"].as_str() {
                Some("completed" | "failed" | "cancelled") => return state,
                _ => assert!(Instant::now() < end, "{state}"),
            }
            // Another process works on it.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Reads no further than it has to: a parser of a stream would keep what it has read too much.
struct ByteByByte<'a>(&'a mut BufReader<UnixStream>);

impl Read for ByteByByte<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let take = buffer.len().min(1);
        self.0.read(&mut buffer[..take])
    }
}
