//! Identifiers: the live number, the durable uuid, the name people type.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Number of a live domain. 0 is the host itself and is never given to a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DomId(pub u32);

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The durable identity of a domain; survives reboots, saves and renames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DomainUuid(pub uuid::Uuid);

impl DomainUuid {
    /// A new random uuid (RFC 9562 version 4).
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }

    /// The first eight hex digits: the name of the domain's runtime directory.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.0.simple().to_string();
        text.truncate(8);
        text
    }

    /// The MAC address of interface `index` where the configuration names none: Xen's prefix
    /// 00:16:3e, then bits of the uuid, so that the address is stable for the domain's life.
    #[must_use]
    pub fn mac(&self, index: u8) -> [u8; 6] {
        let b = self.0.as_bytes();
        [0x00, 0x16, 0x3e, b[0] & 0x7f, b[1] ^ b[5], b[2] ^ index]
    }
}

impl fmt::Display for DomainUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for DomainUuid {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        uuid::Uuid::parse_str(text).map(Self).map_err(|_| InvalidId {
            kind: "uuid",
            text: text.into(),
            rule: "8-4-4-4-12 hex digits",
        })
    }
}

/// A domain's name: 1 to 128 characters of `A-Za-z0-9_-.:+`, not only digits (those would read
/// as a domid), not starting with `-` or `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(String);

const NAME_RULE: &str =
    "1 to 128 of A-Z a-z 0-9 _ - . : +, not only digits, not starting with - or .";

impl DomainName {
    /// The name of the host in every list, as Xen calls it.
    pub const HOST: &'static str = "Domain-0";

    /// Checks and takes a name.
    ///
    /// # Errors
    /// [`InvalidId`] when a character, the length or the shape is not allowed.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidId> {
        let text = text.into();
        let ok = (1..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:+".contains(&b))
            && !text.starts_with(['-', '.'])
            && !text.bytes().all(|b| b.is_ascii_digit())
            && text != Self::HOST;
        if ok { Ok(Self(text)) } else { Err(InvalidId { kind: "name", text, rule: NAME_RULE }) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for DomainName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

impl TryFrom<String> for DomainName {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

impl From<DomainName> for String {
    fn from(name: DomainName) -> Self {
        name.0
    }
}

/// Text that is no identifier of its kind.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{text}\" is not a domain {kind} ({rule})")]
pub struct InvalidId {
    /// `name` or `uuid`.
    pub kind: &'static str,
    /// What was given.
    pub text: String,
    /// What would be accepted.
    pub rule: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_digits_only_are_refused_because_they_read_as_a_domid() {
        DomainName::new("12").unwrap_err();
        DomainName::new("12a").unwrap();
    }

    #[test]
    fn names_cannot_leave_a_directory_or_become_an_option() {
        for bad in ["", "..", ".x", "-rf", "a/b", "a b", "a\n", "Domain-0", &"x".repeat(129)] {
            assert!(DomainName::new(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_name_read_back_from_a_record_is_checked_again() {
        serde_json::from_str::<DomainName>("\"a/b\"").unwrap_err();
    }

    #[test]
    fn mac_addresses_are_stable_and_differ_by_interface() {
        let uuid: DomainUuid = "ffffffff-1111-4222-8333-444444444444".parse().unwrap();
        assert_eq!(uuid.mac(0), uuid.mac(0));
        assert_ne!(uuid.mac(0), uuid.mac(1));
        assert_eq!(uuid.mac(0)[..4], [0x00, 0x16, 0x3e, 0x7f]);
    }
}
