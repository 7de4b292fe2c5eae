//! What the tests share: a host of their own, the commands, consoles, processes, guests.

pub(crate) mod apart;
pub(crate) mod console;
pub(crate) mod event;
pub(crate) mod guest;
pub(crate) mod host;
pub(crate) mod images;
pub(crate) mod pc;
pub(crate) mod process;
pub(crate) mod rest;
pub(crate) mod run;
pub(crate) mod skip;
pub(crate) mod terminal;
pub(crate) mod tiny;
pub(crate) mod wait;

pub(crate) use console::Console;
pub(crate) use host::{Domain, Host};
pub(crate) use run::Output;
