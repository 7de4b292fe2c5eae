//! Rate limits of network interfaces: `10Mb/s`, `1GB/s@20ms`.

use std::fmt;

use thiserror::Error;

use super::model::Rate;

/// Why a text is no rate limit; displayed in xl's words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RateError {
    /// Not `N[G|M|K](B|b)/s`.
    #[error("invalid rate in `{0}'")]
    Invalid(String),
    /// Zero, or more than can be counted.
    #[error("rate overflow in `{0}'")]
    Overflow(String),
    /// Behind `@` stands no `N[s|ms|us]`.
    #[error("invalid replenishment interval in `{0}'")]
    InvalidInterval(String),
    /// An interval of zero, or longer than 4294967295 µs.
    #[error("replenishment interval overflow in `{0}'")]
    IntervalOverflow(String),
}

/// The interval where none is given: 50 ms.
const DEFAULT_INTERVAL_US: u32 = 50_000;

impl Rate {
    /// Reads a limit. Units are decimal, `b` are bits and `B` bytes each second; an interval
    /// without a unit is in seconds.
    ///
    /// # Errors
    /// [`RateError`]: the form, or a number out of its range.
    pub fn parse(text: &str) -> Result<Self, RateError> {
        let (amount, interval) = match text.split_once('@') {
            Some((amount, interval)) => (amount, Some(interval)),
            None => (text, None),
        };
        let invalid = || RateError::Invalid(amount.to_owned());
        let (digits, unit) = split_digits(amount);
        let number = c_number(digits).ok_or_else(invalid)?;
        let (multiplier, unit) = match unit.chars().next() {
            Some('G') => (1_000_000_000, &unit[1..]),
            Some('M') => (1_000_000, &unit[1..]),
            Some('K') => (1_000, &unit[1..]),
            _ => (1, unit),
        };
        let divisor = match unit {
            "B/s" => 1,
            "b/s" => 8,
            _ => return Err(invalid()),
        };
        if number == 0 || number > u128::from(u32::MAX) {
            return Err(RateError::Overflow(amount.to_owned()));
        }
        let bytes_per_s = number * multiplier / divisor;
        let interval_us = interval.map_or(Ok(DEFAULT_INTERVAL_US), parse_interval)?;
        let product = bytes_per_s * u128::from(interval_us);
        let product = u64::try_from(product).map_err(|_| RateError::Overflow(text.to_owned()))?;
        Ok(Self { bytes_per_interval: product / 1_000_000, interval_us })
    }
}

fn parse_interval(text: &str) -> Result<u32, RateError> {
    let (digits, unit) = split_digits(text);
    let invalid = || RateError::InvalidInterval(text.to_owned());
    let number = c_number(digits).ok_or_else(invalid)?;
    let scale = match unit {
        "" | "s" => 1_000_000,
        "ms" | "m" => 1_000,
        "us" | "u" => 1,
        _ => return Err(invalid()),
    };
    let interval = number.saturating_mul(scale);
    u32::try_from(interval)
        .ok()
        .filter(|us| *us > 0)
        .ok_or_else(|| RateError::IntervalOverflow(text.to_owned()))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// Digits as C reads them: octal behind a leading zero. Too many saturate.
fn c_number(digits: &str) -> Option<u128> {
    let (digits, radix) = match digits.strip_prefix('0') {
        // An 8 or 9 in an octal number makes xl misread the unit behind it; it is refused here.
        Some(octal) if octal.bytes().any(|b| b > b'7') => return None,
        Some(_) => (digits, 8),
        None => (digits, 10),
    };
    match digits {
        "" => None,
        _ => Some(u128::from_str_radix(digits, radix).unwrap_or(u128::from(u64::MAX))),
    }
}

impl fmt::Display for Rate {
    /// The shortest text that reads back as the same limit where there is one: a limit given as
    /// bytes and an interval does not always have a rate that divides exactly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_interval = u128::from(self.bytes_per_interval) * 1_000_000;
        let mut bytes_per_s = per_interval.div_ceil(u128::from(self.interval_us.max(1)));
        if bytes_per_s > u128::from(u32::MAX) {
            // Only a rate with a unit can be so large; the next full thousand means the same.
            bytes_per_s = bytes_per_s.next_multiple_of(1_000);
        }
        for (unit, scale) in [("GB/s", 1_000_000_000), ("MB/s", 1_000_000), ("KB/s", 1_000)] {
            if bytes_per_s > 0 && bytes_per_s % scale == 0 {
                return write!(f, "{}{unit}@{}us", bytes_per_s / scale, self.interval_us);
            }
        }
        write!(f, "{}B/s@{}us", bytes_per_s.max(1), self.interval_us)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn limits_are_those_xl_computes() {
        let rows = [
            ("10Mb/s", 62_500, 50_000),
            ("10MB/s@20ms", 200_000, 20_000),
            ("1GB/s@1s", 1_000_000_000, 1_000_000),
            ("1B/s", 0, 50_000),
            ("3b/s", 0, 50_000),
            ("10Mb/s@5", 6_250_000, 5_000_000),
            ("10Mb/s@50us", 62, 50),
            ("1GB/s@4294s", 4_294_000_000_000, 4_294_000_000),
            ("010KB/s", 400, 50_000),
            ("10Mb/s@010ms", 10_000, 8_000),
            ("10MB/s@20m", 200_000, 20_000),
        ];
        for (text, bytes_per_interval, interval_us) in rows {
            assert_eq!(Rate::parse(text), Ok(Rate { bytes_per_interval, interval_us }), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_by_kind() {
        use RateError::*;
        for text in
            ["", "10", "1kB/s", "10Mb/s ", "10 Mb/s", " 10Mb/s", "-1B/s", "0x10B/s", "B/s", "08B/s"]
        {
            assert_eq!(Rate::parse(text), Err(Invalid(text.into())));
        }
        for text in ["0B/s", "4294967296B/s", "4294967295GB/s@4294967295us"] {
            assert_eq!(Rate::parse(text), Err(Overflow(text.into())));
        }
        for (text, interval) in [("1B/s@", ""), ("1B/s@-1", "-1"), ("1B/s@50 ms", "50 ms")] {
            assert_eq!(Rate::parse(text), Err(InvalidInterval(interval.into())));
        }
        for (text, interval) in [("1B/s@0", "0"), ("1GB/s@4295s", "4295s"), ("1B/s@0ms", "0ms")] {
            assert_eq!(Rate::parse(text), Err(IntervalOverflow(interval.into())));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9]{0,30}[GMK]?[Bb]?(/s)?(@[0-9]{0,30}[mu]?s?)?") {
            drop(Rate::parse(&text));
        }

        #[test]
        fn a_printed_limit_reads_back(number in 1_u32.., unit in "[GMK]?", interval in 1_u32..) {
            let text = format!("{number}{unit}B/s@{interval}us");
            if let Ok(rate) = Rate::parse(&text) {
                prop_assert_eq!(Rate::parse(&rate.to_string()), Ok(rate), "{} {}", text, rate);
            }
        }
    }
}
