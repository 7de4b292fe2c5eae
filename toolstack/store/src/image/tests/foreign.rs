//! What is no image, no longer one, or not yet.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::*;
use crate::StoreError;
use crate::image::{ImageFault, header};

const SIZE: u64 = 4 * PAGE as u64;
/// Where the memory of a small image file begins.
const FIRST: u64 = 2 << 20;

fn fault(path: &Path) -> ImageFault {
    match Image::open_file(path) {
        Err(StoreError::Image { fault, .. }) => fault,
        other => panic!("{} gives {other:?}", path.display()),
    }
}

/// Everything that an image gives out.
fn everything(image: &Image) -> Result<(Facts, Vec<u8>), StoreError> {
    image.verify(&mut |_| true)?;
    Ok((image.facts().clone(), read_all(image.device()?)))
}

#[test]
fn files_of_others_are_refused_with_what_they_are() {
    let host = Host::new();
    let path = host.root().join("foreign");
    let xen = |mark: u32, flags: u32| {
        let mut bytes = b"Xen saved domain, xl format\n \0 \r".to_vec();
        for word in [mark, flags, 0, 6, 2] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(b"{}");
        bytes.resize(5000, 7);
        bytes
    };
    let cases = [
        (b"\x7fELF and so on".to_vec(), ImageFault::BadMagic),
        (Vec::new(), ImageFault::BadMagic),
        (vec![0; 9000], ImageFault::BadMagic),
        (xen(0x0403_0201, 0x3), ImageFault::ByteOrder),
        (xen(0x0102_0304, 0x3), ImageFault::Xen),
        (xen(0x0102_0304, 0x2), ImageFault::Xen),
        (xen(0x0102_0304, 0x1_0003 | 0x8020), ImageFault::MandatoryFlags(0x8020)),
        (
            xen(0x0102_0304, 0x1_0003),
            ImageFault::Digest("its beginning (header, configuration, locator)"),
        ),
        (xen(0x0102_0304, 0x3)[..40].to_vec(), ImageFault::Truncated("the header")),
        (xen(0x0102_0304, 0x1_0003)[..50].to_vec(), ImageFault::Truncated("the configuration")),
    ];
    for (bytes, expected) in cases {
        fs::write(&path, &bytes).unwrap();
        assert_eq!(fault(&path), expected);
    }
    assert_eq!(fault(host.root()), ImageFault::BadMagic, "a directory");
    let pipe = host.root().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(fault(&pipe), ImageFault::BadMagic, "a pipe, without waiting for it");
    let missing = Image::open_file(&host.root().join("none")).unwrap_err();
    assert!(matches!(missing, StoreError::Io { .. }), "{missing}");
}

#[test]
fn a_file_whose_locator_is_zero_was_never_finished() {
    let host = Host::new();
    let [_, file] = targets(&host);
    let path = write_small(&file, SIZE).path;
    let head = header::head(b"{\"a\": 1}").unwrap().len();
    let image = File::options().write(true).open(&path).unwrap();
    image.write_all_at(&[0; header::LOCATOR], head as u64).unwrap();
    assert_eq!(fault(&path), ImageFault::NeverFinished);
}

#[test]
fn bytes_after_the_end_are_refused() {
    let host = Host::new();
    let [_, file] = targets(&host);
    let path = write_small(&file, SIZE).path;
    let length = fs::metadata(&path).unwrap().len();
    File::options().write(true).open(&path).unwrap().set_len(length + 1).unwrap();
    assert!(matches!(fault(&path), ImageFault::Malformed(_)));
}

