//! The user's side of a console: a terminal in raw mode, signals as events, and the loop that
//! carries bytes between the terminal and a domain's monitor.

pub(crate) mod escape;
pub(crate) mod raw;
pub(crate) mod viewer;
