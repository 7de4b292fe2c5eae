//! Torn, truncated, bit-flipped and foreign images are refused with what is wrong with them, and a
//! failed return leaves the image and can be repeated.

use std::fs;
use std::path::{Path, PathBuf};

use kxl_domain::{State, Verb};

use super::world::World;
use crate::lifecycle::crash::Kind;
use crate::support::wait;

fn suspended(words: &str) -> (World, u64, PathBuf) {
    let world = World::mock(Kind::Managed, words, "");
    let count = world.up();
    world.act(Verb::Suspend).expect(0);
    let dir = world.host.image_store().join(world.host.only_image());
    (world, count, dir)
}

/// Turns one bit of a file over.
fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// An offset of the memory that the guest has written.
fn written(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap();
    // Far behind what is read first.
    bytes.iter().rposition(|byte| *byte != 0).unwrap()
}

#[test]
fn a_damaged_image_of_the_store_is_refused_with_what_is_wrong_and_comes_back_when_it_is_mended() {
    let (world, count, dir) = suspended("verify=no");
    let host = &world.host;
    type Harm = fn(&Path);
    let harms: &[(&str, Harm, &str)] = &[
        ("memory", |path| flip(path, written(path)), "is damaged: memory at 0x"),
        ("device", |path| flip(path, 100), "is damaged"),
        ("manifest", |path| flip(path, 60), "is damaged"),
        ("manifest", |path| fs::write(path, b"").unwrap(), "is truncated"),
        ("manifest", |path| drop(fs::remove_file(path)), "its manifest is missing"),
        ("device", |path| fs::write(path, b"{").unwrap(), "is truncated"),
        ("device", |path| drop(fs::remove_file(path)), "its device stream is missing"),
        ("memory", |path| cut(path, 1 << 20), "is truncated"),
        ("memory", |path| drop(fs::remove_file(path)), "its memory is missing"),
    ];
    for (name, harm, says) in harms {
        eprintln!("{name}: {says}");
        let path = dir.join(name);
        let whole = fs::read(&path).unwrap();
        harm(&path);
        for words in [&["resume", "--eager", "web"][..], &["image", "verify", "web"]] {
            let refused = host.refused(1, words);
            assert!(refused.stderr.contains(says), "{says}: {refused}");
        }
        let domain = host.domain("web");
        assert_eq!((domain.rests(), domain.domid()), (Some(State::Suspended), None), "{says}");
        host.quiet();
        fs::write(&path, whole).unwrap();
        host.ok(["image", "verify", "web"]);
    }
    host.ok(["resume", "--eager", "web"]);
    world.goes_on_from(count, "mended");
    world.clear("mended");
}

fn cut(path: &Path, length: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

#[test]
fn a_bit_that_turned_over_in_the_memory_of_a_resumed_guest_is_found_while_it_runs() {
    let (world, _, dir) = suspended("verify=no");
    let host = &world.host;
    flip(&dir.join("memory"), written(&dir.join("memory")));
    host.ok(["resume", "web"]);
    host.rests("web", State::Paused);
    wait::eventually("the alert is there", || {
        let events = host.events("web");
        events.iter().any(|event| {
            let text = event["text"].as_str().unwrap_or_default();
            event["what"] == "image-damaged"
                && event["severity"] == "alert"
                && text.contains("memory at 0x")
                && text.contains("the image is kept")
        })
    });
    assert!(dir.exists(), "the image is kept");
    // Whoever looks after the domain next has heard of it.
    world.lose_monitor();
    host.ok(["unpause", "web"]);
    host.rests("web", State::Running);
    host.ok(["destroy", "web"]);
    host.rests("web", State::Halted);
    assert!(dir.exists(), "the image is kept to the end");
    world.clear("damaged");
}

#[test]
fn what_is_saved_from_a_guest_on_a_damaged_image_comes_with_an_alert_and_leaves_that_image() {
    let (world, _, dir) = suspended("verify=no");
    let host = &world.host;
    flip(&dir.join("memory"), written(&dir.join("memory")));
    host.ok(["resume", "web"]);
    // At once, long before the background check would have come to it.
    host.ok(["suspend", "web"]);
    host.rests("web", State::Suspended);
    let alerts = host.events("web");
    assert!(alerts.iter().any(|event| event["what"] == "image-damaged"), "{alerts:?}");
    assert!(dir.exists(), "the image is kept");
    assert_eq!(host.images().len(), 2);
    host.ok(["resume", "web"]);
    world.clear("damaged");
}

#[test]
fn a_file_that_is_no_whole_image_is_refused_and_never_changed() {
    let world = World::mock(Kind::Managed, "verify=no", "");
    let count = world.up();
    world.act(Verb::Save).expect(0);
    let host = &world.host;
    let (file, whole) = (PathBuf::from(world.file()), fs::read(world.file()).unwrap());
    let last = whole.len() - 10;
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("empty", Vec::new(), "magic number is wrong"),
        ("text", b"this is a letter to a friend\n".repeat(100), "magic number is wrong"),
        ("torn in the header", whole[..40].to_vec(), "truncated"),
        ("torn in the middle", whole[..whole.len() / 2].to_vec(), "truncated"),
        ("torn at the end", whole[..last].to_vec(), "truncated"),
        ("another byte in the manifest", turned(&whole, last), "damaged"),
        ("another byte in the memory", turned(&whole, page(&whole)), "damaged: memory at 0x"),
        ("another byte in the magic", turned(&whole, 3), "magic number is wrong"),
        ("never finished", unfinished(&whole), "never finished"),
        ("of Xen", of_xen(&whole), "only Xen can run"),
    ];
    for (case, bytes, says) in cases {
        eprintln!("{case}");
        fs::write(&file, bytes).unwrap();
        for words in [&["restore", &world.file()][..], &["image", "verify", &world.file()]] {
            let refused = host.refused(1, words);
            assert!(refused.stderr.contains(says), "{case}: {refused}");
            assert!(refused.stderr.contains("web.img"), "{case}: {refused}");
        }
        assert_eq!(host.domain("web").rests(), Some(State::Halted), "{case}");
        assert!(fs::read(&file).unwrap() == *bytes, "{case}: the file was changed");
    }
    fs::write(&file, &whole).unwrap();
    host.ok(["restore", &world.file()]);
    world.goes_on_from(count, "mended");
    assert!(fs::read(&file).unwrap() == whole, "a restore changes nothing");
    world.clear("mended");
}

fn turned(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

/// An offset in the memory that the guest has written: it begins at 2 MiB.
fn page(bytes: &[u8]) -> usize {
    (2 << 20) + bytes[2 << 20..].iter().position(|byte| *byte != 0).unwrap()
}

/// Length of the header that Xen's own files have too.
const HEAD: usize = 48;

/// Where the block of our own behind the head and the configuration begins.
fn locator(bytes: &[u8]) -> usize {
    let length = u32::from_le_bytes(bytes[HEAD - 4..HEAD].try_into().unwrap());
    HEAD + usize::try_from(length).unwrap()
}

/// As a save that was cut off leaves it: a locator of zeros.
fn unfinished(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let at = locator(&bytes);
    bytes[at..at + 128].fill(0);
    bytes
}

/// A file of Xen's own: no mandatory flag but its own.
fn of_xen(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[36..40].copy_from_slice(&1_u32.to_le_bytes());
    bytes
}
