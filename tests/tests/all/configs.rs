//! The examples in `domain-configs/`: each is parsed, each is started on the mock, and those whose
//! guest can be had here run for real.

use std::path::PathBuf;

use crate::support::console::Console;
use crate::support::guest::{self, top};
use crate::support::skip::skipped;
use crate::support::{Host, run, wait};

/// The examples; `reference.cfg` is the list of keys and no example.
fn examples() -> Vec<PathBuf> {
    let dir = std::fs::read_dir(top().join("domain-configs")).unwrap();
    let mut found: Vec<PathBuf> = dir
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "cfg"))
        .filter(|path| path.file_name().is_some_and(|name| name != "reference.cfg"))
        .collect();
    found.sort();
    found
}

#[test]
fn there_are_examples_for_every_kind_of_machine() {
    let names: Vec<_> = examples()
        .iter()
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    for wanted in
        ["linux-direct", "linux-disk", "hvm-cdrom", "aarch64", "pdp11", "vax780", "bridged", "demo"]
    {
        assert!(names.iter().any(|name| name == wanted), "{wanted} is not among {names:?}");
    }
}

#[test]
fn every_example_is_parsed_without_a_warning_by_kxl_and_xl() {
    let host = Host::new();
    for path in examples() {
        let path = path.to_str().unwrap();
        let output = host.kxl(["create", "-n", path]).expect(0);
        assert!(!output.stderr.contains("warning"), "{output}");
        host.xl(&["create", "-n", path]).expect(0);
    }
}

#[test]
fn every_example_starts_on_the_mock() {
    // That of a program runs for real, below.
    for path in examples().into_iter().filter(|path| !path.ends_with("service.cfg")) {
        let host = Host::new();
        let path = path.to_str().unwrap();
        host.ok(["create", path, "backend=\"mock\"", "device_model_args=[]"]);
        let domains = host.domains();
        assert_eq!(domains.len(), 1, "{path}");
        assert_eq!(domains[0].text("state"), Some("running"), "{path}");
        let name = domains[0].text("name").unwrap().to_owned();
        host.ok(["destroy", &name]);
        wait::eventually("it ends", || host.emulators().is_empty());
    }
}

#[test]
fn the_example_of_a_service_says_when_it_is_up_and_is_kept_up() {
    let host = Host::new();
    let path = top().join("domain-configs/service.cfg");
    host.ok(["new", path.to_str().unwrap()]);
    host.ok(["start", "service"]);
    let first = host.domain("service").pid().unwrap();
    assert!(host.ok(["status", "service"]).contains("RUNNING"));
    host.emulator_of(&host.domain("service")).kill();
    wait::eventually("it runs again", || {
        let status = host.kxl(["status", "service"]).stdout;
        status.contains("RUNNING") && host.domain("service").pid().is_some_and(|pid| pid != first)
    });
    host.ok(["stop", "service"]);
    assert!(host.kxl(["status", "service"]).stdout.contains("STOPPED"));
    let console = host.ok(["console", "--log", "service"]);
    assert!(console.contains("bye"), "it was asked: {console}");
}

/// Starts an example with the test guest in place of the files it names, and talks to its console.
fn runs(example: &str, arch: &str, words: &[String], typed: &str, answer: &str) {
    if skipped(&format!("example {example}"), &guest::qemu(arch, "web", "", "")) {
        return;
    }
    let _slot = guest::slot();
    let host = Host::new();
    let files = if arch == "x86_64" { "target/guest" } else { "target/guest/aarch64" };
    let file = |key: &str, name: &str| format!("{key}=\"{}/{files}/{name}\"", top().display());
    let config = top().join("domain-configs").join(example).with_extension("cfg");
    let mut args = vec!["create".to_owned(), config.display().to_string()];
    args.extend([file("kernel", "vmlinuz"), file("ramdisk", "initramfs.cpio.gz")]);
    args.extend_from_slice(words);
    host.ok(&args);
    let mut console = Console::attach(&host, example);
    console.expect("READY");
    console.send(typed);
    console.expect(answer);
    host.ok(["destroy", example]);
    host.gone(example);
}

#[test]
fn the_example_of_a_direct_start_boots() {
    let words = ["cmdline=\"console=ttyS0 quiet tick=0\"".to_owned()];
    runs("linux-direct", "x86_64", &words, "i", "I cpus=2");
}

#[test]
fn the_example_with_a_qcow2_disk_writes_and_reads_it() {
    let disks = Host::new();
    let disk = disks.scratch().join("disk.qcow2");
    let mut make = std::process::Command::new("qemu-img");
    make.args(["create", "-q", "-f", "qcow2"]).arg(&disk).arg("64M");
    run::run(&mut make, wait::SOON).expect(0);
    let words = [
        format!("disk=[\"{},qcow2,xvda,w\"]", disk.display()),
        "cmdline=\"console=ttyS0 quiet tick=0\"".to_owned(),
    ];
    runs("linux-disk", "x86_64", &words, "d", "D OK vda");
}

#[test]
fn the_example_of_user_networking_boots_with_an_interface() {
    runs("user-net", "x86_64", &[], "i", "macs=00:16:3e:");
}

#[test]
fn the_example_of_another_architecture_boots() {
    runs("aarch64", "aarch64", &[], "i", "I cpus=1");
}
