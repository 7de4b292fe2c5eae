//! What stays resident beside each live domain.

use std::fs;
use std::time::Duration;

use kxl_backend::process::Stat;

use crate::error::BenchError;
use crate::figure::{Figure, Goal, Series, Unit};
use crate::host::{Host, Lab};
use crate::interrupt;
use crate::libvirt;
use crate::rows::live::MOCK;
use crate::table::Table;

const CROWD: u32 = 100;

/// After what time without work a monitor counts as idle: it tidies up before.
const SETTLED: Duration = Duration::from_secs(4);

/// One monitor alone shares its pages with nobody; a hundred share the program's.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let seconds = lab.rounds.of(30, 5);
    let guest = lab.guest()?.ok().filter(|_| libvirt::program("qemu-system-x86_64").is_some());
    if let Some(guest) = guest {
        let host = lab.host("monitor-qemu")?;
        let config = host.file("guest.cfg", &guest.config())?;
        host.create_many(&config, "q", 1, &["-p"])?;
        alone(&host, "q1", "QEMU", seconds, table)?;
    } else {
        table.skip("monitor of a QEMU domain", "no guest, or qemu-system-x86_64 is not installed");
    }
    let host = lab.host("monitor-mock")?;
    let config = host.file("mock.cfg", MOCK)?;
    host.create_many(&config, "m", 1, &[])?;
    alone(&host, "m1", "mock", seconds, table)?;
    host.clear()?;

    host.create_many(&config, "m", CROWD, &[])?;
    std::thread::sleep(SETTLED);
    let pids = (1..=CROWD).map(|number| of(&host, &format!("m{number}")));
    let pids = pids.collect::<Result<Vec<i32>, BenchError>>()?;
    let mut pss = Series::new(Unit::Mib);
    for pid in &pids {
        pss.push(proportional_mib(*pid)?);
    }
    let what = format!("monitor, PSS, one of {CROWD} idle mocks");
    table.add(Figure::new(what, pss, Goal::AtMost(3.0)));
    let woken = wake_ups(&pids, seconds)?;
    let what = format!("  context switches of all {CROWD} in {seconds} s");
    table.add(Figure::new(what, woken, Goal::AtMost(0.0)));
    host.clear()
}

fn alone(
    host: &Host,
    name: &str,
    kind: &str,
    seconds: u64,
    table: &mut Table,
) -> Result<(), BenchError> {
    std::thread::sleep(SETTLED);
    let pid = of(host, name)?;
    let pss = Series::one(Unit::Mib, proportional_mib(pid)?);
    table.add(Figure::new(format!("monitor, PSS, one {kind} alone"), pss, Goal::AtMost(3.0)));
    let woken = wake_ups(&[pid], seconds)?;
    let what = format!("  its context switches in {seconds} s");
    table.add(Figure::new(what, woken, Goal::AtMost(0.0)));
    Ok(())
}

/// The monitor of a domain: its emulator's parent.
pub(super) fn of(host: &Host, name: &str) -> Result<i32, BenchError> {
    let emulator = host.emulator(name)?.pid;
    let stat = Stat::read(emulator).map_err(BenchError::io("look at an emulator"))?;
    let file = format!("/proc/{}/comm", stat.ppid);
    let comm = fs::read_to_string(&file).map_err(BenchError::io(format!("read {file}")))?;
    if comm.trim_end() == "kxl-monitor" {
        Ok(stat.ppid)
    } else {
        Err(BenchError::wrong(format!("{name} is a child of {comm}")))
    }
}

/// Its share of memory: pages of its own, and its part of those that it shares.
pub(super) fn proportional_mib(pid: i32) -> Result<f64, BenchError> {
    let file = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&file).map_err(BenchError::io(format!("read {file}")))?;
    let kib: Option<f64> = text
        .lines()
        .find_map(|line| line.strip_prefix("Pss:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| BenchError::wrong(format!("no Pss in {file}")))
}

/// How often these processes got a processor while nobody asked anything of them.
fn wake_ups(pids: &[i32], seconds: u64) -> Result<Series, BenchError> {
    let before = switches(pids)?;
    for _ in 0..seconds {
        interrupt::check()?;
        std::thread::sleep(Duration::from_secs(1));
    }
    let woken = switches(pids)?.saturating_sub(before);
    Ok(Series::one(Unit::Count, f64::from(u32::try_from(woken).unwrap_or(u32::MAX))))
}

/// Context switches so far, of all threads.
fn switches(pids: &[i32]) -> Result<u64, BenchError> {
    let mut sum = 0;
    for pid in pids {
        let dir = format!("/proc/{pid}/task");
        let tasks = fs::read_dir(&dir).map_err(BenchError::io(format!("read {dir}")))?;
        for task in tasks {
            let file = task.map_err(BenchError::io("read a task"))?.path().join("status");
            let attempt = format!("read {}", file.display());
            let text = fs::read_to_string(&file).map_err(BenchError::io(attempt))?;
            let counts = text.lines().filter(|line| line.contains("ctxt_switches:"));
            sum += counts
                .filter_map(|line| line.rsplit(['\t', ' ']).next()?.parse::<u64>().ok())
                .sum::<u64>();
        }
    }
    Ok(sum)
}
