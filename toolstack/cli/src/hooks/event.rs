//! An event as a hook is told of it: environment and JSON.

use kxl_domain::{Failure, Kind};
use kxl_store::EventRow;

/// The variables of its environment: names and values.
pub(crate) fn environment(row: &EventRow) -> Vec<(&'static str, String)> {
    let event = &row.event;
    let text = |value: Option<String>| value.unwrap_or_default();
    vec![
        ("KXL_EVENT_ID", row.id.to_string()),
        ("KXL_EVENT_TIME", utc(event.time_ms)),
        ("KXL_EVENT_DOMAIN", event.name.clone()),
        ("KXL_EVENT_UUID", text(event.uuid.map(|uuid| uuid.to_string()))),
        ("KXL_EVENT_DOMID", text(event.domid.map(|domid| domid.to_string()))),
        ("KXL_EVENT_SEVERITY", event.severity.as_str().to_owned()),
        ("KXL_EVENT_WHAT", event.what.clone()),
        ("KXL_EVENT_TEXT", event.text.clone()),
        ("KXL_EVENT_REASON", text(event.reason.map(|reason| reason.to_string()))),
        ("KXL_EVENT_ACTION", text(event.action.clone())),
        ("KXL_EVENT_REPEAT_OF", text(row.repeat_of.map(|id| id.to_string()))),
    ]
}

/// The event as a line of JSON, as `kxl events --json` prints it.
///
/// # Errors
/// [`Kind::Internal`]; no event is known that has none.
pub(crate) fn json(row: &EventRow) -> Result<Vec<u8>, Failure> {
    let mut line = serde_json::to_vec(row)
        .map_err(|error| Failure::because(Kind::Internal, "cannot write JSON", &error))?;
    line.push(b'\n');
    Ok(line)
}

/// A moment in universal time, as RFC 3339 has it, to the millisecond.
pub(crate) fn utc(ms: i64) -> String {
    let (days, rest) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // The civil calendar in eras of 400 years that begin on the first of March.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (seconds, ms) = (rest / 1000, rest % 1000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use kxl_store::{Event, Severity};

    use super::*;

    #[test]
    fn universal_time_is_that_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_827_696, "2000-02-29T12:34:56.000Z"),
            (1_795_316_503, "2026-11-22T03:01:43.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(utc(seconds * 1000), text);
        }
        assert!(utc(1_007).ends_with(":01.007Z"));
    }

    #[test]
    fn what_an_event_has_not_is_empty_and_not_absent() {
        let row = EventRow::new(7, Event::new(Severity::Info, "x"));
        let all = environment(&row);
        assert_eq!(all.len(), 11);
        assert_eq!(all[0], ("KXL_EVENT_ID", "7".to_owned()));
        assert!(all.contains(&("KXL_EVENT_UUID", String::new())));
        let json: serde_json::Value = serde_json::from_slice(&json(&row).unwrap()).unwrap();
        assert_eq!(json["what"], "x");
    }
}
