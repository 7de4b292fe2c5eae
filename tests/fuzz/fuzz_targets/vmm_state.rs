//! States of kxl-vmm as anybody may hand them in: records, streams, and records within a stream.

#![no_main]

use kxl_vmm::memory::PAGE;
use kxl_vmm::snapshot::stream::{Pages, StreamError};
use kxl_vmm::snapshot::{records, stream};
use libfuzzer_sys::fuzz_target;

/// The largest memory that a target machine has here.
const MOST: u64 = 1 << 20;

struct Machine {
    size: u64,
}

impl Pages for Machine {
    fn size(&mut self, bytes: u64) -> Result<(), StreamError> {
        if bytes > MOST {
            return Err(StreamError::Shape("more than this machine has".into()));
        }
        self.size = bytes;
        Ok(())
    }

    fn page(&mut self, offset: u64, _bytes: Option<&[u8; PAGE]>) -> Result<(), StreamError> {
        assert!(offset < self.size && offset.is_multiple_of(PAGE as u64));
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, mut rest)) = bytes.split_first() else { return };
    if kind % 2 == 0 {
        // What is read is written as it was read.
        if let Ok(saved) = records::decode(rest) {
            let again = records::decode(&records::encode(&saved));
            assert_eq!(again.as_ref(), Ok(&saved));
        }
    } else if let Ok(records) = stream::read(&mut rest, &mut Machine { size: 0 }) {
        drop(records::decode(&records));
    }
});
