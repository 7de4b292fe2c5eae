//! The store's stock: lists, removal, sweeping, marks, and images carried from one layout into the
//! other.

use std::fs;

use super::*;
use crate::StoreError;
use crate::image::{changed, export, identify, import, list, remove, sweep, sweep_file};

const MIB: u64 = 1 << 20;

fn in_store(host: &Host) -> Committed {
    write_small(&Target::Store(host.paths.clone()), 3 * MIB)
}

fn entries(host: &Host) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(host.paths.image_store())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_list_shows_every_image_and_what_is_wrong_with_a_bad_one() {
    let host = Host::new();
    assert!(list(&host.paths).unwrap().is_empty(), "no store yet");
    let (good, bad) = (in_store(&host), in_store(&host));
    fs::remove_file(bad.path.join("device")).unwrap();
    let found = list(&host.paths).unwrap();
    let [Ok(listed), Err((id, error))] = &found[..] else { panic!("{found:?}") };
    assert_eq!((listed.facts.id, listed.bytes, listed.size), (good.id, good.bytes, good.size));
    assert_eq!(*id, bad.id);
    let text = error.to_string();
    assert!(text.contains("its device stream is missing"), "{text}");
}

#[test]
fn a_removed_image_is_gone_and_removing_it_again_says_so() {
    let host = Host::new();
    let committed = in_store(&host);
    remove(&host.paths, committed.id).unwrap();
    assert!(entries(&host).is_empty());
    let error = remove(&host.paths, committed.id).unwrap_err();
    assert!(matches!(error, StoreError::NoImage { id } if id == committed.id));
    assert!(matches!(
        Image::open_store(&host.paths, committed.id).unwrap_err(),
        StoreError::NoImage { .. }
    ));
}

