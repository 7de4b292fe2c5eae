//! A migration stream from anywhere, in pieces of any size: no panic, and never a page outside of
//! the block that was announced.
#![no_main]

use std::io;

use kxl_backend::StateSink;
use kxl_domain::image::{MemoryLayout, PAGE};
use kxl_process::Splitter;
use libfuzzer_sys::fuzz_target;

/// Looks at what comes and keeps nothing.
struct Judge {
    size: Option<u64>,
}

impl Judge {
    fn inside(&self, offset: u64, length: u64) {
        let size = self.size.expect("announced before its first page");
        assert!(length > 0 && offset.is_multiple_of(PAGE) && length.is_multiple_of(PAGE));
        assert!(offset.checked_add(length).is_some_and(|end| end <= size));
    }
}

impl StateSink for Judge {
    fn memory(&mut self, layout: &MemoryLayout) -> io::Result<()> {
        assert!(self.size.replace(layout.size).is_none(), "announced once");
        Ok(())
    }

    fn pages(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.inside(offset, bytes.len() as u64);
        Ok(())
    }

    fn zeros(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.inside(offset, length);
        Ok(())
    }

    fn device(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, mut rest)) = data.split_first() else { return };
    let (mut splitter, mut judge) = (Splitter::new("ram0"), Judge { size: None });
    while !rest.is_empty() {
        let room = splitter.room();
        let count = rest.len().min(room.len()).min(usize::from(piece) * 16 + 1);
        room[..count].copy_from_slice(&rest[..count]);
        if splitter.filled(count, &mut judge).is_err() {
            return;
        }
        rest = &rest[count..];
    }
    let _whole = splitter.finish(&mut judge);
});
