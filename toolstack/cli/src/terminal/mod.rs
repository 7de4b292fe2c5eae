//! The user's side: a terminal in raw mode, signals as events, the loop that carries bytes between
//! the terminal and a domain's monitor, and the bar that shows how a state moves.

pub(crate) mod escape;
pub(crate) mod interrupt;
pub(crate) mod progress;
pub(crate) mod raw;
pub(crate) mod viewer;
