//! The program by which guests tell how they stand, inside and outside of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kxl_domain::supervision::Record;
use kxl_store::{Paths, Store};
use kxl_tests::archive::Archive;
use serde_json::Value;

use super::guest::built;
use super::host::programs;
use super::{Host, wait};
use crate::lab::contents::{needed, stripped};

/// The program.
pub(crate) fn program() -> PathBuf {
    let path = programs().join("kxl-event");
    assert!(path.is_file(), "{}: run cargo build --workspace first", path.display());
    path
}

/// The program as a command.
pub(crate) fn command() -> Command {
    Command::new(program())
}

/// The initial RAM disk of the test guest with the program and these scripts in it.
pub(crate) fn ramdisk(arch: &str, scripts: &[(&str, &str)]) -> Result<Vec<u8>, String> {
    let mut bytes = fs::read(built(&file(arch, "initramfs.cpio.gz"))?).unwrap();
    // The kernel takes several archives in a row, each at a multiple of four.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let mut archive = Archive::default();
    if arch == "x86_64" {
        let program = program();
        archive.file("/bin/kxl-event", &stripped(&program)?);
        for library in needed(&program)? {
            archive.file(&library, &fs::read(&library).unwrap());
        }
    } else {
        // Static, as for any guest.
        archive.file("/bin/kxl-event", &fs::read(built(&file(arch, "kxl-event"))?).unwrap());
    }
    for (path, text) in scripts {
        archive.file(path, text.as_bytes());
    }
    bytes.extend(archive.finish());
    Ok(bytes)
}

/// The name of a file of the test guest of this architecture.
fn file(arch: &str, name: &str) -> String {
    if arch == "x86_64" { name.to_owned() } else { format!("{arch}/{name}") }
}

/// The Linux guest with the program in it: a configuration. Its RAM disk is written to `host`.
pub(crate) fn linux(host: &Host, name: &str, lines: &str) -> Result<String, String> {
    linux_on("x86_64", host, name, lines)
}

/// The same of another architecture.
pub(crate) fn linux_on(arch: &str, host: &Host, name: &str, lines: &str) -> Result<String, String> {
    let scripts = [
        ("/ok", "#!/bin/sh\necho all is well >&2\n"),
        ("/fails", "#!/bin/sh\necho looking >&2\necho 'no disk: /dev/vdb' >&2\nexit 3\n"),
    ];
    let path = host.scratch().join("ramdisk");
    fs::write(&path, ramdisk(arch, &scripts)?).unwrap();
    let config = super::guest::qemu(arch, name, "tick=0", lines)?;
    let plain = built(&file(arch, "initramfs.cpio.gz"))?;
    Ok(config.replace(&plain.display().to_string(), &path.display().to_string()))
}

/// What supervision has recorded of a domain that lives.
pub(crate) fn record(host: &Host, name: &str) -> Record {
    let paths = Paths::under(&host.root);
    let uuid = host.domain(name).uuid().parse().unwrap();
    Store::open(&paths).unwrap().live(uuid).unwrap().expect("it lives").supervision
}

/// The texts of a domain's events of this kind, oldest first.
pub(crate) fn texts(host: &Host, name: &str, what: &str) -> Vec<String> {
    let of_kind = |event: &Value| event["what"] == what;
    let text = |event: &Value| event["text"].as_str().unwrap().to_owned();
    host.events(name).iter().filter(|event| of_kind(event)).map(text).collect()
}

/// Waits until there is an event of this kind with this text.
pub(crate) fn expect(host: &Host, name: &str, what: &str, wanted: &str) {
    wait::eventually(&format!("{name}: {what} {wanted}"), || {
        texts(host, name, what).iter().any(|text| text == wanted)
    });
}

/// The resident memory of a process in KiB.
pub(crate) fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status"));
    let status = status.unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
