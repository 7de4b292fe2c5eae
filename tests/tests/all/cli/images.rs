//! `kxl image`: what is in the store, and what is made of it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use kxl_domain::State;
use serde_json::Value;

use crate::support::guest::{Counter, program};
use crate::support::skip::{skip, skipped};
use crate::support::{Console, Host, guest, wait};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn listed(host: &Host) -> Vec<Value> {
    json(&host.ok(["image", "list", "--json"])).as_array().unwrap().clone()
}

/// A host with a live managed mock domain `web`.
fn with_web(lines: &str) -> Host {
    let host = Host::new();
    host.define("web", &guest::mock_with("web", "memory=4M", lines));
    host.ok(["start", "web"]);
    host
}

/// Makes a checkpoint of `web`; its id.
fn checkpoint(host: &Host) -> String {
    let told = json(&host.ok(["image", "checkpoint", "--json", "web"]));
    assert_eq!(told[0]["state"], "running", "{told}");
    told[0]["image"].as_str().unwrap().to_owned()
}

#[test]
fn the_store_is_listed_shown_and_verified() {
    let host = with_web("");
    assert!(listed(&host).is_empty());
    let id = checkpoint(&host);
    host.ok(["suspend", "web"]);
    let images = listed(&host);
    assert_eq!(images.len(), 2, "{images:?}");
    assert_eq!((images[0]["image"].as_str(), &images[0]["need"]), (Some(&*id), &Value::Null));
    assert_eq!(images[1]["purpose"], "suspend");
    assert_eq!((&images[1]["need"], &images[1]["needed_by"]), (&"suspended".into(), &"web".into()));
    let table = host.ok(["image", "list"]);
    assert!(table.lines().next().unwrap().starts_with("IMAGE "), "{table}");
    assert!(table.contains("suspended domain \"web\""), "{table}");
    // By its id, the beginning of it, and the name of the domain that it is.
    for word in [&*id, &id[..8], "web"] {
        let shown = host.ok(["image", "show", word]);
        assert!(shown.contains("domain       web ("), "{shown}");
        let told = json(&host.ok(["image", "show", "--json", word]));
        assert_eq!(told["machine"]["emulator"], "mock", "{told}");
        let whole = host.ok(["image", "verify", "--host", word]);
        assert!(whole.contains("whole") && whole.contains("can restore it"), "{whole}");
    }
    let told = json(&host.ok(["image", "verify", "--json", "web", &id]));
    assert_eq!((told.as_array().unwrap().len(), &told[1]["whole"]), (2, &true.into()));
    assert_eq!(host.ok(["image", "verify", "-q", "web"]), "");
    host.refused(3, &["image", "show", "nosuch"]);
    host.refused(3, &["image", "rm", "nosuch"]);
    host.refused(2, &["image"]);
}

#[test]
fn a_damaged_image_is_found_and_does_not_come_back() {
    let host = with_web("");
    let id = checkpoint(&host);
    let file = host.scratch().join("web.img").display().to_string();
    host.ok(["image", "export", &id, &file]);
    host.refused(1, &["image", "export", &id, &file]);
    host.ok(["image", "export", "-q", "--force", &id, &file]);
    host.ok(["image", "verify", &file]);
    // In the middle of the memory, which only the digests of its chunks guard.
    let opened = fs::File::options().read(true).write(true).open(&file).unwrap();
    let place = (2 << 20) + 8192;
    let mut byte = [0];
    opened.read_exact_at(&mut byte, place).unwrap();
    opened.write_all_at(&[byte[0] ^ 1], place).unwrap();
    let output = host.refused(1, &["image", "verify", &file]);
    assert!(output.stderr.contains("damaged"), "{output}");
    let output = host.kxl(["image", "verify", "--json", &file]).expect(1);
    assert_eq!(json(&output.stdout)[0]["whole"], false);
    host.ok(["image", "rm", &id]);
    host.refused(1, &["image", "import", &file]);
    assert!(listed(&host).is_empty(), "a damaged image came into the store");
    host.ok(["destroy", "web"]);
    host.refused(1, &["restore", &file]);
}

