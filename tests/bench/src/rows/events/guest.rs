//! How soon the host prints what a guest says by its port: a Linux guest on QEMU.
//!
//! ```text
//!   Enter ─► guest's shell ─► a line into the port ─► monitor ─► events.db ─► kxl events -f   (first)
//!   Enter ─► guest's shell ─► fork, exec ─► kxl-event ─► the same                            (second)
//!   Enter ─► guest's shell ─► a word on its console ─► monitor ─► its log              (beside them)
//! ```
//! The guest's clock is not that of the host, so the host's is used at both ends, and the way of the
//! key into the guest is in all three. In the first the shell itself writes the line and nothing is
//! executed; what `kxl-event` takes beyond that is its execution in an emulated machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use kxl_store::Paths;
use kxl_tests::archive::Archive;

use super::Follower;
use crate::console::{Dialect, Said, Transcript};
use crate::error::BenchError;
use crate::figure::{Figure, Goal, Series, Unit};
use crate::host::{Guest, Host, Lab};
use crate::interrupt;
use crate::libvirt;
use crate::table::Table;
use crate::typist::Typist;

/// How long the guest may take to boot.
const BOOT: Duration = Duration::from_secs(300);

/// How long an answer of its shell may take.
const SOON: Duration = Duration::from_secs(60);

/// A guest says a hundred things at once, and then one a minute: both series are no more.
const MOST: u32 = 45;

const WHAT: &str = "guest events";

/// Measures both, where there is a guest to do it in.
pub(super) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let Some(guest) = guest(lab, table)? else { return Ok(()) };
    let host = lab.host("events-guest")?;
    let config = format!("{}guest_events = \"port\"\n", guest.config());
    let file = host.file("guest.cfg", &config)?;
    let store = host.store()?;
    store.event(&kxl_store::Event::new(kxl_store::Severity::Info, "first"))?;
    let follower = Follower::start(&host)?;
    follower.seen("first")?;
    let log = Paths::under(&host.root).console_log(&name()?);
    fs::create_dir_all(log.parent().unwrap_or(&host.root)).map_err(BenchError::io("make logs"))?;
    let mut shell = Shell::of(&host, &file, &log)?;

    let rounds = lab.rounds.of(MOST, 10);
    let [mut console, mut typed, mut whole] = std::array::from_fn(|_| Series::new(Unit::Ms));
    shell.run("exec 7>$(echo /dev/vport*p1)", "OPEN")?;
    for round in 0..rounds {
        interrupt::check()?;
        let text = format!("port-{round:03}");
        let line = format!("echo id=log text={text} >&7");
        let (began, marker) = shell.run_marked(&line, &text)?;
        let seen = follower.seen(&text)?;
        typed.push_time(seen.saturating_duration_since(began));
        console.push_time(marker.saturating_duration_since(began));
    }
    // A port belongs to one program at a time.
    shell.run("exec 7>&-", "SHUT")?;
    for round in 0..rounds {
        interrupt::check()?;
        let text = format!("whole-{round:03}");
        let began = shell.run(&format!("kxl-event log {text}"), &text)?;
        whole.push_time(follower.seen(&text)?.saturating_duration_since(began));
    }
    for (what, series) in [
        ("from a key in a QEMU guest, its shell and its port to kxl events -f", typed),
        ("  the same, and kxl-event executed in the guest", whole),
    ] {
        table.add(Figure::new(what, series, Goal::Below(50.0)).beside("its console", &console));
    }
    host.clear()
}

fn name() -> Result<kxl_domain::DomainName, BenchError> {
    "guest".parse().map_err(|_| BenchError::wrong("guest is no name"))
}

