//! States of kxl-vmm: how soon one comes back, how long a guest stands still for one, and what many
//! machines of one image hold.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde_json::{Value, json};

use super::guest::{self, FILLED, Guest, Then, WORD};
use super::machine::{Machine, Starter};
use super::{of, starter};
use crate::error::BenchError;
use crate::figure::{Figure, Goal, Series, Unit};
use crate::host::Lab;
use crate::interrupt;
use crate::table::Table;

/// Machines of one image at once.
const CLONES: u32 = 20;

/// Pages that the guest of a live save writes to, over and over.
const BUSY: u32 = 1000;

/// How long a save may take.
const LONG: Duration = Duration::from_secs(120);

/// Between two looks at a save.
const AGAIN: Duration = Duration::from_millis(5);

/// MiB in all, and MiB from the beginning on that the guest has filled.
#[derive(Clone, Copy)]
struct Size {
    memory: u32,
    filled: u32,
}

impl Size {
    /// The pages that the guest fills itself; the kernel and what it needs lie before them.
    const fn pages(self) -> u32 {
        (self.filled - (FILLED >> 20)) << 8
    }

    fn name(self) -> String {
        let share = self.filled * 100 / self.memory;
        format!("{} MiB, {share} % filled", self.memory)
    }
}

/// All of it.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let Some(starter) = starter(lab, "vmm-state", table)? else { return Ok(()) };
    let rounds = lab.rounds.of(50, 5);
    let full = Size { memory: 1024, filled: 1024 };
    let image = saved(&starter, full)?;
    restored(&starter, (&image, full), rounds, table)?;
    clones(&starter, (&image, full), table)?;
    remove(&image)?;
    let mut middle = Vec::new();
    for size in [Size { memory: 256, filled: 256 }, Size { memory: 4096, filled: 1024 }] {
        let image = saved(&starter, size)?;
        middle.push((size, warm(&starter, (&image, size), rounds)?));
        remove(&image)?;
    }
    if let [(_, small), (size, large)] = middle.as_slice() {
        let what = format!("kxl-vmm, restore to the first byte, {}", size.name());
        let figure = Figure::new(what, large.clone(), Goal::Within(3.0));
        table.add(figure.beside("256 MiB, full", small));
    }
    live(&starter, full, lab.rounds.of(10, 2), table)
}

/// The options of a machine that comes back from an image.
fn from(image: &Path, size: Size) -> Vec<OsString> {
    let mut incoming = OsString::from("file:");
    incoming.push(image);
    vec!["-incoming".into(), incoming, format!("-m={}", size.memory).into()]
}

/// Starts a machine with a kernel, in the starter's directory.
fn started(starter: &Starter, guest: Guest, size: Size) -> Result<Machine, BenchError> {
    let kernel = starter.dir.join("kernel");
    guest::write(&kernel, guest)?;
    let mut options = of(&kernel, size.memory);
    options.extend(["-hotplug-dir".into(), starter.dir.clone().into()]);
    let mut machine = starter.start(&options, &[])?;
    machine.line()?;
    machine.word(WORD)?;
    Ok(machine)
}

/// Has a machine write its state to a file, and waits for it; what was said of it at the end.
fn save(machine: &mut Machine, image: &Path) -> Result<Value, BenchError> {
    let uri = format!("file:{}", image.display());
    machine.run_with("migrate", &json!({"uri": uri}))?;
    let until = Instant::now() + LONG;
    loop {
        interrupt::check()?;
        let told = machine.run("query-migrate")?;
        match told.get("status").and_then(Value::as_str) {
            Some("completed") => return Ok(told),
            Some("failed" | "cancelled" | "none") => {
                return Err(BenchError::wrong(format!("the save came to nothing: {told}")));
            }
            _ if Instant::now() > until => {
                return Err(BenchError::wrong(format!("the save takes for ever: {told}")));
            }
            _ => std::thread::sleep(AGAIN),
        }
    }
}

/// The image of a guest that says its word over and over.
fn saved(starter: &Starter, size: Size) -> Result<PathBuf, BenchError> {
    let guest = Guest { fill: size.pages(), then: Then::Repeat };
    let mut machine = started(starter, guest, size)?;
    machine.run("stop")?;
    let image = starter.dir.join(format!("image{}", size.memory));
    save(&mut machine, &image)?;
    Ok(image)
}

