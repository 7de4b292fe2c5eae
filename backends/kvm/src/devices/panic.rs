//! The device that a panicking kernel tells of it (QEMU's docs/specs/pvpanic.rst).

use super::{End, Ending};
use crate::bus::BusDevice;

/// The guest has panicked; it stands still from here on.
const PANICKED: u8 = 1;

/// Its one port.
#[derive(Debug)]
pub struct PvPanic(pub Ending);

impl BusDevice for PvPanic {
    /// The events it knows.
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        data[0] = PANICKED;
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data[0] & PANICKED != 0 {
            self.0.tell(End::Panic);
        }
    }
}
