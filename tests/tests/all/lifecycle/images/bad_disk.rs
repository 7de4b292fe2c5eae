//! A disk that fails under a save or a return: the calls of the monitor, or of the command, are made
//! to fail by a library that is loaded into it. Errors leave the domain as it was, without an image,
//! and name what could not be written; calls that move less than they were given are gone on with.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use kxl_domain::{State, Verb};

use super::world::World;
use crate::lifecycle::crash::Kind;
use crate::support::host::programs;
use crate::support::{Host, Output, guest, run, skip, wait};

const SOURCE: &str = include_str!("bad_disk.c");

/// What the disk does with a call.
const EIO: &str = "eio";
const SHORT: &str = "short";
const COUNT: &str = "count";

/// The library, and programs that load it.
struct BadDisk {
    dir: PathBuf,
}

impl BadDisk {
    /// Builds it beside the root of a host, or says why not.
    fn build(host: &Host) -> Result<Self, String> {
        let dir = host.scratch().join("bad-disk");
        fs::create_dir(&dir).unwrap();
        let (source, library) = (dir.join("bad_disk.c"), dir.join("bad_disk.so"));
        fs::write(&source, SOURCE).unwrap();
        let cc = Command::new("cc")
            .args(["-Wall", "-O1", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .output()
            .map_err(|error| format!("cc: {error}"))?;
        assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
        let libexec = dir.join("libexec");
        fs::create_dir(&libexec).unwrap();
        for program in ["kxl-mock", "kxl"] {
            symlink(programs().join(program), libexec.join(program)).unwrap();
        }
        // What starts a monitor gives it a clean environment.
        let monitor = libexec.join("kxl-monitor");
        let script = format!(
            "#!/bin/sh\nexport LD_PRELOAD={} KXL_BAD_DISK={}\nexec {} \"$@\"\n",
            library.display(),
            dir.join("script").display(),
            programs().join("kxl-monitor").display()
        );
        fs::write(&monitor, script).unwrap();
        fs::set_permissions(&monitor, fs::Permissions::from_mode(0o755)).unwrap();
        Ok(Self { dir })
    }

    /// From its call number `first` on, each `call` on a file at `place` fails.
    fn fails(&self, call: &str, how: &str, first: u64, place: &str) {
        let _none = fs::remove_file(self.dir.join("script.hit"));
        let fresh = self.dir.join("script.new");
        fs::write(&fresh, format!("{call} {how} {first} {place}\n")).unwrap();
        fs::rename(fresh, self.dir.join("script")).unwrap();
    }

    /// It is a good one again; how many calls there were.
    fn works(&self) -> u64 {
        fs::remove_file(self.dir.join("script")).unwrap();
        fs::metadata(self.dir.join("script.hit")).map_or(0, |hit| hit.len())
    }

    /// Runs a command; monitors that it starts have the disk, and the command itself if `own`.
    fn kxl(&self, host: &Host, own: bool, words: &[String]) -> Output {
        let mut command = host.command("kxl", words);
        command.env("KXL_LIBEXEC", self.dir.join("libexec"));
        if own {
            command.env("LD_PRELOAD", self.dir.join("bad_disk.so"));
            command.env("KXL_BAD_DISK", self.dir.join("script"));
        }
        run::run(&mut command, wait::BOOT)
    }
}

/// A domain whose monitor has such a disk.
fn scene(config: &str) -> Result<(World, BadDisk, u64), String> {
    let host = Host::new();
    let disk = BadDisk::build(&host)?;
    let world = World::new(host, Kind::Managed, config);
    let count = world.up();
    world.lose_monitor();
    disk.kxl(&world.host, false, &["recover".to_owned()]).expect(0);
    Ok((world, disk, count))
}

fn mock() -> String {
    guest::mock("web", "memory=8M touched=50 dirty=8")
}

/// Where a save of this verb writes.
fn place(world: &World, verb: Verb) -> String {
    match verb {
        Verb::Save => world.host.scratch().display().to_string(),
        // Each image is a directory of its own.
        _ => format!("{}/", world.host.image_store().display()),
    }
}

/// How often a save makes the call; the domain comes back from its image, which is taken away.
fn calls(world: &World, disk: &BadDisk, verb: Verb, call: &str) -> u64 {
    disk.fails(call, COUNT, 0, &place(world, verb));
    disk.kxl(&world.host, false, &world.words(verb)).expect(0);
    let calls = disk.works();
    let back = if verb == Verb::Save { Verb::Restore } else { Verb::Resume };
    disk.kxl(&world.host, false, &world.words(back)).expect(0);
    match verb {
        Verb::Save => fs::remove_file(world.file()).unwrap(),
        _ => wait::eventually("the image is used up", || world.host.images().is_empty()),
    }
    assert!(calls > 1, "{call} of {verb}: {calls} calls");
    calls
}

/// The call of this number fails for good: the domain runs on and there is no image.
fn one_error(world: &World, disk: &BadDisk, verb: Verb, call: &str, first: u64, count: u64) {
    let case = format!("{call} {first} of {verb}");
    disk.fails(call, EIO, first, &place(world, verb));
    let failed = disk.kxl(&world.host, false, &world.words(verb));
    assert!(disk.works() > first, "{case} was not made");
    assert_eq!(failed.code(), Some(1), "{case}: {failed}");
    let name = if verb == Verb::Save { world.file() } else { "/images/".to_owned() };
    assert!(failed.stderr.contains(&name), "{case}: {failed}");
    assert!(failed.stderr.contains("Input/output error"), "{case}: {failed}");
    world.host.rests("web", State::Running);
    world.goes_on_from(count, &case);
    assert_eq!(world.host.images().len(), 0, "{case}");
    assert!(!Path::new(&world.file()).exists(), "{case}");
    assert_eq!(world.host.temporaries(), [""; 0], "{case}");
    assert_eq!(world.host.journal(), [], "{case}");
}

fn errors(config: &str, verbs: &[Verb]) {
    let (world, disk, count) = match scene(config) {
        Ok(made) => made,
        Err(reason) => return skip::skip("a disk that fails under a save", &reason),
    };
    for verb in verbs {
        for call in ["write", "sync"] {
            let calls = calls(&world, &disk, *verb, call);
            // Of a guest that runs more or less is written each time.
            let each: Vec<u64> =
                if call == "sync" { (0..calls).collect() } else { vec![0, calls / 2] };
            for first in each {
                one_error(&world, &disk, *verb, call, first, count);
            }
        }
    }
    // With a good disk all is well.
    world.act(Verb::Suspend).expect(0);
    world.act(Verb::Resume).expect(0);
    world.goes_on_from(count, "a good disk");
    world.clear("a good disk");
}

#[test]
fn an_error_of_the_disk_leaves_the_domain_running_and_names_the_image() {
    errors(&mock(), &[Verb::Suspend, Verb::Save]);
}

#[test]
fn an_error_of_the_disk_leaves_a_domain_on_qemu_running() {
    match guest::qemu("x86_64", "web", "tick=100 touch=24", "") {
        Ok(config) => {
            let _slot = guest::slot();
            errors(&config, &[Verb::Suspend]);
        }
        Err(reason) => skip::skip("a disk that fails under a save on qemu", &reason),
    }
}

#[test]
fn a_disk_that_takes_and_gives_less_than_it_is_asked_for_costs_nothing_but_time() {
    let (world, disk, count) = match scene(&mock()) {
        Ok(made) => made,
        Err(reason) => return skip::skip("short writes and reads of a disk", &reason),
    };
    for (out, back) in [(Verb::Suspend, Verb::Resume), (Verb::Save, Verb::Restore)] {
        disk.fails("write", SHORT, 0, &place(&world, out));
        disk.kxl(&world.host, false, &world.words(out)).expect(0);
        assert!(disk.works() > 100, "no write of {out} was short");
        let image = if out == Verb::Save { world.file() } else { world.host.only_image() };
        world.host.ok(["image", "verify", &image]);
        disk.fails("read", SHORT, 0, &place(&world, out));
        disk.kxl(&world.host, true, &world.words(back)).expect(0);
        assert!(disk.works() > 1, "no read of {back} was short");
        world.goes_on_from(count, back.as_str());
    }
    fs::remove_file(world.file()).unwrap();
    world.clear("short");
}

#[test]
fn an_image_that_cannot_be_read_is_named_and_can_be_tried_again() {
    let (world, disk, mut count) = match scene(&mock()) {
        Ok(made) => made,
        Err(reason) => return skip::skip("a disk that fails under a return", &reason),
    };
    for (out, back) in [(Verb::Suspend, Verb::Resume), (Verb::Save, Verb::Restore)] {
        // The command that opens it, or the monitor that is to come back from it.
        for own in [true, false] {
            let case = format!("{back}, read by the command: {own}");
            disk.kxl(&world.host, false, &world.words(out)).expect(0);
            let rests = world.host.domain("web").rests();
            disk.fails("read", EIO, 0, &place(&world, out));
            let failed = disk.kxl(&world.host, own, &world.words(back));
            assert!(disk.works() > 0, "{case}: nothing was read");
            assert_eq!(failed.code(), Some(1), "{case}: {failed}");
            let name = if out == Verb::Save { world.file() } else { world.host.only_image() };
            assert!(failed.stderr.contains(&name), "{case}: {failed}");
            assert!(failed.stderr.contains("Input/output error"), "{case}: {failed}");
            world.host.quiet();
            assert_eq!(world.host.domain("web").rests(), rests, "{case}");
            disk.kxl(&world.host, false, &world.words(back)).expect(0);
            count = world.goes_on_from(count, &case);
            if out == Verb::Save {
                fs::remove_file(world.file()).unwrap();
            }
        }
    }
    world.clear("read again");
}
