//! A state coming in.

use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};

use super::dirty::Origin;
use super::file::{self, FileError};
use super::records::{self, RecordError, Saved};
use super::stream::{self, StreamError};
use crate::memory::{self, Memory, PAGE};
use crate::sys;

/// Bytes read at once.
const AT_ONCE: usize = 1 << 20;

/// Why a state does not come in.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The stream.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The records in it.
    #[error("cannot read the devices' state")]
    Records(#[from] RecordError),
    /// Another machine's.
    #[error("the state has {have} MiB of memory, the machine {want}", have = have >> 20, want = want >> 20)]
    Memory {
        /// Bytes of the state.
        have: u64,
        /// Bytes of the machine.
        want: u64,
    },
    /// The system's refusal to map it.
    #[error("cannot map the state's memory")]
    Map(#[source] std::io::Error),
}

/// Reads the state that begins at `offset` of a file, or what is left of a stream. The memory is in
/// place then: mapped privately from a file that holds it at its own offset, which is returned.
///
/// # Errors
/// Any [`LoadError`]; memory may hold a part of the state.
pub fn load(
    mut from: File,
    offset: u64,
    memory: &Memory,
) -> Result<(Saved, Option<Origin>), LoadError> {
    let regular = from.metadata().is_ok_and(|meta| meta.is_file());
    let mut origin = None;
    let records = if let Some((head, stream)) = found(&from, offset, regular)? {
        let want = memory::size(memory);
        if head.size != want {
            return Err(LoadError::Memory { have: head.size, want });
        }
        sys::map_private(memory, &from, head.memory).map_err(LoadError::Map)?;
        let records = stream::read(&mut stream.as_slice(), &mut Into { memory })?;
        origin = Some(Origin { file: from, at: head.memory });
        records
    } else {
        if regular {
            from.seek(SeekFrom::Start(offset)).map_err(StreamError::Read)?;
        }
        stream::read(&mut BufReader::with_capacity(AT_ONCE, from), &mut Into { memory })?
    };
    let saved = records::decode(&records)?;
    Ok((saved, origin))
}

fn found(
    from: &File,
    offset: u64,
    regular: bool,
) -> Result<Option<(file::Head, Vec<u8>)>, FileError> {
    if regular { file::open(from, offset) } else { Ok(None) }
}

struct Into<'a> {
    memory: &'a Memory,
}

fn outside<E: std::error::Error + Send + Sync + 'static>(error: E) -> StreamError {
    StreamError::Read(std::io::Error::other(error))
}

impl stream::Pages for Into<'_> {
    fn size(&mut self, bytes: u64) -> Result<(), StreamError> {
        let want = memory::size(self.memory);
        if bytes == want {
            return Ok(());
        }
        let (have, want) = (bytes >> 20, want >> 20);
        Err(StreamError::Shape(format!("it has {have} MiB of memory, this machine {want}")))
    }

    fn page(&mut self, offset: u64, bytes: Option<&[u8; PAGE]>) -> Result<(), StreamError> {
        let at = GuestAddress(memory::address(offset));
        if let Some(bytes) = bytes {
            return self.memory.write_slice(bytes, at).map_err(outside);
        }
        // To look costs no page where none was touched; to write zeros would.
        let mut page = [0; PAGE];
        self.memory.read_slice(&mut page, at).map_err(outside)?;
        if page.iter().any(|byte| *byte != 0) {
            self.memory.write_slice(&[0; PAGE], at).map_err(outside)?;
        }
        Ok(())
    }
}
