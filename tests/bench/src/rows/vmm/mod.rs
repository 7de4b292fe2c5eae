//! kxl-vmm alone, with a guest of a few bytes on this host's own KVM.

mod guest;
mod machine;
mod state;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use self::guest::{Guest, Then, WORD};
use self::machine::Starter;
pub(crate) use self::state::measure as state;
use crate::error::BenchError;
use crate::figure::{Figure, Goal, Series, Unit};
use crate::host::Lab;
use crate::run;
use crate::table::Table;

/// What the guest has, in MiB.
const MEMORY: u32 = 128;

/// What the others promise in public: Firecracker's SPECIFICATION.md.
const FIRECRACKER: &str = "Firecracker promises";

/// Start, stop and size of a machine.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let Some(starter) = starter(lab, "vmm", table)? else { return Ok(()) };
    let size = fs::metadata(&starter.program).map_err(BenchError::io("look at kxl-vmm"))?.len();
    let (halting, spinning) = (starter.dir.join("halting"), starter.dir.join("spinning"));
    guest::write(&halting, Guest { fill: 0, then: Then::Halt })?;
    guest::write(&spinning, Guest { fill: 0, then: Then::Spin })?;

    let size = Series::one(Unit::Mib, f64::from(u32::try_from(size).unwrap_or(u32::MAX)) / MIB);
    table.add(Figure::new("kxl-vmm, the program", size, Goal::AtMost(4.0)));
    let rounds = lab.rounds.of(50, 5);
    answering(&starter, &halting, rounds, table)?;
    starting(&starter, &halting, rounds, table)?;
    for (what, kernel, vcpus) in
        [("a halted", &halting, 1), ("a busy", &spinning, 1), ("two busy", &spinning, 2)]
    {
        pausing(&starter, kernel, (what, vcpus), rounds, table)?;
    }
    overhead(&starter, &halting, rounds, table)
}

/// What starts machines, where this host can.
fn starter(lab: &Lab, name: &str, table: &mut Table) -> Result<Option<Starter>, BenchError> {
    let Some(program) = lab.program("kxl-vmm") else {
        table.skip(name, "kxl-vmm is not built: make build, on x86_64");
        return Ok(None);
    };
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
        table.skip(name, &format!("cannot open /dev/kvm: {error}"));
        return Ok(None);
    }
    Ok(Some(Starter { program, dir: lab.dir(name)? }))
}

/// Bytes of a MiB.
const MIB: f64 = 1024.0 * 1024.0;

/// The options of a machine with this kernel and so many MiB.
fn of(kernel: &Path, mib: u32) -> Vec<OsString> {
    vec!["-kernel".into(), kernel.into(), format!("-m={mib}").into()]
}

/// The greeting and the first answer, after exec.
fn answering(
    starter: &Starter,
    kernel: &Path,
    rounds: u32,
    table: &mut Table,
) -> Result<(), BenchError> {
    let (mut greeted, mut answered) = (Series::new(Unit::Ms), Series::new(Unit::Ms));
    let mut nothing = Series::new(Unit::Ms);
    let ahead = [json!({"execute": "query-status"})];
    for _ in 0..rounds {
        let mut machine = starter.start(&of(kernel, MEMORY), &ahead)?;
        machine.line()?;
        greeted.push_time(machine.began.elapsed());
        let status = machine.answer()?;
        answered.push_time(machine.began.elapsed());
        if status.get("running").and_then(Value::as_bool).is_none() {
            return Err(BenchError::wrong(format!("no status: {status}")));
        }
        nothing.push_time(run::timed(&mut Command::new("/bin/true"))?.wall);
    }
    let promise = Series::one(Unit::Ms, 12.0);
    let figure = Figure::new("kxl-vmm, exec to its greeting", greeted, Goal::Reported);
    table.add(figure.beside("/bin/true", &nothing));
    let figure = Figure::new("kxl-vmm, exec to its first answer", answered, Goal::AtMost(2.0));
    table.add(figure.beside(FIRECRACKER, &promise));
    Ok(())
}

/// The first instruction of the guest that can be heard, after exec.
fn starting(
    starter: &Starter,
    kernel: &Path,
    rounds: u32,
    table: &mut Table,
) -> Result<(), BenchError> {
    for (mib, goal) in [(MEMORY, Goal::AtMost(4.0)), (4096, Goal::Reported)] {
        let mut first = Series::new(Unit::Ms);
        for _ in 0..rounds {
            let mut machine = starter.start(&of(kernel, mib), &[])?;
            first.push_time(machine.word(WORD)?);
        }
        let what = format!("kxl-vmm, exec to the guest's first byte, {mib} MiB");
        table.add(Figure::new(what, first, goal));
    }
    Ok(())
}

/// From `stop` to its answer, when all processors stand still.
fn pausing(
    starter: &Starter,
    kernel: &Path,
    (what, vcpus): (&str, u32),
    rounds: u32,
    table: &mut Table,
) -> Result<(), BenchError> {
    let mut options = of(kernel, MEMORY);
    options.push(format!("-smp={vcpus}").into());
    let mut machine = starter.start(&options, &[])?;
    machine.line()?;
    machine.word(WORD)?;
    let mut pause = Series::new(Unit::Ms);
    for _ in 0..rounds {
        let before = Instant::now();
        machine.run("stop")?;
        pause.push_time(before.elapsed());
        machine.run("cont")?;
    }
    let what = format!("kxl-vmm, stop of {what} guest");
    table.add(Figure::new(what, pause, Goal::AtMost(1.0)));
    Ok(())
}

/// What the process holds beside the guest's memory.
fn overhead(
    starter: &Starter,
    kernel: &Path,
    rounds: u32,
    table: &mut Table,
) -> Result<(), BenchError> {
    let mut resident = Series::new(Unit::Mib);
    for _ in 0..rounds {
        let mut machine = starter.start(&of(kernel, MEMORY), &[])?;
        machine.line()?;
        machine.word(WORD)?;
        machine.run("query-status")?;
        resident.push(apart_mib(machine.pid(), u64::from(MEMORY) << 10)?);
    }
    let promise = Series::one(Unit::Mib, 5.0);
    let figure = Figure::new("kxl-vmm, resident beside guest memory", resident, Goal::AtMost(3.0));
    table.add(figure.beside(FIRECRACKER, &promise));
    Ok(())
}

/// Resident memory of a process, in MiB, without the mapping of `size` KiB.
fn apart_mib(pid: u32, size: u64) -> Result<f64, BenchError> {
    let file = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&file).map_err(BenchError::io(format!("read {file}")))?;
    let (sizes, resident) = (figures(&text, "Size:"), figures(&text, "Rss:"));
    if sizes.iter().filter(|kib| **kib == size).count() != 1 {
        return Err(BenchError::wrong(format!("{file} shows no one mapping of {size} kB")));
    }
    let apart = sizes.iter().zip(&resident).filter(|(kib, _)| **kib != size);
    let kib: u64 = apart.map(|(_, resident)| resident).sum();
    Ok(f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0)
}

/// What every line of this kind says, in kB.
fn figures(text: &str, key: &str) -> Vec<u64> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(key));
    lines.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_mappings_are_taken_line_by_line() {
        let text = "00-01 r--p\nSize:      8 kB\nKernelPageSize: 4 kB\nRss:   4 kB\n\
                    02-03 rw-p\nSize: 131072 kB\nRss: 20 kB\n";
        assert_eq!(figures(text, "Size:"), [8, 131_072]);
        assert_eq!(figures(text, "Rss:"), [4, 20]);
    }
}