#[test]
fn an_image_goes_out_of_the_store_and_back() {
    let host = with_web("");
    let id = checkpoint(&host);
    let file = host.scratch().join("web.img").display().to_string();
    host.ok(["image", "export", &id, &file]);
    host.refused(4, &["image", "import", &file]);
    host.ok(["image", "rm", &id[..8]]);
    assert!(listed(&host).is_empty());
    assert_eq!(host.ok(["image", "import", "-q", &file]), format!("{id}\n"));
    host.ok(["image", "rm", &id]);
    let told = json(&host.ok(["image", "import", "--json", &file]));
    assert_eq!((&told["image"], &told["name"]), (&id.as_str().into(), &"web".into()));
    host.ok(["destroy", "web"]);
    // From the store by its id, and from the file.
    host.ok(["restore", &id]);
    host.ok(["destroy", "web"]);
    host.ok(["restore", &file]);
}

#[test]
fn the_state_of_a_suspended_domain_is_thrown_away_by_its_name_only() {
    let host = with_web("");
    host.ok(["suspend", "web"]);
    let id = listed(&host)[0]["image"].as_str().unwrap().to_owned();
    let output = host.refused(4, &["image", "rm", &id]);
    assert!(output.stderr.contains("kxl image rm web"), "{output}");
    let output = host.refused(4, &["delete", "web"]);
    assert!(output.stderr.contains("--with-image"), "{output}");
    host.ok(["image", "rm", "web"]);
    host.rests("web", State::Halted);
    assert!(listed(&host).is_empty());
    host.ok(["start", "web"]);
    host.ok(["suspend", "web"]);
    host.ok(["delete", "--with-image", "web"]);
    assert!(host.find("web").is_none());
    assert!(listed(&host).is_empty());
    // Without an image it deletes as ever.
    host.define("web", &guest::mock("web", ""));
    host.ok(["delete", "--with-image", "web"]);
}

#[test]
fn a_domain_is_deleted_with_every_image_of_it_or_those_that_stay_are_named() {
    let host = with_web("");
    let (first, second) = (checkpoint(&host), checkpoint(&host));
    host.refused(4, &["delete", "--with-image", "web"]);
    assert_eq!(listed(&host).len(), 2, "one that runs keeps its images");
    host.ok(["suspend", "web"]);
    host.define("other", &guest::mock_with("other", "memory=4M", ""));
    host.ok(["start", "other"]);
    host.ok(["suspend", "other"]);
    host.ok(["delete", "--with-image", "web"]);
    assert!(host.find("web").is_none());
    let left = listed(&host);
    assert_eq!((left.len(), &left[0]["need"]), (1, &"suspended".into()), "those of others stay");
    assert!(![first, second].iter().any(|id| left[0]["image"] == id.as_str()));

    host.define("web", &guest::mock_with("web", "memory=4M", ""));
    host.ok(["start", "web"]);
    let ids = [checkpoint(&host), checkpoint(&host)];
    host.ok(["destroy", "web"]);
    let output = host.kxl(["delete", "web"]).expect(0);
    assert!(host.find("web").is_none());
    let how = format!("kxl image rm {} {} removes them", &ids[0][..8], &ids[1][..8]);
    assert!(output.stderr.contains(&how), "{output}");
    // Its record is gone; its name still leads to them.
    let output = host.refused(3, &["delete", "--with-image", "web"]);
    assert!(output.stderr.contains(&how), "{output}");
    host.ok(["image", "rm", &ids[0][..8], &ids[1][..8]]);
    assert_eq!(listed(&host).len(), 1);
}

