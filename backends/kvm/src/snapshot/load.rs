//! A state coming in.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

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
/// Seconds that a stream may stand still.
const PATIENCE_S: i64 = 10;

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
    /// The state and the command line both bring memory.
    #[error("the state has its memory in the same file: leave -mem-file away")]
    TwoMemories,
    /// The system's refusal to map it.
    #[error("cannot map the state's memory")]
    Map(#[source] std::io::Error),
}

/// Reads the state that begins at `offset` of a file, or what is left of a stream. The memory is in
/// place then: mapped privately from a file that holds it at its own offset, which is returned. With
/// `given`, memory was mapped from another file, and the state may have none of its own.
///
/// # Errors
/// Any [`LoadError`]; memory may hold a part of the state.
pub fn load(
    mut from: File,
    offset: u64,
    memory: &Memory,
    given: bool,
) -> Result<(Saved, Option<Origin>), LoadError> {
    let regular = from.metadata().is_ok_and(|meta| meta.is_file());
    let mut origin = None;
    let records = if let Some((head, stream)) = found(&from, offset, regular)? {
        if given {
            return Err(LoadError::TwoMemories);
        }
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
        stream::read(&mut BufReader::with_capacity(AT_ONCE, Patient(from)), &mut Into { memory })?
    };
    let saved = records::decode(&records)?;
    Ok((saved, origin))
}

/// A stream that is given up when nothing comes of it: the machine's own thread reads it, and hears
/// of nothing else meanwhile.
struct Patient(File);

impl Read for Patient {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let until = Timespec { tv_sec: PATIENCE_S, tv_nsec: 0 };
        let mut watched = [PollFd::new(&self.0, PollFlags::IN)];
        if poll(&mut watched, Some(&until))? == 0 {
            let text = format!("nothing came for {PATIENCE_S} s");
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text));
        }
        self.0.read(into)
    }
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
