//! The api-channel over real sockets, with a machine that only pretends.

mod clients;
mod commands;
mod document;
mod fake;
mod sockets;
