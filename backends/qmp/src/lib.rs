//! A tolerant QMP client, and a server's side of the protocol.
//!
//! What QEMU, StratoVirt and the native VMM say on their control channel differs in detail and
//! grows with every release. This client therefore works on plain JSON values: unknown events and
//! fields pass through untouched, junk in the stream is skipped, answers are matched by id and,
//! where the other side gives none back, by order.
//!
//! * [`codec`]: bytes to documents; pure.
//! * [`message`]: documents to greetings, answers and events; pure.
//! * [`Client`]: one connection. It belongs to a task on the caller's [`tokio::task::LocalSet`]
//!   that sleeps until the socket or the caller has something.
//! * [`server`]: requests out of a client's bytes, and the lines that go back; pure.

#[cfg(feature = "client")]
pub mod client;
pub mod codec;
pub mod error;
pub mod message;
pub mod server;

#[cfg(feature = "client")]
pub use client::Client;
pub use error::QmpError;
pub use message::{Event, Greeting};
