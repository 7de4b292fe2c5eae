//! What was written comes back.

use super::*;

const MIB: u64 = 1 << 20;

#[test]
fn facts_device_and_memory_come_back_from_both_layouts() {
    let host = Host::new();
    for target in targets(&host) {
        let size = 5 * MIB + PAGE as u64;
        let committed = write_small(&target, size);
        let image = open(&target, &committed);
        assert_eq!(*image.facts(), facts(committed.id));
        assert_eq!(image.memory(), Some(layout(size)));
        assert_eq!(read_all(image.device().unwrap()), b"headtail");
        let mut expected = vec![0; index(size)];
        expected[PAGE..2 * PAGE].copy_from_slice(&page(1));
        expected[index(size) - PAGE..].copy_from_slice(&page(2));
        assert!(memory_of(&host, &image) == expected, "{target:?}");
        let verified = image.verify(&mut |_| true).unwrap();
        assert_eq!((verified.bytes, verified.chunks), (8 + 2 * PAGE as u64, 3));
        assert_eq!(image.verify_shared(&mut |_| true).unwrap(), verified);
        assert_eq!(committed.size, size + 8);
        assert!(committed.bytes < MIB, "only data takes space, not {}", committed.bytes);
        if let Some(fd) = image.memory_file().unwrap() {
            assert!(read_all(fd) == expected);
        }
    }
}

#[test]
fn memory_on_a_tmpfs_is_copied_and_not_mapped() {
    use nix::sys::statfs::{TMPFS_MAGIC, statfs};

    struct Tree(std::path::PathBuf);
    impl Drop for Tree {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    let shm = std::path::Path::new("/dev/shm");
    // As the kernel's documentation has it; where it is none, the other half is what is tested.
    let tmpfs = statfs(shm).unwrap().filesystem_type() == TMPFS_MAGIC;
    let tree = Tree(shm.join(format!("kxl-image-{}", std::process::id())));
    std::fs::create_dir(&tree.0).unwrap();
    let target = Target::Store(crate::Paths::under(&tree.0));
    let image = open_in(&tree.0, write_small(&target, MIB).id);
    assert_eq!(image.memory_file().unwrap().is_none(), tmpfs);
    let host = Host::new();
    assert_eq!(memory_of(&host, &image)[PAGE..2 * PAGE], page(1));
    let disk = statfs(host.root()).unwrap().filesystem_type();
    let image = open_in(host.root(), write_small(&targets(&host)[0], MIB).id);
    assert_eq!(image.memory_file().unwrap().is_none(), disk == TMPFS_MAGIC);
}

fn open_in(root: &std::path::Path, id: ImageId) -> Image {
    Image::open_store(&crate::Paths::under(root), id).unwrap()
}

#[test]
fn the_last_word_for_a_page_counts_whatever_the_order() {
    let host = Host::new();
    for target in targets(&host) {
        let size = 7 * MIB - PAGE as u64;
        let pages = size / PAGE as u64;
        let mut expected = vec![0; index(size)];
        let id = ImageId::random();
        let mut writer = Writer::begin(&target, id, &need(size)).unwrap();
        writer.memory(&layout(size)).unwrap();
        // A simple generator: the same walk each time.
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for turn in 0..600_u64 {
            let start = random(pages);
            let count = (1 + random(if turn % 10 == 0 { 600 } else { 4 })).min(pages - start);
            let (from, to) = (start * PAGE as u64, (start + count) * PAGE as u64);
            let range = index(from)..index(to);
            if turn % 3 == 0 {
                writer.zeros(from, to - from).unwrap();
                expected[range].fill(0);
            } else {
                // Some of them are zero.
                let bytes = (0..count).flat_map(|n| match random(8) {
                    0 => vec![0; PAGE],
                    _ => page(turn * 1000 + n),
                });
                let bytes: Vec<u8> = bytes.collect();
                if turn % 3 == 1 {
                    writer.pages(from, &bytes).unwrap();
                } else {
                    let mut next = from;
                    let mut read = |offset: u64, room: &mut [u8]| {
                        assert_eq!(offset, next, "in ascending order");
                        next += room.len() as u64;
                        room.copy_from_slice(&bytes[index(offset - from)..index(next - from)]);
                        Ok(())
                    };
                    writer.read(from, to - from, &mut read).unwrap();
                    assert_eq!(next, to);
                }
                expected[range].copy_from_slice(&bytes);
            }
        }
        let committed = writer.commit(&facts(id)).unwrap();
        let image = open(&target, &committed);
        assert!(memory_of(&host, &image) == expected, "{target:?}");
        image.verify(&mut |_| true).unwrap();
    }
}

#[test]
fn a_state_without_memory_apart_is_a_device_stream_only() {
    let host = Host::new();
    for target in targets(&host) {
        let id = ImageId::random();
        let need = Need { device: 3 * MIB, ..Need::default() };
        let mut writer = Writer::begin(&target, id, &need).unwrap();
        let state: Vec<u8> = (0..700).flat_map(page).collect();
        for bytes in state.chunks(99_999) {
            writer.device(bytes).unwrap();
        }
        let committed = writer.commit(&facts(id)).unwrap();
        let image = open(&target, &committed);
        assert_eq!(image.memory(), None);
        assert!(image.memory_file().unwrap().is_none());
        assert!(read_all(image.device().unwrap()) == state);
        image.verify(&mut |_| true).unwrap();
    }
}