#[test]
fn more_domains_are_made_of_one_image_which_stays() {
    let host = with_web("vif = [ 'mac=00:16:3e:00:00:01,vifname=web0' ]");
    host.ok(["suspend", "web"]);
    let output = host.kxl(["image", "clone", "web", "two"]).expect(0);
    assert!(output.stdout.starts_with("two: running, domid "), "{output}");
    assert!(output.stderr.contains("MAC"), "{output}");
    let told = json(&host.ok(["image", "clone", "--json", "--managed", "-p", "web", "three"]));
    assert_eq!(told["name"], "three");
    assert_eq!(host.domain("three").state(), State::Paused);
    assert_eq!(host.domain("three").0["managed"], true);
    let config = |name: &str| json(&host.ok(["list", "-l", name]))[0]["config"].clone();
    let (two, three) = (config("two"), config("three"));
    assert_ne!(two["uuid"], three["uuid"]);
    assert_ne!(two["nics"][0]["mac"], three["nics"][0]["mac"]);
    assert_eq!(two["nics"][0]["vifname"], Value::Null);
    let output = host.refused(1, &["image", "clone", "web", "two"]);
    assert!(output.stderr.contains("the name is taken"), "{output}");
    host.refused(2, &["image", "clone", "web", "no/name"]);
    host.refused(3, &["image", "clone", "nosuch", "four"]);
    // The one that it was made of comes back, and all go on.
    host.ok(["resume", "web"]);
    for name in ["web", "two"] {
        assert_eq!(host.domain(name).state(), State::Running);
    }
    host.ok(["destroy", "two", "three"]);
    host.gone("two");
    host.rests("three", State::Halted);
}

#[test]
fn a_clone_has_disks_of_its_own() {
    let host = Host::new();
    let disk = host.file("disk.img", &"0".repeat(8192));
    let ro = host.file("ro.img", "1");
    let lines =
        format!("disk = [ \"{},raw,xvda,rw\", \"{},raw,xvdb,ro\" ]", disk.display(), ro.display());
    host.define("web", &guest::mock_with("web", "", &lines));
    host.ok(["start", "web"]);
    // While it runs it may write: there is no moment to copy the disk at.
    let running = checkpoint(&host);
    let output = host.refused(4, &["image", "clone", &running, "two"]);
    assert!(output.stderr.contains("xvda"), "{output}");
    assert!(host.find("two").is_none());
    host.ok(["suspend", "web"]);
    let told = json(&host.ok(["image", "clone", "--json", "--disks=copy", "web", "two"]));
    let new = told["disks"][0]["path"].as_str().unwrap();
    assert_eq!(told["disks"].as_array().unwrap().len(), 1, "only what is written: {told}");
    assert_eq!(
        (Path::new(new), &told["disks"][0]["how"]),
        (&*host.scratch().join("disk.two.img"), &"copy".into())
    );
    assert_eq!(fs::read(new).unwrap(), fs::read(&disk).unwrap());
    // The disk of an earlier clone is not overwritten, and nothing is left of the one that failed.
    host.ok(["destroy", "two"]);
    host.gone("two");
    let output = host.refused(1, &["image", "clone", "web", "two"]);
    assert!(output.stderr.contains("disk.two.img"), "{output}");
    let into = host.scratch().join("into");
    fs::create_dir(&into).unwrap();
    host.ok(["image", "clone", "--into", into.to_str().unwrap(), "web", "two"]);
    assert!(into.join("disk.two.img").exists());
    // A clone that cannot start takes its disks and its record away.
    fs::write(&disk, "changed").unwrap();
    let output = host.refused(4, &["image", "clone", "--managed", "web", "three"]);
    assert!(output.stderr.contains("--force-disks"), "{output}");
    assert!(host.find("three").is_none());
    assert!(!host.scratch().join("disk.three.img").exists());
    host.ok(["image", "clone", "--force-disks", "web", "three"]);
    assert_eq!(fs::read(host.scratch().join("disk.three.img")).unwrap(), b"changed");
}

#[test]
fn a_machine_whose_command_file_names_its_disks_is_not_cloned_by_accident() {
    let host = Host::new();
    let ini = host.file("machine.ini", "attach rq0 disk.img\n");
    let lines = format!("ini = \"{}\"", ini.display());
    host.define("web", &guest::mock_with("web", "memory=4M", &lines));
    host.ok(["start", "web"]);
    host.ok(["suspend", "web"]);
    let output = host.refused(4, &["image", "clone", "web", "two"]);
    assert!(output.stderr.contains("machine.ini"), "{output}");
    assert!(host.find("two").is_none());
    host.ok(["image", "clone", "--force-disks", "web", "two"]);
}

