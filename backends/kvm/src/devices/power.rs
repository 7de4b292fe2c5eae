//! ACPI's fixed registers: the power button, the way off and the way to a reset (ACPI 6.5, 4.8.3).

use bincode::{Decode, Encode};

use super::{End, Ending};
use crate::bus::BusDevice;
use crate::irq::Line;

/// Bit of the power button in status and enable.
const BUTTON: u16 = 1 << 8;
/// Bit of the status that says the machine has woken up.
const STATUS_BITS: u16 = BUTTON | 1 << 15 | 1 << 10 | 1 << 9 | 1 << 5 | 1 << 4 | 1;
/// ACPI is on: there is no other mode to come from.
const SCI_ENABLED: u16 = 1;
/// Sleep now.
const SLEEP: u16 = 1 << 13;
/// The type of sleep that the tables call off, and where it is.
const OFF: u16 = 5;
const TYPE_SHIFT: u16 = 10;
const TYPE: u16 = 0b111;
/// Offset of the reset register.
const RESET: u64 = crate::layout::RESET - crate::layout::PM;

/// The registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct State {
    /// Events that have happened.
    pub status: u16,
    /// Events that interrupt.
    pub enable: u16,
    /// The control register.
    pub control: u16,
}

/// The device.
#[derive(Debug)]
pub struct Power {
    state: State,
    sci: Line,
    ending: Ending,
}

impl Power {
    /// As after a reset.
    #[must_use]
    pub fn new(sci: Line, ending: Ending) -> Self {
        Self { state: State { control: SCI_ENABLED, ..State::default() }, sci, ending }
    }

    /// Presses the button. A guest that has not enabled it does not notice.
    pub fn press(&mut self) {
        self.state.status |= BUTTON;
        self.interrupt();
    }

    /// As after a reset.
    pub fn reset(&mut self) {
        self.state = State { control: SCI_ENABLED, ..State::default() };
    }

    /// The registers, for a save.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Puts registers back; the line is one of the interrupt controllers' own states.
    pub fn restore(&mut self, state: State) {
        self.state = state;
    }

    fn interrupt(&self) {
        self.sci.set(self.state.status & self.state.enable != 0);
    }

    fn register(&self, index: u64) -> u16 {
        match index {
            0 => self.state.status,
            1 => self.state.enable,
            2 => self.state.control | SCI_ENABLED,
            _ => 0,
        }
    }

    fn set(&mut self, index: u64, value: u16, mask: u16) {
        match index {
            // Writing a one clears.
            0 => self.state.status &= !(value & mask & STATUS_BITS),
            1 => self.state.enable = self.state.enable & !mask | value & mask,
            2 => {
                let control = self.state.control & !mask | value & mask;
                self.state.control = control & !SLEEP;
                if control & SLEEP != 0 && control >> TYPE_SHIFT & TYPE == OFF {
                    self.ending.tell(End::Poweroff);
                }
            }
            _ => {}
        }
        self.interrupt();
    }
}

impl BusDevice for Power {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.register(at / 2).to_le_bytes()[usize::from(at % 2 == 1)];
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == RESET {
            self.ending.tell(End::Reset);
            return;
        }
        let mut at = offset;
        for pair in data.chunks(2) {
            if let ([low, high], true) = (pair, at.is_multiple_of(2)) {
                self.set(at / 2, u16::from_le_bytes([*low, *high]), 0xffff);
            } else {
                for (at, byte) in (at..).zip(pair) {
                    let shift = 8 * u16::from(at % 2 == 1);
                    self.set(at / 2, u16::from(*byte) << shift, 0xff << shift);
                }
            }
            at += 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn power() -> (Power, Line, Ending) {
        let (line, ending) = (Line::unconnected(), Ending::new(std::sync::Arc::new(|| {})));
        (Power::new(line.clone(), ending.clone()), line, ending)
    }

    fn word(power: &mut Power, offset: u64) -> u16 {
        let mut data = [0; 2];
        power.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    #[test]
    fn the_button_interrupts_where_it_is_enabled_until_it_is_acknowledged() {
        let (mut power, line, _) = power();
        power.press();
        assert!(!line.level());
        power.write(2, &BUTTON.to_le_bytes());
        assert!(line.level());
        assert_eq!(word(&mut power, 0), BUTTON);
        power.write(0, &BUTTON.to_le_bytes());
        assert!(!line.level());
        assert_eq!(word(&mut power, 0), 0);
    }

    #[test]
    fn sleep_of_the_type_off_ends_the_guest_and_no_other() {
        let (mut power, _, ending) = power();
        power.write(4, &(SLEEP | 3 << TYPE_SHIFT).to_le_bytes());
        power.write(4, &(OFF << TYPE_SHIFT).to_le_bytes());
        assert_eq!(ending.how(), None);
        power.write(4, &(SLEEP | OFF << TYPE_SHIFT).to_le_bytes());
        assert_eq!(ending.how(), Some(End::Poweroff));
        assert_eq!(word(&mut power, 4) & SCI_ENABLED, SCI_ENABLED);
    }

    #[test]
    fn the_reset_register_resets_and_single_bytes_reach_their_halves() {
        let (mut power, line, ending) = power();
        power.write(3, &[1]);
        assert_eq!(word(&mut power, 2), BUTTON);
        power.press();
        assert!(line.level());
        power.write(RESET, &[1]);
        assert_eq!(ending.how(), Some(End::Reset));
    }
}
