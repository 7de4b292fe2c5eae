//! The lines that a server writes.
//!
//! Members stand in the order in which StratoVirt's documents and QEMU show them, without blanks,
//! and a line ends as QEMU's do, with carriage return and line feed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::ErrorClass;

/// The greeting of a server that has the commands of this version of QEMU.
#[must_use]
pub fn greeting(version: [u32; 3], package: &str) -> String {
    let version = self::version(version, package);
    format!("{{\"QMP\":{{\"version\":{version},\"capabilities\":[]}}}}\r\n")
}

/// The version as the greeting and `query-version` have it.
#[must_use]
pub fn version([major, minor, micro]: [u32; 3], package: &str) -> String {
    let package = Value::from(package);
    format!(
        "{{\"qemu\":{{\"micro\":{micro},\"minor\":{minor},\"major\":{major}}},\"package\":{package}}}"
    )
}

/// What a command returned.
#[must_use]
pub fn returned(value: &Value, id: Option<&Value>) -> String {
    format!("{{\"return\":{value}{}}}\r\n", member("id", id))
}

/// Why a command was not carried out.
#[must_use]
pub fn refused(class: ErrorClass, why: &str, id: Option<&Value>) -> String {
    let (class, why) = (class.as_str(), Value::from(why));
    format!("{{\"error\":{{\"class\":\"{class}\",\"desc\":{why}}}{}}}\r\n", member("id", id))
}

/// Something that has happened. A time before 1970 is 1970.
#[must_use]
pub fn event(name: &str, data: &Value, at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (seconds, micros) = (since.as_secs(), since.subsec_micros());
    let name = Value::from(name);
    format!(
        "{{\"event\":{name},\"data\":{data},\
         \"timestamp\":{{\"seconds\":{seconds},\"microseconds\":{micros}}}}}\r\n"
    )
}

fn member(name: &str, value: Option<&Value>) -> String {
    value.map_or_else(String::new, |value| format!(",\"{name}\":{value}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_those_of_the_stratovirt_document() {
        assert_eq!(
            greeting([4, 0, 1], ""),
            "{\"QMP\":{\"version\":{\"qemu\":{\"micro\":1,\"minor\":0,\"major\":4},\"package\":\"\"},\
             \"capabilities\":[]}}\r\n"
        );
        let at = UNIX_EPOCH + Duration::from_micros(1_583_908_726_162_739);
        assert_eq!(
            event("STOP", &json!({}), at),
            "{\"event\":\"STOP\",\"data\":{},\
             \"timestamp\":{\"seconds\":1583908726,\"microseconds\":162739}}\r\n"
        );
        assert_eq!(returned(&json!({}), None), "{\"return\":{}}\r\n");
        assert_eq!(
            refused(ErrorClass::CommandNotFound, "no \"x\"", Some(&json!([1]))),
            "{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"no \\\"x\\\"\"},\"id\":[1]}\r\n"
        );
    }

    #[test]
    fn a_clock_that_was_never_set_makes_a_time_all_the_same() {
        let line = event("STOP", &json!({}), UNIX_EPOCH - Duration::from_secs(5));
        assert!(line.contains("{\"seconds\":0,\"microseconds\":0}"), "{line}");
    }
}
