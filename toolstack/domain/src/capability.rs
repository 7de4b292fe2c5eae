//! What a backend can do, by stable names.

use std::fmt;

use crate::state::words;

words! {
    /// One thing that a backend may offer. A verb whose rule needs one is refused (exit 5) where
    /// the backend does not declare it.
    pub enum Capability {
        /// Stand still and go on, memory resident.
        Pause = "pause",
        /// Ask the guest to switch itself off.
        Powerdown = "powerdown",
        /// Restart the guest in place.
        Reset = "reset",
        /// Write the running state to an image and come back from it.
        SaveState = "save-state",
        /// Save while the guest runs.
        LiveSave = "live-save",
        /// Sleep in memory, with everything written on the disks.
        Sleep = "sleep",
        /// A core dump of guest memory.
        DumpCore = "dump-core",
        /// Move to another host.
        Migrate = "migrate",
        /// A serial console that can be attached to.
        Console = "console",
        /// Change the memory of a running guest.
        Balloon = "balloon",
        /// A port of its own by which the guest tells its host how it stands.
        GuestPort = "guest-port",
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySet(u32);

impl CapabilitySet {
    /// The set of these.
    #[must_use]
    pub fn of(list: &[Capability]) -> Self {
        Self(list.iter().fold(0, |bits, cap| bits | 1 << (*cap as u32)))
    }

    /// Whether `capability` is in the set.
    #[must_use]
    pub const fn has(self, capability: Capability) -> bool {
        self.0 & 1 << (capability as u32) != 0
    }

    /// The members, in the order of the glossary.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.iter().copied().filter(move |cap| self.has(*cap))
    }
}

impl fmt::Display for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Capability::as_str).collect();
        f.pad(&names.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        let set = CapabilitySet::of(&[Capability::Pause, Capability::Console]);
        assert!(set.has(Capability::Pause));
        assert!(!set.has(Capability::Reset));
        assert_eq!(set.to_string(), "pause console");
    }
}
