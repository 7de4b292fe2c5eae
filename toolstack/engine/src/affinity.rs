//! `cpus=`: which host CPUs the emulator's threads may use.
//!
//! QEMU names its virtual CPU threads `CPU n/KVM` or `CPU n/TCG` (`-name …,debug-threads=on`), so
//! the pinning works from `/proc` alone, for every backend that names its threads that way; a list
//! for all virtual CPUs goes to every thread.

use std::fs;

use kxl_domain::config::cpulist::CpuList;
use kxl_domain::config::model::Affinity;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Applies the affinity to the threads of `pid`. Returns a warning when something could not be
/// done.
pub(crate) fn apply(pid: i32, affinity: &Affinity) -> Option<String> {
    let each: Vec<(Option<usize>, &str)> = match affinity {
        Affinity::Any => return None,
        Affinity::All(list) => vec![(None, list)],
        Affinity::Each(lists) => {
            lists.iter().enumerate().map(|(vcpu, list)| (Some(vcpu), list.as_str())).collect()
        }
    };
    let threads = threads(pid);
    each.into_iter().find_map(|(vcpu, list)| {
        let mine = threads.iter().filter(|(_, of)| vcpu.is_none() || *of == vcpu);
        pin(mine.map(|(tid, _)| *tid), list).err()
    })
}

fn pin(threads: impl Iterator<Item = i32>, list: &str) -> Result<(), String> {
    let cpus = list
        .parse::<CpuList>()
        .map_err(|error| format!("cpus: {error}"))?
        .evaluate(online(), cpus_of_node);
    if cpus.is_empty() {
        return Err(format!("cpus: \"{list}\" names no CPU of this host"));
    }
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(cpu as usize).map_err(|error| format!("cpus: CPU {cpu}: {error}"))?;
    }
    for tid in threads {
        sched_setaffinity(Pid::from_raw(tid), &set)
            .map_err(|error| format!("cpus: thread {tid}: {error}"))?;
    }
    Ok(())
}

/// The CPUs of a NUMA node of this host; none when there is no such node.
fn cpus_of_node(node: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/sys/devices/system/node/node{node}/cpulist"));
    let list = text.ok().and_then(|text| text.trim().parse::<CpuList>().ok());
    list.map_or_else(Vec::new, |list| list.evaluate(online(), |_| Vec::new()).into_iter().collect())
}

/// How many CPUs the host has on line.
fn online() -> u32 {
    let count = |text: String| {
        text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count()
    };
    u32::try_from(fs::read_to_string("/proc/stat").map_or(1, count)).unwrap_or(u32::MAX)
}

/// The threads of a process: id, and the virtual CPU it runs, if its name says so.
fn threads(pid: i32) -> Vec<(i32, Option<usize>)> {
    let Ok(dir) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    dir.flatten()
        .filter_map(|entry| {
            let tid = entry.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            Some((tid, vcpu_of(name.trim())))
        })
        .collect()
}

fn vcpu_of(thread: &str) -> Option<usize> {
    thread.strip_prefix("CPU ")?.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_cpus_are_known_by_their_thread_names() {
        assert_eq!(vcpu_of("CPU 3/KVM"), Some(3));
        assert_eq!(vcpu_of("CPU 0/TCG"), Some(0));
        assert_eq!(vcpu_of("qemu-system-x86"), None);
    }

    #[test]
    fn a_list_beyond_the_host_is_a_warning_that_names_it() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let warning = apply(pid, &Affinity::All("100000".into()));
        assert_eq!(warning.as_deref(), Some("cpus: \"100000\" names no CPU of this host"));
    }
}
