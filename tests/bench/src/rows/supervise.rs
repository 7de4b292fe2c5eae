//! A thousand services: idle programs of the host under supervision.

use std::time::{Duration, Instant};

use kxl_backend::process::Stat;
use kxl_backend::{Identity, Process};
use nix::sys::signal::Signal;

use super::monitor;
use crate::error::BenchError;
use crate::figure::{Figure, Goal, Series, Unit};
use crate::host::{Host, Lab, both};
use crate::interrupt;
use crate::table::Table;

const SERVICES: u32 = 1_000;

/// How many names one command line has.
const CHUNK: usize = 100;

/// Every monitor has tidied up after its start by then.
const SETTLED: Duration = Duration::from_secs(4);

/// How long a restart is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

const CONFIG: &str = "name = \"s\"\nbackend = \"any\"\nexec = \"/bin/sleep\"\n\
     device_model_args = [\"1000000\"]\nmemory = 1\nstartsecs = 1\n";

/// Started, left alone, looked at, killed.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let host = lab.host("supervise")?;
    let config = host.file("s.cfg", CONFIG)?;
    let define = |first: u32| {
        (first..=SERVICES).step_by(2).try_for_each(|number| {
            let name = format!("name=\"s{number}\"");
            host.kxl(["new".as_ref(), "-q".as_ref(), config.as_os_str(), name.as_ref()]).map(drop)
        })
    };
    both(|| define(1), || define(2))?;
    let start = host.kxl(["start", "-q", "all"])?;
    let what = format!("kxl start all, {SERVICES} programs until each is RUNNING");
    table.add(Figure::new(what, Series::one(Unit::Ms, ms(start.wall)), Goal::AtMost(60_000.0)));

    std::thread::sleep(SETTLED);
    let names = (1..=SERVICES).map(|number| format!("s{number}"));
    let pids = names.map(|name| monitor::of(&host, &name)).collect::<Result<Vec<_>, _>>()?;
    let seconds = lab.rounds.of(60, 5);
    let before = ticks(&pids)?;
    for _ in 0..seconds {
        interrupt::check()?;
        std::thread::sleep(Duration::from_secs(1));
    }
    let spent = ticks(&pids)?.saturating_sub(before);
    let spent = f64::from(u32::try_from(spent).unwrap_or(u32::MAX));
    let what = format!("  ticks of CPU of all {SERVICES} monitors in {seconds} s");
    table.add(Figure::new(what, Series::one(Unit::Count, spent), Goal::AtMost(0.0)));
    let mut pss = Series::new(Unit::Mib);
    for pid in &pids {
        pss.push(monitor::proportional_mib(*pid)?);
    }
    table.add(Figure::new("  PSS of a monitor", pss, Goal::AtMost(3.0)));

    let [mut wall, mut cpu] = std::array::from_fn(|_| Series::new(Unit::Ms));
    for _ in 0..lab.rounds.of(20, 4) {
        let run = host.kxl(["status"])?;
        let running = run.stdout.lines().filter(|line| line.contains(" RUNNING ")).count();
        if running != SERVICES as usize {
            return Err(BenchError::wrong(format!("{running} of {SERVICES} are RUNNING")));
        }
        wall.push_time(run.wall);
        cpu.push_time(run.cpu);
    }
    let what = format!("kxl status, {SERVICES} supervised programs");
    table.add(Figure::new(what, wall, Goal::Below(200.0)).cpu(&cpu));

    let mut again = Series::new(Unit::Ms);
    for number in 1..=lab.rounds.of(30, 5) {
        again.push_time(restart(&host, &format!("s{number}"))?);
    }
    let what = "from the kill of a program to the start of the next one";
    table.add(Figure::new(what, again, Goal::Below(20.0)));
    let stop = stop(&host)?;
    let what = format!("kxl stop of {SERVICES} programs");
    table.add(Figure::new(what, Series::one(Unit::Ms, ms(stop)), Goal::Reported));
    host.clear()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// CPU time so far, in ticks.
fn ticks(pids: &[i32]) -> Result<u64, BenchError> {
    let stats = pids.iter().map(|pid| Stat::read(*pid).map(|stat| stat.cpu_ticks));
    stats.sum::<Result<u64, _>>().map_err(BenchError::io("look at the monitors"))
}

/// Kills a program and waits until the record has another one that runs.
fn restart(host: &Host, name: &str) -> Result<Duration, BenchError> {
    let before = host.emulator(name)?;
    let store = host.store()?;
    let identity = Identity {
        pid: before.pid,
        start_time: before.start_time,
        boot_id: before.boot_id.clone(),
    };
    let process = Process::open(identity).map_err(BenchError::io("open a program"))?;
    let began = Instant::now();
    process.signal(Signal::SIGKILL).map_err(BenchError::io("kill a program"))?;
    loop {
        let row = store.find(name)?;
        let up = row.is_some_and(|row| {
            row.op.is_none() && row.process.is_some_and(|now| now.pid != before.pid)
        });
        if up {
            return Ok(began.elapsed());
        }
        if began.elapsed() > PATIENCE {
            return Err(BenchError::wrong(format!("{name} is not started again")));
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn stop(host: &Host) -> Result<Duration, BenchError> {
    let names: Vec<String> = (1..=SERVICES).map(|number| format!("s{number}")).collect();
    let began = Instant::now();
    for chunk in names.chunks(CHUNK) {
        let words = ["stop", "-q"].into_iter().chain(chunk.iter().map(String::as_str));
        host.kxl(words)?;
    }
    Ok(began.elapsed())
}
