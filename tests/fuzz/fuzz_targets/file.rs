//! Image files: as they come, and with the locator's digest made right, so that its places are used.
//! What follows the locator is put behind the gap, where the state of an image begins: inputs
//! stay short.

#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kxl_store::image::{CHUNK, Image};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    open(bytes, &[], 0);
    let Some(length) = bytes.get(44..48) else { return };
    let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
    let end = length.saturating_add(48);
    if end.saturating_add(128) <= bytes.len() {
        let (head, rest) = bytes.split_at(end + 128);
        let mut sealed = head.to_vec();
        let digest = blake3::hash(&sealed[..end + 96]);
        sealed[end + 96..].copy_from_slice(digest.as_bytes());
        open(&sealed, rest, (sealed.len() as u64).next_multiple_of(CHUNK));
    }
});

fn open(head: &[u8], rest: &[u8], at: u64) {
    let path = Path::new("/dev/shm").join(format!("kxl-fuzz-{}", std::process::id()));
    let file = File::create(&path).expect("a file of memory");
    file.write_all_at(head, 0).expect("the head is written");
    file.write_all_at(rest, at).expect("the rest is written");
    if let Ok(image) = Image::open_file(&path) {
        drop(image.device());
        drop(image.verify(&mut |_| true));
    }
}
