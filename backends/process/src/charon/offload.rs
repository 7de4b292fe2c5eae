//! What an interface does for the host's network stack, switched off while an emulator has the
//! interface: it would see packets that were put together, or without their checksums.
//!
//! What was on is written down in the runtime directory first, so that whoever comes later can
//! switch it on again. A record that is there already is of an emulator whose end nobody saw: what
//! it says was on is what the administrator had.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Name of the record in the runtime directory.
const RECORD: &str = "offload";

/// Request for ethtool(8)'s commands, from linux/sockios.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// Commands of linux/ethtool.h for all features that a kernel has names for.
const GET_STRINGS: u32 = 0x1b;
const GET_SET_INFO: u32 = 0x37;
const GET_FEATURES: u32 = 0x3a;
const SET_FEATURES: u32 = 0x3b;

/// The set of strings that features are, and the words that one takes.
const FEATURE_NAMES: u32 = 4;
const NAME_WORDS: usize = 8;

/// More features than any kernel has.
const MOST_FEATURES: u32 = 1024;

/// Of something that an interface can do, the word of the record and the way to switch it.
struct Feature {
    word: &'static str,
    way: Way,
}

enum Way {
    /// Commands that get and set it.
    Plain { get: u32, set: u32 },
    /// A bit of those that one pair of commands gets and sets.
    Flag(u32),
    /// Newer than such commands: the kernel's name for it.
    Named(&'static str),
}

const fn plain(word: &'static str, get: u32, set: u32) -> Feature {
    Feature { word, way: Way::Plain { get, set } }
}

const fn flag(word: &'static str, bit: u32) -> Feature {
    Feature { word, way: Way::Flag(1 << bit) }
}

const fn named(word: &'static str, name: &'static str) -> Feature {
    Feature { word, way: Way::Named(name) }
}

const GET_FLAGS: u32 = 0x25;
const SET_FLAGS: u32 = 0x26;

/// In the order in which they are switched off: what needs another one comes before it.
const FEATURES: [Feature; 14] = [
    named("accecn", "tx-tcp-accecn-segmentation"),
    named("uso", "tx-udp-segmentation"),
    named("gro-forward", "rx-udp-gro-forwarding"),
    named("gro-list", "rx-gro-list"),
    named("gro-hw", "rx-gro-hw"),
    plain("tso", 0x1e, 0x1f),
    plain("gso", 0x23, 0x24),
    plain("gro", 0x2b, 0x2c),
    flag("lro", 15),
    flag("txvlan", 7),
    flag("rxvlan", 8),
    plain("sg", 0x18, 0x19),
    plain("tx", 0x16, 0x17),
    plain("rx", 0x14, 0x15),
];

/// The place of a feature among all.
struct Place {
    number: usize,
    /// Words of 32 that all of them take.
    blocks: usize,
}

impl Place {
    /// The word that it is in, and its bit there.
    fn bit(&self) -> (usize, u32) {
        (self.number / 32, 1 << (self.number % 32))
    }
}

/// The way to the kernel.
struct Switch(OwnedFd);

impl Switch {
    fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(Self(socket(AddressFamily::Inet, SockType::Datagram, flags, None)?))
    }

    /// One request; the words begin with the command, and have room for what it gives.
    fn request(&self, interface: &str, words: &mut [u32]) -> io::Result<()> {
        let mut name: [libc::c_char; libc::IFNAMSIZ] = [0; libc::IFNAMSIZ];
        if interface.is_empty() || interface.len() >= name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in name.iter_mut().zip(interface.bytes()) {
            *to = from.cast_signed();
        }
        let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_data: words.as_mut_ptr().cast() };
        let request = libc::ifreq { ifr_name: name, ifr_ifru };
        // SAFETY: the request reads the name, and reads and writes the words, as many as they say
        // themselves; both are alive here.
        let rc = unsafe { libc::ioctl(self.0.as_raw_fd(), SIOCETHTOOL, &raw const request) };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// A command that gets or sets one word.
    fn call(&self, interface: &str, cmd: u32, data: u32) -> io::Result<u32> {
        let mut words = [cmd, data];
        self.request(interface, &mut words)?;
        Ok(words[1])
    }