#[test]
fn every_flipped_bit_of_a_file_is_refused_or_changes_nothing() {
    let host = Host::new();
    let [_, file] = targets(&host);
    let path = write_small(&file, SIZE).path;
    let good = everything(&Image::open_file(&path).unwrap()).unwrap();
    let bytes = fs::read(&path).unwrap();
    let image = File::options().write(true).open(&path).unwrap();
    let state = FIRST + SIZE + 8;
    // The gap between locator and memory is never read; a few bytes of it stand for all.
    let beginning = 0..FIRST.min(400);
    for at in beginning.chain(FIRST + SIZE..bytes.len() as u64) {
        for bit in 0..8 {
            image.write_all_at(&[bytes[index(at)] ^ (1 << bit)], at).unwrap();
            match Image::open_file(&path) {
                Ok(opened) => {
                    assert!(at < state, "byte {at} bit {bit} of the manifest was not noticed");
                    let found = everything(&opened);
                    assert!(found.is_err() || found.unwrap() == good, "byte {at} bit {bit}");
                }
                Err(StoreError::Image { .. }) => {}
                Err(other) => panic!("byte {at} bit {bit}: {other}"),
            }
        }
        image.write_all_at(&[bytes[index(at)]], at).unwrap();
    }
}

#[test]
fn every_flipped_byte_of_the_memory_is_found_and_the_first_bad_chunk_named() {
    let host = Host::new();
    for target in targets(&host) {
        let committed = write_small(&target, 5 << 20);
        let (path, base) = match &target {
            Target::Store(_) => (committed.path.join("memory"), 0),
            Target::File { path, .. } => (path.clone(), FIRST),
        };
        let file = File::options().read(true).write(true).open(path).unwrap();
        // In a page with data, in a hole beside it, in a chunk of zeros, in the last chunk.
        for (at, chunk) in
            [(PAGE as u64 + 9, 0), (700_000, 0), (3 << 20, 2 << 20), ((5 << 20) - 1, 4 << 20)]
        {
            let mut byte = [0];
            file.read_exact_at(&mut byte, base + at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], base + at).unwrap();
            let image = open(&target, &committed);
            let error = image.verify(&mut |_| true).unwrap_err();
            let shared = image.verify_shared(&mut |_| true).unwrap_err();
            assert_eq!(shared.to_string(), error.to_string());
            let StoreError::Image { fault: ImageFault::Chunk { offset, .. }, .. } = error else {
                panic!("{error}");
            };
            assert_eq!(offset, chunk);
            let copy = File::create(host.root().join("copy")).unwrap();
            image.copy_memory(&copy, &mut |_| true).unwrap_err();
            file.write_all_at(&byte, base + at).unwrap();
        }
        open(&target, &committed).verify(&mut |_| true).unwrap();
    }
}

#[test]
fn every_truncation_of_a_file_is_refused() {
    let host = Host::new();
    let [_, file] = targets(&host);
    let path = write_small(&file, SIZE).path;
    let bytes = fs::read(&path).unwrap();
    let head = header::head(b"{\"a\": 1}").unwrap();
    let rest = &bytes[head.len()..head.len() + header::LOCATOR];
    header::unseal(&head, rest, bytes.len() as u64).unwrap();
    // The lengths within the gap by the function alone: there are two million of them.
    for length in head.len()..bytes.len() {
        let locator = &rest[..rest.len().min(length - head.len())];
        header::unseal(&head, locator, length as u64).unwrap_err();
    }
    let image = File::options().write(true).open(&path).unwrap();
    let lengths = (index(FIRST)..bytes.len()).rev().chain((0..400).rev());
    for length in lengths {
        image.set_len(length as u64).unwrap();
        fault(&path);
    }
}

#[test]
fn every_truncation_of_a_part_in_the_store_is_refused() {
    let host = Host::new();
    let [store, _] = targets(&host);
    let committed = write_small(&store, 2 * PAGE as u64);
    for part in ["manifest", "device", "memory"] {
        let path = committed.path.join(part);
        let bytes = fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for length in (0..bytes.len()).rev() {
            file.set_len(length as u64).unwrap();
            let error = Image::open_store(&host.paths, committed.id).unwrap_err();
            assert!(matches!(error, StoreError::Image { .. }), "{part} of {length}: {error}");
        }
        fs::write(&path, &bytes).unwrap();
        Image::open_store(&host.paths, committed.id).unwrap().verify(&mut |_| true).unwrap();
    }
}
