//! Images: the saved state of a domain, written, read, verified and kept.
//!
//! ```text
//!   Writer ──► temporary ──commit──► store:  images/ID/{manifest, device, memory}
//!                                    file:   header · locator · memory · device · manifest
//!   Image  ◄── either of them        codec:  the manifest, the same in both
//! ```
//! What is on the disk is told byte by byte in `IMAGE-FORMAT.md`. Memory is kept in chunks of
//! 2 MiB with a digest each; what was never touched, or is zero, is a hole.
//!
//! An image is complete or it cannot be seen: everything is on the disk before it gets its name.
//! Nothing here knows whether a domain runs; that is the engine's.

mod ahead;
mod buffer;
mod carry;
mod codec;
mod disks;
mod fault;
mod header;
mod open;
mod qcow2;
mod read;
#[allow(unsafe_code, reason = "ioctl_ficlonerange has no safe wrapper")]
mod reflink;
mod reserve;
mod spent;
mod stock;
mod target;
mod tree;
mod worker;
mod writer;

use std::path::PathBuf;

use kxl_domain::image::{DiskIdentity, Machine, MemoryLayout, Moment, Purpose};
use kxl_domain::{DomId, DomainConfig, DomainName, DomainUuid, ImageId, Wanted};

pub use ahead::read_ahead;
pub use carry::{export, import};
pub use disks::{changed, identify, identify_file};
pub use fault::ImageFault;
pub use open::Image;
pub use read::Verified;
pub use stock::{list, remove, sweep, sweep_file};
pub use target::Target;
pub use writer::Writer;

/// Bytes of a chunk of memory: what one digest is for.
pub const CHUNK: u64 = 2 << 20;

/// A BLAKE3.
type Digest = [u8; 32];

/// A number that is below the length of something in memory, as an index into it.
#[expect(clippy::cast_possible_truncation, reason = "what is in memory has an index")]
const fn index(number: u64) -> usize {
    number as usize
}

const MANIFEST_FILE: &str = "manifest";
const DEVICE_FILE: &str = "device";
const MEMORY_FILE: &str = "memory";

/// What an image tells of its domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its identity.
    pub id: ImageId,
    /// What it was made for.
    pub purpose: Purpose,
    /// When it was begun; milliseconds since 1970.
    pub created_ms: i64,
    /// The domain.
    pub uuid: DomainUuid,
    /// Its name then.
    pub name: DomainName,
    /// The number that it is to have again (`save -D`).
    pub domid: Option<DomId>,
    /// Whether it was a managed domain.
    pub managed: bool,
    /// What was wanted of it.
    pub wanted: Wanted,
    /// Its configuration as it ran.
    pub config: DomainConfig,
    /// The machine that its state belongs to.
    pub machine: Machine,
    /// The moment that it holds.
    pub moment: Moment,
    /// Its disks at that moment.
    pub disks: Vec<DiskIdentity>,
}

/// Reads a manifest that is in memory: what it tells of the domain, and of its memory block.
///
/// # Errors
/// What is wrong with it. Nothing in it is trusted, and what it makes this process allocate is
/// bounded by a small multiple of its length.
pub fn read_manifest(bytes: &[u8]) -> Result<(Facts, Option<MemoryLayout>), ImageFault> {
    let manifest = codec::decode(bytes)?;
    Ok((manifest.facts, manifest.memory.map(|memory| memory.layout)))
}

/// What an image is going to need on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Bytes of the memory block, where there is one apart.
    pub memory: Option<u64>,
    /// Bytes of it that were touched: at most this much is written for the memory as it is now.
    pub touched: u64,
    /// An upper bound of the device stream in bytes.
    pub device: u64,
}

/// An image of the store, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What it says of its domain.
    pub facts: Facts,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
    /// Bytes of state in it, holes and all.
    pub size: u64,
    /// When a guest went on from it; milliseconds since 1970.
    pub spent: Option<i64>,
}

/// An image that is whole and on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its identity.
    pub id: ImageId,
    /// Its directory or file.
    pub path: PathBuf,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
    /// Bytes of state in it, holes and all.
    pub size: u64,
}

#[cfg(test)]
mod tests;
