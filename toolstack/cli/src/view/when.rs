//! Moments and spans, for people and in JSON.

use crate::signals::{Local, local_time, local_to_epoch};

/// A moment in local time, to the second: `2026-08-01 12:34:56`.
pub(crate) fn moment(ms: i64) -> String {
    let Local { year, month, day, hour, minute, second } = local_time(ms.div_euclid(1000));
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// How long something lasted, in its two biggest units: `3 d 4 h`, `12 s`.
pub(crate) fn span(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {seconds} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Reads a moment as people write it: `10m`, `2h`, `3d` ago; `HH:MM[:SS]` today;
/// `YYYY-MM-DD[ HH:MM[:SS]]`. Seconds since the epoch.
///
/// # Errors
/// A sentence, when it is none of these.
pub(crate) fn parse(text: &str, now: i64) -> Result<i64, String> {
    let wrong =
        || format!("\"{text}\" is no moment: an age (10m, 2h, 3d), HH:MM, or YYYY-MM-DD and HH:MM");
    if let Some(seconds) = age(text) {
        return Ok(now - seconds);
    }
    let (date, clock) = match text.split_once([' ', 'T']) {
        Some((date, clock)) => (Some(date), clock),
        None if text.contains(':') => (None, text),
        None => (Some(text), "00:00"),
    };
    let today = local_time(now);
    let (year, month, day) = match date {
        None => (today.year, today.month, today.day),
        Some(date) => match numbers(date, '-').ok_or_else(wrong)?[..] {
            [year, month @ 1..=12, day @ 1..=31] => (year, month, day),
            _ => return Err(wrong()),
        },
    };
    let (hour, minute, second) = match numbers(clock, ':').ok_or_else(wrong)?[..] {
        [hour @ 0..24, minute @ 0..60] => (hour, minute, 0),
        [hour @ 0..24, minute @ 0..60, second @ 0..60] => (hour, minute, second),
        _ => return Err(wrong()),
    };
    local_to_epoch(Local { year, month, day, hour, minute, second }).ok_or_else(wrong)
}

/// `10m` and the like in seconds.
fn age(text: &str) -> Option<i64> {
    let (at, unit) = text.char_indices().next_back()?;
    let unit = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    text[..at].parse::<u32>().ok().map(|number| i64::from(number) * unit)
}

fn numbers(text: &str, separator: char) -> Option<Vec<i32>> {
    text.split(separator).map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_show_their_two_biggest_units() {
        assert_eq!(span(12), "12 s");
        assert_eq!(span(61), "1 min 1 s");
        assert_eq!(span(3_600 * 5 + 120), "5 h 2 min");
        assert_eq!(span(86_400 * 3 + 3_600 * 4), "3 d 4 h");
    }

    #[test]
    fn moments_are_read_as_they_are_shown() {
        let now = 1_785_000_000;
        assert_eq!(parse(&moment(now * 1000), now), Ok(now));
        assert_eq!(parse("10m", now), Ok(now - 600));
        assert_eq!(parse("3d", now), Ok(now - 3 * 86_400));
        let clock = &moment(now * 1000)[11..16];
        assert!((parse(clock, now).unwrap() - now).abs() < 60);
        for bad in ["", "x", "25:00", "2026-13-01", "12", "10y", "é"] {
            assert!(parse(bad, now).is_err(), "{bad}");
        }
    }
}
