//! Limits on a domain's emulator by control group: v2, or v1 where that is what the host has.
//!
//! A group is made only for a domain whose configuration asks for a limit. What the host lacks is
//! a warning that names it, never a refusal: a limit must not keep a machine from starting.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kxl_backend::process::{RunState, Stat};
use kxl_domain::{DomainConfig, DomainUuid};

const ROOT: &str = "/sys/fs/cgroup";

/// One file to be written into a controller's directory.
struct Setting {
    controller: &'static str,
    file: &'static str,
    value: String,
    key: &'static str,
}

/// The groups that a domain's emulator enters, and what could not be had.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Directories; the emulator enters each before exec.
    pub(crate) dirs: Vec<PathBuf>,
    /// One warning for each limit that is not in force.
    pub(crate) warnings: Vec<String>,
}

/// Makes the groups of a domain and writes its limits.
pub(crate) fn prepare(uuid: DomainUuid, config: &DomainConfig) -> Groups {
    Tree::of(Path::new(ROOT)).prepare(uuid, config)
}

/// Removes the groups of a domain that has ended; empty groups only.
pub(crate) fn remove(uuid: DomainUuid) {
    for dir in [(true, ""), (false, "memory"), (false, "pids"), (false, "cpu")]
        .map(|(unified, controller)| Tree { root: Path::new(ROOT), unified }.dir(controller, uuid))
    {
        // Most domains have none; one that still holds a process must stay.
        let _absent = fs::remove_dir(dir);
    }
}

/// The groups of these that a process was not let into: limits that are written and not in force.
pub(crate) fn outside(pid: i32, dirs: &[PathBuf]) -> Option<String> {
    let own = pid.to_string();
    let inside = |dir: &&PathBuf| {
        fs::read_to_string(dir.join("cgroup.procs"))
            .is_ok_and(|procs| procs.lines().any(|line| line == own))
    };
    let dir = dirs.iter().find(|dir| !inside(dir))?;
    // One that has ended already is in none.
    let stat = Stat::read(pid).ok()?;
    (stat.state != RunState::Dead).then_some(())?;
    Some(format!("the limits of {} are not in force: the process is not in it", dir.display()))
}

/// The control groups of a host.
struct Tree<'r> {
    root: &'r Path,
    /// The second version, with one tree for all controllers.
    unified: bool,
}

impl<'r> Tree<'r> {
    fn of(root: &'r Path) -> Self {
        Self { root, unified: root.join("cgroup.controllers").exists() }
    }

    fn dir(&self, controller: &str, uuid: DomainUuid) -> PathBuf {
        let base = if self.unified { self.root.to_owned() } else { self.root.join(controller) };
        base.join("kxl").join(uuid.short())
    }

    fn prepare(&self, uuid: DomainUuid, config: &DomainConfig) -> Groups {
        let settings = if self.unified { settings_v2(config) } else { settings_v1(config) };
        let mut groups = Groups::default();
        for setting in settings {
            let dir = self.dir(setting.controller, uuid);
            match self.write(&dir, &setting) {
                Ok(()) if groups.dirs.contains(&dir) => {}
                Ok(()) => groups.dirs.push(dir),
                Err(error) => groups.warnings.push(format!(
                    "{} is not in force: {}/{}: {error}",
                    setting.key,
                    dir.display(),
                    setting.file
                )),
            }
        }
        groups
    }

