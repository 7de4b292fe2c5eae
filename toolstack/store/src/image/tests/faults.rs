//! Full disks, killed writers and writers at once.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::image::{list, sweep, sweep_file};
use crate::{Paths, StoreError};

const MIB: u64 = 1 << 20;
const ROOT: &str = "KXL_TEST_IMAGE_ROOT";

/// This test again, in a process of its own that finds `root` in its environment.
fn again(test: &str, root: &Path, before: &[&str]) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut words: Vec<_> = before.iter().map(std::ffi::OsString::from).collect();
    words.push(this.into());
    let mut command = Command::new(words.remove(0));
    command.args(words).args(["--exact", &format!("image::tests::faults::{test}"), "--nocapture"]);
    command.env(ROOT, root).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn root() -> Option<std::path::PathBuf> {
    std::env::var_os(ROOT).map(Into::into)
}

/// Both targets under a root.
fn targets_in(root: &Path) -> [Target; 2] {
    let file = Target::File { path: root.join("saved"), replace: true, header: b"{}".to_vec() };
    [Target::Store(Paths::under(root)), file]
}

fn nothing_is_left(root: &Path) {
    let store = Paths::under(root).image_store();
    assert_eq!(fs::read_dir(store).unwrap().count(), 0);
    let names: Vec<_> =
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().contains("kxl-part")), "{names:?}");
    assert!(!root.join("saved").exists());
}

#[test]
fn a_full_disk_refuses_with_figures_or_fails_and_leaves_nothing() {
    if let Some(root) = root() {
        return on_a_small_disk(&root);
    }
    let host = Host::new();
    let script = "mount -t tmpfs -o size=24m,mode=0755 kxl-test \"$0\" && exec \"$@\"";
    let dir = host.root().to_str().unwrap().to_owned();
    let mut probe = Command::new("unshare");
    let may =
        probe.args(["-m", "--propagation", "private", "sh", "-c", script, &dir, "true"]).status();
    if !may.is_ok_and(|status| status.success()) {
        return skip("images on a full disk", "this user may not mount in a namespace of its own");
    }
    let before = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, &dir];
    let test = "a_full_disk_refuses_with_figures_or_fails_and_leaves_nothing";
    assert!(again(test, host.root(), &before).status().unwrap().success());
}

fn on_a_small_disk(root: &Path) {
    for target in targets_in(root) {
        // More than there is.
        let error = Writer::begin(&target, ImageId::random(), &need(100 * MIB)).unwrap_err();
        let StoreError::NoRoom { need: needed, free, .. } = &error else { panic!("{error}") };
        assert!(*needed > 100 * MIB && *free < 25 * MIB, "{error}");
        assert!(error.to_string().contains("MiB needed"), "{error}");
        nothing_is_left(root);

        // Less than it turns out to be: the guest touched more meanwhile.
        let id = ImageId::random();
        let small = Need { memory: Some(100 * MIB), touched: MIB, device: MIB };
        let mut writer = Writer::begin(&target, id, &small).unwrap();
        writer.memory(&layout(100 * MIB)).unwrap();
        let chunk: Vec<u8> = (0..512).flat_map(page).collect();
        let failed = (0..50_u64)
            .find_map(|n| writer.pages(n * 2 * MIB, &chunk).err().map(|error| (n, error)));
        let error = match failed {
            Some((_, error)) => error.kind(),
            None => panic!("100 MiB on a disk of 24"),
        };
        assert_eq!(error, std::io::ErrorKind::StorageFull);
        let error = writer.finish().unwrap_err();
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
        drop(writer);
        nothing_is_left(root);

        // What was reserved can be used to the last of it, though others fill the disk.
        let id = ImageId::random();
        let fits = Need { memory: Some(8 * MIB), touched: 8 * MIB, device: MIB };
        let mut writer = Writer::begin(&target, id, &fits).unwrap();
        writer.memory(&layout(8 * MIB)).unwrap();
        let mut filler = fs::File::create(root.join("filler")).unwrap();
        while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
        for n in 0..4 {
            writer.pages(n * 2 * MIB, &chunk).unwrap();
        }
        writer.device(&chunk[..index(MIB / 2)]).unwrap();
        let committed = writer.commit(&facts(id)).unwrap();
        open(&target, &committed).verify(&mut |_| true).unwrap();
        fs::remove_file(root.join("filler")).unwrap();
        match &target {
            Target::Store(paths) => crate::image::remove(paths, id).unwrap(),
            Target::File { path, .. } => fs::remove_file(path).unwrap(),
        }
        nothing_is_left(root);
    }
}

/// In a child: writes until it is killed.
fn write_for_ever(root: &Path) {
    let mut writers: Vec<_> = targets_in(root)
        .iter()
        .map(|target| {
            let mut writer = Writer::begin(target, ImageId(uuid(5).0), &need(64 * MIB)).unwrap();
            writer.memory(&layout(64 * MIB)).unwrap();
            writer
        })
        .collect();
    let chunk: Vec<u8> = (0..512).flat_map(page).collect();
    for n in 0.. {
        for writer in &mut writers {
            writer.pages(n % 32 * 2 * MIB, &chunk).unwrap();
        }
        fs::write(root.join("writing"), n.to_string()).unwrap();
    }
}

