//! A machine's state, out of one process and into another.
//!
//! The state proper is [`records`]: what the manifest of kxl's images is made of, too. It travels in
//! the outer framing of a QEMU migration [`stream`], so that who knows one knows both, or in a
//! [`file`](mod@file) in which the memory lies at its own offset and is mapped instead of read.
//! [`save`] writes either, from a machine that runs; [`load`] reads either.

pub mod dirty;
pub mod file;
pub mod load;
pub mod records;
pub mod save;
pub mod stream;

/// The name of the memory block, in the stream.
pub const BLOCK: &str = "ram0";
pub use crate::config::MACHINE;