    fn write(&self, dir: &Path, setting: &Setting) -> io::Result<()> {
        if !self.unified && !self.root.join(setting.controller).is_dir() {
            let why = format!("this host has no controller {}", setting.controller);
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        fs::create_dir_all(dir)?;
        if self.unified {
            // A controller has to be handed down level by level, from above. One that is handed
            // down already, or that this host lacks, shows at the write below.
            for parent in [self.root, &self.root.join("kxl")] {
                let _seen_below = fs::write(
                    parent.join("cgroup.subtree_control"),
                    format!("+{}", setting.controller),
                );
            }
        }
        fs::write(dir.join(setting.file), &setting.value)
    }
}

fn settings_v2(config: &DomainConfig) -> Vec<Setting> {
    collect(config, |key, n| match key {
        "limit_memory" => ("memory", "memory.max", (n << 20).to_string()),
        "limit_pids" => ("pids", "pids.max", n.to_string()),
        // Xen's 256 and cgroup's 100 are the middles of their scales.
        "cpu_weight" => ("cpu", "cpu.weight", (n * 100 / 256).clamp(1, 10_000).to_string()),
        _ => ("cpu", "cpu.max", format!("{} 100000", n * 1000)),
    })
}

fn settings_v1(config: &DomainConfig) -> Vec<Setting> {
    collect(config, |key, n| match key {
        "limit_memory" => ("memory", "memory.limit_in_bytes", (n << 20).to_string()),
        "limit_pids" => ("pids", "pids.max", n.to_string()),
        "cpu_weight" => ("cpu", "cpu.shares", (n * 4).max(2).to_string()),
        _ => ("cpu", "cpu.cfs_quota_us", (n * 1000).to_string()),
    })
}

fn collect(
    config: &DomainConfig,
    place: impl Fn(&str, u64) -> (&'static str, &'static str, String),
) -> Vec<Setting> {
    let limits = &config.limits;
    [
        ("limit_memory", limits.memory_mib),
        ("limit_pids", limits.pids.map(u64::from)),
        ("cpu_weight", config.cpu_weight.map(u64::from)),
        ("cap", config.cap.map(u64::from).filter(|cap| *cap > 0)),
    ]
    .into_iter()
    .filter_map(|(key, value)| {
        let (controller, file, value) = place(key, value?);
        Some(Setting { controller, file, value, key })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kxl_domain::DomainName;

    #[test]
    fn a_domain_without_limits_gets_no_group() {
        let config = DomainConfig::new(DomainName::new("a").unwrap());
        let groups = prepare(DomainUuid::random(), &config);
        assert!(groups.dirs.is_empty() && groups.warnings.is_empty());
    }

    fn limited() -> DomainConfig {
        let mut config = DomainConfig::new(DomainName::new("a").unwrap());
        (config.cpu_weight, config.cap) = (Some(256), Some(50));
        (config.limits.memory_mib, config.limits.pids) = (Some(64), Some(9));
        config
    }

    /// A directory that looks like a host's control groups, as far as files do.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str) -> Self {
            let dir =
                std::env::temp_dir().join(format!("kxl-cgroup-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.0.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _leftover = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn in_the_second_version_all_limits_are_of_one_group_and_controllers_are_handed_down() {
        let fake = Fake::new("v2");
        fs::write(fake.0.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let uuid = DomainUuid::random();
        let groups = Tree::of(&fake.0).prepare(uuid, &limited());
        assert_eq!(groups.warnings, Vec::<String>::new());
        let dir = format!("kxl/{}", uuid.short());
        assert_eq!(groups.dirs, [fake.0.join(&dir)]);
        for (file, value) in [
            ("memory.max", "67108864"),
            ("pids.max", "9"),
            ("cpu.weight", "100"),
            ("cpu.max", "50000 100000"),
        ] {
            assert_eq!(fake.read(&format!("{dir}/{file}")), value, "{file}");
        }
        // A real file takes each of them; this one has the last.
        for level in ["", "kxl/"] {
            assert_eq!(fake.read(&format!("{level}cgroup.subtree_control")), "+cpu");
        }
    }

    #[test]
    fn in_the_first_version_each_controller_has_its_group_and_one_that_is_missing_is_told() {
        let fake = Fake::new("v1");
        for controller in ["memory", "cpu"] {
            fs::create_dir(fake.0.join(controller)).unwrap();
        }
        let uuid = DomainUuid::random();
        let groups = Tree::of(&fake.0).prepare(uuid, &limited());
        let group = format!("kxl/{}", uuid.short());
        let dirs = ["memory", "cpu"].map(|controller| fake.0.join(controller).join(&group));
        assert_eq!(groups.dirs, dirs);
        assert_eq!(fake.read(&format!("memory/{group}/memory.limit_in_bytes")), "67108864");
        assert_eq!(fake.read(&format!("cpu/{group}/cpu.cfs_quota_us")), "50000");
        assert_eq!(groups.warnings.len(), 1);
        let warning = &groups.warnings[0];
        assert!(warning.starts_with("limit_pids is not in force"), "{warning}");
        assert!(warning.ends_with("this host has no controller pids"), "{warning}");
    }

    #[test]
    fn a_process_that_is_not_in_its_group_is_told() {
        let fake = Fake::new("outside");
        let own = i32::try_from(std::process::id()).unwrap();
        let procs = fake.0.join("cgroup.procs");
        let dirs = [fake.0.clone()];
        fs::write(&procs, format!("1\n{own}\n")).unwrap();
        assert_eq!(outside(own, &dirs), None);
        fs::write(&procs, format!("1\n{own}0\n")).unwrap();
        assert!(outside(own, &dirs).unwrap().ends_with("the process is not in it"));
        assert_eq!(outside(own, &[]), None);
        assert_eq!(outside(i32::MAX, &dirs), None, "it has ended");
    }

    #[test]
    fn xens_numbers_become_those_of_both_cgroup_versions() {
        let mut config = DomainConfig::new(DomainName::new("a").unwrap());
        config.cpu_weight = Some(512);
        config.cap = Some(150);
        config.limits.memory_mib = Some(2);
        let values = |list: Vec<Setting>| {
            list.into_iter().map(|s| format!("{}={}", s.file, s.value)).collect::<Vec<_>>()
        };
        assert_eq!(
            values(settings_v2(&config)),
            ["memory.max=2097152", "cpu.weight=200", "cpu.max=150000 100000"]
        );
        assert_eq!(
            values(settings_v1(&config)),
            ["memory.limit_in_bytes=2097152", "cpu.shares=2048", "cpu.cfs_quota_us=150000"]
        );
    }
}
