//! Manifests: as they come, and with length and digest made right, so that the records are reached.

#![no_main]

use kxl_store::image::read_manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    drop(read_manifest(bytes));
    if bytes.len() >= 24 {
        let mut sealed = bytes.to_vec();
        let length = sealed.len() as u64 + 32;
        sealed[16..24].copy_from_slice(&length.to_le_bytes());
        sealed.extend_from_slice(blake3::hash(&sealed.clone()).as_bytes());
        if let Ok((facts, memory)) = read_manifest(&sealed) {
            // What is read can be shown.
            assert!(!format!("{facts:?} {memory:?}").is_empty());
        }
    }
});
