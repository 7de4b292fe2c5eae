//! States that are saved and brought back: what the rows about them share.

mod away;
mod hosts;
mod memory;
mod simh;
mod still;
mod verify;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kxl_domain::{DomainUuid, ImageId};
use kxl_store::{Paths, Store};
use serde_json::Value;

pub(super) use self::away::measure as away;
pub(super) use self::hosts::measure as hosts;
pub(super) use self::memory::measure as memory;
pub(super) use self::simh::measure as simh;
pub(super) use self::still::measure as still;
pub(super) use self::verify::measure as verify;

use crate::console::{Dialect, Said, Transcript};
use crate::error::BenchError;
use crate::figure::{Series, Unit};
use crate::host::{Guest, Host, Lab, uuid};
use crate::libvirt;
use crate::table::Table;

/// How long a guest of some gigabytes may take to boot and fill its memory under emulation.
const BOOT: Duration = Duration::from_secs(300);

/// How long a guest that came back may take to be heard.
const SOON: Duration = Duration::from_secs(60);

/// How much memory a guest has, and how much of it is random data.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// MiB.
    memory: u32,
    /// MiB.
    touched: u32,
}

impl Size {
    /// Two thirds, because the kernel takes the rest of the smallest.
    const SMALL: Self = Self { memory: 256, touched: 176 };
    const MIDDLE: Self = Self { memory: 1024, touched: 819 };
    const LARGE: Self = Self { memory: 2048, touched: 1638 };
    /// As large, and hardly used.
    const SPARSE: Self = Self { memory: 2048, touched: 205 };

    fn name(self) -> String {
        let percent = self.touched * 100 / self.memory;
        let memory = match self.memory {
            mib if mib >= 1024 => format!("{} GiB", mib / 1024),
            mib => format!("{mib} MiB"),
        };
        format!("{memory}, {percent} % touched")
    }

    /// The kernel's command line.
    fn cmdline(self) -> String {
        format!("{} tick=10 touch={}", Guest::CMDLINE, self.touched)
    }
}

/// The guest, or why there is none; then the table says so.
fn guest(lab: &Lab, table: &mut Table, what: &str) -> Result<Option<Guest>, BenchError> {
    if libvirt::program("qemu-system-x86_64").is_none() {
        table.skip(what, "qemu-system-x86_64 is not installed");
        return Ok(None);
    }
    match lab.guest()? {
        Ok(guest) => Ok(Some(guest)),
        Err(why) => {
            table.skip(what, &why);
            Ok(None)
        }
    }
}

/// A managed domain whose guest is heard.
struct Subject<'a> {
    host: &'a Host,
    name: String,
    uuid: DomainUuid,
    paths: Paths,
    store: Store,
    transcript: Transcript,
}

/// A suspend as it was seen.
struct Suspended {
    /// From before the fork of the command to its end.
    wall: Duration,
    /// For how long the guest stood still, by the monitor.
    still: Duration,
    /// How long the monitor took.
    took: Duration,
    /// The directory of the image.
    image: PathBuf,
}

impl<'a> Subject<'a> {
    /// Registers and starts a domain, and waits until its memory is full.
    fn linux(host: &'a Host, guest: &Guest, number: u32, size: Size) -> Result<Self, BenchError> {
        let config = guest.config_of(&format!("g{number}"), size.memory, &size.cmdline());
        Self::of(host, number, &config, Dialect::Linux)
    }

    /// The same with a configuration for a domain called g and the number.
    fn of(host: &'a Host, number: u32, config: &str, how: Dialect) -> Result<Self, BenchError> {
        let name = format!("g{number}");
        let id = uuid(number);
        let text = format!("{config}uuid = \"{id}\"\nconsole_log = 1048576\n");
        let file = host.file(&format!("{name}.cfg"), &text)?;
        let paths = Paths::under(&host.root);
        host.kxl(["new".as_ref(), file.as_os_str()])?;
        let log = name.parse().map_err(|_| BenchError::wrong(format!("{name} is no name")))?;
        let transcript = Transcript::of_log(&paths.console_log(&log), how)?;
        let subject = Self { host, name, uuid: id, store: host.store()?, paths, transcript };
        host.kxl(["start", "-q", &subject.name])?;
        let ready = |said: &Said| match how {
            Dialect::Linux => *said == Said::Ready,
            Dialect::Pdp11 | Dialect::Vax => said.count().is_some(),
        };
        subject.hear(0, BOOT, ready)?;
        Ok(subject)
    }

    /// When the first such line came.
    fn hear(
        &self,
        place: usize,
        within: Duration,
        found: impl Fn(&Said) -> bool,
    ) -> Result<(Instant, usize), BenchError> {
        match self.transcript.wait(place, within, found) {
            Some((heard, next)) => Ok((heard.at, next)),
            None => Err(BenchError::wrong(format!("{} is not heard for {within:?}", self.name))),
        }
    }

    /// Waits until the guest counts.
    fn counts(&self) -> Result<(), BenchError> {
        let place = self.transcript.place();
        self.hear(place, SOON, |said| said.count().is_some()).map(drop)
    }

    /// Suspends it.
    fn suspend(&self) -> Result<Suspended, BenchError> {
        let run = self.host.kxl(["suspend", "--json", &self.name])?;
        let all: Value = serde_json::from_str(&run.stdout)
            .map_err(|error| BenchError::wrong(format!("suspend told no JSON: {error}")))?;
        let told = &all[0];
        let ms = |key: &str| {
            let value = told[key].as_u64();
            let value = value.ok_or_else(|| BenchError::wrong(format!("no {key} in {told}")));
            value.map(Duration::from_millis)
        };
        let id = told["image"].as_str().and_then(|text| text.parse::<ImageId>().ok());
        let id = id.ok_or_else(|| BenchError::wrong(format!("no image in {told}")))?;
        let image = self.paths.image_dir(id);
        Ok(Suspended { wall: run.wall, still: ms("still_ms")?, took: ms("took_ms")?, image })
    }

    /// Resumes it: from before the fork of the command to the guest's next count, and to the end of
    /// the command.
    fn resume(&self) -> Result<(Duration, Duration), BenchError> {
        let place = self.transcript.place();
        let start = Instant::now();
        let run = self.host.kxl(["resume", "-q", &self.name])?;
        let (at, _) = self.hear(place, SOON, |said| said.count().is_some())?;
        Ok((at.saturating_duration_since(start), run.wall))
    }

    /// Waits until the image that it came from was verified and is gone.
    fn alone(&self) -> Result<(), BenchError> {
        let until = Instant::now() + SOON;
        loop {
            let images = std::fs::read_dir(self.paths.image_store());
            if images.map_or(0, Iterator::count) == 0 {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(BenchError::wrong(format!("the image of {} stays", self.name)));
            }
            crate::interrupt::check()?;
            // Another process removes it.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its monitor's process.
    fn monitor(&self) -> Result<i32, BenchError> {
        crate::rows::monitor::of(self.host, &self.name)
    }

    /// Ends it and takes it off the register.
    fn remove(self) -> Result<(), BenchError> {
        let row = self.store.managed(self.uuid)?;
        if row.is_some_and(|row| row.state.is_live()) {
            self.host.kxl(["destroy", &self.name])?;
        }
        self.host.kxl(["delete", "--with-image", &self.name]).map(drop)
    }
}

/// Empty series of milliseconds.
fn times<const N: usize>() -> [Series; N] {
    std::array::from_fn(|_| Series::new(Unit::Ms))
}
