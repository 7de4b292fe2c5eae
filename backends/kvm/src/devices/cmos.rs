//! The clock of a PC (Motorola MC146818): the time of day, in BCD and 24 hours, UTC.
//!
//! A guest may set it; the difference to the host's clock is kept then, and saved with the machine.

use std::time::{SystemTime, UNIX_EPOCH};

use bincode::{Decode, Encode};

use crate::bus::BusDevice;

const SECONDS: u8 = 0;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;
const WEEKDAY: u8 = 6;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const STATUS_A: u8 = 0xa;
const STATUS_B: u8 = 0xb;
const STATUS_D: u8 = 0xd;
const CENTURY: u8 = 0x32;

/// Status B: the guest is setting the time; 24 hours.
const SETTING: u8 = 1 << 7;
const HOURS_24: u8 = 1 << 1;
/// Status A: the usual divider. No update is ever in progress.
const DIVIDER: u8 = 0x26;
/// Status D: the battery is fine.
const VALID: u8 = 1 << 7;

/// What of it is saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct State {
    /// The register that the data port shows.
    pub index: u8,
    /// Status B.
    pub control: u8,
    /// The guest's clock less the host's, in seconds.
    pub ahead: i64,
    /// Registers while the guest sets them: seconds, minutes, hours, day, month, year, century.
    pub setting: [u8; 7],
}

/// The device.
#[derive(Debug)]
pub struct Cmos {
    state: State,
    now: fn() -> i64,
}

impl Default for Cmos {
    fn default() -> Self {
        Self { state: State { control: HOURS_24, ..State::default() }, now: host_seconds }
    }
}

fn host_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Year, month and day of a day since 1970 (Gregorian; years counted from March, so that the leap
/// day is the last of them).
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

/// The day since 1970 of a date.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let march = (month + 9) % 12;
    let of_year = (153 * march + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn bcd(value: i64) -> u8 {
    let value = u8::try_from(value.rem_euclid(100)).unwrap_or(0);
    ((value / 10) << 4) | (value % 10)
}

fn binary(value: u8) -> i64 {
    i64::from(value >> 4) * 10 + i64::from(value & 0xf)
}

/// Which of the registers that make up the time this is.
const fn place(index: u8) -> Option<usize> {
    Some(match index {
        SECONDS => 0,
        MINUTES => 1,
        HOURS => 2,
        DAY => 3,
        MONTH => 4,
        YEAR => 5,
        CENTURY => 6,
        _ => return None,
    })
}

impl Cmos {
    /// What is saved.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Puts it back.
    pub fn restore(&mut self, state: State) {
        self.state = state;
    }

    fn guest_seconds(&self) -> i64 {
        (self.now)().saturating_add(self.state.ahead)
    }

    /// The seven registers of the time as they are now.
    fn time(&self) -> [u8; 7] {
        let now = self.guest_seconds();
        let (year, month, day) = date(now.div_euclid(86_400));
        let second = now.rem_euclid(86_400);
        [second % 60, second / 60 % 60, second / 3600, day, month, year, year / 100].map(bcd)
    }

    fn register(&self, index: u8) -> u8 {
        match index {
            STATUS_A => DIVIDER,
            STATUS_B => self.state.control,
            STATUS_D => VALID,
            // 1 January 1970 was a Thursday; Sunday is 1.
            WEEKDAY => bcd((self.guest_seconds().div_euclid(86_400) + 4).rem_euclid(7) + 1),
            _ => match place(index) {
                Some(place) if self.state.control & SETTING != 0 => self.state.setting[place],
                Some(place) => self.time()[place],
                None => 0,
            },
        }
    }

    fn set(&mut self, index: u8, value: u8) {
        let was_setting = self.state.control & SETTING != 0;
        if index == STATUS_B {
            self.state.control = value & SETTING | HOURS_24;
            let setting = value & SETTING != 0;
            if setting && !was_setting {
                self.state.setting = self.time();
            } else if was_setting && !setting {
                self.state.ahead = self.set_seconds().saturating_sub((self.now)());
            }
        } else if let Some(place) = place(index) {
            if was_setting {
                self.state.setting[place] = value;
            } else {
                // One register alone: the others go on.
                self.state.setting = self.time();
                self.state.setting[place] = value;
                self.state.ahead = self.set_seconds().saturating_sub((self.now)());
            }
        }
    }

    /// The time that was set.
    fn set_seconds(&self) -> i64 {
        let [second, minute, hour, day, month, year, century] = self.state.setting.map(binary);
        let day = days(century * 100 + year, month.clamp(1, 12), day.clamp(1, 31));
        day * 86_400 + hour * 3600 + minute * 60 + second
    }
}

impl BusDevice for Cmos {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset == 1 {
            data[0] = self.register(self.state.index);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match offset {
            // The top bit masks the NMI.
            0 => self.state.index = data[0] & 0x7f,
            _ => self.set(self.state.index, data[0]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 29 February 2028, a Tuesday, 23:59:58.
    const LEAP: i64 = 1_835_481_598;

    fn clock() -> Cmos {
        Cmos { now: || LEAP, ..Cmos::default() }
    }

    fn read(cmos: &mut Cmos, index: u8) -> u8 {
        let mut data = [0];
        cmos.write(0, &[index]);
        cmos.read(1, &mut data);
        data[0]
    }

    fn write(cmos: &mut Cmos, index: u8, value: u8) {
        cmos.write(0, &[index]);
        cmos.write(1, &[value]);
    }

    #[test]
    fn it_shows_the_hosts_time_in_bcd() {
        let mut cmos = clock();
        let shown = [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS, WEEKDAY]
            .map(|index| read(&mut cmos, index));
        assert_eq!(shown, [0x20, 0x28, 0x02, 0x29, 0x23, 0x59, 0x58, 0x03]);
    }

    #[test]
    fn a_guest_that_sets_it_finds_it_set_and_the_host_is_not_touched() {
        let mut cmos = clock();
        write(&mut cmos, STATUS_B, SETTING | HOURS_24);
        for (index, value) in [(YEAR, 0x30), (MONTH, 0x01), (DAY, 0x01), (HOURS, 0x00)] {
            write(&mut cmos, index, value);
        }
        write(&mut cmos, STATUS_B, HOURS_24);
        assert_eq!(read(&mut cmos, YEAR), 0x30);
        assert_eq!(read(&mut cmos, MINUTES), 0x59);
        let state = cmos.state();
        let mut other = clock();
        other.restore(state);
        assert_eq!(read(&mut other, YEAR), 0x30);
    }

    #[test]
    fn every_day_is_its_own_date() {
        for day in -1000..60_000 {
            let (year, month, of_month) = date(day);
            assert_eq!(days(year, month, of_month), day);
        }
        assert_eq!(date(0), (1970, 1, 1));
    }
}
