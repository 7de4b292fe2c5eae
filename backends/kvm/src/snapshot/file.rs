//! A state in a file: the memory lies at its own offset, so that it is mapped and read when it is
//! touched, by any number of machines at once.
//!
//! A head of one page, written last: magic, version u32, zero u32, then u64 each: offset and size of
//! the memory, offset and length of the stream; a CRC-32 of the stream and one of the head before
//! it. All little-endian. The offsets are relative to the head's. The stream is that of
//! [`super::stream`], without a page.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use thiserror::Error;

const MAGIC: [u8; 8] = *b"kxl-sav\n";
/// The version that is written and read.
const VERSION: u32 = 1;
/// Where the memory begins: a multiple of what large pages would need.
pub const MEMORY: u64 = 2 << 20;
const HEAD: usize = 56;
/// A stream without pages has never more.
const LONGEST: u64 = 17 << 20;

/// Why a file cannot be read.
#[derive(Debug, Error)]
pub enum FileError {
    /// The system's refusal.
    #[error("cannot read the state")]
    Read(#[from] io::Error),
    /// A version of the future.
    #[error("the state is of version {0}; this kxl-vmm reads {VERSION}")]
    Version(u32),
    /// It is damaged, or was never finished.
    #[error("the state is damaged: {0}")]
    Damaged(&'static str),
}

/// What the head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where the memory begins in the file.
    pub memory: u64,
    /// Its bytes.
    pub size: u64,
}

/// Writes the stream behind the memory of `size` bytes, and then the head at `base`: only then it is
/// a state. Both are on the disk when this returns.
///
/// # Errors
/// The system's refusal.
pub fn finish(file: &File, base: u64, size: u64, stream: &[u8]) -> io::Result<()> {
    file.write_all_at(stream, base + MEMORY + size)?;
    file.sync_data()?;
    let mut head = Vec::with_capacity(HEAD);
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend(0u32.to_le_bytes());
    for value in [MEMORY, size, MEMORY + size, stream.len() as u64] {
        head.extend(value.to_le_bytes());
    }
    head.extend(crc32fast::hash(stream).to_le_bytes());
    head.extend(crc32fast::hash(&head).to_le_bytes());
    file.write_all_at(&head, base)?;
    file.sync_all()
}

/// Reads the head at `base` and the stream; `None` where it is no such file.
///
/// # Errors
/// Any [`FileError`].
pub fn open(file: &File, base: u64) -> Result<Option<(Head, Vec<u8>)>, FileError> {
    let mut head = [0; HEAD];
    match file.read_exact_at(&mut head, base) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    if head[..8] != MAGIC {
        return Ok(None);
    }
    let u32_at =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    if u32_at(8) != VERSION {
        return Err(FileError::Version(u32_at(8)));
    }
    if crc32fast::hash(&head[..52]) != u32_at(52) {
        return Err(FileError::Damaged("its head has another sum"));
    }
    let [memory, size, at, length] = [16, 24, 32, 40].map(u64_at);
    let end = base.checked_add(at).and_then(|start| start.checked_add(length));
    let inside = end.is_some_and(|end| file.metadata().is_ok_and(|meta| end <= meta.len()));
    if !inside || length > LONGEST || memory.checked_add(size).is_none_or(|end| end > at) {
        return Err(FileError::Damaged("it is shorter than its head says"));
    }
    let mut stream = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut stream, base + at)?;
    if crc32fast::hash(&stream) != u32_at(48) {
        return Err(FileError::Damaged("its devices have another sum"));
    }
    Ok(Some((Head { memory: base + memory, size }, stream)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> File {
        let path = std::env::temp_dir().join(format!(
            "kxl-vmm-file-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    #[test]
    fn a_state_is_found_again_at_its_place_and_only_when_it_is_whole() {
        let file = scratch();
        assert!(open(&file, 0).unwrap().is_none());
        finish(&file, 8192, 1 << 20, b"stream").unwrap();
        assert!(open(&file, 0).unwrap().is_none());
        let (head, stream) = open(&file, 8192).unwrap().unwrap();
        assert_eq!(head, Head { memory: 8192 + MEMORY, size: 1 << 20 });
        assert_eq!(stream, b"stream");
    }

    #[test]
    fn every_damage_to_head_and_stream_is_noticed() {
        let file = scratch();
        finish(&file, 0, 4096, b"stream").unwrap();
        let mut byte = [0];
        for at in (8..HEAD as u64).chain(MEMORY + 4096..MEMORY + 4096 + 6) {
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
            let refused = open(&file, 0).map(|found| format!("{at}: {found:?}"));
            refused.unwrap_err();
            file.write_all_at(&byte, at).unwrap();
        }
        file.set_len(MEMORY + 4096 + 5).unwrap();
        open(&file, 0).unwrap_err();
    }
}