    fn place(&self, interface: &str, name: &str) -> io::Result<Place> {
        let mask = (1_u64 << FEATURE_NAMES).to_ne_bytes();
        let [a, b, c, d, e, f, g, h] = mask;
        let (first, second) = ([a, b, c, d], [e, f, g, h]);
        let (first, second) = (u32::from_ne_bytes(first), u32::from_ne_bytes(second));
        let mut info = [GET_SET_INFO, 0, first, second, 0];
        self.request(interface, &mut info)?;
        let count = info[4];
        if count == 0 || count > MOST_FEATURES {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let all = count as usize;
        let mut words = vec![0; 3 + all * NAME_WORDS];
        words[..3].copy_from_slice(&[GET_STRINGS, FEATURE_NAMES, count]);
        self.request(interface, &mut words)?;
        let is_it = |words: &[u32]| {
            let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
            bytes.take_while(|byte| *byte != 0).eq(name.bytes())
        };
        let number = words[3..].chunks_exact(NAME_WORDS).position(is_it);
        let number = number.ok_or(io::ErrorKind::Unsupported)?;
        Ok(Place { number, blocks: all.div_ceil(32) })
    }

    fn is_on(&self, interface: &str, feature: &Feature) -> io::Result<bool> {
        match feature.way {
            Way::Plain { get, .. } => Ok(self.call(interface, get, 0)? != 0),
            Way::Flag(bit) => Ok(self.call(interface, GET_FLAGS, 0)? & bit != 0),
            Way::Named(name) => {
                let place = self.place(interface, name)?;
                // For each block: what there is, what is wished, what is on, what never changes.
                let mut words = vec![0; 2 + place.blocks * 4];
                words[0] = GET_FEATURES;
                words[1] = u32::try_from(place.blocks).unwrap_or_default();
                self.request(interface, &mut words)?;
                let (block, bit) = place.bit();
                Ok(words[2 + block * 4 + 2] & bit != 0)
            }
        }
    }

    fn set(&self, interface: &str, feature: &Feature, on: bool) -> io::Result<()> {
        match feature.way {
            Way::Plain { set, .. } => self.call(interface, set, u32::from(on)).map(drop),
            Way::Flag(bit) => {
                let now = self.call(interface, GET_FLAGS, 0)?;
                let then = if on { now | bit } else { now & !bit };
                self.call(interface, SET_FLAGS, then).map(drop)
            }
            Way::Named(name) => {
                let place = self.place(interface, name)?;
                // For each block: what is to be changed, and to what.
                let mut words = vec![0; 2 + place.blocks * 2];
                words[0] = SET_FEATURES;
                words[1] = u32::try_from(place.blocks).unwrap_or_default();
                let (block, bit) = place.bit();
                words[2 + block * 2] = bit;
                words[2 + block * 2 + 1] = if on { bit } else { 0 };
                self.request(interface, &mut words)?;
                // The kernel notes a wish that it does not grant, and calls that no error.
                match !on && self.is_on(interface, feature)? {
                    true => Err(io::ErrorKind::Unsupported.into()),
                    false => Ok(()),
                }
            }
        }
    }

    /// Words of what is on; what an interface does not know is not on.
    fn on(&self, interface: &str) -> Vec<&'static str> {
        let on = |feature: &&Feature| self.is_on(interface, feature).unwrap_or(false);
        FEATURES.iter().filter(on).map(|feature| feature.word).collect()
    }
}

/// Interfaces whose offloads are off; switched on again when this is dropped, unless it is kept.
#[derive(Debug)]
pub(crate) struct SwitchedOff(Option<PathBuf>);

impl SwitchedOff {
    /// The emulator has them from now on.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for SwitchedOff {
    fn drop(&mut self) {
        if let Some(rundir) = &self.0 {
            restore(rundir);
        }
    }
}

/// Switches everything off; gives what stayed on, for people.
///
/// # Errors
/// When the record cannot be written: nothing is changed then.
pub(crate) fn switch_off<'n>(
    rundir: &Path,
    interfaces: impl Iterator<Item = &'n str>,
) -> io::Result<(SwitchedOff, Vec<String>)> {
    // What an emulator before could not give back comes first.
    restore(rundir);
    let switch = Switch::open()?;
    let found: Vec<_> = interfaces.map(|name| (name, switch.on(name))).collect();
    if found.is_empty() {
        return Ok((SwitchedOff(None), Vec::new()));
    }
    let mut record = String::new();
    for (name, words) in &found {
        let _infallible = writeln!(record, "{name} {}", words.join(" "));
    }
    let new = rundir.join("offload.new");
    fs::write(&new, record)?;
    fs::rename(&new, rundir.join(RECORD))?;
    let off = SwitchedOff(Some(rundir.to_owned()));
    let mut stayed = Vec::new();
    for (name, words) in found {
        for feature in FEATURES.iter().filter(|feature| words.contains(&feature.word)) {
            if let Err(error) = switch.set(name, feature, false) {
                stayed.push(format!("{} of {name} stays on: {error}", feature.word));
            }
        }
    }
    Ok((off, stayed))
}

