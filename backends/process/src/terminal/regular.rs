//! Opening the files of standard streams: regular ones, and not by way of a link.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::statfs::{
    CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FUSE_SUPER_MAGIC, FsType, PROC_SUPER_MAGIC,
    SYSFS_MAGIC, fstatfs,
};

/// File systems whose files are the kernel's own doings: they look at who writes, which is us, not
/// at who has opened them.
const OF_THE_KERNEL: [FsType; 4] =
    [PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC];

/// No link at the end of the path; no fifo or device that would hold the open up or become our
/// terminal.
const FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;

/// Opens a file to be read by the program.
pub(super) fn input(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(FLAGS).open(path).map_err(plain)?;
    kind(&file)?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(file)
}

/// Opens a file at its end, to be written by us, and makes it where there is none. `foreign` tells
/// that it is another user's: then it may not be on a file system that the user serves itself.
pub(super) fn output(path: &Path, foreign: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(FLAGS);
    let file = options.open(path).map_err(plain)?;
    kind(&file)?;
    if file.metadata()?.nlink() > 1 {
        return refused("it has other names, too (hard links), and is not written to");
    }
    if foreign && fstatfs(&file)?.filesystem_type() == FUSE_SUPER_MAGIC {
        return refused("it is on a file system that a user may serve (FUSE)");
    }
    Ok(file)
}

fn kind(file: &File) -> io::Result<()> {
    if !file.metadata()?.is_file() {
        return refused("not a regular file");
    }
    if OF_THE_KERNEL.contains(&fstatfs(file)?.filesystem_type()) {
        return refused("not a regular file, but one of the kernel's");
    }
    Ok(())
}

/// What the flags make of things that are no regular files, in words.
fn plain(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ELOOP) => io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is a symbolic link, which is not followed: name the file itself",
        ),
        Some(libc::ENXIO) => io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"),
        _ => error,
    }
}

fn refused<T>(why: &str) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn only_regular_files_of_one_name_are_opened_and_nothing_waits() {
        let scratch = Scratch::new("regular");
        let at = |name: &str| scratch.0.join(name);
        fs::write(at("file"), "x").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        input(&at("file")).unwrap();
        output(&at("file"), true).unwrap();
        for name in ["link", "fifo"] {
            assert_eq!(input(&at(name)).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
            let error = output(&at(name), false).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        input(Path::new("/proc/self/status")).unwrap_err();
        output(Path::new("/proc/self/oom_score_adj"), false).unwrap_err();
        input(Path::new("/dev/tty")).unwrap_err();
        // Others may read a file of two names; written, it would change under both.
        fs::hard_link(at("file"), at("second")).unwrap();
        input(&at("second")).unwrap();
        let error = output(&at("second"), false).unwrap_err().to_string();
        assert!(error.contains("hard links"), "{error}");
    }
}
