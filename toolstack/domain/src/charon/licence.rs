//! What an emulator's log says about its licence.
//!
//! The words are those of the manuals; the product itself has not been at hand. They are data: a
//! line is a sign where all of a row's words are in it and none of those that rule it out.

use crate::state::words;

words! {
    /// What is said.
    pub enum LicenceWord {
        /// It is there.
        Found = "found",
        /// Nobody answers for it.
        Lost = "lost",
        /// It is back.
        Restored = "restored",
        /// The emulator is about to end for want of it.
        Stopping = "stopping",
        /// It ends some day, or has ended.
        Expiry = "expiry",
    }
}

/// One sign.
#[derive(Clone, Copy, Debug)]
pub struct LicenceSign {
    /// What it means.
    pub word: LicenceWord,
    /// What has to be in the line, in small letters.
    pub all: &'static [&'static str],
    /// What must not be in it.
    pub none: &'static [&'static str],
}

/// The signs; the first that fits counts.
#[rustfmt::skip]
pub const LICENCE_SIGNS: &[LicenceSign] = &[
    sign(LicenceWord::Stopping, &["licen", "will stop"], &[]),
    sign(LicenceWord::Stopping, &["licen", "will be stopped"], &[]),
    sign(LicenceWord::Stopping, &["connection", "lost", "application will"], &[]),
    sign(LicenceWord::Restored, &["licen", "restored"], &[]),
    sign(LicenceWord::Lost, &["licen", "communication", "lost"], &[]),
    sign(LicenceWord::Lost, &["licen", "connection", "lost"], &[]),
    sign(LicenceWord::Lost, &["licen", "not found"], &[]),
    sign(LicenceWord::Expiry, &["licen", "expir"], &[]),
    sign(LicenceWord::Found, &["licen", "found"], &["not found", "no licen"]),
];

const fn sign(
    word: LicenceWord,
    all: &'static [&'static str],
    none: &'static [&'static str],
) -> LicenceSign {
    LicenceSign { word, all, none }
}

/// What a line of the log says about the licence.
#[must_use]
pub fn licence_word(line: &str) -> Option<LicenceWord> {
    let lower = line.to_ascii_lowercase();
    let has = |part: &&'static str| lower.contains(part);
    let fits = |sign: &&LicenceSign| sign.all.iter().all(has) && !sign.none.iter().any(has);
    LICENCE_SIGNS.iter().find(fits).map(|sign| sign.word)
}

/// The release that a line of the log names: two numbers behind `V` or `version` in a line about
/// Charon.
#[must_use]
pub fn version(line: &str) -> Option<(u32, u32)> {
    let lower = line.to_ascii_lowercase();
    if !lower.contains("charon") {
        return None;
    }
    lower.match_indices('v').find_map(|(at, _)| {
        let starts_word = !lower[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        let rest = &lower[at..];
        let rest = rest.strip_prefix("version").unwrap_or_else(|| &rest[1..]);
        let (major, rest) = rest.trim_start_matches([' ', ':', '=']).split_once('.')?;
        let minor = &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())];
        Some((major.parse().ok()?, minor.parse().ok()?)).filter(|_| starts_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_about_the_licence_are_told_apart_and_others_are_none() {
        for (line, word) in [
            ("INFO: License key 1234 found.", Some(LicenceWord::Found)),
            ("ERROR: No license key found", None),
            ("ERROR: License key not found, retrying", Some(LicenceWord::Lost)),
            ("WARN: License server communication lost", Some(LicenceWord::Lost)),
            ("INFO: License server communication restored", Some(LicenceWord::Restored)),
            (
                "ERROR: License connection lost, the application will stop in 2 hours",
                Some(LicenceWord::Stopping),
            ),
            ("INFO: The licence expires on 2027-01-01", Some(LicenceWord::Expiry)),
            ("INFO: disk found", None),
            ("", None),
        ] {
            assert_eq!(licence_word(line), word, "{line}");
        }
    }

    #[test]
    fn the_release_is_read_from_a_line_about_charon_only() {
        for (line, release) in [
            ("Charon-AXP V 4.9 B 19205", Some((4, 9))),
            ("INFO Charon-VAX/66X0 for Linux, version: 4.12.204", Some((4, 12))),
            ("charon v4.8", Some((4, 8))),
            ("Charon-VAX 66x0", None),
            ("Linux version 6.1", None),
            ("charon v", None),
            ("charon version é.1", None),
        ] {
            assert_eq!(version(line), release, "{line}");
        }
    }
}
