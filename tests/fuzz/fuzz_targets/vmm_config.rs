//! Command lines of kxl-vmm, one word a line; behind an empty line the file that they may name.

#![no_main]

use std::ffi::OsString;

use kxl_vmm::config::args::{Command, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (words, file) = text.split_once("\n\n").unwrap_or((text, ""));
    let parsed = parse(words.lines().map(OsString::from), |_| Ok(file.to_owned()));
    if let Ok(Command::Run(parsed)) = parsed {
        let config = parsed.config;
        assert!(config.boot.is_some() || config.incoming.is_some());
        assert!(config.disks.len() <= kxl_vmm::config::MAX_DISKS);
        assert!(config.nics.len() <= kxl_vmm::config::MAX_NICS);
    }
});
