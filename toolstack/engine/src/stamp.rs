//! The name of a domain that rename-restart keeps: xl appends a UTC time stamp with minute
//! resolution.

use kxl_domain::DomainName;

/// `NAME-YYYYmmddTHHMMZ`, from the second one of that minute on with `-2`, …; shortened where the
/// name would become too long.
pub(crate) fn corpse_name(name: &DomainName, now_ms: u64, count: u32) -> DomainName {
    let mut stamp = utc_minute(now_ms / 1000);
    if count > 1 {
        stamp.push_str(&format!("-{count}"));
    }
    let keep = name.as_str().len().min(128 - stamp.len() - 1);
    DomainName::new(format!("{}-{stamp}", &name.as_str()[..keep]))
        .expect("a name, a dash, digits, T and Z")
}

/// `YYYYmmddTHHMMZ` of seconds since the epoch (proleptic Gregorian calendar; the day arithmetic
/// counts years from 1 March, so that leap days come last).
fn utc_minute(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}Z", rest / 3_600, rest / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_utc_with_minutes() {
        assert_eq!(utc_minute(0), "19700101T0000Z");
        assert_eq!(utc_minute(951_782_399), "20000228T2359Z");
        assert_eq!(utc_minute(951_782_400), "20000229T0000Z");
        assert_eq!(utc_minute(1_735_689_599), "20241231T2359Z");
    }

    #[test]
    fn a_long_name_is_cut_rather_than_refused() {
        let long = DomainName::new("x".repeat(128)).unwrap();
        assert_eq!(corpse_name(&long, 0, 1).as_str().len(), 128);
        assert_eq!(corpse_name(&long, 0, 12).as_str().len(), 128);
    }
}