#[test]
fn a_killed_writer_leaves_only_what_a_sweep_removes() {
    if let Some(root) = root() {
        return write_for_ever(&root);
    }
    let host = Host::new();
    host.paths.prepare().unwrap();
    let test = "a_killed_writer_leaves_only_what_a_sweep_removes";
    let mut child: Child = again(test, host.root(), &["env"]).spawn().unwrap();
    // No deadline but the harness's: it is there as soon as the child has written something.
    while !host.root().join("writing").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the child has ended");
        std::thread::yield_now();
    }
    assert!(sweep(&host.paths, &|_| false).unwrap().is_empty(), "its writer lives");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(list(&host.paths).unwrap().is_empty());
    let id = ImageId(uuid(5).0);
    assert!(sweep(&host.paths, &|found| found == id).unwrap().is_empty(), "in use");
    assert_eq!(sweep(&host.paths, &|_| false).unwrap(), [id]);
    sweep_file(&host.root().join("saved"), id).unwrap();
    nothing_is_left(host.root());
}

#[test]
fn the_temporary_of_a_killed_writer_does_not_hinder_the_next_one() {
    let host = Host::new();
    let id = ImageId::random();
    host.paths.prepare().unwrap();
    let left = host.paths.image_store().join(format!(".new-{id}"));
    fs::create_dir(&left).unwrap();
    fs::write(left.join("memory"), "half").unwrap();
    let [store, file] = targets(&host);
    fs::write(host.root().join(format!(".{id}.kxl-part")), "half").unwrap();
    for target in [store, file] {
        let mut writer = Writer::begin(&target, id, &need(MIB)).unwrap();
        writer.memory(&layout(MIB)).unwrap();
        let committed = writer.commit(&facts(id)).unwrap();
        open(&target, &committed).verify(&mut |_| true).unwrap();
    }
}

#[test]
fn many_writers_at_once_do_not_meet() {
    let host = Host::new();
    std::thread::scope(|scope| {
        let written: Vec<_> = (0..6)
            .map(|number| {
                let target = targets(&host)[0].clone();
                scope.spawn(move || {
                    let id = ImageId::random();
                    let mut writer = Writer::begin(&target, id, &need(6 * MIB)).unwrap();
                    writer.memory(&layout(6 * MIB)).unwrap();
                    for at in 0..300 {
                        writer.pages(at * 5 * PAGE as u64, &page(number * 1000 + at)).unwrap();
                    }
                    (number, writer.commit(&facts(id)).unwrap())
                })
            })
            .collect();
        for thread in written {
            let (number, committed) = thread.join().unwrap();
            let image = Image::open_store(&host.paths, committed.id).unwrap();
            image.verify(&mut |_| true).unwrap();
            let bytes = memory_of(&host, &image);
            assert!(bytes[5 * PAGE..6 * PAGE] == page(number * 1000 + 1));
        }
    });
    assert_eq!(list(&host.paths).unwrap().len(), 6);
    let taken = list(&host.paths).unwrap().remove(0).unwrap().facts.id;
    let [store, _] = targets(&host);
    let error = Writer::begin(&store, taken, &need(MIB)).unwrap_err();
    assert!(matches!(error, StoreError::ImageTaken { .. }), "{error}");
}

#[test]
fn what_a_backend_does_wrong_is_refused() {
    let host = Host::new();
    for target in targets(&host) {
        let id = ImageId::random();
        let mut writer = Writer::begin(&target, id, &need(MIB)).unwrap();
        let wrong = std::io::ErrorKind::InvalidInput;
        let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
        assert_eq!(kind(writer.pages(0, &page(1))), wrong, "pages before their memory");
        assert_eq!(kind(writer.memory(&layout(2 * MIB))), wrong, "another size");
        writer.memory(&layout(MIB)).unwrap();
        assert_eq!(kind(writer.memory(&layout(MIB))), wrong, "a second block");
        assert_eq!(kind(writer.pages(MIB, &page(1))), wrong, "behind the end");
        assert_eq!(kind(writer.pages(12, &page(1))), wrong, "no page");
        assert_eq!(kind(writer.pages(0, &page(1)[1..])), wrong, "part of a page");
        let mut never = |_: u64, _: &mut [u8]| panic!("nothing is to be read");
        assert_eq!(kind(writer.read(MIB, PAGE as u64, &mut never)), wrong, "behind the end");
        let mut gone = |_: u64, _: &mut [u8]| Err(std::io::ErrorKind::NotFound.into());
        let failed = kind(writer.read(0, PAGE as u64, &mut gone));
        assert_eq!(failed, std::io::ErrorKind::NotFound, "the reader's own error");
        assert_eq!(kind(writer.zeros(u64::MAX - 4095, 4096)), wrong, "beyond all");
        drop(writer);
        let mut writer = Writer::begin(&target, id, &need(MIB)).unwrap();
        writer.device(b"x").unwrap();
        let error = writer.finish().unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "its memory never came: {error}");
    }
}
