//! A disk that is full, or gets full: a save that cannot fit is refused before anything is touched,
//! one that runs out of space leaves the domain running and nothing else, and a mark that cannot
//! be written keeps a guest from coming back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kxl_domain::{State, Verb};

use super::world::World;
use crate::lifecycle::crash::Kind;
use crate::support::{Host, guest, skip, wait};

/// A small file system of its own at a directory.
struct Small(PathBuf);

impl Small {
    fn at(dir: &Path, mib: u32) -> Result<Self, String> {
        fs::create_dir_all(dir).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m,mode=0700"), "kxl-test"]).arg(dir);
        match mount.stdout(Stdio::null()).stderr(Stdio::null()).status() {
            Ok(status) if status.success() => Ok(Self(dir.to_owned())),
            Ok(status) => Err(format!("this user may not mount a file system ({status})")),
            Err(error) => Err(format!("mount: {error}")),
        }
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let mut zero = fs::File::open("/dev/zero").unwrap();
        let mut file = fs::File::create(self.0.join("eater")).unwrap();
        std::io::copy(&mut zero, &mut file).unwrap_err();
    }

    /// Gives it back.
    fn clear(&self) {
        fs::remove_file(self.0.join("eater")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // An emulator that is just being ended may still hold a file of it.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// A domain that runs, and a small file system where its images go.
fn small(kind: Kind, words: &str, dir: &str, mib: u32) -> Result<(Small, World, u64), String> {
    let host = Host::new();
    let small = Small::at(&host.scratch().join(dir), mib)?;
    let world = World::new(host, kind, &guest::mock("web", &format!("dirty=8 {words}")));
    let count = world.up();
    Ok((small, world, count))
}

const STORE: &str = "root/var/lib/kxl/images";

/// The words to save with, for either layout.
fn both(world: &World) -> [(&'static str, Vec<String>); 2] {
    let file = world.host.scratch().join("files/web.img").display().to_string();
    [
        (STORE, ["suspend", "web"].map(str::to_owned).to_vec()),
        ("files", ["save", "web", &file].map(str::to_owned).to_vec()),
    ]
}

/// The domain runs on, and there is nothing where its image was to be.
fn nothing_happened(world: &World, small: &Small, count: u64, case: &str) {
    world.host.rests("web", State::Running);
    world.goes_on_from(count, case);
    assert_eq!(world.host.journal(), [], "{case}");
    let left: Vec<_> = fs::read_dir(&small.0).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| name == "eater"), "{case}: {left:?}");
}

#[test]
fn a_save_that_cannot_fit_is_refused_with_figures_before_anything_is_touched() {
    for layout in 0..2 {
        let dir = [STORE, "files"][layout];
        let made = small(Kind::Managed, "memory=64M", dir, 40);
        let (small, world, count) = match made {
            Ok(made) => made,
            Err(reason) => return skip::skip("no space for an image", &reason),
        };
        let (_, words) = both(&world)[layout].clone();
        let refused = world.host.kxl(&words).expect(1);
        // 48 MiB were touched; the margins come on top.
        for word in ["not enough space", " MiB needed", " MiB free"] {
            assert!(refused.stderr.contains(word), "{refused}");
        }
        nothing_happened(&world, &small, count, dir);
        world.host.ok(["destroy", "web"]);
    }
}

#[test]
fn a_writer_that_eats_the_space_in_the_middle_of_a_save_does_not_get_what_was_reserved() {
    for layout in 0..2 {
        let dir = [STORE, "files"][layout];
        let made = small(Kind::Managed, "memory=8M hold=save-stop", dir, 40);
        let (small, world, count) = match made {
            Ok(made) => made,
            Err(reason) => return skip::skip("a disk that gets full", &reason),
        };
        let (_, words) = both(&world)[layout].clone();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let save = world.host.begin(&words);
        under_way(&world);
        small.fill();
        world.host.script("web", "ok=save-stop");
        save.end(wait::SOON).expect(0);
        small.clear();
        match words[0] {
            "suspend" => drop(world.act(Verb::Resume).expect(0)),
            _ => drop(world.host.ok(["restore", words[2]])),
        }
        world.goes_on_from(count, dir);
        world.host.ok(["destroy", "web"]);
    }
}

#[test]
fn a_save_that_runs_out_of_space_leaves_the_domain_running_and_nothing_else() {
    for layout in 0..2 {
        let dir = [STORE, "files"][layout];
        let made = small(Kind::Managed, "memory=4M hold=save", dir, 40);
        let (small, world, count) = match made {
            Ok(made) => made,
            Err(reason) => return skip::skip("a disk that gets full", &reason),
        };
        let (_, words) = both(&world)[layout].clone();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let save = world.host.begin(&words);
        under_way(&world);
        // Its state turns out to be longer than the emulator had said.
        world.host.script("web", "device=64M ok=save");
        let failed = save.end(wait::SOON).expect(1);
        let says = failed.stderr.to_lowercase();
        assert!(says.contains("space") || says.contains("full"), "{failed}");
        nothing_happened(&world, &small, count, dir);
        // With room again, it goes.
        world.host.script("web", "device=64K ok=save");
        world.host.ok(&words);
        assert!(world.host.domain("web").domid().is_none());
    }
}

fn under_way(world: &World) {
    wait::eventually("the save is under way", || {
        world.host.find("web").is_some_and(|domain| domain.text("operation").is_some())
    });
}

#[test]
fn a_mark_that_cannot_be_written_keeps_the_guest_from_coming_back_and_its_image_there() {
    let (small, world, count) = match small(Kind::Managed, "memory=2M", STORE, 40) {
        Ok(made) => made,
        Err(reason) => return skip::skip("a full disk at a resume", &reason),
    };
    world.act(Verb::Suspend).expect(0);
    small.fill();
    let refused = world.host.refused(1, &["resume", "web"]);
    let says = refused.stderr.to_lowercase();
    assert!(
        says.contains("spent") && (says.contains("space") || says.contains("full")),
        "{refused}"
    );
    world.host.rests("web", State::Suspended);
    world.host.quiet();
    assert!(world.host.images()[0]["spent_ms"].is_null(), "no guest went on");
    small.clear();
    world.act(Verb::Resume).expect(0);
    world.goes_on_from(count, "a full disk");
    world.clear("a full disk");
}
