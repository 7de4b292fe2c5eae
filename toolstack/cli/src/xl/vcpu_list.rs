//! `vcpu-list`.

use std::fs;

use kxl_domain::config::cpulist;
use kxl_domain::config::model::{Affinity, DomainConfig};
use kxl_engine::Seen;

use super::names::run;
use super::{Session, Target, fail, getopt, print};
use crate::{commands, facts, out};

/// One virtual CPU, as far as the host shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Vcpu {
    /// The host CPU it was on last; none where the emulator does not name its threads.
    cpu: Option<u32>,
    running: bool,
    seconds: f64,
}

/// Lists the virtual CPUs of all domains or the named ones.
pub(crate) fn vcpu_list(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(getopt::NONE, args, 0)?;
        let (host, rows) = if line.operands.is_empty() {
            (true, session.live()?)
        } else {
            let mut host = false;
            let mut rows = Vec::new();
            for arg in &line.operands {
                match session.quiet_target(arg)? {
                    Some(Target::Host) => host = true,
                    Some(Target::Live(row)) => rows.push(*row),
                    Some(Target::Missing(_)) | None => {
                        out::complain(&format!("Error: Domain '{arg}' does not exist.\n"));
                    }
                }
            }
            (host, rows)
        };
        let cpus = facts::online_cpus();
        let mut text = format!(
            "{:<32} {:>5} {:>5} {:>5} {:>5} {:>9} {}\n",
            "Name", "ID", "VCPU", "CPU", "State", "Time(s)", "Affinity (Hard / Soft)"
        );
        if host {
            let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
            for (number, seconds) in (0..).zip(host_times(&stat)) {
                let vcpu = Vcpu { cpu: Some(number), running: true, seconds };
                text.push_str(&entry("Domain-0", 0, number, vcpu, "all"));
            }
        }
        for seen in session.look(rows)? {
            let config = commands::config_of(session.host()?, seen.row.uuid);
            let config = config.map_err(|failure| fail(&failure))?;
            let domid = seen.domid.map_or(0, |domid| domid.0);
            for number in 0..seen.vcpus {
                let hard = config.as_ref().map_or("all".into(), |c| affinity(c, number, cpus));
                let vcpu = vcpu(&seen, number);
                text.push_str(&entry(seen.row.name.as_str(), domid, number, vcpu, &hard));
            }
        }
        Ok(print(&text))
    })
}

fn entry(name: &str, domid: u32, number: u32, vcpu: Vcpu, hard: &str) -> String {
    let cpu = vcpu.cpu.map_or_else(|| "-".to_owned(), |cpu| cpu.to_string());
    let state = if vcpu.running { "r-" } else { "-b" };
    format!(
        "{name:<32} {domid:>5} {number:>5} {cpu:>5}   {state}- {:>9.1}  {hard} / all\n",
        vcpu.seconds
    )
}

/// What the host shows of a virtual CPU: the thread that the emulator has named after it. The
/// one CPU of an emulator that names none is the process itself.
fn vcpu(seen: &Seen, number: u32) -> Vcpu {
    let Some(process) = &seen.row.process else { return Vcpu::default() };
    let tasks = fs::read_dir(format!("/proc/{}/task", process.pid));
    let wanted = format!("CPU {number}/");
    let thread = tasks.into_iter().flatten().flatten().find_map(|task| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        if !name.starts_with(&wanted) {
            return None;
        }
        thread(&fs::read_to_string(task.path().join("stat")).ok()?)
    });
    let whole = Vcpu { cpu: None, running: seen.on_cpu, seconds: seen.cpu_seconds };
    thread.unwrap_or(if seen.vcpus == 1 { whole } else { Vcpu::default() })
}

/// Run state, times and last processor: fields 3, 14, 15 and 39 of proc(5).
fn thread(stat: &str) -> Option<Vcpu> {
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    #[allow(clippy::cast_precision_loss, reason = "2^52 ticks are a million years")]
    let seconds = ticks as f64 / 100.0;
    Some(Vcpu { cpu: fields.get(36)?.parse().ok(), running: *fields.first()? == "R", seconds })
}

/// Busy seconds of each processor of the host.
fn host_times(stat: &str) -> Vec<f64> {
    stat.lines()
        .skip(1)
        .take_while(|line| line.starts_with("cpu"))
        .map(|line| {
            let ticks: Vec<u64> =
                line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
            let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| ticks.get(*at)).sum();
            #[allow(clippy::cast_precision_loss, reason = "2^52 ticks are a million years")]
            let seconds = busy as f64 / 100.0;
            seconds
        })
        .collect()
}

/// Affinity as xl writes it: `all`, `none`, or ranges.
fn affinity(config: &DomainConfig, number: u32, cpus: u32) -> String {
    let list = match &config.cpus {
        Affinity::Any => return "all".to_owned(),
        Affinity::All(list) => list,
        Affinity::Each(lists) => match usize::try_from(number).ok().and_then(|n| lists.get(n)) {
            Some(list) => list,
            None => return "all".to_owned(),
        },
    };
    let Ok(list) = list.parse::<cpulist::CpuList>() else { return "all".to_owned() };
    let set: Vec<u32> = list.evaluate(cpus, facts::node_cpus).into_iter().collect();
    ranges(&set, cpus)
}

fn ranges(set: &[u32], cpus: u32) -> String {
    if set.is_empty() {
        return "none".to_owned();
    }
    if set.len() == usize::try_from(cpus).unwrap_or(usize::MAX) {
        return "all".to_owned();
    }
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for cpu in set {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => parts.push((*cpu, *cpu)),
        }
    }
    let part = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_written_as_in_xl() {
        assert_eq!(ranges(&[0, 1, 2, 3], 4), "all");
        assert_eq!(ranges(&[], 4), "none");
        assert_eq!(ranges(&[0, 1, 3, 5, 6], 8), "0-1,3,5-6");
    }

    #[test]
    fn a_row_has_the_columns_of_xl() {
        let vcpu = Vcpu { cpu: Some(3), running: false, seconds: 5.6 };
        assert_eq!(
            entry("web", 3, 0, vcpu, "all"),
            "web                                  3     0     3   -b-       5.6  all / all\n"
        );
    }

    #[test]
    fn a_thread_shows_its_processor_and_its_time() {
        let stat = format!("7 (CPU 0/KVM) R {} 5 0", "1 ".repeat(35).trim_end());
        let vcpu = thread(&stat).unwrap();
        assert_eq!((vcpu.cpu, vcpu.running), (Some(5), true));
    }
}
