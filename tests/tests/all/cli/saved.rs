//! save and restore, suspend and resume: options, refusals, interruptions.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use kxl_domain::State;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Host, guest, wait};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn at(host: &Host, name: &str) -> String {
    host.scratch().join(name).display().to_string()
}

/// A host with a live mock domain `web`, and the path of a file that is not there.
fn with_web(words: &str) -> (Host, String) {
    let host = Host::new();
    host.create("web", &guest::mock("web", words));
    let file = at(&host, "web.img");
    (host, file)
}

#[test]
fn a_domain_without_disks_is_restored_from_one_file_as_often_as_wanted() {
    let (host, file) = with_web("memory=4M");
    let uuid = host.domain("web").uuid();
    let said = host.ok(["save", "web", &file]);
    assert!(said.starts_with(&format!("web: saved to {file}, ")), "{said}");
    assert!(said.contains("the guest stood still for "), "{said}");
    assert!(said.ends_with("; the domain has ended\n"), "{said}");
    host.gone("web");
    let before = fs::read(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    for _ in 0..2 {
        let said = host.ok(["restore", &file]);
        assert!(said.starts_with("web: running, domid "), "{said}");
        let web = host.domain("web");
        assert_eq!((web.uuid(), web.state()), (uuid.clone(), State::Running));
        host.ok(["destroy", "web"]);
        host.gone("web");
    }
    assert!(fs::read(&file).unwrap() == before, "a restore has changed its file");
    host.quiet();
}

#[test]
fn a_saved_domain_goes_on_or_stays_paused_where_that_is_asked_for() {
    let (host, file) = with_web("memory=4M");
    let domid = host.domain("web").domid();
    let told = json(&host.ok(["save", "-c", "--json", "web", &file]));
    assert_eq!((told["state"].as_str(), told["file"].as_str()), (Some("running"), Some(&*file)));
    assert_eq!(host.domain("web").state(), State::Running);
    for key in ["bytes", "still_ms", "took_ms"] {
        assert!(told[key].is_u64(), "{key}: {told}");
    }
    for how in ["--live", "--still"] {
        assert_eq!(host.ok(["save", "-cq", how, "--force", "web", &file]), "");
    }
    let other = at(&host, "paused.img");
    let told = json(&host.ok(["save", "-p", "--json", "web", &other]));
    assert_eq!(told["state"], "paused");
    assert_eq!(host.domain("web").state(), State::Paused);
    // Saved paused, it comes back paused; with -D under its number.
    let kept = at(&host, "kept.img");
    host.ok(["save", "-D", "web", &kept]);
    host.gone("web");
    host.create("first", &guest::mock("first", ""));
    let told = json(&host.ok(["restore", "--json", &kept]));
    assert_eq!((told["state"].as_str(), told["domid"].as_u64()), (Some("paused"), domid));
}

#[test]
fn a_file_is_not_replaced_by_accident_and_nothing_happens_to_the_domain() {
    let (host, file) = with_web("");
    fs::write(&file, "mine").unwrap();
    let dir = at(&host, "dir");
    fs::create_dir(&dir).unwrap();
    for (path, why) in [
        (&*file, "exists already"),
        (&*dir, "is a directory"),
        ("/dev/null", "no plain file"),
        ("/nonexistent/web.img", "No such file"),
    ] {
        let output = host.refused(1, &["save", "web", path]);
        assert!(output.stderr.contains(why), "{output}");
        assert_eq!(host.domain("web").rests(), Some(State::Running));
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    host.ok(["save", "-c", "--force", "web", &file]);
    assert!(fs::read(&file).unwrap().starts_with(b"Xen saved domain"));
}

#[test]
fn what_cannot_be_saved_is_refused_before_anything_is_touched() {
    let host = Host::new();
    let file = at(&host, "web.img");
    host.refused(3, &["save", "web", &file]);
    host.refused(3, &["suspend", "web"]);
    host.refused(3, &["resume", "web"]);
    host.define("web", &guest::mock("web", "unsupported=save-state"));
    host.refused(4, &["save", "web", &file]);
    host.refused(4, &["suspend", "web"]);
    host.refused(4, &["resume", "web"]);
    host.ok(["start", "web"]);
    let pid = host.domain("web").pid();
    for args in [&["save", "web", &file][..], &["suspend", "web"], &["image", "checkpoint", "web"]]
    {
        let output = host.refused(5, args);
        assert!(output.stderr.contains("save-state"), "{output}");
    }
    let web = host.domain("web");
    assert_eq!((web.rests(), web.pid()), (Some(State::Running), pid));
    assert!(!Path::new(&file).exists());
    host.refused(2, &["save", "web"]);
    host.refused(2, &["save", "-c", "-D", "web", &file]);
    host.refused(2, &["restore"]);
}

#[test]
fn what_is_no_saved_domain_is_refused_with_what_is_wrong() {
    let (host, file) = with_web("memory=4M");
    host.ok(["save", "-c", "web", &file]);
    let whole = fs::read(&file).unwrap();
    // It is live.
    host.refused(4, &["restore", &file]);
    host.ok(["destroy", "web"]);
    host.gone("web");
    let bad = at(&host, "bad.img");
    host.refused(1, &["restore", &bad]);
    host.refused(1, &["restore", host.scratch().to_str().unwrap()]);
    for size in [0, 1, 20, 47, 60, 1000, 4096, whole.len() / 2, whole.len() - 1] {
        fs::write(&bad, &whole[..size]).unwrap();
        let output = host.refused(1, &["restore", &bad]);
        assert!(output.stderr.contains("bad.img"), "{size}: {output}");
        assert!(host.find("web").is_none(), "{size}");
    }
    for (place, what) in [(3, "magic"), (40, ""), (100, ""), (whole.len() - 40, "damaged")] {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x10;
        fs::write(&bad, flipped).unwrap();
        let output = host.refused(1, &["restore", &bad]);
        assert!(output.stderr.contains(what), "{place}: {output}");
        assert!(host.find("web").is_none(), "{place}");
    }
    let xen = [&whole[..36], &3u32.to_le_bytes(), &whole[40..]].concat();
    fs::write(&bad, xen).unwrap();
    let output = host.refused(1, &["restore", &bad]);
    assert!(output.stderr.contains("on Xen"), "{output}");
    // Nothing of all this was left, and the whole one still comes back.
    host.quiet();
    host.ok(["restore", &file]);
}

#[test]
fn a_restore_can_be_paused_and_have_another_configuration() {
    let (host, file) = with_web("memory=4M");
    let uuid = host.domain("web").uuid();
    host.ok(["save", "web", &file]);
    host.gone("web");
    let other = host.file("other.cfg", &guest::mock("renamed", "memory=4M"));
    let output = host.kxl(["restore", "-p", "-d", other.to_str().unwrap(), &file]).expect(0);
    assert!(output.stdout.starts_with("renamed: paused"), "{output}");
    assert!(output.stderr.contains("renamed"), "-d shows the configuration: {output}");
    assert_eq!(host.domain("renamed").uuid(), uuid);
    host.ok(["destroy", "renamed"]);
    // Kept however it ends.
    host.ok(["restore", "-e", "--eager", "-q", &file]);
    host.ok(["shutdown", "-w", "web"]);
    host.rests("web", State::Shutdown);
    host.ok(["destroy", "web"]);
    // In the foreground it returns with the domain's end.
    let running = host.begin(&["restore", "-F", &file]);
    wait::eventually("it comes back", || host.find("web").is_some());
    host.rests("web", State::Running);
    host.ok(["destroy", "web"]);
    running.end(wait::SOON).expect(0);
}

#[test]
fn a_managed_domain_is_suspended_and_resumed() {
    let host = Host::new();
    for name in ["one", "two"] {
        host.define(name, &guest::mock(name, "memory=4M"));
        host.ok(["start", name]);
    }
    let uuid = host.domain("one").uuid();
    let said = host.ok(["suspend", "one", "two"]);
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.starts_with("one: suspended, "), "{said}");
    let one = host.rests("one", State::Suspended);
    assert_eq!((one.domid(), one.pid()), (None, None));
    let output = host.kxl(["suspend", "one"]).expect(0);
    assert!(output.stderr.contains("suspended already"), "{output}");
    let why = host.ok(["why", "one"]);
    assert!(why.contains("kxl resume one brings it back"), "{why}");
    for verb in ["start", "delete", "pause"] {
        let output = host.refused(4, &[verb, "one"]);
        assert!(output.stderr.contains("kxl resume one"), "{output}");
    }
    assert!(host.ok(["resume", "-p", "one"]).starts_with("one: paused, domid "));
    let one = host.domain("one");
    assert_eq!((one.uuid(), one.state()), (uuid, State::Paused));
    let told = json(&host.ok(["resume", "--json", "--eager", "two"]));
    assert_eq!(told["state"], "running");
    host.refused(4, &["resume", "two"]);
    // Checked, the images are used up.
    wait::eventually("the store is empty", || {
        json(&host.ok(["image", "list", "--json"])) == json("[]")
    });
    let told = json(&host.ok(["suspend", "--still", "--json", "one", "two"]));
    assert_eq!(told.as_array().unwrap().len(), 2, "{told}");
    assert_eq!(told[0]["state"], "suspended");
}

#[test]
fn a_transient_domain_is_not_suspended_because_nothing_would_remember_it() {
    let (host, _) = with_web("");
    let output = host.refused(4, &["suspend", "web"]);
    assert!(output.stderr.contains("kxl save web"), "{output}");
    assert_eq!(host.domain("web").rests(), Some(State::Running));
}

#[test]
fn a_disk_that_was_written_since_keeps_its_domain_from_coming_back() {
    let host = Host::new();
    let disk = host.file("disk.img", &"0".repeat(4096));
    let lines = format!("disk = [ \"{},raw,xvda,rw\" ]", disk.display());
    host.create("web", &guest::mock_with("web", "", &lines));
    let file = at(&host, "web.img");
    host.ok(["save", "web", &file]);
    host.gone("web");
    host.ok(["restore", &file]);
    host.ok(["destroy", "web"]);
    fs::write(&disk, "1".repeat(8192)).unwrap();
    let output = host.refused(4, &["restore", &file]);
    for word in ["xvda", "disk.img", "--force-disks"] {
        assert!(output.stderr.contains(word), "{word}: {output}");
    }
    assert!(host.find("web").is_none());
    host.ok(["restore", "--force-disks", &file]);
}

/// Whether a save has begun and is not over.
fn saving(host: &Host) -> bool {
    host.domain("web").text("operation").is_some()
}

#[test]
fn an_interrupted_save_is_given_up_and_the_domain_goes_on() {
    let host = Host::new();
    host.define("web", &guest::mock("web", "memory=4M hold=save-stop"));
    host.ok(["start", "web"]);
    let file = at(&host, "web.img");
    for (args, which) in [
        (&["save", "web", &file][..], Signal::SIGINT),
        (&["suspend", "web"], Signal::SIGTERM),
        (&["image", "checkpoint", "web"], Signal::SIGHUP),
    ] {
        let running = host.begin(args);
        wait::eventually("the save begins", || saving(&host));
        running.signal(which);
        let output = running.end(wait::SOON);
        assert_eq!(output.status.signal(), Some(which as i32), "{output}");
        assert!(output.stderr.contains("was given up: interrupted"), "{output}");
        assert_eq!(output.stdout, "");
        wait::eventually("it goes on", || host.domain("web").rests() == Some(State::Running));
    }
    assert!(!Path::new(&file).exists());
    assert_eq!(json(&host.ok(["image", "list", "--json"])), json("[]"));
    // Killed, it cannot say anything, and the save is given up all the same.
    let mut running = host.begin(&["suspend", "web"]);
    wait::eventually("the save begins", || saving(&host));
    running.child.kill().unwrap();
    drop(running.child.wait());
    wait::eventually("it goes on", || host.domain("web").rests() == Some(State::Running));
    assert_eq!(json(&host.ok(["image", "list", "--json"])), json("[]"));
}

#[test]
fn an_interrupted_restore_goes_on_without_its_command() {
    let (host, file) = with_web("memory=4M");
    host.ok(["save", "web", &file]);
    host.gone("web");
    let slow = host.file("slow.cfg", &guest::mock("web", "memory=4M hold=restore"));
    let running = host.begin(&["restore", slow.to_str().unwrap(), &file]);
    // It goes on without its command from when its monitor is there.
    wait::eventually("the restore begins", || {
        host.find("web").is_some() && host.monitors().len() == 1
    });
    running.signal(Signal::SIGINT);
    let output = running.end(wait::SOON);
    assert_eq!(output.status.signal(), Some(Signal::SIGINT as i32), "{output}");
    assert!(output.stderr.contains("goes on without this command"), "{output}");
    host.script("web", "ok=restore");
    host.rests("web", State::Running);
}

/// What a command writes on a terminal that is its standard output and error.
fn on_a_terminal(host: &Host, args: &[&str]) -> String {
    let pty = nix::pty::openpty(None, None).unwrap();
    let end = |fd: &OwnedFd| Stdio::from(fd.as_fd().try_clone_to_owned().unwrap());
    let mut command = host.command("kxl", args);
    command.env("TERM", "xterm").stdin(Stdio::null());
    command.stdout(end(&pty.slave)).stderr(end(&pty.slave));
    let mut child = command.spawn().unwrap();
    drop((command, pty.slave));
    let mut shown = Vec::new();
    // The end of a terminal is an error, after everything that was written.
    drop(fs::File::from(pty.master).read_to_end(&mut shown));
    assert!(child.wait().unwrap().success());
    String::from_utf8_lossy(&shown).into_owned()
}

#[test]
fn a_bar_is_shown_on_a_terminal_and_nothing_of_it_is_left() {
    let host = Host::new();
    host.define("web", &guest::mock("web", "memory=4M delay=save-pass:400"));
    host.ok(["start", "web"]);
    let shown = on_a_terminal(&host, &["suspend", "web"]);
    assert!(shown.contains("suspend web"), "{shown:?}");
    let (_, last) = shown.rsplit_once("\u{1b}[2K").unwrap_or_else(|| panic!("no bar: {shown:?}"));
    assert!(last.contains("web: suspended, "), "{shown:?}");
    host.ok(["resume", "web"]);
    let quiet = on_a_terminal(&host, &["suspend", "-q", "web"]);
    assert_eq!(quiet, "");
    host.ok(["resume", "web"]);
    let told = on_a_terminal(&host, &["suspend", "--json", "web"]);
    assert!(!told.contains('\u{1b}'), "{told:?}");
    // Without a terminal there is no bar either.
    host.ok(["resume", "web"]);
    let output = host.kxl(["suspend", "web"]).expect(0);
    assert_eq!(output.stderr, "");
}

#[test]
fn a_relative_file_is_one_of_the_callers_directory() {
    let (host, file) = with_web("");
    let mut command = host.command("kxl", ["save", "-c", "web", "web.img"]);
    command.current_dir(host.scratch());
    crate::support::run::run(&mut command, wait::SOON).expect(0);
    assert!(Path::new(&file).exists());
    let link: PathBuf = host.scratch().join("link.img");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    host.refused(1, &["save", "-c", "web", link.to_str().unwrap()]);
    host.ok(["save", "-c", "--force", "web", link.to_str().unwrap()]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "a link is followed");
}
