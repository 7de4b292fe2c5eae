//! What the guest's clock starts from.

use std::time::{SystemTime, UNIX_EPOCH};

use kxl_domain::DomainConfig;

/// `-rtc base=` for a domain started now.
pub(crate) fn base(config: &DomainConfig) -> String {
    match (config.localtime, config.rtc_timeoffset_s) {
        (false, 0) => "utc".into(),
        (true, 0) => "localtime".into(),
        (localtime, offset) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            let now = i64::try_from(now).unwrap_or(i64::MAX);
            let zone = if localtime { zone_offset(now) } else { 0 };
            date(now.saturating_add(zone).saturating_add(offset))
        }
    }
}

/// Seconds that local time is ahead of UTC.
fn zone_offset(now: i64) -> i64 {
    // SAFETY: a structure of integers and a pointer, for which zero is a value.
    let mut parts: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call; the result is either null or `parts`.
    let done = unsafe { libc::localtime_r(&raw const now, &raw mut parts) };
    if done.is_null() { 0 } else { parts.tm_gmtoff }
}

/// Seconds since the epoch as `YYYY-MM-DDThh:mm:ss` in the Gregorian calendar.
fn date(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years counted from March of year 0, so that the leap day is the last of its year; an era is
    // the 146,097 days after which the calendar repeats.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, year) = if month < 10 { (month + 3, year) } else { (month - 9, year + 1) };
    let year = year + era * 400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01T00:00:00");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00");
        assert_eq!(date(951_868_799), "2000-02-29T23:59:59");
        assert_eq!(date(1_772_323_200), "2026-03-01T00:00:00");
        assert_eq!(date(4_107_542_400), "2100-03-01T00:00:00");
        assert_eq!(date(-1), "1969-12-31T23:59:59");
    }

    #[test]
    fn the_usual_clocks_need_no_date() {
        let mut config = DomainConfig::new("x".parse().unwrap());
        assert_eq!(base(&config), "utc");
        config.localtime = true;
        assert_eq!(base(&config), "localtime");
        config.rtc_timeoffset_s = -3600;
        assert_eq!(base(&config).len(), "2026-01-01T00:00:00".len());
    }
}
