//! Whether a host has the network interfaces that a configuration takes, and to itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use super::nic::Nic;

/// What is wrong with an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NicFinding {
    /// The host has none of this name.
    Missing,
    /// The host's list of interfaces for emulators does not have it.
    NotManaged,
    /// A domain that runs has it, or a bridge of the host.
    Used,
    /// The host itself has an address on it.
    Address,
    /// The name is one of Windows.
    Windows,
}

impl NicFinding {
    /// Every one, by its number.
    pub const ALL: [Self; 5] =
        [Self::Missing, Self::NotManaged, Self::Used, Self::Address, Self::Windows];

    /// The number that stands for it in lists.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Missing => 1,
            Self::NotManaged => 2,
            Self::Used => 3,
            Self::Address => 4,
            Self::Windows => 5,
        }
    }

    /// Whether a domain cannot be started with it; the others are warned of.
    #[must_use]
    pub const fn refuses(self) -> bool {
        matches!(self, Self::Missing | Self::Used | Self::Windows)
    }

    /// What it is, in a few words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "does not exist",
            Self::NotManaged => "is not managed",
            Self::Used => "is already used",
            Self::Address => "has an IP address",
            Self::Windows => "is written as on Windows",
        }
    }
}

impl fmt::Display for NicFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the host knows of interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNics {
    /// The interfaces there are, and the addresses that the host has on them.
    pub present: BTreeMap<String, Vec<IpAddr>>,
    /// Those of the host's list for emulators.
    pub managed: BTreeSet<String>,
    /// Those that are taken, and by whom, as in `domain "ds20"` and `bridge br0`.
    pub used: BTreeMap<String, String>,
}

impl HostNics {
    /// What is wrong with an interface, in the order of the numbers.
    #[must_use]
    pub fn findings(&self, nic: &Nic) -> Vec<NicFinding> {
        if nic.is_windows() {
            // No such interface can exist here; to say more would only hide that.
            return vec![NicFinding::Windows];
        }
        let name = &nic.interface;
        let addresses = self.present.get(name);
        let has_address =
            addresses.is_some_and(|addresses| addresses.iter().any(|a| !is_link_local(a)));
        [
            (NicFinding::Missing, addresses.is_none()),
            (NicFinding::NotManaged, !self.managed.contains(name)),
            (NicFinding::Used, self.used.contains_key(name)),
            (NicFinding::Address, has_address),
        ]
        .into_iter()
        .filter_map(|(finding, found)| found.then_some(finding))
        .collect()
    }
}

/// The names in the text of the host's list: one a line, `#` starts a comment.
#[must_use]
pub fn managed_nics(text: &str) -> BTreeSet<String> {
    let bare = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    bare.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Linux makes such addresses by itself on every interface that is up.
const fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charon::{facts, parse};

    fn host() -> HostNics {
        let present = [
            ("eth0", vec!["192.0.2.1"]),
            ("eth1", vec!["fe80::1"]),
            ("eth2", vec!["2001:db8::1", "fe80::1"]),
            ("tap3", vec![]),
        ];
        let present = present.map(|(name, addresses)| {
            (name.to_owned(), addresses.iter().map(|a| a.parse().unwrap()).collect())
        });
        HostNics {
            present: present.into(),
            managed: managed_nics("# ours\neth1\n eth2 # too\n\ntap9\neth9\n"),
            used: [("tap3".to_owned(), "domain \"es40\"".to_owned())].into(),
        }
    }

    #[test]
    fn each_of_the_five_checks_finds_what_it_is_for() {
        for (interface, want) in [
            ("eth1", vec![]),
            ("eth0", vec![2, 4]),
            ("eth2", vec![4]),
            ("eth9", vec![1]),
            ("eth7", vec![1, 2]),
            ("tap3", vec![2, 3]),
            ("connection:X", vec![5]),
        ] {
            let text = format!(
                "set session hw_model=AlphaServer_DS20\nload packet_port P interface=\"{interface}\"\n"
            );
            let nic = facts(&parse(&text, |_| None).unwrap()).nics.remove(0);
            let numbers: Vec<_> =
                host().findings(&nic).into_iter().map(NicFinding::number).collect();
            assert_eq!(numbers, want, "{interface}");
        }
    }

    #[test]
    fn numbers_are_those_of_the_list_and_three_of_them_refuse_a_start() {
        let numbers: Vec<_> = NicFinding::ALL.iter().map(|finding| finding.number()).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        let refused = NicFinding::ALL.iter().filter(|f| f.refuses()).map(|f| f.number());
        assert_eq!(refused.collect::<Vec<_>>(), [1, 3, 5]);
    }
}
