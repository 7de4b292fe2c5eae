//! Facts about the host: processors, memory, kernel. Read from `/proc` and `/sys`; what cannot be
//! read counts as unknown and is shown as 0 or empty, never as a failure of the command.

use std::fs;

use serde::Serialize;

/// The host.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct HostFacts {
    /// Host name.
    pub(crate) host: String,
    /// Kernel release.
    pub(crate) release: String,
    /// Kernel version text.
    pub(crate) version: String,
    /// Machine, such as x86_64.
    pub(crate) machine: String,
    /// Processors on line.
    pub(crate) cpus: u32,
    /// NUMA nodes.
    pub(crate) nodes: u32,
    /// Cores in a socket.
    pub(crate) cores_per_socket: u32,
    /// Threads in a core.
    pub(crate) threads_per_core: u32,
    /// Clock in kHz.
    pub(crate) cpu_khz: u64,
    /// `svm`, `vmx` or neither.
    pub(crate) virtualisation: Option<&'static str>,
    /// Whether /dev/kvm can be opened.
    pub(crate) kvm: bool,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// Memory in MiB that could be used without swapping.
    pub(crate) available_mib: u64,
    /// Memory in MiB saved by merging equal pages (KSM).
    pub(crate) merged_mib: u64,
    /// Seconds since boot.
    pub(crate) uptime_seconds: u64,
    /// When that was, in seconds since the epoch.
    pub(crate) booted: i64,
    /// Seconds of CPU time used by everything, all processors together.
    pub(crate) busy_seconds: f64,
}

/// Gathers the facts.
pub(crate) fn gather() -> HostFacts {
    let mut facts = HostFacts { cpus: online_cpus(), ..HostFacts::default() };
    if let Ok(name) = nix::sys::utsname::uname() {
        let text = |os: &std::ffi::OsStr| os.to_string_lossy().into_owned();
        facts.host = text(name.nodename());
        facts.release = text(name.release());
        facts.version = text(name.version());
        facts.machine = text(name.machine());
    }
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    processors(&cpuinfo, &mut facts);
    facts.nodes = listed("/sys/devices/system/node/online").max(1);
    facts.kvm = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    facts.memory_mib = kib(&meminfo, "MemTotal") / 1024;
    facts.available_mib = kib(&meminfo, "MemAvailable") / 1024;
    facts.merged_mib = number("/sys/kernel/mm/ksm/pages_sharing") * 4096 / (1024 * 1024);
    facts.uptime_seconds = uptime();
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    facts.busy_seconds = busy(&stat);
    facts.booted = booted(&stat);
    facts
}

/// The boot as `/proc/stat` has it, which is the same at every look.
fn booted(stat: &str) -> i64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0)
}

/// Processors on line.
pub(crate) fn online_cpus() -> u32 {
    let listed = listed("/sys/devices/system/cpu/online");
    if listed > 0 {
        return listed;
    }
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

/// Seconds since boot.
pub(crate) fn uptime() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split('.').next().and_then(|whole| whole.parse().ok()).unwrap_or(0)
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The NUMA nodes on line; node 0 alone where the kernel knows of none.
pub(crate) fn nodes() -> Vec<u32> {
    let text = fs::read_to_string("/sys/devices/system/node/online").unwrap_or_default();
    let nodes = members(&text);
    if nodes.is_empty() { vec![0] } else { nodes }
}

/// The processors of a NUMA node; none for a node that does not exist.
pub(crate) fn node_cpus(node: u32) -> Vec<u32> {
    let path = format!("/sys/devices/system/node/node{node}/cpulist");
    members(&fs::read_to_string(path).unwrap_or_default())
}

/// Memory and free memory of a NUMA node in MiB.
pub(crate) fn node_memory_mib(node: u32) -> (u64, u64) {
    let path = format!("/sys/devices/system/node/node{node}/meminfo");
    let text = fs::read_to_string(path).unwrap_or_default();
    // Each line begins with "Node 0 ".
    let prefix = format!("Node {node} ");
    let value = |key: &str| kib(&text, &format!("{prefix}{key}")) / 1024;
    (value("MemTotal"), value("MemFree"))
}

/// The numbers of a kernel list.
fn members(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

/// How many numbers a kernel list such as `0-3,6` names; 0 for what is none.
fn listed(path: &str) -> u32 {
    let numbers = members(&fs::read_to_string(path).unwrap_or_default());
    u32::try_from(numbers.len()).unwrap_or(u32::MAX)
}

fn number(path: &str) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn kib(meminfo: &str, key: &str) -> u64 {
    meminfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Seconds that all processors were not idle: the first line of `/proc/stat`, in 1/100 s.
fn busy(stat: &str) -> f64 {
    let first = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> =
        first.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest time is within user.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| ticks.get(*at)).sum();
    #[allow(clippy::cast_precision_loss, reason = "2^52 ticks are a million years")]
    let seconds = busy as f64 / 100.0;
    seconds
}

fn processors(cpuinfo: &str, facts: &mut HostFacts) {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let value = |key: &str| {
        first
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim())
    };
    let number = |key: &str| value(key).and_then(|text| text.parse::<u32>().ok());
    facts.cores_per_socket = number("cpu cores").unwrap_or(facts.cpus).max(1);
    let threads = number("siblings").unwrap_or(facts.cores_per_socket);
    facts.threads_per_core = (threads / facts.cores_per_socket).max(1);
    facts.cpu_khz = value("cpu MHz").and_then(khz).unwrap_or(0);
    let flags = value("flags").unwrap_or_default();
    facts.virtualisation =
        ["svm", "vmx"].into_iter().find(|word| flags.split_whitespace().any(|flag| flag == *word));
}

/// `2445.432` MHz in kHz, without a float.
fn khz(mhz: &str) -> Option<u64> {
    let (whole, part) = mhz.split_once('.').unwrap_or((mhz, ""));
    let part: String = part.chars().chain("000".chars()).take(3).collect();
    Some(whole.parse::<u64>().ok()? * 1000 + part.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_lists_are_read() {
        assert_eq!(members("0-3,6\n"), [0, 1, 2, 3, 6]);
        assert_eq!(members("7"), [7]);
        assert!(members("").is_empty() && members("3-1").is_empty());
    }

    #[test]
    fn cores_threads_and_clock_come_from_the_first_processor() {
        let text = "processor\t: 0\nsiblings\t: 16\ncpu cores\t: 8\ncpu MHz\t\t: 2445.43\n\
                    flags\t\t: fpu svm sse\n\nprocessor\t: 1\ncpu cores\t: 4\n";
        let mut facts = HostFacts { cpus: 16, ..HostFacts::default() };
        processors(text, &mut facts);
        assert_eq!((facts.cores_per_socket, facts.threads_per_core), (8, 2));
        assert_eq!((facts.cpu_khz, facts.virtualisation), (2_445_430, Some("svm")));
    }

    #[test]
    fn busy_time_leaves_out_idle_and_waiting() {
        assert!((busy("cpu  100 0 50 900 70 0 0 50 30 0\n") - 2.0).abs() < 1e-9);
    }

    #[test]
    fn this_host_has_memory_and_a_processor() {
        let facts = gather();
        assert!(facts.memory_mib > 0 && facts.cpus > 0 && !facts.release.is_empty());
        assert!(facts.available_mib <= facts.memory_mib);
    }
}