#[test]
fn a_clone_names_the_disks_that_a_command_file_has_attached() {
    let config = guest::simh("pdp11", "web");
    if skipped("image clone of a simh machine with a disk", &config) {
        return;
    }
    let host = Host::new();
    let config = config.unwrap();
    let old = config.split('"').find(|word| word.ends_with(".ini")).unwrap();
    let disk = host.scratch().join("rl0.dsk");
    // Of its full size, or it asks whether it may write the bad block table.
    fs::File::create(&disk).unwrap().set_len(10_485_760).unwrap();
    let commands = format!(
        "{}set rl enable\nset rl0 rl02\nattach rl0 {}\n",
        fs::read_to_string(old).unwrap(),
        disk.display()
    );
    let ini = host.file("machine.ini", &commands);
    host.define("web", &config.replace(old, &ini.display().to_string()));
    host.ok(["start", "web"]);
    let id = checkpoint(&host);
    let disk = disk.display().to_string();
    let refused = host.refused(4, &["image", "clone", &id, "two"]);
    assert!(refused.stderr.contains(&disk) && refused.stderr.contains("machine.ini"), "{refused}");
    // A domain that runs is no image, but it has one.
    let refused = host.refused(4, &["image", "clone", "web", "two"]);
    assert!(refused.stderr.contains(&id), "{refused}");
    host.ok(["destroy", "web"]);
    let told = host.kxl(["image", "clone", "-q", "--force-disks", &id, "two"]).expect(0);
    assert!(told.stderr.contains(&disk), "{told}");
}

#[test]
fn an_overlay_is_made_where_it_is_asked_for() {
    if let Err(reason) = program("qemu-img") {
        return skip("image clone --disks=overlay", &reason);
    }
    let host = Host::new();
    let disk = host.scratch().join("disk.qcow2");
    let made = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&disk)
        .arg("1M")
        .status();
    assert!(made.unwrap().success());
    let lines = format!("disk = [ \"{},qcow2,xvda,rw\" ]", disk.display());
    host.define("web", &guest::mock_with("web", "", &lines));
    host.ok(["start", "web"]);
    host.ok(["suspend", "web"]);
    let output = host.kxl(["image", "clone", "--disks=overlay", "web", "two"]).expect(0);
    assert!(output.stderr.contains("must never be written again"), "{output}");
    let over = host.scratch().join("disk.two.qcow2");
    let info = std::process::Command::new("qemu-img").args(["info", "-U"]).arg(&over).output();
    let info = String::from_utf8_lossy(&info.unwrap().stdout).into_owned();
    assert!(info.contains("backing file: ") && info.contains("disk.qcow2"), "{info}");
    // By itself it is not made while the domain that was saved may come back and write.
    let output = host.kxl(["image", "clone", "web", "three"]).expect(0);
    assert!(!output.stderr.contains("overlay"), "{output}");
}

#[test]
fn an_image_that_a_domain_still_reads_is_not_removed() {
    let host = with_web("");
    host.ok(["suspend", "web"]);
    host.ok(["image", "clone", "web", "two"]);
    let id = listed(&host)[0]["image"].as_str().unwrap().to_owned();
    // Until the background check of the clone is over; then the suspended domain needs it still.
    host.refused(4, &["image", "rm", &id]);
    host.ok(["image", "rm", "web"]);
    wait::eventually("nothing is in the store", || listed(&host).is_empty());
    assert_eq!(host.domain("two").state(), State::Running);
}

#[test]
fn a_real_machine_is_compared_with_this_host_and_cloned() {
    let config = match guest::qemu("x86_64", "web", "tick=100", "") {
        Ok(config) => config,
        Err(reason) => return skip("image verify --host and clone on qemu", &reason),
    };
    let _slot = guest::slot();
    let host = Host::new();
    host.create("web", &config);
    let mut console = Console::attach(&host, "web");
    console.expect("READY");
    let count = Counter::Linux.begins(&console);
    let id = checkpoint(&host);
    for word in [&id, &host.scratch().join("web.img").display().to_string()] {
        if word != &id {
            host.ok(["image", "export", &id, word]);
        }
        let said = host.ok(["image", "verify", "--host", word]);
        assert!(said.contains("this host can restore it"), "{said}");
    }
    host.ok(["image", "clone", &id, "two"]);
    let two = Console::attach(&host, "two");
    let first = Counter::Linux.begins(&two);
    assert!(first >= count, "the clone began anew: {first} after {count}");
    assert_eq!(host.domain("web").state(), State::Running);
}
