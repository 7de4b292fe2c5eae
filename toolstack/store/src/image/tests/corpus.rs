//! The corpus of the fuzz targets in `tests/fuzz`, and mutations of it, on every test run: readers
//! of images give an image or an error, whatever the bytes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::StoreError;
use crate::image::{CHUNK, ImageFault, changed, header, identify_file, read_manifest};

fn corpus_dir(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target)
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = corpus_dir(target);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// With `KXL_BLESS=1`: good images as the targets take them, for the mutations to begin with.
fn bless(host: &Host) {
    if std::env::var_os("KXL_BLESS").is_none() {
        return;
    }
    let [_, file] = targets(host);
    let path = write_small(&file, 2 * PAGE as u64).path;
    let small = fs::read(&path).unwrap();
    let id = ImageId(uuid(1).0);
    let mut writer = Writer::begin(&file, id, &Need { device: 100, ..Need::default() }).unwrap();
    writer.device(b"device only").unwrap();
    writer.commit(&facts(id)).unwrap();
    let head = header::head(b"{\"a\": 1}").unwrap().len() + header::LOCATOR;
    for (name, bytes) in [("small", small), ("device", fs::read(&path).unwrap())] {
        let rest = &bytes[index(CHUNK)..];
        fs::write(corpus_dir("file").join(name), [&bytes[..head], rest].concat()).unwrap();
        let magic = b"kxl-img\n";
        let start = rest.windows(8).position(|word| word == magic).unwrap();
        fs::write(corpus_dir("manifest").join(name), &rest[start..]).unwrap();
        let open = &rest[start..rest.len() - 32];
        fs::write(corpus_dir("manifest").join(format!("{name}-open")), open).unwrap();
    }
}

/// The manifest with its length and digest made right.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = bytes.to_vec();
    let length = sealed.len() as u64 + 32;
    sealed[16..24].copy_from_slice(&length.to_le_bytes());
    let digest = blake3::hash(&sealed);
    sealed.extend_from_slice(digest.as_bytes());
    sealed
}

fn try_manifest(bytes: &[u8]) -> bool {
    let plain = read_manifest(bytes).is_ok();
    plain || (bytes.len() >= 24 && read_manifest(&sealed(bytes)).is_ok())
}

/// The file with its locator's digest made right, and what follows behind the gap.
fn try_file(bytes: &[u8], path: &Path) -> bool {
    let Some(length) = bytes.get(44..48) else { return false };
    let end = u32::from_le_bytes(length.try_into().unwrap()) as usize + 48;
    let Some((head, rest)) = bytes.split_at_checked(end + header::LOCATOR) else { return false };
    let mut head = head.to_vec();
    let digest = blake3::hash(&head[..end + 96]);
    head[end + 96..].copy_from_slice(digest.as_bytes());
    let file = File::create(path).unwrap();
    file.write_all_at(&head, 0).unwrap();
    file.write_all_at(rest, (head.len() as u64).next_multiple_of(CHUNK)).unwrap();
    match Image::open_file(path) {
        Ok(image) => image.verify(&mut |_| true).is_ok(),
        Err(StoreError::Image { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn the_corpus_of_the_fuzz_targets_is_read_or_refused() {
    let host = Host::new();
    bless(&host);
    let path = host.root().join("file");
    let manifests = corpus("manifest").iter().filter(|bytes| try_manifest(bytes)).count();
    let files = corpus("file").iter().filter(|bytes| try_file(bytes, &path)).count();
    // Without one that is good the targets would only scratch the surface.
    assert!(manifests > 0 && files > 0, "{manifests} good manifests, {files} good files");
}

fn mutated(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..4_u8);
    let all = prop::sample::select(corpus(target));
    (all, prop::collection::vec(change, 1..12)).prop_map(|(mut bytes, changes)| {
        for (at, value, how) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = value,
                1 => bytes[at] ^= 1 << (value % 8),
                2 => bytes.insert(at, value),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn a_changed_manifest_is_read_or_refused(bytes in mutated("manifest")) {
        try_manifest(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_changed_file_is_read_or_refused(bytes in mutated("file")) {
        let host = Host::new();
        try_file(&bytes, &host.root().join("file"));
    }
}

/// A disk of these bytes, looked at for the snapshot of which it may have the contents.
fn try_disk(bytes: &[u8], path: &Path) -> bool {
    fs::write(path, bytes).unwrap();
    let then = DiskIdentity {
        format: kxl_domain::config::model::DiskFormat::Qcow2,
        // Not that of the file, so that its tables count.
        size: u64::MAX,
        snapshot: Some("one".to_owned()),
        ..identify_file(path, true).unwrap()
    };
    changed(&then).unwrap().is_none()
}

#[test]
fn disks_that_say_what_they_are_not_are_not_what_they_were() {
    let host = Host::new();
    let path = host.root().join("disk");
    let put_back: Vec<bool> = corpus("disk").iter().map(|one| try_disk(one, &path)).collect();
    assert_eq!(put_back, [true, false], "put back, and written");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn a_changed_disk_is_looked_at_and_nothing_else(bytes in mutated("disk")) {
        let host = Host::new();
        try_disk(&bytes, &host.root().join("disk"));
    }
}

/// A manifest with one record more.
fn with_record(manifest: &[u8], tag: u16, mandatory: u8) -> Vec<u8> {
    let mut bytes = manifest[..manifest.len() - 32].to_vec();
    bytes[12] += 1;
    bytes.extend_from_slice(&tag.to_le_bytes());
    bytes.push(mandatory);
    bytes.extend_from_slice(&3_u32.to_le_bytes());
    bytes.extend_from_slice(b"new");
    sealed(&bytes)
}

#[test]
fn what_a_later_version_adds_is_skipped_or_refused_as_it_says() {
    let host = Host::new();
    let [store, _] = targets(&host);
    let manifest = fs::read(write_small(&store, 1 << 20).path.join("manifest")).unwrap();
    let (facts, _) = read_manifest(&manifest).unwrap();
    assert_eq!(read_manifest(&with_record(&manifest, 900, 0)).unwrap().0, facts);
    let refused = read_manifest(&with_record(&manifest, 900, 1)).unwrap_err();
    assert_eq!(refused, ImageFault::UnknownRecord(900));
    let refused = read_manifest(&with_record(&manifest, 7, 0)).unwrap_err();
    assert!(matches!(refused, ImageFault::Malformed(_)), "twice: {refused}");
    let mut newer = manifest[..manifest.len() - 32].to_vec();
    newer[8] = 2;
    let refused = read_manifest(&sealed(&newer)).unwrap_err();
    assert_eq!(refused, ImageFault::NewerVersion { found: 2, known: 1 });
}
