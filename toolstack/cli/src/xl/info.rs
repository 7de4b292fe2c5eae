//! `info`.

use std::fs;

use super::getopt::Options;
use super::list::shares;
use super::names::run;
use super::{Session, print};
use crate::facts::{self, HostFacts};

const OPTIONS: Options =
    Options { short: "nx", long: &[("numa", false, 'n'), ("xenstore", false, 'x')] };

/// Prints facts about the host under xl's names.
pub(crate) fn info(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(OPTIONS, args, 0)?;
        let domains = session.live()?.iter().map(|row| row.memory_mib).sum();
        let facts = facts::gather();
        let numa = if line.has('n') { topology(facts.cpus) } else { String::new() };
        let text = lines(&facts, domains, &numa, line.has('x'));
        match line.operands.first().filter(|_| !line.has('n')) {
            None => Ok(print(&text)),
            Some(key) => Ok(print(&values(&text, key))),
        }
    })
}

/// What follows `: ` on every line that begins with `key`.
fn values(text: &str, key: &str) -> String {
    let fitting = text.lines().filter(|line| line.starts_with(key));
    fitting.filter_map(|line| Some(format!("{}\n", line.split_once(": ")?.1))).collect()
}

/// All lines, in xl's order; `numa` goes in between.
fn lines(facts: &HostFacts, domains_mib: u64, numa: &str, xenstore: bool) -> String {
    let (_, free) = shares(facts.memory_mib, facts.available_mib, domains_mib);
    let mut version = env!("CARGO_PKG_VERSION").splitn(3, '.');
    let mut part = || version.next().unwrap_or("0");
    let (major, minor, patch) = (part(), part(), part());
    let mut out = String::new();
    let mut put = |name: &str, value: &str| out.push_str(&format!("{name:<23}: {value}\n"));
    put("host", &facts.host);
    put("release", &facts.release);
    put("version", &facts.version);
    put("machine", &facts.machine);
    put("nr_cpus", &facts.cpus.to_string());
    put("max_cpu_id", &facts.cpus.saturating_sub(1).to_string());
    put("nr_nodes", &facts.nodes.to_string());
    put("cores_per_socket", &facts.cores_per_socket.to_string());
    put("threads_per_core", &facts.threads_per_core.to_string());
    put("cpu_mhz", &format!("{}.{:03}", facts.cpu_khz / 1000, facts.cpu_khz % 1000));
    put("hw_caps", &["00000000"; 8].join(":"));
    put("virt_caps", if facts.virtualisation.is_some() { "pv hvm hap" } else { "pv hvm" });
    put("total_memory", &facts.memory_mib.to_string());
    put("free_memory", &free.to_string());
    put("sharing_freed_memory", &facts.merged_mib.to_string());
    put("sharing_used_memory", "0");
    put("outstanding_claims", "0");
    put("free_cpus", "0");
    out.push_str(numa);
    let mut put = |name: &str, value: &str| out.push_str(&format!("{name:<23}: {value}\n"));
    put("xen_major", major);
    put("xen_minor", minor);
    put("xen_extra", &format!(".{patch}"));
    put("xen_version", env!("CARGO_PKG_VERSION"));
    put("xen_caps", &format!("hvm-3.0-{} ", facts.machine));
    put("xen_scheduler", "credit");
    put("xen_pagesize", "4096");
    put("platform_params", "virt_start=0x0");
    put("xen_changeset", "");
    put("xen_commandline", "");
    put("cc_compiler", "rustc");
    put("cc_compile_by", "");
    put("cc_compile_domain", "");
    put("cc_compile_date", "");
    put("build_id", "");
    if xenstore {
        put("xenstore_features", "0x00000000");
    }
    put("xend_config_format", "4");
    out
}

/// The lines of `-n`.
fn topology(cpus: u32) -> String {
    let number = |path: String| -> u32 {
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    let nodes = facts::nodes();
    let mut out = String::from("cpu_topology           :\ncpu:    core    socket     node\n");
    for cpu in 0..cpus {
        let base = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
        let node = nodes.iter().find(|node| facts::node_cpus(**node).contains(&cpu));
        out.push_str(&format!(
            "{cpu:>3}:    {:>4}     {:>4}     {:>4}\n",
            number(format!("{base}/core_id")),
            number(format!("{base}/physical_package_id")),
            node.copied().unwrap_or(0),
        ));
    }
    out.push_str("device topology        :\nNo device topology data available\n");
    out.push_str("numa_info              :\nnode:    memsize    memfree    distances\n");
    for node in nodes {
        let (size, free) = facts::node_memory_mib(node);
        let distances = fs::read_to_string(format!("/sys/devices/system/node/node{node}/distance"));
        let distances = distances.map_or_else(
            |_| "10".to_owned(),
            |text| text.split_whitespace().collect::<Vec<_>>().join(","),
        );
        out.push_str(&format!("{node:>4}:    {size:>6}     {free:>6}      {distances}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> String {
        let facts = HostFacts {
            host: "h".into(),
            machine: "x86_64".into(),
            cpus: 8,
            nodes: 1,
            cores_per_socket: 4,
            threads_per_core: 2,
            cpu_khz: 2_445_430,
            memory_mib: 8192,
            available_mib: 6000,
            ..HostFacts::default()
        };
        lines(&facts, 4096, "", false)
    }

    #[test]
    fn the_colon_is_in_column_24_and_every_name_is_there() {
        let text = sample();
        for line in text.lines() {
            assert_eq!(line.as_bytes()[23], b':', "{line}");
        }
        assert_eq!(text.lines().count(), 34);
        assert_eq!(text.matches("nr_cpus").count(), 1);
        assert!(text.contains("\ncpu_mhz                : 2445.430\n"));
        assert!(text.contains("\nfree_memory            : 4096\n"));
        assert!(text.ends_with("\nxend_config_format     : 4\n"));
    }

    #[test]
    fn a_key_prints_the_values_of_all_lines_that_begin_with_it() {
        assert_eq!(values(&sample(), "nr_cpus"), "8\n");
        assert_eq!(values(&sample(), "nr"), "8\n1\n");
        assert_eq!(values(&sample(), "nosuch"), "");
        assert_eq!(values(&sample(), "xen_s"), "credit\n");
    }

    /// What the cluster agent and Ganeti do with it.
    #[test]
    fn clients_find_their_numbers() {
        let text = sample();
        let line = text.lines().find(|line| line.starts_with("total_memory")).unwrap();
        assert_eq!(line.split_whitespace().nth(2), Some("8192"));
        for key in ["xen_major", "xen_minor", "nr_nodes", "cores_per_socket", "threads_per_core"] {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap();
            let value = line.split_once(':').unwrap().1.trim();
            assert!(value.parse::<u32>().is_ok(), "{key}: {value}");
        }
    }
}
