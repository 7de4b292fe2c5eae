//! The one table of keys: what the parser knows, what `domain-configs/reference.cfg` lists and
//! what kxl.cfg(5) explains.

mod own;
mod xl;

use crate::state::words;

words! {
    /// What a key's value has to be.
    pub enum Type {
        /// A string (a number will do: it is text as well).
        Text = "string",
        /// A number, quoted or not.
        Number = "number",
        /// A number of which only zero or not counts.
        Flag = "0 or 1",
        /// A list.
        List = "list",
        /// A string, or a list of several.
        TextOrList = "string or list",
    }
}

words! {
    /// What is done about a key.
    pub enum Verdict {
        /// Acted on.
        Must = "full",
        /// Acted on as far as this build and the emulator can; kept otherwise.
        Map = "partly",
        /// Only Xen can do it: kept, and said in one line.
        Warn = "xen only",
        /// Refused when set: ignoring it would run something else than was asked for.
        Reject = "refused",
        /// kxl's own.
        Own = "kxl",
    }
}

words! {
    /// The part of the reference a key belongs to.
    pub enum Section {
        /// Name, memory, processors, clock.
        General = "General",
        /// What follows when the guest ends.
        Actions = "Events",
        /// Kernel, firmware, boot order.
        Boot = "Boot",
        /// Disks, networks, passed-through and emulated devices.
        Devices = "Devices",
        /// Screen, keyboard, sound.
        Display = "Display",
        /// The machine's features.
        Platform = "Platform",
        /// The emulator process.
        DeviceModel = "Emulator",
        /// What belongs to the Xen hypervisor, and to Arm.
        Xen = "Xen and Arm",
        /// kxl's own keys.
        Own = "Keys of kxl",
    }
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value has to be.
    pub kind: Type,
    /// The unit of a number, or the words a string may be; empty where there is none.
    pub unit: &'static str,
    /// What holds when it is not given.
    pub default: &'static str,
    /// What is done about it.
    pub verdict: Verdict,
    /// Where it belongs.
    pub section: Section,
    /// What it means, in one line.
    pub meaning: &'static str,
}

/// Every key, section by section.
pub fn all() -> impl Iterator<Item = &'static Key> {
    xl::KEYS.iter().chain(own::KEYS)
}

/// The key of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    all().find(|key| key.name == name)
}

/// The known key nearest to a name that is none.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    super::nearest::nearest(name, all().map(|key| key.name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_the_172_keys_of_xl_by_verdict_and_those_of_kxl() {
        let count = |verdict| all().filter(|key| key.verdict == verdict).count();
        assert_eq!(
            [Verdict::Must, Verdict::Map, Verdict::Warn, Verdict::Reject].map(count),
            [46, 65, 59, 2]
        );
        assert_eq!(count(Verdict::Own), 49);
    }

    #[test]
    fn no_key_is_listed_twice_and_each_says_what_it_means() {
        let names: BTreeSet<_> = all().map(|key| key.name).collect();
        assert_eq!(names.len(), all().count());
        for key in all() {
            assert!(key.meaning.len() > 10 && !key.meaning.ends_with('.'), "{}", key.name);
            assert!(!key.default.is_empty(), "{}", key.name);
            assert_eq!(key.section == Section::Own, key.verdict == Verdict::Own, "{}", key.name);
        }
    }

    #[test]
    fn sections_are_contiguous() {
        let mut seen = Vec::new();
        for key in all() {
            if seen.last() != Some(&key.section) {
                assert!(!seen.contains(&key.section), "{} is out of place", key.name);
                seen.push(key.section);
            }
        }
    }
}
