//! A state comes back only beside the disks that it was saved with, unless somebody insists.

use std::fs;
use std::path::{Path, PathBuf};

use kxl_domain::{State, Verb};

use super::world::World;
use crate::lifecycle::crash::Kind;
use crate::support::run::run;
use crate::support::{Console, Host, guest, skip, wait};

type Change = fn(&Path);

/// What can happen to a disk behind a guest's back, and how that is told.
const CHANGES: &[(&str, Change, &str)] = &[
    ("written", |path| write_at(path, b"x", 70_000), "was written at"),
    ("grown", |path| write_at(path, b"tail", 300_000), "bytes, and had"),
    ("replaced", replace, "was written at"),
    ("gone", |path| fs::remove_file(path).unwrap(), "is gone"),
];

fn write_at(path: &Path, bytes: &[u8], at: u64) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

/// Another file of the same size.
fn replace(path: &Path) {
    let other = path.with_extension("other");
    fs::write(&other, vec![7; 256 << 10]).unwrap();
    fs::rename(other, path).unwrap();
}

fn with_disk(host: Host) -> (World, PathBuf, u64) {
    let disk = host.scratch().join("disk.img");
    fs::write(&disk, vec![1; 256 << 10]).unwrap();
    let lines = format!("disk = [ '{},raw,xvda,w' ]", disk.display());
    let world =
        World::new(host, Kind::Managed, &guest::mock_with("web", "memory=2M dirty=8", &lines));
    let count = world.up();
    (world, disk, count)
}

#[test]
fn a_disk_that_moved_on_keeps_its_image_from_coming_back_until_somebody_insists() {
    for (save, back) in [(Verb::Save, Verb::Restore), (Verb::Suspend, Verb::Resume)] {
        for (how, change, says) in CHANGES {
            eprintln!("{save}, {how}");
            let (world, disk, count) = with_disk(Host::new());
            world.act(save).expect(0);
            change(&disk);
            let refused = world.act(back).expect(4);
            for word in ["disk xvda", disk.to_str().unwrap(), says, "--force-disks"] {
                assert!(refused.stderr.contains(word), "{word}: {refused}");
            }
            let rests = if save == Verb::Suspend { State::Suspended } else { State::Halted };
            assert_eq!(world.host.domain("web").rests(), Some(rests), "{how}");
            if *how == "gone" {
                world.clear(how);
                continue;
            }
            let mut words = world.words(back);
            words.insert(1, "--force-disks".to_owned());
            world.host.ok(words);
            world.goes_on_from(count, how);
            world.clear(how);
        }
    }
}

#[test]
fn a_guest_that_may_have_written_its_disks_before_its_return_failed_does_not_come_back_unasked() {
    let (world, disk, count) = with_disk(Host::new());
    world.act(Verb::Suspend).expect(0);
    let script = world.host.rundir(&world.host.domain("web")).join("mock.script");
    fs::create_dir_all(script.parent().unwrap()).unwrap();
    // The emulator dies when it is told to let the guest go: it may have run.
    fs::write(&script, "hold=unpause die=unpause").unwrap();
    let resume = world.host.begin(&["resume", "web"]);
    wait::eventually("the image is marked", || {
        world.host.images().first().is_some_and(|image| image["spent_ms"].is_number())
    });
    write_at(&disk, b"x", 70_000);
    world.host.script("web", "die=unpause");
    assert_eq!(resume.end(wait::SOON).code(), Some(1));
    world.host.rests("web", State::Suspended);
    fs::remove_file(&script).unwrap();
    let refused = world.host.refused(4, &["resume", "web"]);
    assert!(refused.stderr.contains("was written at"), "{refused}");
    world.host.ok(["resume", "--force-disks", "web"]);
    world.goes_on_from(count, "insisted");
    world.clear("insisted");
}

