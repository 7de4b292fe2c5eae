//! What can be wrong with an image. The texts go on after the name of the image.

use thiserror::Error;

/// What is wrong with an image that was to be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ImageFault {
    /// It does not begin as a saved domain does.
    #[error("is no saved domain: its magic number is wrong; was another file meant?")]
    BadMagic,
    /// The byte order mark is that of another kind of host, or none.
    #[error("was saved on a host of another byte order; restore it there")]
    ByteOrder,
    /// The header asks for abilities that this build does not know; these bits.
    #[error("needs what this kxl does not know (mandatory flags {0:#x}); use a newer kxl")]
    MandatoryFlags(u32),
    /// It was written by Xen's own toolstack.
    #[error(
        "was saved by xl on Xen, whose guests only Xen can run; restore it there, or start the \
         domain from its disks"
    )]
    Xen,
    /// It ends too early.
    #[error("is truncated: it ends within {0}; copy it again from where it came from")]
    Truncated(&'static str),
    /// The save was cut off before the end.
    #[error("was never finished: the save that wrote it was cut off; remove it")]
    NeverFinished,
    /// A later format.
    #[error("has format {found}, and this kxl reads up to {known}; use the kxl that wrote it")]
    NewerVersion {
        /// Its format.
        found: u32,
        /// The newest format that this build reads.
        known: u32,
    },
    /// The manifest has a record that must be understood and is not.
    #[error("needs what this kxl does not know (mandatory record {0}); use a newer kxl")]
    UnknownRecord(u16),
    /// Something in it is not what its digest says.
    #[error("is damaged: {0} is not what was written; use another copy of it")]
    Digest(&'static str),
    /// A chunk of the memory is not what was written.
    #[error(
        "is damaged: memory at {offset:#x} ({length} bytes from there) is not what was written; \
         use another copy of it"
    )]
    Chunk {
        /// Where in the guest's memory the chunk begins.
        offset: u64,
        /// Bytes in the chunk.
        length: u64,
    },
    /// Its parts contradict each other, although the digests are right.
    #[error("is malformed: {0}; it was not written by kxl")]
    Malformed(String),
    /// A part of it is not there.
    #[error("is incomplete: its {0} is missing; use another copy of it")]
    Missing(&'static str),
}
