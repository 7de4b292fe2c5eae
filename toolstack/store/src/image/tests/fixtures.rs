//! Images that earlier versions wrote, kept for ever, and the reader in another language.
//!
//! They are kept as the pieces that hold something, each named by where it begins: holes of
//! megabytes would be files of megabytes in a checkout. `KXL_BLESS=1` writes those that are missing;
//! one that is there is never written again.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kxl_domain::image::ImagePlace;

use super::*;

const MIB: u64 = 1 << 20;
/// A whole chunk with data, one of zeros, and a short one.
const SIZE: u64 = 4 * MIB + 2 * PAGE as u64;
const DEVICE: &[u8] = b"a short device stream";
const ID: &str = "11111111-2222-4333-8444-555555555555";

fn fixed() -> ImageId {
    ID.parse().unwrap()
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// The pages that hold something. A whole chunk with data is in the store's only: a reader in an
/// interpreted language takes seconds for it.
fn pages(place: &ImagePlace) -> &'static [u64] {
    const LAST: u64 = SIZE / PAGE as u64 - 1;
    if *place == ImagePlace::Store { &[3, 4, LAST] } else { &[LAST] }
}

fn write(target: &Target) -> Committed {
    let place = match target {
        Target::Store(_) => ImagePlace::Store,
        Target::File { path, .. } => ImagePlace::File(path.clone()),
    };
    let mut writer = Writer::begin(target, fixed(), &need(SIZE)).unwrap();
    writer.memory(&layout(SIZE)).unwrap();
    for number in pages(&place) {
        writer.pages(number * PAGE as u64, &page(*number)).unwrap();
    }
    writer.device(DEVICE).unwrap();
    writer.commit(&facts(fixed())).unwrap()
}

fn save_pieces(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let bytes = fs::read(from).unwrap();
    let used: Vec<_> = bytes.chunks(PAGE).map(|page| page.iter().any(|byte| *byte != 0)).collect();
    let mut at = 0;
    while at < used.len() {
        let end = (at..used.len()).find(|page| used[*page] != used[at]).unwrap_or(used.len());
        if used[at] {
            let piece = &bytes[at * PAGE..(end * PAGE).min(bytes.len())];
            fs::write(to.join(format!("{}", at * PAGE)), piece).unwrap();
        }
        at = end;
    }
}

fn assemble(pieces: &Path, to: &Path) {
    let file = File::create(to).unwrap();
    for piece in fs::read_dir(pieces).unwrap() {
        let piece = piece.unwrap();
        let at = piece.file_name().to_str().unwrap().parse().unwrap();
        file.write_all_at(&fs::read(piece.path()).unwrap(), at).unwrap();
    }
}

/// The fixture of a version in the store layout, put into the store of a host.
fn in_store(version: &str, host: &Host) -> Image {
    let from = testdata().join(version).join("store");
    let to = host.paths.image_dir(fixed());
    host.paths.prepare().unwrap();
    fs::create_dir(&to).unwrap();
    for part in ["manifest", "device", "memory"] {
        assemble(&from.join(part), &to.join(part));
    }
    Image::open_store(&host.paths, fixed()).unwrap()
}

fn in_file(version: &str, host: &Host) -> Image {
    let path = host.root().join("fixture");
    assemble(&testdata().join(version).join("file"), &path);
    Image::open_file(&path).unwrap()
}

fn bless() {
    let to = testdata().join("v1");
    if std::env::var_os("KXL_BLESS").is_none() || to.exists() {
        return;
    }
    let host = Host::new();
    let [store, file] = targets(&host);
    let committed = write(&store);
    for part in ["manifest", "device", "memory"] {
        save_pieces(&committed.path.join(part), &to.join("store").join(part));
    }
    save_pieces(&write(&file).path, &to.join("file"));
}

#[test]
fn images_of_the_first_format_are_read() {
    bless();
    let host = Host::new();
    for image in [in_store("v1", &host), in_file("v1", &host)] {
        assert_eq!(*image.facts(), facts(fixed()));
        assert_eq!(image.memory(), Some(layout(SIZE)));
        let device = read_all(image.device().unwrap());
        assert_eq!(device, DEVICE);
        let mut expected = vec![0; index(SIZE)];
        for number in pages(image.place()) {
            expected[index(*number) * PAGE..][..PAGE].copy_from_slice(&page(*number));
        }
        assert!(memory_of(&host, &image) == expected, "{}", image.path().display());
        assert_eq!(image.verify(&mut |_| true).unwrap().chunks, 3);
    }
}

/// Runs the reader that shares no code with this one.
fn read_elsewhere(path: &Path) -> Option<(bool, String)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/image/read_image.py");
    let ran = Command::new("python3").arg(script).arg(path).output();
    let output = match ran {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip("the reader in another language", "there is no python3");
            return None;
        }
        other => other.unwrap(),
    };
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8(text).unwrap()))
}

#[test]
fn a_reader_in_another_language_reads_what_is_written_and_what_was() {
    let host = Host::new();
    let [store, file] = targets(&host);
    let written = write_small(&store, 2 * PAGE as u64);
    let old = [in_store("v1", &host).path, in_file("v1", &host).path];
    let other = write_small(&file, 2 * PAGE as u64).path;
    for path in [other, written.path.clone()].iter().chain(&old) {
        let Some((good, text)) = read_elsewhere(path) else { return };
        assert!(good, "{}: {text}", path.display());
        for part in
            ["name: web", "machine: pc-i440fx-7.2", "purpose: suspend", "all digests are right"]
        {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }
    let memory = written.path.join("memory");
    File::options().write(true).open(memory).unwrap().write_all_at(b"x", 5000).unwrap();
    let (good, text) = read_elsewhere(&written.path).unwrap();
    assert!(!good && text.contains("memory at 0x0"), "{text}");
}
