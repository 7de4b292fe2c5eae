//! The devices that a PC has beside virtio: registers, and what they set in motion.

pub mod cmos;
pub mod ending;
pub mod i8042;
pub mod line;
pub mod panic;
pub mod power;
pub mod serial;

pub use ending::{End, Ending};
