//! How kxl shows things: pure functions from what was seen to text.

pub(crate) mod advice;
pub(crate) mod config;
pub(crate) mod json;
pub(crate) mod size;
pub(crate) mod table;
pub(crate) mod tame;
pub(crate) mod when;
