//! The server's side of the protocol, without any input or output of its own.
//!
//! A [`Session`] is one connection: bytes in, requests out, and for everything that is no request
//! the refusal that its sender gets. The lines that go back are made by [`line`]. Whoever owns the
//! socket carries requests out in their order and writes what comes of each before the next.
//!
//! Commands are answered whether or not the client has negotiated: StratoVirt's clients do not,
//! QEMU's do.

pub mod line;

use serde_json::{Map, Value};

use crate::codec::{Decoder, Frame, Garbage};

/// A request longer than this is refused; the longest that exists has some hundred bytes.
pub const MAX_REQUEST: usize = 64 << 10;

/// The command that ends the negotiation.
pub const CAPABILITIES: &str = "qmp_capabilities";

/// The class of a refusal, by which clients tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Whatever has no class of its own.
    GenericError,
    /// There is no such command, or not now.
    CommandNotFound,
    /// There is no such device.
    DeviceNotFound,
    /// The device that the command needs does not exist in this machine.
    DeviceNotActive,
}

impl ErrorClass {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
        }
    }
}

/// A command that somebody wants carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Its name.
    pub command: String,
    /// Its arguments; empty where none were given.
    pub arguments: Map<String, Value>,
    /// Goes back with the answer, whatever it is.
    pub id: Option<Value>,
}

/// What a client's bytes come to.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// To be carried out.
    Request(Request),
    /// Answered already: a line for the client.
    Answer(String),
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    decoder: Decoder,
    negotiated: bool,
    /// The last thing was broken: what is left of it has been complained about.
    broken: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self { decoder: Decoder::new(MAX_REQUEST), negotiated: false, broken: false }
    }
}

impl Session {
    /// A connection that has just been accepted.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece of what the client sends and returns what it completes, in order. How
    /// the stream is cut into pieces makes no difference.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Incoming> {
        let frames = self.decoder.feed(bytes);
        frames.into_iter().filter_map(|frame| self.incoming(frame)).collect()
    }

    /// Bytes held back for a request under way.
    #[must_use]
    pub fn held(&self) -> usize {
        self.decoder.held()
    }

    fn incoming(&mut self, frame: Frame) -> Option<Incoming> {
        let broken = std::mem::replace(&mut self.broken, false);
        let why = match frame {
            Frame::Document(document) => return Some(self.document(document)),
            // The rest of something that was refused for its beginning.
            Frame::Garbage(Garbage::Between(_)) if broken => return None,
            Frame::Garbage(Garbage::Between(_)) => {
                "not a request: requests are JSON objects such as {\"execute\":\"query-status\"}"
            }
            Frame::Garbage(Garbage::Malformed) => {
                self.broken = true;
                "malformed JSON"
            }
            Frame::Garbage(Garbage::TooLong) => "the request is longer than 65536 bytes",
        };
        Some(refused(why, None))
    }

    fn document(&mut self, document: Value) -> Incoming {
        let Value::Object(mut members) = document else {
            return refused("a request is a JSON object", None);
        };
        let id = members.remove("id");
        if members.contains_key("exec-oob") {
            let why = "'exec-oob': there is no out-of-band execution here; use 'execute'";
            return refused(why, id.as_ref());
        }
        let command = match members.remove("execute") {
            Some(Value::String(command)) => command,
            Some(_) => return refused("'execute' is a string", id.as_ref()),
            None => return refused("the request has no 'execute'", id.as_ref()),
        };
        let arguments = match members.remove("arguments") {
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return refused("'arguments' is an object", id.as_ref()),
            None => Map::new(),
        };
        if let Some(name) = members.keys().next() {
            let why = format!("a request has no member '{name}'");
            return refused(&why, id.as_ref());
        }
        if command == CAPABILITIES {
            return Incoming::Answer(self.negotiate(&arguments, id.as_ref()));
        }
        Incoming::Request(Request { command, arguments, id })
    }

    fn negotiate(&mut self, arguments: &Map<String, Value>, id: Option<&Value>) -> String {
        let refused = |class, why: &str| line::refused(class, why, id);
        if self.negotiated {
            let why = "the negotiation is over: qmp_capabilities is sent once";
            return refused(ErrorClass::CommandNotFound, why);
        }
        for (name, value) in arguments {
            let why = match (name.as_str(), value) {
                ("enable", Value::Array(wanted)) => match wanted.first() {
                    None => continue,
                    Some(first) => format!("capability {first} is not offered"),
                },
                ("enable", _) => "'enable' is a list".to_owned(),
                (other, _) => format!("qmp_capabilities has no argument '{other}'"),
            };
            return refused(ErrorClass::GenericError, &why);
        }
        self.negotiated = true;
        line::returned(&Value::Object(Map::new()), id)
    }
}

fn refused(why: &str, id: Option<&Value>) -> Incoming {
    Incoming::Answer(line::refused(ErrorClass::GenericError, why, id))
}

#[cfg(test)]
mod tests;
