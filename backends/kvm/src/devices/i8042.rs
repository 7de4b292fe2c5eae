//! Of the keyboard controller only the line that resets the machine.

use super::{End, Ending};
use crate::bus::BusDevice;

/// The command that pulses the line.
const PULSE: u8 = 0xfe;

/// The controller's command port.
#[derive(Debug)]
pub struct I8042(pub Ending);

impl BusDevice for I8042 {
    /// Both buffers are empty: a kernel that waits for room before it resets does not wait.
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data == [PULSE] {
            self.0.tell(End::Reset);
        }
    }
}