#[test]
fn a_return_that_failed_before_the_guest_ran_can_be_repeated() {
    for fault in ["refuse=unpause", "die=unpause", "die=restore", "refuse=restore", "die=launch"] {
        eprintln!("{fault}");
        let (world, _, count) = with_disk(Host::new());
        world.act(Verb::Suspend).expect(0);
        let script = world.host.rundir(&world.host.domain("web")).join("mock.script");
        fs::create_dir_all(script.parent().unwrap()).unwrap();
        fs::write(&script, fault).unwrap();
        world.host.refused(1, &["resume", "web"]);
        world.host.rests("web", State::Suspended);
        world.host.quiet();
        assert!(
            world.host.images()[0]["spent_ms"].is_null(),
            "{fault}: its disks are as they were"
        );
        fs::remove_file(&script).unwrap();
        world.act(Verb::Resume).expect(0);
        world.goes_on_from(count, fault);
        world.clear(fault);
    }
}

#[test]
fn a_checkpoint_can_be_come_back_from_again_and_again() {
    let (world, _, count) = with_disk(Host::new());
    world.act(Verb::Checkpoint).expect(0);
    let id = world.host.only_image();
    for _ in 0..2 {
        world.host.ok(["destroy", "web"]);
        world.host.ok(["restore", &id]);
        world.goes_on_from(count, "again");
        // What is saved of a guest waits for the check of the image that the guest came from.
        world.host.ok(["image", "checkpoint", "web"]);
        assert_eq!(world.host.images().len(), 2);
        let made = world.host.images()[1]["image"].as_str().unwrap().to_owned();
        world.host.ok(["image", "rm", &made]);
        assert_eq!(world.host.only_image(), id);
    }
    world.clear("again");
}

#[test]
fn on_qemu_a_checkpoint_comes_back_beside_its_snapshot_of_the_disk() {
    let host = Host::new();
    let disk = host.scratch().join("disk.qcow2");
    let lines = format!("disk = [ '{},qcow2,xvda,w' ]", disk.display());
    let config =
        guest::program("qemu-img").and_then(|_| guest::qemu("x86_64", "web", "tick=200", &lines));
    let config = match config {
        Ok(config) => config,
        Err(reason) => return skip::skip("a disk that moved on, on qemu", &reason),
    };
    let _slot = guest::slot();
    let path = disk.to_str().unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", path, "16M"]);
    let world = World::new(host, Kind::Managed, &config);
    let count = world.up();
    let host = &world.host;
    host.ok(["image", "checkpoint", "web"]);
    let id = host.only_image();
    let mut console = Console::attach(host, "web");
    console.skip();
    console.send("d");
    console.expect("D OK");
    drop(console);
    host.ok(["destroy", "web"]);
    let refused = host.refused(4, &["restore", &id]);
    let snapshot = format!("qemu-img snapshot -a kxl-{id} {path}");
    for word in ["disk xvda", "bytes, and had", &snapshot, "--force-disks"] {
        assert!(refused.stderr.contains(word), "{word}: {refused}");
    }
    qemu_img(&["snapshot", "-a", &format!("kxl-{id}"), path]);
    // The times of the file have moved on all the same; what is in it has not.
    host.ok(["image", "verify", "--host", &id]);
    host.ok(["restore", &id]);
    let count = world.goes_on_from(count, "checkpoint");
    let mut console = Console::attach(host, "web");
    console.skip();
    console.send("d");
    console.expect("D OK");
    drop(console);
    world.goes_on_from(count, "checkpoint");
    // It has written again.
    host.ok(["destroy", "web"]);
    host.refused(4, &["restore", &id]);
    qemu_img(&["snapshot", "-a", &format!("kxl-{id}"), path]);
    host.ok(["restore", &id]);
    world.goes_on_from(count, "checkpoint");
    world.clear("checkpoint");
}

fn qemu_img(args: &[&str]) {
    run(std::process::Command::new("qemu-img").args(args), wait::SOON).expect(0);
}