/// Switches on again what was on, if there is a record, and removes it.
pub(crate) fn restore(rundir: &Path) {
    let file = rundir.join(RECORD);
    let Ok(record) = fs::read_to_string(&file) else { return };
    let switch = match Switch::open() {
        Ok(switch) => switch,
        Err(error) => {
            tracing::warn!(%error, "the offloads of interfaces stay off");
            return;
        }
    };
    for line in record.lines() {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        for feature in FEATURES.iter().rev().filter(|feature| words.contains(&feature.word)) {
            if let Err(error) = switch.set(name, feature, true) {
                // Also where the interface itself is gone.
                tracing::info!(%error, name, word = feature.word, "an offload stays off");
            }
        }
    }
    if let Err(error) = fs::remove_file(&file) {
        tracing::warn!(%error, "the record of offloads stays");
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::testing::Scratch;

    /// Runs a test in a network of its own, with a pair of interfaces; a thread has its own.
    fn with_veth(test: impl FnOnce(&Path) + Send + 'static) {
        let thread = std::thread::spawn(move || {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                crate::testing::skip(&format!("no network of our own: {error}"));
                return;
            }
            let words = ["link", "add", "v0", "type", "veth", "peer", "name", "v1"];
            if !Command::new("ip").args(words).status().is_ok_and(|status| status.success()) {
                crate::testing::skip("no interfaces can be made; install iproute2");
                return;
            }
            let scratch = Scratch::new("offload");
            test(&scratch.0);
        });
        thread.join().unwrap();
    }

    #[test]
    fn everything_is_switched_off_and_comes_back_as_it_was() {
        with_veth(|rundir| {
            let switch = Switch::open().unwrap();
            let rx = FEATURES.iter().find(|feature| feature.word == "rx").unwrap();
            switch.set("v1", rx, false).unwrap();
            let before = [switch.on("v0"), switch.on("v1")];
            assert!(before[0].contains(&"tx") && before[0].contains(&"tso"), "{before:?}");
            let (off, stayed) = switch_off(rundir, ["v0", "v1"].into_iter()).unwrap();
            let kept: Vec<_> = ["v0", "v1"].into_iter().flat_map(|name| switch.on(name)).collect();
            // What the kernel does not let us have is told.
            assert_eq!(kept.is_empty(), stayed.is_empty(), "{kept:?} {stayed:?}");
            assert!(!kept.contains(&"tx") && !kept.contains(&"rx"), "{kept:?}");
            drop(off);
            assert_eq!([switch.on("v0"), switch.on("v1")], before);
            assert!(!rundir.join(RECORD).exists());
        });
    }

    #[test]
    fn a_record_that_a_dead_monitor_has_left_is_what_the_administrator_had() {
        with_veth(|rundir| {
            let switch = Switch::open().unwrap();
            let before = switch.on("v0");
            let (off, _) = switch_off(rundir, ["v0"].into_iter()).unwrap();
            off.keep();
            assert_ne!(switch.on("v0"), before);
            let (again, _) = switch_off(rundir, ["v0"].into_iter()).unwrap();
            again.keep();
            restore(rundir);
            assert_eq!(switch.on("v0"), before);
        });
    }

    #[test]
    fn interfaces_that_are_gone_and_records_of_rubbish_harm_nothing() {
        let scratch = Scratch::new("offload");
        let (off, _) = switch_off(&scratch.0, ["nosuchnic"].into_iter()).unwrap();
        drop(off);
        fs::write(scratch.0.join(RECORD), "\n\nx tx\n an-interface-with-a-very-long-name rx\n")
            .unwrap();
        restore(&scratch.0);
        assert!(!scratch.0.join(RECORD).exists());
    }
}