fn remove(image: &Path) -> Result<(), BenchError> {
    fs::remove_file(image).map_err(BenchError::io(format!("remove {}", image.display())))
}

/// From exec to the first byte of a guest that goes on.
fn first_byte(starter: &Starter, from: &[OsString]) -> Result<Duration, BenchError> {
    starter.start(from, &[])?.word(WORD)
}

fn warm(
    starter: &Starter,
    (image, size): (&Path, Size),
    rounds: u32,
) -> Result<Series, BenchError> {
    let mut series = Series::new(Unit::Ms);
    for _ in 0..rounds {
        series.push_time(first_byte(starter, &from(image, size))?);
    }
    Ok(series)
}

fn restored(
    starter: &Starter,
    (image, size): (&Path, Size),
    rounds: u32,
    table: &mut Table,
) -> Result<(), BenchError> {
    let what = format!("kxl-vmm, restore to the first byte, {}", size.name());
    let warm = warm(starter, (image, size), rounds)?;
    table.add(Figure::new(format!("{what}, warm"), warm, Goal::AtMost(5.0)));
    let mut cold = Series::new(Unit::Ms);
    for _ in 0..rounds {
        let file = File::open(image).map_err(BenchError::io("open an image"))?;
        file.sync_all().map_err(BenchError::io("write an image to the disk"))?;
        posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .map_err(BenchError::os("drop an image from the page cache"))?;
        cold.push_time(first_byte(starter, &from(image, size))?);
    }
    table.add(Figure::new(format!("{what}, cold"), cold, Goal::AtMost(15.0)));
    Ok(())
}

/// Machines of one image, which share the page cache's copy of it.
fn clones(
    starter: &Starter,
    (image, size): (&Path, Size),
    table: &mut Table,
) -> Result<(), BenchError> {
    let options = from(image, size);
    let mut machines = Vec::new();
    for _ in 0..CLONES {
        let mut machine = starter.start(&options, &[])?;
        machine.line()?;
        machine.word(WORD)?;
        // Twenty that spin would starve one another.
        machine.run("stop")?;
        machines.push(machine);
    }
    let mut own = Series::new(Unit::Mib);
    for machine in &machines {
        own.push(private_mib(machine.pid())?);
    }
    let what = format!("kxl-vmm, private memory of one of {CLONES} clones, {}", size.name());
    table.add(Figure::new(what, own, Goal::AtMost(1.0)));
    Ok(())
}

/// What a process shares with nobody, in MiB.
fn private_mib(pid: u32) -> Result<f64, BenchError> {
    let file = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&file).map_err(BenchError::io(format!("read {file}")))?;
    let of = |key| super::figures(&text, key).into_iter().sum::<u64>();
    let kib = of("Private_Clean:") + of("Private_Dirty:");
    Ok(f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0)
}

/// How long a guest stands still that is saved while it writes to its pages.
fn live(starter: &Starter, size: Size, rounds: u32, table: &mut Table) -> Result<(), BenchError> {
    let guest = Guest { fill: size.pages(), then: Then::Write(BUSY) };
    let mut machine = started(starter, guest, size)?;
    let image = starter.dir.join("live");
    let (mut still, mut whole) = (Series::new(Unit::Ms), Series::new(Unit::Ms));
    for _ in 0..rounds {
        let before = Instant::now();
        let told = save(&mut machine, &image)?;
        whole.push_time(before.elapsed());
        let downtime = told.get("downtime").and_then(Value::as_u64);
        let downtime = downtime.ok_or_else(|| BenchError::wrong(format!("no downtime: {told}")))?;
        still.push_time(Duration::from_millis(downtime));
        remove(&image)?;
        machine.run("cont")?;
    }
    let what = format!("kxl-vmm, stand-still of a live save, {}, {BUSY} pages busy", size.name());
    table.add(Figure::new(what, still, Goal::AtMost(20.0)));
    table.add(Figure::new("  all of that save, disk included", whole, Goal::Reported));
    Ok(())
}
