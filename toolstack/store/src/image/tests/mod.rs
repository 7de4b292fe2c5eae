//! Tests of the module as the engine sees it.

mod corpus;
mod faults;
mod fixtures;
mod foreign;
mod reflink;
mod round;
mod stock;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use kxl_domain::config::model::DiskFormat;
use kxl_domain::image::{DiskIdentity, Machine, MemoryLayout, Moment, Purpose};
use kxl_domain::{DomId, ImageId, Wanted};

use super::{Committed, Facts, Image, Need, Target, Writer, index};
use crate::tests::{Host, config, name, uuid};

pub(super) const PAGE: usize = 4096;

pub(super) fn facts(id: ImageId) -> Facts {
    Facts {
        id,
        purpose: Purpose::Suspend,
        created_ms: 1_700_000_000_123,
        uuid: uuid(7),
        name: name("web"),
        domid: Some(DomId(9)),
        managed: true,
        wanted: Wanted::Running,
        config: config("web"),
        machine: Machine {
            backend: "qemu".into(),
            emulator: "qemu".into(),
            version: "7.2.22".into(),
            machine: "pc-i440fx-7.2".into(),
            cpu: "qemu64".into(),
            features: vec!["lm".into(), "nx".into()],
            accel: "tcg".into(),
            devices: vec!["virtio-blk-pci".into()],
            notes: [("memory".to_owned(), "m0".to_owned())].into(),
        },
        moment: Moment { stopped_ms: 1_700_000_001_000, running: true },
        disks: vec![DiskIdentity {
            vdev: "xvda".into(),
            path: PathBuf::from("/srv/web.img"),
            format: DiskFormat::Raw,
            writable: true,
            size: 10 << 20,
            mtime_ns: Some(1_699_999_999_000_000_001),
            header: [3; 32],
            snapshot: None,
        }],
    }
}

pub(super) fn layout(size: u64) -> MemoryLayout {
    MemoryLayout { id: "m0".into(), size }
}

pub(super) fn need(size: u64) -> Need {
    Need { memory: Some(size), touched: size, device: 1 << 20 }
}

/// A page that differs from that of any other number.
pub(super) fn page(number: u64) -> Vec<u8> {
    let mut out = vec![0; PAGE];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

pub(super) fn read_all(fd: OwnedFd) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::from(fd).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Both places an image can go to.
pub(super) fn targets(host: &Host) -> [Target; 2] {
    let file = Target::File {
        path: host.root().join("web.kxl"),
        replace: true,
        header: b"{\"a\": 1}".to_vec(),
    };
    [Target::Store(host.paths.clone()), file]
}

pub(super) fn open(target: &Target, committed: &Committed) -> Image {
    match target {
        Target::Store(paths) => Image::open_store(paths, committed.id).unwrap(),
        Target::File { path, .. } => Image::open_file(path).unwrap(),
    }
}

/// What the memory of an image holds.
pub(super) fn memory_of(host: &Host, image: &Image) -> Vec<u8> {
    let path = host.root().join("copy");
    let file = std::fs::File::create(&path).unwrap();
    image.copy_memory(&file, &mut |_| true).unwrap();
    std::fs::read(path).unwrap()
}

/// An image of a few pages and a short device stream.
pub(super) fn write_small(target: &Target, size: u64) -> Committed {
    let id = ImageId::random();
    let mut writer = Writer::begin(target, id, &need(size)).unwrap();
    writer.device(b"head").unwrap();
    writer.memory(&layout(size)).unwrap();
    writer.pages(PAGE as u64, &page(1)).unwrap();
    writer.pages(size - PAGE as u64, &page(2)).unwrap();
    writer.device(b"tail").unwrap();
    writer.commit(&facts(id)).unwrap()
}

/// Says why a test did not run, where `tests/setup/run-tests` collects it.
pub(super) fn skip(what: &str, why: &str) {
    let line = format!("SKIP {what}: {why}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("KXL_SKIPS") {
        use std::io::Write;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }
}
