//! Words of saved state: what an image says of the machine it was made on, of its disks and of the
//! moment it holds. Shared by the backends, which state and compare these facts, and the image
//! store, which writes them down.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::model::DiskFormat;
use crate::ids::InvalidId;
use crate::state::words;

/// Identity of an image: made once, kept by exports and imports of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub uuid::Uuid);

impl ImageId {
    /// A new random identity.
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.hyphenated().to_string())
    }
}

impl FromStr for ImageId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        uuid::Uuid::parse_str(text).map(Self).map_err(|_| InvalidId {
            kind: "image",
            text: text.into(),
            rule: "8-4-4-4-12 hex digits",
        })
    }
}

words! {
    /// What an image was made for; decides who may restore it without being told to.
    pub enum Purpose {
        /// `suspend`: the domain is this image until it is resumed.
        Suspend = "suspend",
        /// `host save`: brought back by `host restore` and at boot.
        Maintenance = "maintenance",
        /// `save`: a file of the user's.
        Save = "save",
        /// `image checkpoint` and `save -c`: the domain went on after it.
        Checkpoint = "checkpoint",
    }
}

words! {
    /// What becomes of the guest's clock when its state comes back (`clock_after_restore=`).
    pub enum ClockPolicy {
        /// It goes on from the moment of the save.
        Leave = "leave",
        /// It is set to the host's, where the backend has a way.
        Host = "host",
    }
}

#[allow(clippy::derivable_impls, reason = "the macro that gives words their spelling derives none")]
impl Default for ClockPolicy {
    fn default() -> Self {
        Self::Leave
    }
}

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImagePlace {
    /// In the managed store.
    Store,
    /// A file of the user's.
    File(PathBuf),
}

/// The image that a live domain came from, or comes from at this moment; kept in its live row so
/// that a later monitor knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUse {
    /// The image.
    pub id: ImageId,
    /// Where it is.
    pub place: ImagePlace,
    /// Verify all of it before the guest runs, instead of in the background.
    pub eager: bool,
    /// Go on although disks are not what they were.
    pub force_disks: bool,
    /// It stays in the store after the domain runs: a checkpoint, or the source of a clone.
    pub keep: bool,
    /// The guest may have gone on from it. Until this is written it provably has not.
    #[serde(default)]
    pub went_on: bool,
    /// It is verified, and removed unless it is kept. The emulator still maps it.
    #[serde(default)]
    pub done: bool,
    /// Bytes on the disk that stay taken for as long as the emulator maps a removed image.
    #[serde(default)]
    pub pinned: u64,
}

impl ImageUse {
    /// The use of an image that nobody has come from yet.
    #[must_use]
    pub const fn of(id: ImageId, place: ImagePlace) -> Self {
        Self {
            id,
            place,
            eager: false,
            force_disks: false,
            keep: false,
            went_on: false,
            done: false,
            pinned: 0,
        }
    }
}

/// The machine that a state belongs to, resolved: never an alias.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Name of the backend.
    pub backend: String,
    /// Kind of emulator: `qemu`, `pdp11`, `mock`.
    pub emulator: String,
    /// Its version, as it tells it: `7.2.22`.
    pub version: String,
    /// Versioned machine type; empty where there are none.
    pub machine: String,
    /// Processor model; empty where there is none.
    pub cpu: String,
    /// Processor features the guest has seen, sorted, where the backend can tell.
    pub features: Vec<String>,
    /// What ran the instructions: `tcg`, `kvm`; empty where there is no choice.
    pub accel: String,
    /// The devices as the guest sees them, in order; a different list is a different machine.
    pub devices: Vec<String>,
    /// Whatever else the backend wants back with its state, such as names of memory blocks.
    pub notes: BTreeMap<String, String>,
}

/// The one memory block of a domain, where the backend keeps it apart from the device state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLayout {
    /// The backend's name for the block.
    pub id: String,
    /// Its size in bytes; a multiple of [`PAGE`].
    pub size: u64,
}

/// Bytes in a page of an image's memory.
pub const PAGE: u64 = 4096;

/// What tells whether a disk is still what it was when the state was saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// The guest's name for it.
    pub vdev: String,
    /// Where it is on the host.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// The guest may write it.
    pub writable: bool,
    /// Size of the file or device in bytes.
    pub size: u64,
    /// Modification time in nanoseconds since 1970; `None` for a block device, whose inode tells
    /// nothing of writes to it.
    pub mtime_ns: Option<i64>,
    /// BLAKE3 of its first 64 KiB: the format's own header, a partition table.
    pub header: [u8; 32],
    /// The snapshot taken in the same pause, where the format has them.
    pub snapshot: Option<String>,
}

/// The moment that a state holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// When the guest stood still, by the host's clock; milliseconds since 1970.
    pub stopped_ms: i64,
    /// Whether it was running (and goes on when it comes back).
    pub running: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_id_reads_back_as_it_was_written() {
        let id = ImageId::random();
        assert_eq!(id.to_string().parse::<ImageId>().unwrap(), id);
        "not-an-id".parse::<ImageId>().unwrap_err();
    }
}
