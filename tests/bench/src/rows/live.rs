//! The list of many domains that run: each monitor and each emulator is asked.

use crate::error::BenchError;
use crate::figure::{Figure, Goal, Series, Unit};
use crate::host::Lab;
use crate::table::Table;

const LIVE: u32 = 1_000;

/// A mock whose guest says nothing.
pub(crate) const MOCK: &str = "name = \"mock\"\nbackend = \"mock\"\nmemory = 64\nvcpus = 1\n";

/// Two thousand processes, half of them monitors.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let host = lab.host("live")?;
    let config = host.file("mock.cfg", MOCK)?;
    host.create_many(&config, "m", LIVE, &[])?;
    let [mut wall, mut cpu] = std::array::from_fn(|_| Series::new(Unit::Ms));
    let mut silent = Series::new(Unit::Count);
    for _ in 0..lab.rounds.of(30, 6) {
        let run = host.kxl(["list"])?;
        let running = run.stdout.lines().filter(|line| line.contains(" running ")).count();
        if running != LIVE as usize {
            return Err(BenchError::wrong(format!("{running} of {LIVE} are running")));
        }
        let odd = run.stdout.lines().filter(|line| line.contains("(no")).count();
        wall.push_time(run.wall);
        cpu.push_time(run.cpu);
        silent.push(f64::from(u32::try_from(odd).unwrap_or(u32::MAX)));
    }
    let what = format!("kxl list, {LIVE} live mock domains");
    table.add(Figure::new(what, wall, Goal::Below(300.0)).cpu(&cpu));
    let what = "  of them shown as not answering";
    table.add(Figure::new(what, silent, Goal::AtMost(0.0)));
    host.clear()
}
