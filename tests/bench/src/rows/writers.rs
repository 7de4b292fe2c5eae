//! A thousand processes that write the records of lives at once.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use kxl_domain::{Reason, State};
use nix::fcntl::OFlag;

use crate::args::WRITE;
use crate::error::BenchError;
use crate::figure::{Figure, Goal, Series, Unit};
use crate::host::{Host, Lab, uuid};
use crate::table::Table;
use crate::writer::{self, Life};

const WRITERS: u32 = 1_000;

/// Lives that one process writes alone, to compare with.
const ALONE: u32 = 100;

/// Each process claims a name, records that it runs and records its end, for a domain of its own.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let host = lab.host("writers")?;
    let store = host.store()?;
    for number in 1..=WRITERS + ALONE {
        crate::interrupt::check()?;
        store.define(&writer::config(number)?, uuid(number))?;
    }
    store.release();

    let alone = crowd(&host, "alone", &[(WRITERS + 1, ALONE)])?;
    let turns: Vec<(u32, u32)> = (1..=WRITERS).map(|number| (number, 1)).collect();
    let start = Instant::now();
    let lives = crowd(&host, "together", &turns)?;
    let all = start.elapsed();

    let lost = lost(&host)?;
    table.add(Figure::new(
        format!("{WRITERS} writers at once, lives lost"),
        Series::one(Unit::Count, f64::from(lost)),
        Goal::AtMost(0.0),
    ));
    for (what, of) in [
        ("  claim of a name", claim as fn(&Life) -> std::time::Duration),
        ("  change of a state", change),
        ("  record of an end", settle),
    ] {
        let (together, alone) = (series(&lives, of), series(&alone, of));
        let p99 = Series::one(Unit::Ms, together.percentile(0.99));
        let figure = Figure::new(what, together, Goal::Reported);
        table.add(figure.beside("one alone", &alone));
        table.add(Figure::new(format!("{what}, p99"), p99, Goal::Reported));
    }
    let mut whole = Series::new(Unit::Ms);
    whole.push_time(all);
    table.add(Figure::new("  all of it, from the first fork", whole, Goal::Reported));
    if lost > 0 {
        return Err(BenchError::wrong(format!("{lost} lives were lost")));
    }
    Ok(())
}

fn claim(life: &Life) -> std::time::Duration {
    life.claim
}

fn change(life: &Life) -> std::time::Duration {
    life.change
}

fn settle(life: &Life) -> std::time::Duration {
    life.settle
}

fn series(lives: &[Life], of: fn(&Life) -> std::time::Duration) -> Series {
    let mut series = Series::new(Unit::Ms);
    lives.iter().for_each(|life| series.push_time(of(life)));
    series
}

/// Starts a writer for each turn, lets all go at once and gives what they tell.
fn crowd(host: &Host, name: &str, turns: &[(u32, u32)]) -> Result<Vec<Life>, BenchError> {
    let told = host.root.join(name);
    let out = File::options().create(true).append(true).open(&told);
    let out = out.map_err(BenchError::io(format!("make {}", told.display())))?;
    let (gate, go) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(BenchError::os("make a pipe"))?;
    let program = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    let mut writers = Crowd(Vec::new());
    for (first, count) in turns {
        let copy = |fd: &File| fd.try_clone().map_err(BenchError::io("copy a descriptor"));
        let child = Command::new(&program)
            .arg(WRITE)
            .arg(&host.root)
            .args([first.to_string(), count.to_string()])
            .stdin(Stdio::from(gate.try_clone().map_err(BenchError::io("copy a descriptor"))?))
            .stdout(copy(&out)?)
            .spawn();
        writers.0.push(child.map_err(BenchError::io("start a writer"))?);
    }
    drop((gate, go));
    let failed = writers.wait()?;
    if failed > 0 {
        return Err(BenchError::wrong(format!("{failed} writers failed")));
    }
    read(&told)
}

fn read(told: &Path) -> Result<Vec<Life>, BenchError> {
    let text = std::fs::read_to_string(told)
        .map_err(BenchError::io(format!("read {}", told.display())))?;
    text.lines()
        .map(|line| Life::parse(line).ok_or_else(|| BenchError::wrong(format!("told: {line:?}"))))
        .collect()
}

/// How many domains of the writers do not show the end that was written for them.
fn lost(host: &Host) -> Result<u32, BenchError> {
    let store = host.store()?;
    let mut lost = 0;
    for number in 1..=WRITERS {
        let row = store.managed(uuid(number))?;
        let whole = row.is_some_and(|row| {
            row.state == State::Halted
                && row.reason == Some(Reason::Poweroff)
                && row.detail == writer::epitaph(number)
        });
        lost += u32::from(!whole);
    }
    // A row left among the live ones is a lost end as well.
    lost += u32::try_from(store.live_rows()?.len()).unwrap_or(u32::MAX);
    Ok(lost)
}

/// Children that are not left behind.
struct Crowd(Vec<Child>);

impl Crowd {
    fn wait(&mut self) -> Result<usize, BenchError> {
        let mut failed = 0;
        while let Some(mut child) = self.0.pop() {
            let status = child.wait().map_err(BenchError::io("wait for a writer"))?;
            failed += usize::from(!status.success());
        }
        Ok(failed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Ended by itself is as good.
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}
