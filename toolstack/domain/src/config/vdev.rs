//! Names of virtual disks: `xvda`, `sdb2`, `hdc`, `d0p1`, or Xen's number of one.

use super::model::DiskBus;

/// A virtual disk's name, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vdev {
    /// The bus the name asks for.
    pub bus: DiskBus,
    /// Which disk on that bus, from 0.
    pub index: u32,
    /// Which partition of it, 0 for the whole disk.
    pub partition: u32,
    /// Xen's number: what `xl block-list` prints.
    pub number: u32,
}

const XVD_MAJOR: u32 = 202;
const SD_MAJOR: u32 = 8;
/// Marks the numbers of virtio-like disks beyond the sixteenth disk or the fifteenth partition.
const EXTENDED: u32 = 1 << 28;

impl Vdev {
    /// Understands a name; `None` where it is none.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            let number = u32::try_from(super::number::parse(name).ok()?).ok()?;
            return Self::of_number(number);
        }
        if let Some((disk, partition)) = split_name(name, "xvd").or_else(|| split_dnpm(name)) {
            return Self::virtio(disk, partition);
        }
        if let Some((disk, partition)) = split_name(name, "hd") {
            return Self::ide(disk, partition);
        }
        let (disk, partition) = split_name(name, "sd")?;
        Self::scsi(disk, partition)
    }

    /// The device of a Xen number, where the number is one of a disk.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        let minor = number & 0xff;
        match number >> 8 {
            XVD_MAJOR => Self::virtio(minor >> 4, minor & 15),
            SD_MAJOR => Self::scsi(minor >> 4, minor & 15),
            3 if minor < 128 => Self::ide(minor >> 6, minor & 63),
            22 if minor < 128 => Self::ide(2 + (minor >> 6), minor & 63),
            _ if number >> 28 == 1 => {
                let (disk, partition) = ((number & (EXTENDED - 1)) >> 8, minor);
                Some(Self { bus: DiskBus::Virtio, index: disk, partition, number })
            }
            _ => None,
        }
    }

    fn virtio(disk: u32, partition: u32) -> Option<Self> {
        let number = match (disk, partition) {
            (0..=15, 0..=15) => XVD_MAJOR << 8 | disk << 4 | partition,
            (0..=0xf_ffff, 0..=255) => EXTENDED | disk << 8 | partition,
            _ => return None,
        };
        Some(Self { bus: DiskBus::Virtio, index: disk, partition, number })
    }

    fn ide(disk: u32, partition: u32) -> Option<Self> {
        let major = if disk < 2 { 3 } else { 22 };
        (disk < 4 && partition < 64).then_some(Self {
            bus: DiskBus::Ide,
            index: disk,
            partition,
            number: major << 8 | (disk & 1) << 6 | partition,
        })
    }

    fn scsi(disk: u32, partition: u32) -> Option<Self> {
        (disk < 16 && partition < 16).then_some(Self {
            bus: DiskBus::Scsi,
            index: disk,
            partition,
            number: SD_MAJOR << 8 | disk << 4 | partition,
        })
    }
}

/// Disk and partition of `PREFIX` + letters + digits; letters count a..z, aa..zz, …
fn split_name(name: &str, prefix: &str) -> Option<(u32, u32)> {
    let rest = name.strip_prefix(prefix)?;
    let letters = rest.bytes().take_while(u8::is_ascii_lowercase).count();
    // Five letters reach past the largest disk there is.
    if !(1..=5).contains(&letters) {
        return None;
    }
    let disk = rest[..letters]
        .bytes()
        .fold(0_u32, |disk, letter| disk * 26 + u32::from(letter - b'a') + 1)
        - 1;
    match &rest[letters..] {
        "" => Some((disk, 0)),
        partition => Some((disk, positive(partition)?)),
    }
}

/// Disk and partition of `dNpM`.
fn split_dnpm(name: &str) -> Option<(u32, u32)> {
    let (disk, partition) = name.strip_prefix('d')?.split_once('p')?;
    let zero_or = |text: &str| if text == "0" { Some(0) } else { positive(text) };
    Some((zero_or(disk)?, zero_or(partition)?))
}

/// A decimal number without a leading zero.
fn positive(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_numbers_are_those_of_xen() {
        use DiskBus::{Ide, Scsi, Virtio};
        let rows = [
            ("xvda", Virtio, 0, 0, 51712),
            ("xvdb", Virtio, 1, 0, 51728),
            ("xvda2", Virtio, 0, 2, 51714),
            ("xvdp15", Virtio, 15, 15, 51967),
            ("xvdq", Virtio, 16, 0, 268_439_552),
            ("xvdaa", Virtio, 26, 0, 268_442_112),
            ("xvda16", Virtio, 0, 16, 268_435_472),
            ("d0p0", Virtio, 0, 0, 51712),
            ("d536p37", Virtio, 536, 37, 268_572_709),
            ("hda", Ide, 0, 0, 768),
            ("hdb", Ide, 1, 0, 832),
            ("hdc", Ide, 2, 0, 5632),
            ("hdd63", Ide, 3, 63, 5759),
            ("sda", Scsi, 0, 0, 2048),
            ("sdp15", Scsi, 15, 15, 2303),
            ("51712", Virtio, 0, 0, 51712),
            ("0xca10", Virtio, 1, 0, 51728),
            ("5632", Ide, 2, 0, 5632),
            ("2064", Scsi, 1, 0, 2064),
        ];
        for (name, bus, index, partition, number) in rows {
            let want = Vdev { bus, index, partition, number };
            assert_eq!(Vdev::parse(name), Some(want), "{name}");
        }
    }

    #[test]
    fn what_names_no_disk_is_refused() {
        for name in [
            "",
            "xvd",
            "xvdA",
            "xvda0",
            "xvda01",
            "hde",
            "hda64",
            "sdq",
            "sda16",
            "d0",
            "d01p1",
            "dp",
            "vda",
            "xvdaaaaaa",
            "xvda256",
            "0",
            "999999999999",
            "768x",
            "xvda-1",
            "hdc:cdrom",
        ] {
            assert_eq!(Vdev::parse(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_name_and_its_number_mean_the_same_disk(
            name in "(xvd[a-z]{1,3}|hd[a-d]|sd[a-p])([1-9][0-9]?)?"
        ) {
            if let Some(vdev) = Vdev::parse(&name) {
                prop_assert_eq!(Vdev::of_number(vdev.number), Some(vdev));
            }
        }

        #[test]
        fn no_text_makes_it_panic(name in "\\PC{0,12}") {
            let _ = Vdev::parse(&name);
        }
    }
}
