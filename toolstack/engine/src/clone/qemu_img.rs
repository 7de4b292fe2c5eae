//! What qemu-img does for clones. It is run by its arguments, without a shell.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use kxl_domain::config::model::DiskFormat;
use kxl_domain::{Failure, Kind};

/// Makes a qcow2 file at `new` that holds what differs from `base`.
pub(super) fn overlay(base: &Path, format: DiskFormat, new: &Path) -> Result<(), Failure> {
    let args = [
        "create".as_ref(),
        "-q".as_ref(),
        "-f".as_ref(),
        "qcow2".as_ref(),
        "-F".as_ref(),
        OsStr::new(word(format)),
        "-b".as_ref(),
        base.as_os_str(),
        new.as_os_str(),
    ];
    run(&args)
}

/// Copies the state that a qcow2 file had at `snapshot`; also while a guest writes to the file.
pub(super) fn copy_snapshot(old: &Path, snapshot: &str, new: &Path) -> Result<(), Failure> {
    let which = format!("snapshot.name={snapshot}");
    let args = [
        "convert".as_ref(),
        // Somebody else may have the file open; the clusters of a snapshot are never written.
        "-U".as_ref(),
        "-f".as_ref(),
        "qcow2".as_ref(),
        "-O".as_ref(),
        "qcow2".as_ref(),
        "-l".as_ref(),
        OsStr::new(&which),
        old.as_os_str(),
        new.as_os_str(),
    ];
    run(&args)
}

fn run(args: &[&OsStr]) -> Result<(), Failure> {
    let attempt = "qemu-img did not make the disk";
    let done = Command::new("qemu-img")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| missing(attempt, &error))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let mut failure = Failure::new(Kind::Failed, attempt);
    failure.causes = said.lines().map(str::to_owned).collect();
    Err(failure)
}

fn missing(attempt: &str, error: &io::Error) -> Failure {
    let failure = Failure::because(Kind::Failed, attempt, error);
    if error.kind() == io::ErrorKind::NotFound {
        return failure.hint("install qemu-utils, or use --disks=copy");
    }
    failure
}

/// The driver of a format.
const fn word(format: DiskFormat) -> &'static str {
    match format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow => "qcow",
        DiskFormat::Qcow2 => "qcow2",
        DiskFormat::Vhd => "vpc",
        DiskFormat::Qed => "qed",
        DiskFormat::Empty => "raw",
    }
}