#[test]
fn whoever_looks_at_an_image_that_is_being_removed_finds_it_whole_or_not_at_all() {
    let host = Host::new();
    for _ in 0..40 {
        let committed = in_store(&host);
        std::thread::scope(|scope| {
            let removal = scope.spawn(|| remove(&host.paths, committed.id).unwrap());
            while !removal.is_finished() {
                let found = list(&host.paths).unwrap();
                assert!(found.iter().all(Result::is_ok), "{found:?}");
                match Image::open_store(&host.paths, committed.id) {
                    Ok(_) | Err(StoreError::NoImage { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
}

#[test]
fn a_removal_that_was_cut_off_is_ended_by_the_next_one_or_a_sweep() {
    let host = Host::new();
    for sweeping in [false, true] {
        let committed = in_store(&host);
        let gone = host.paths.image_store().join(format!(".gone-{}", committed.id));
        fs::rename(&committed.path, gone).unwrap();
        assert!(list(&host.paths).unwrap().is_empty());
        if sweeping {
            assert_eq!(sweep(&host.paths, &|_| true).unwrap(), [committed.id]);
        } else {
            remove(&host.paths, committed.id).unwrap();
        }
        assert!(entries(&host).is_empty());
    }
}

#[test]
fn a_sweep_leaves_images_and_what_live_writers_write() {
    let host = Host::new();
    let committed = in_store(&host);
    let target = Target::Store(host.paths.clone());
    let id = ImageId::random();
    let mut writer = Writer::begin(&target, id, &need(MIB)).unwrap();
    writer.memory(&layout(MIB)).unwrap();
    assert!(sweep(&host.paths, &|_| false).unwrap().is_empty());
    let last = writer.commit(&facts(id)).unwrap();
    assert!(sweep(&host.paths, &|_| false).unwrap().is_empty());
    for id in [committed.id, last.id] {
        Image::open_store(&host.paths, id).unwrap().verify(&mut |_| true).unwrap();
    }
}

#[test]
fn an_image_that_is_given_up_leaves_nothing() {
    let host = Host::new();
    for target in targets(&host) {
        let id = ImageId::random();
        let mut writer = Writer::begin(&target, id, &need(8 * MIB)).unwrap();
        writer.memory(&layout(8 * MIB)).unwrap();
        writer.pages(0, &page(1).repeat(1024)).unwrap();
        writer.device(b"head").unwrap();
        writer.finish().unwrap();
        drop(writer);
        if let Target::File { path, .. } = &target {
            sweep_file(path, id).unwrap();
            let names: Vec<_> = fs::read_dir(host.root()).unwrap().map(|e| e.unwrap()).collect();
            assert_eq!(names.len(), 2, "the trees of the host and nothing else: {names:?}");
        }
    }
    assert!(entries(&host).is_empty());
}

#[test]
fn the_mark_of_a_spent_image_lasts_until_it_is_taken_off() {
    let host = Host::new();
    let [store, file] = targets(&host);
    let committed = write_small(&store, MIB);
    let image = open(&store, &committed);
    assert_eq!(image.spent().unwrap(), None);
    image.mark_spent(uuid(7)).unwrap();
    let again = open(&store, &committed);
    assert!(again.spent().unwrap().unwrap() > 1_700_000_000_000);
    let [Ok(listed)] = &list(&host.paths).unwrap()[..] else { panic!("not listed") };
    assert!(listed.spent.is_some());
    // Cut off while it was written.
    fs::write(committed.path.join("spent"), b"").unwrap();
    assert_eq!(again.spent().unwrap(), Some(0));
    again.unmark_spent().unwrap();
    again.unmark_spent().unwrap();
    assert_eq!(image.spent().unwrap(), None);

    let image = open(&file, &write_small(&file, MIB));
    image.mark_spent(uuid(7)).unwrap_err();
    assert_eq!(image.spent().unwrap(), None);
}

#[test]
fn an_image_is_the_same_after_an_export_and_an_import() {
    let (host, other) = (Host::new(), Host::new());
    let committed = in_store(&host);
    let image = Image::open_store(&host.paths, committed.id).unwrap();
    let file = host.root().join("exported");
    fs::write(&file, "an earlier file, which is replaced").unwrap();
    let mut moved = 0;
    export(&image, &file, b"name = \"web\"", &mut |bytes| {
        moved += bytes;
        true
    })
    .unwrap();
    assert_eq!(moved, 8 + 2 * PAGE as u64);
    let exported = Image::open_file(&file).unwrap();
    assert_eq!(exported.header(), Some(&b"name = \"web\""[..]));
    exported.verify(&mut |_| true).unwrap();

    let id = import(&file, &other.paths, &mut |_| true).unwrap();
    assert_eq!(id, committed.id);
    let imported = Image::open_store(&other.paths, id).unwrap();
    assert_eq!(imported.facts(), image.facts());
    assert!(memory_of(&host, &imported) == memory_of(&host, &image));
    let manifest = |dir: &std::path::Path| fs::read(dir.join("manifest")).unwrap();
    assert!(manifest(imported.path()) == manifest(image.path()));
    let again = import(&file, &other.paths, &mut |_| true).unwrap_err();
    assert!(matches!(again, StoreError::ImageTaken { .. }), "{again}");
    let given_up = export(&image, &file, b"", &mut |_| false).unwrap_err();
    assert!(matches!(given_up, StoreError::GivenUp { .. }));
    Image::open_file(&file).unwrap().verify(&mut |_| true).unwrap();
}

#[test]
fn a_disk_that_has_changed_is_told_with_how() {
    let host = Host::new();
    let path = host.root().join("disk.img");
    fs::write(&path, vec![7; 100_000]).unwrap();
    let text = format!("name=\"d\"\ntype=\"hvm\"\ndisk=[\"raw:{},xvda,w\"]\n", path.display());
    let disk = kxl_domain::config::parse("d", &text, &[]).unwrap().config.disks.remove(0);
    let then = identify(&disk).unwrap();
    assert_eq!((then.size, then.writable, then.vdev.as_str()), (100_000, true, "xvda"));
    assert_eq!(changed(&then).unwrap(), None);

    let times = |path: &PathBuf, back: u64| {
        let file = fs::File::options().write(true).open(path).unwrap();
        let time = file.metadata().unwrap().modified().unwrap();
        file.set_modified(time - std::time::Duration::from_secs(back)).unwrap();
    };
    let earlier = DiskIdentity { mtime_ns: then.mtime_ns.map(|ns| ns - 1), ..then.clone() };
    let text = changed(&earlier).unwrap().unwrap();
    assert!(text.starts_with("was written at 20") && text.ends_with("after the save"), "{text}");
    times(&path, 3600);
    let text = changed(&then).unwrap().unwrap();
    assert!(text.starts_with("is another copy: last written at"), "{text}");
    let other = DiskIdentity { header: [0; 32], ..identify(&disk).unwrap() };
    let text = changed(&other).unwrap().unwrap();
    assert!(text.starts_with("does not begin with"), "{text}");
    fs::write(&path, vec![7; 100_001]).unwrap();
    let text = changed(&then).unwrap().unwrap();
    assert_eq!(text, "has 100001 bytes, and had 100000");
    fs::remove_file(&path).unwrap();
    let text = changed(&then).unwrap().unwrap();
    assert!(text.starts_with("is gone"), "{text}");
    assert!(identify(&disk).unwrap_err().to_string().contains("look at the disk"));
}
