//! Refusing file systems that are shared over a network: neither flock nor the shared memory of
//! SQLite's write-ahead log holds between their hosts.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{major, minor};

use crate::error::StoreError;

/// Super block magics (statfs(2), linux/magic.h) of network and cluster file systems.
const MAGICS: &[(i128, &str)] = &[
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x564c, "NCP"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x0bd0_0bd0, "Lustre"),
];
const FUSE: i128 = 0x6573_5546;
/// FUSE file systems that are network ones; other FUSE file systems are local and fine.
const FUSE_KINDS: &[&str] = &[
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.ceph",
    "fuse.ceph-fuse",
    "fuse.s3fs",
    "fuse.rclone",
    "fuse.davfs",
    "fuse.curlftpfs",
    "fuse.nfs",
    "fuse.smbnetfs",
    "fuse.juicefs",
    "fuse.moosefs",
    "fuse.beegfs",
];

/// Refuses a directory on a network file system.
///
/// # Errors
/// `NetworkFs` naming directory and kind; `Io` when it cannot be looked at.
pub(crate) fn refuse(dir: &Path) -> Result<(), StoreError> {
    let stat = nix::sys::statfs::statfs(dir)
        .map_err(|error| StoreError::io("look at the file system", dir, error.into()))?;
    let magic = i128::from(stat.filesystem_type().0) & 0xffff_ffff;
    match kind_of(magic, || fuse_kind(dir)) {
        Some(kind) => Err(StoreError::NetworkFs { path: dir.to_path_buf(), kind }),
        None => Ok(()),
    }
}

fn kind_of(magic: i128, fuse: impl FnOnce() -> Option<String>) -> Option<String> {
    if magic == FUSE {
        return fuse().filter(|kind| FUSE_KINDS.contains(&kind.as_str()));
    }
    MAGICS.iter().find(|(known, _)| *known == magic).map(|(_, name)| (*name).to_owned())
}

/// The type that the mount table gives for the file system of `dir`.
fn fuse_kind(dir: &Path) -> Option<String> {
    let dev = fs::metadata(dir).ok()?.dev();
    let wanted = format!("{}:{}", major(dev), minor(dev));
    mount_type(&fs::read_to_string("/proc/self/mountinfo").ok()?, &wanted)
}

/// Third field `MAJOR:MINOR`; the type is the first field after the lone dash (proc(5)).
fn mount_type(table: &str, dev: &str) -> Option<String> {
    table.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        (left.split(' ').nth(2)? == dev).then(|| right.split(' ').next().map(str::to_owned))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_by_their_magic() {
        assert_eq!(kind_of(0x6969, || None).as_deref(), Some("NFS"));
        assert_eq!(kind_of(0xff53_4d42, || None).as_deref(), Some("CIFS"));
        assert_eq!(kind_of(0xfe53_4d42, || None).as_deref(), Some("SMB2"));
        assert_eq!(kind_of(0x0102_1997, || None).as_deref(), Some("9p"));
        assert_eq!(kind_of(0xef53, || None), None, "ext4 is local");
        assert_eq!(kind_of(0x0102_1994, || None), None, "tmpfs is local");
    }

    #[test]
    fn a_fuse_mount_is_judged_by_its_kind() {
        assert_eq!(kind_of(FUSE, || Some("fuse.sshfs".into())).as_deref(), Some("fuse.sshfs"));
        assert_eq!(kind_of(FUSE, || Some("fuse.fuse-overlayfs".into())), None);
    }

    #[test]
    fn the_mount_table_is_read_by_device_number_with_optional_fields_before_the_dash() {
        let table = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     40 22 0:45 / /mnt rw,nosuid shared:7 master:2 - fuse.sshfs host:/ rw\n";
        assert_eq!(mount_type(table, "0:45").as_deref(), Some("fuse.sshfs"));
        assert_eq!(mount_type(table, "0:46"), None);
    }
}