/// The guest with the program in it; `None` after the table says why there is none.
fn guest(lab: &Lab, table: &mut Table) -> Result<Option<Guest>, BenchError> {
    if libvirt::program("qemu-system-x86_64").is_none() {
        table.skip(WHAT, "qemu-system-x86_64 is not installed");
        return Ok(None);
    }
    let Some(program) = lab.program("kxl-event") else {
        table.skip(WHAT, "kxl-event is not built: make build");
        return Ok(None);
    };
    let plain = match lab.guest()? {
        Ok(guest) => guest,
        Err(why) => {
            table.skip(WHAT, &why);
            return Ok(None);
        }
    };
    let read = |path| fs::read(path).map_err(BenchError::io("read what the guest consists of"));
    let program = read(&program)?;
    if needs_libraries(&program) {
        table.skip(WHAT, "kxl-event is not static: make build");
        return Ok(None);
    }
    let mut archive = Archive::default();
    archive.file("/bin/kxl-event", &program);
    let mut bytes = read(&plain.ramdisk)?;
    // The kernel takes several archives in a row, each at a multiple of four.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(archive.finish());
    let ramdisk = lab.dir("events-ramdisk")?.join("initramfs");
    fs::write(&ramdisk, bytes)
        .and_then(|()| fs::set_permissions(&ramdisk, fs::Permissions::from_mode(0o644)))
        .map_err(BenchError::io("write the guest's ramdisk"))?;
    Ok(Some(Guest { ramdisk, ..plain }))
}

/// Whether an ELF program names an interpreter, the dynamic linker, among its segments.
fn needs_libraries(program: &[u8]) -> bool {
    const INTERPRETER: u32 = 3;
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = program.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    let segments = || {
        let (table, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
        let at = |segment| usize::try_from(table + segment * size).ok();
        let kinds = (0..count).filter_map(|segment| number(at(segment)?, 4));
        Some(kinds.collect::<Vec<_>>())
    };
    segments().is_none_or(|kinds| kinds.contains(&u64::from(INTERPRETER)))
}

/// The guest's shell.
struct Shell {
    transcript: Transcript,
    typist: Typist,
}

impl Shell {
    /// Starts the domain and enters its shell.
    fn of(
        host: &Host,
        config: &std::path::Path,
        log: &std::path::Path,
    ) -> Result<Self, BenchError> {
        let transcript = Transcript::of_log(log, Dialect::Linux)?;
        host.kxl(["create".as_ref(), config.as_os_str()])?;
        let late = || BenchError::wrong("the guest has not booted");
        transcript.wait(0, BOOT, |said| *said == Said::Ready).ok_or_else(late)?;
        let typist = Typist::at(host, "guest")?;
        let mut shell = Self { transcript, typist };
        shell.typist.type_keys("s")?;
        shell.run(":", "SHELL")?;
        Ok(shell)
    }

    /// Runs a command to its end; when its last key was typed.
    fn run(&mut self, command: &str, mark: &str) -> Result<Instant, BenchError> {
        // What is echoed has quotes in it, what is printed has not.
        let place = self.transcript.place();
        self.typist.type_keys(&format!("{command}; echo EN''D-{mark}"))?;
        let began = Instant::now();
        self.typist.type_keys("\n")?;
        self.printed(place, &format!("END-{mark}"))?;
        Ok(began)
    }

    /// Has a marker printed and then runs a command that is part of the shell; when the last key
    /// was typed, and when the marker was read.
    fn run_marked(&mut self, command: &str, mark: &str) -> Result<(Instant, Instant), BenchError> {
        let place = self.transcript.place();
        let line = format!("echo MA''RK-{mark}; {command}; echo EN''D-{mark}");
        self.typist.type_keys(&line)?;
        let began = Instant::now();
        self.typist.type_keys("\n")?;
        let marker = self.printed(place, &format!("MARK-{mark}"))?;
        self.printed(place, &format!("END-{mark}"))?;
        Ok((began, marker))
    }

    fn printed(&self, place: usize, text: &str) -> Result<Instant, BenchError> {
        let is = |said: &Said| matches!(said, Said::Other(line) if line.ends_with(text));
        let heard = self.transcript.wait(place, SOON, is);
        heard
            .map(|(heard, _)| heard.at)
            .ok_or_else(|| BenchError::wrong(format!("the guest's shell never printed {text}")))
    }
}
