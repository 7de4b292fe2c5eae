//! The beginning of an image that is one file: a header and configuration block as Xen's `xl`
//! writes them, then the locator, which says where everything is and is zero until the end.

use super::codec::array;
use super::fault::ImageFault;
use super::{CHUNK, Digest};

/// What `file(1)` and scripts know a saved domain by.
const MAGIC: [u8; 32] = *b"Xen saved domain, xl format\n \0 \r";
const BYTE_ORDER: u32 = 0x0102_0304;
/// The configuration is JSON.
const JSON: u32 = 1;
/// What follows is a stream of the second version.
const STREAM: u32 = 2;
/// What follows is an image of kxl, which Xen's own `xl` then refuses.
const KXL: u32 = 0x0001_0000;
/// Bytes of the header.
pub(super) const HEADER: usize = 48;
/// Bytes of the locator.
pub(super) const LOCATOR: usize = 128;
/// The longest configuration block that is read.
pub(super) const LONGEST: u32 = 16 << 20;

const LOCATOR_MAGIC: [u8; 8] = *b"kxl-loc\n";
const SEALED: usize = LOCATOR - 32;

/// Where the parts of an image file are, in bytes from its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Locator {
    pub(super) memory: (u64, u64),
    pub(super) device: (u64, u64),
    pub(super) manifest: (u64, u64),
}

/// Header and configuration block. The text gets the NUL at its end that `xl` writes.
pub(super) fn head(text: &[u8]) -> Result<Vec<u8>, ImageFault> {
    let mut block = text.to_vec();
    if block.last() != Some(&0) {
        block.push(0);
    }
    let length = u32::try_from(block.len())
        .ok()
        .filter(|length| *length <= LONGEST - 4)
        .ok_or_else(|| ImageFault::Malformed("the configuration is longer than 16 MiB".into()))?;
    let mut out = MAGIC.to_vec();
    for word in [BYTE_ORDER, JSON | STREAM | KXL, 0, length + 4, length] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&block);
    Ok(out)
}

/// Where the memory of a file with such a head begins: behind the locator, at a whole chunk.
pub(super) fn memory_at(head: &[u8]) -> u64 {
    ((head.len() + LOCATOR) as u64).next_multiple_of(CHUNK)
}

/// Reads the header of 48 bytes, or less where the file is shorter; gives the length of what
/// follows it.
pub(super) fn read(bytes: &[u8]) -> Result<u32, ImageFault> {
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] || bytes.is_empty() {
        return Err(ImageFault::BadMagic);
    }
    if bytes.len() < HEADER {
        return Err(ImageFault::Truncated("the header"));
    }
    let word = |at: usize| u32::from_le_bytes(array(&bytes[at..at + 4]));
    if word(32) != BYTE_ORDER {
        return Err(ImageFault::ByteOrder);
    }
    let flags = word(36);
    let unknown = flags & !(JSON | STREAM | KXL);
    if unknown != 0 {
        return Err(ImageFault::MandatoryFlags(unknown));
    }
    if flags & KXL == 0 {
        return Err(ImageFault::Xen);
    }
    let length = word(44);
    if flags != JSON | STREAM | KXL || !(4..=LONGEST).contains(&length) {
        return Err(ImageFault::Malformed("its header has impossible values".into()));
    }
    Ok(length)
}

/// The configuration text within the block of this header, without its NUL.
pub(super) fn text(block: &[u8]) -> Option<&[u8]> {
    let (length, rest) = block.split_at_checked(4)?;
    let text = rest.get(..u32::from_le_bytes(array(length)) as usize)?;
    Some(text.strip_suffix(&[0]).unwrap_or(text))
}

/// The locator for a file with this head.
pub(super) fn seal(head: &[u8], locator: &Locator) -> [u8; LOCATOR] {
    let mut out = [0; LOCATOR];
    out[..8].copy_from_slice(&LOCATOR_MAGIC);
    out[8..12].copy_from_slice(&super::codec::VERSION.to_le_bytes());
    let (memory, device, manifest) = (locator.memory, locator.device, locator.manifest);
    let words = [memory.0, memory.1, device.0, device.1, manifest.0, manifest.1];
    for (at, word) in words.into_iter().enumerate() {
        out[16 + 8 * at..24 + 8 * at].copy_from_slice(&word.to_le_bytes());
    }
    let digest = digest(head, &out[..SEALED]);
    out[SEALED..].copy_from_slice(&digest);
    out
}

/// Reads the locator behind `head` of a file of `size` bytes.
pub(super) fn unseal(head: &[u8], bytes: &[u8], size: u64) -> Result<Locator, ImageFault> {
    if bytes.iter().all(|byte| *byte == 0) {
        // Zeros to the end of a file that was cut off there are no different from this.
        return Err(ImageFault::NeverFinished);
    }
    if bytes.len() < LOCATOR {
        return Err(ImageFault::Truncated("the locator"));
    }
    if bytes[SEALED..] != digest(head, &bytes[..SEALED]) {
        return Err(ImageFault::Digest("its beginning (header, configuration, locator)"));
    }
    let version = u32::from_le_bytes(array(&bytes[8..12]));
    if bytes[..8] != LOCATOR_MAGIC || version == 0 {
        return Err(ImageFault::Malformed("it has no locator of kxl".into()));
    }
    if version > super::codec::VERSION {
        return Err(ImageFault::NewerVersion { found: version, known: super::codec::VERSION });
    }
    let word = |at: usize| u64::from_le_bytes(array(&bytes[16 + 8 * at..24 + 8 * at]));
    let locator = Locator {
        memory: (word(0), word(1)),
        device: (word(2), word(3)),
        manifest: (word(4), word(5)),
    };
    check(&locator, memory_at(head), size)?;
    Ok(locator)
}

/// The parts follow each other in this order, and the file ends with the last.
fn check(locator: &Locator, first: u64, size: u64) -> Result<(), ImageFault> {
    let mut at = first;
    for (start, length) in [locator.memory, locator.device, locator.manifest] {
        let end = start.checked_add(length);
        match end {
            Some(end) if start >= at => at = end,
            _ => return Err(ImageFault::Malformed("its parts overlap".into())),
        }
    }
    if !locator.memory.0.is_multiple_of(CHUNK) {
        return Err(ImageFault::Malformed("its memory is not at a whole chunk".into()));
    }
    match size.cmp(&at) {
        std::cmp::Ordering::Less if size < locator.manifest.0 => {
            Err(ImageFault::Truncated("the state"))
        }
        std::cmp::Ordering::Less => Err(ImageFault::Truncated("the manifest")),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => {
            Err(ImageFault::Malformed("bytes follow after its end".into()))
        }
    }
}

fn digest(head: &[u8], locator: &[u8]) -> Digest {
    *blake3::Hasher::new().update(head).update(locator).finalize().as_bytes()
}
