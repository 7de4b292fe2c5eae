//! Thawing a control group: a process frozen in one cannot be ended by a kill alone (v1), nor
//! answer (both).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Thaws the control groups that this process itself is in, v1 and v2; groups above them are
/// somebody else's and stay as they are. Does nothing where nothing is frozen.
///
/// # Errors
/// When the process is gone or a frozen group may not be written.
pub(crate) fn thaw(pid: i32) -> io::Result<()> {
    let membership = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for (file, word) in switches(&membership, &mounts) {
        let frozen = fs::read_to_string(&file).is_ok_and(|now| is_frozen(now.trim()));
        if frozen {
            fs::write(&file, word)?;
        }
    }
    Ok(())
}

fn is_frozen(text: &str) -> bool {
    matches!(text, "FROZEN" | "FREEZING" | "1")
}

/// The files that thaw, with what is to be written into them. Never that of a root group.
fn switches(membership: &str, mounts: &str) -> Vec<(PathBuf, &'static str)> {
    let mut found = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        if group == "/" {
            continue;
        }
        let (kind, controller, file, word) = match controllers {
            "" => ("cgroup2", None, "cgroup.freeze", "0"),
            list if list.split(',').any(|name| name == "freezer") => {
                ("cgroup", Some("freezer"), "freezer.state", "THAWED")
            }
            _ => continue,
        };
        let dir = mounts.lines().find_map(|mount| group_dir(mount, kind, controller, group));
        found.extend(dir.map(|dir| (dir.join(file), word)));
    }
    found
}

/// Where a line of mountinfo (proc(5)) shows this group, if it is a mount of its hierarchy.
fn group_dir(mount: &str, kind: &str, controller: Option<&str>, group: &str) -> Option<PathBuf> {
    let (place, source) = mount.split_once(" - ")?;
    let mut source = source.split(' ');
    let same_kind = source.next()? == kind;
    let options = source.nth(1)?;
    let same_hierarchy =
        controller.is_none_or(|name| options.split(',').any(|option| option == name));
    if !(same_kind && same_hierarchy) {
        return None;
    }
    let mut place = place.split(' ').skip(3);
    let (root, point) = (place.next()?, place.next()?);
    let below = Path::new(group).strip_prefix(root).ok()?;
    Some(Path::new(point).join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 23 0:26 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
31 23 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
32 23 0:28 / /sys/fs/cgroup/freezer rw,relatime shared:9 - cgroup cgroup rw,freezer";

    #[test]
    fn both_kinds_of_freezer_are_found_where_they_are_mounted() {
        let found = switches("5:memory:/a\n4:freezer:/kxl/x\n0::/kxl/y\n", MOUNTS);
        assert_eq!(
            found,
            [
                (PathBuf::from("/sys/fs/cgroup/freezer/kxl/x/freezer.state"), "THAWED"),
                (PathBuf::from("/sys/fs/cgroup/unified/kxl/y/cgroup.freeze"), "0"),
            ]
        );
    }

    #[test]
    fn a_mount_that_shows_only_a_part_of_the_tree_is_allowed_for() {
        let mounts = "32 23 0:28 /box /cg rw - cgroup2 none rw";
        let found = switches("0::/box/dom\n", mounts);
        assert_eq!(found, [(PathBuf::from("/cg/dom/cgroup.freeze"), "0")]);
        assert_eq!(switches("0::/elsewhere\n", mounts), []);
    }

    #[test]
    fn root_groups_are_nobodys_to_thaw() {
        assert_eq!(switches("4:freezer:/\n0::/\n", MOUNTS), []);
    }

    #[test]
    fn a_process_that_is_not_frozen_is_left_alone() {
        thaw(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(thaw(i32::MAX).is_err());
    }
}
