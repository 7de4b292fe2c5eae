//! Limits on a domain's emulator by control group: v2, or v1 where that is what the host has.
//!
//! A group is made only for a domain whose configuration asks for a limit. What the host lacks is
//! a warning that names it, never a refusal: a limit must not keep a machine from starting.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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
    let unified = Path::new(ROOT).join("cgroup.controllers").exists();
    let settings = if unified { settings_v2(config) } else { settings_v1(config) };
    let mut groups = Groups::default();
    for setting in settings {
        let dir = dir_of(unified, setting.controller, uuid);
        match write(&dir, &setting) {
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

/// Removes the groups of a domain that has ended; empty groups only.
pub(crate) fn remove(uuid: DomainUuid) {
    for dir in [(true, ""), (false, "memory"), (false, "pids"), (false, "cpu")]
        .map(|(unified, controller)| dir_of(unified, controller, uuid))
    {
        // Most domains have none; one that still holds a process must stay.
        let _absent = fs::remove_dir(dir);
    }
}

fn dir_of(unified: bool, controller: &str, uuid: DomainUuid) -> PathBuf {
    let base = if unified { PathBuf::from(ROOT) } else { Path::new(ROOT).join(controller) };
    base.join("kxl").join(uuid.short())
}

fn write(dir: &Path, setting: &Setting) -> io::Result<()> {
    if !dir.exists() {
        fs::create_dir_all(dir)?;
        // In v2 a controller has to be handed down level by level; one that is handed down
        // already, or that this host lacks, shows at the write below.
        for parent in dir.ancestors().skip(1).take(2) {
            let _seen_below = fs::write(
                parent.join("cgroup.subtree_control"),
                format!("+{}", setting.controller),
            );
        }
    }
    fs::write(dir.join(setting.file), &setting.value)
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
