//! One domain and what is known of it: where it has to be, how far its guest has counted.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kxl_domain::{DomainUuid, State};
use kxl_store::{Paths, Store};

use super::course::Course;
use super::dice::Dice;
use super::excuse::Excused;
use super::guest::Kind;
use super::journal::Journal;
use super::run::{Ended, Going};
use super::steps::{Fell, Struck, Victim};
use super::watch::{self, Look, Shown};
use crate::console::{Said, Transcript};
use crate::error::BenchError;
use crate::host::Host;
use crate::typist::Typist;

/// How long a domain may take to come to rest after somebody was killed: a restart after a crash
/// waits for some seconds, a hung monitor for ten.
const SETTLE: Duration = Duration::from_secs(60);

/// How long a guest may take to boot under emulation on a busy host.
const BOOT: Duration = Duration::from_secs(180);

/// How long it may take to be heard.
const SOON: Duration = Duration::from_secs(60);

/// How long a verified image may take to go.
const REMOVAL: Duration = Duration::from_secs(60);

/// How long until the next look.
const AGAIN: Duration = Duration::from_millis(50);

/// A file that a state was saved to.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) path: PathBuf,
    /// The count in it lies between these two.
    pub(super) counts: (u64, u64),
    /// Its size and time of change, which no restore may alter.
    pub(super) mark: (u64, std::time::SystemTime),
    /// Whether it comes back paused.
    pub(super) paused: bool,
    /// Its guest booted where nobody looked.
    pub(super) unseen: bool,
}

/// The driver of one domain.
pub(super) struct Drive<'a> {
    pub(super) host: &'a Host,
    pub(super) journal: &'a Journal,
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) uuid: DomainUuid,
    pub(super) paths: Paths,
    pub(super) store: Store,
    pub(super) transcript: Transcript,
    pub(super) dice: Dice,
    /// Where it rests.
    pub(super) state: State,
    /// Where it comes back to from its image.
    pub(super) back: State,
    /// The place in the transcript where this boot began.
    pub(super) boot: usize,
    /// The highest count known of this boot.
    pub(super) count: u64,
    /// Lines may have been lost: nobody listened for a while.
    pub(super) deaf: bool,
    /// The guest booted where nobody looked, and is or is not through with it.
    pub(super) unseen: bool,
    pub(super) files: Vec<Kept>,
    pub(super) next_file: u32,
    /// How long the verbs took, so that somebody is killed in the middle of them.
    pub(super) typical: BTreeMap<&'static str, Duration>,
}

impl fmt::Debug for Drive<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at {}", self.name, self.state, self.count)
    }
}

impl Drive<'_> {
    /// Runs `kxl` to its end; `fault` kills somebody meanwhile, after that time.
    pub(super) fn run(
        &self,
        args: &[&str],
        fault: Option<(Victim, Duration)>,
    ) -> Result<(Ended, Fell), BenchError> {
        crate::interrupt::check()?;
        let scratch = self.host.root.join(format!("{}.last", self.name));
        let mut going = Going::start(self.host.command(args), &scratch)?;
        let mut fell = Fell::default();
        if let Some((victim, after)) = fault {
            std::thread::sleep(after);
            if !going.over() {
                fell = match victim {
                    Victim::Command => Fell { toolstack: going.kill(), emulator: None },
                    Victim::Monitor => self.kill(true, false),
                    Victim::Emulator => self.kill(false, true),
                    Victim::Both => self.kill(true, true),
                };
            }
        }
        Ok((going.end()?, fell))
    }

    /// Runs `kxl`, which has to succeed.
    pub(super) fn ok(&self, args: &[&str]) -> Result<Ended, BenchError> {
        self.run(args, None)?.0.succeeded()
    }

    /// Kills the monitor and then the emulator, or one of them: whoever of them is there.
    pub(super) fn kill(&self, monitor: bool, emulator: bool) -> Fell {
        let toolstack = monitor && self.kill_monitor();
        Fell { toolstack, emulator: if emulator { self.kill_emulator() } else { None } }
    }

    fn kill_monitor(&self) -> bool {
        let all = watch::monitors(&self.host.root, self.uuid);
        all.into_iter().filter(|one| watch::kill(one.clone())).count() > 0
    }

    fn kill_emulator(&self) -> Option<Struck> {
        let row = self.store.find(&self.name).ok().flatten().and_then(|row| row.process)?;
        let pid = row.pid;
        let identity =
            kxl_backend::Identity { pid, start_time: row.start_time, boot_id: row.boot_id };
        watch::kill(identity).then(|| Struck { pid, at_ms: kxl_store::now_ms() })
    }

    /// What the list shows.
    pub(super) fn shown(&self) -> Result<Shown, BenchError> {
        Shown::among(&self.ok(&["list", "--json"])?.stdout, &self.name)
    }

    /// Waits until the domain rests in one of these states, and remembers it. An emulator's end is
    /// settled by its monitor; where that or the command fell, everybody is asked to recover.
    pub(super) fn settle(&mut self, allowed: &[State], fell: Fell) -> Result<(), BenchError> {
        let until = Instant::now() + SETTLE;
        let mut next_recover = Instant::now();
        let mut excused = Excused::default();
        loop {
            let shown = self.shown()?;
            match shown.look(allowed, fell.emulator.map(|struck| struck.pid)) {
                Look::Rests => {
                    self.state = shown.state;
                    self.journal.excused(&excused.lasted());
                    return Ok(());
                }
                Look::Excused(excuse) => excused
                    .once_more(excuse, Instant::now())
                    .map_err(|why| BenchError::Wrong(format!("{why}: {shown:?}")))?,
                Look::Elsewhere => {}
            }
            if Instant::now() > until {
                return Err(BenchError::wrong(format!(
                    "after {SETTLE:?} it is {shown:?}, and not {allowed:?}"
                )));
            }
            if fell.toolstack && Instant::now() > next_recover {
                self.ok(&["recover"])?;
                next_recover = Instant::now() + Duration::from_secs(2);
            }
            // Nothing tells when another process has come to rest.
            std::thread::sleep(AGAIN);
        }
    }

    /// It is where it came to rest, at every look that counts.
    fn stays(&self) -> Result<(), BenchError> {
        let mut excused = Excused::default();
        loop {
            let shown = self.shown()?;
            match shown.look(&[self.state], None) {
                Look::Rests => {
                    self.journal.excused(&excused.lasted());
                    return Ok(());
                }
                Look::Excused(excuse) => excused
                    .once_more(excuse, Instant::now())
                    .map_err(|why| BenchError::Wrong(format!("{why}: {shown:?}")))?,
                Look::Elsewhere => {
                    let text = format!("it was {}, and a moment later {shown:?}", self.state);
                    return Err(BenchError::wrong(text));
                }
            }
            // Whoever is to answer is busy.
            std::thread::sleep(AGAIN);
        }
    }

    /// Checks everything about the domain where it rests now. `from` is the place in the transcript
    /// before the step, `boots` whether the guest may have booted meanwhile, `counts` between what
    /// its count has to lie where it goes on.
    pub(super) fn healthy(
        &mut self,
        from: usize,
        boots: bool,
        at: (u64, u64),
    ) -> Result<String, BenchError> {
        let mut note = String::new();
        match self.state {
            State::Running => {
                note = self.counts(from, boots, at)?;
                self.senses()?;
            }
            State::Paused => self.stands_still()?,
            _ => self.rests()?,
        }
        self.processes()?;
        self.images()?;
        self.stays()?;
        Ok(note)
    }

    /// The counter goes on from where it was, or from 1 after a boot.
    fn counts(&mut self, from: usize, boots: bool, at: (u64, u64)) -> Result<String, BenchError> {
        let now = self.transcript.place();
        let boots = boots || self.unseen;
        let within = if boots { BOOT } else { SOON };
        if self.transcript.wait(now, within, |said| said.count().is_some()).is_none() {
            return Err(BenchError::wrong(format!("the guest is not heard, last {}", self.count)));
        }
        let lines = self.transcript.since(from);
        let course = Course { from, boots, at, deaf: self.deaf, linux: self.kind.is_linux() };
        let seen = course.follow(&lines).map_err(BenchError::Wrong)?;
        self.count = seen.last;
        (self.deaf, self.unseen) = (false, false);
        if let Some(boot) = seen.boot {
            self.boot = boot;
            return Ok(format!("booted, counts {}", seen.last));
        }
        Ok(format!("goes on at {} after {}", seen.first, at.0.saturating_sub(1)))
    }

    /// The last count heard of this boot.
    pub(super) fn latest(&self) -> u64 {
        let lines = self.transcript.since(self.boot);
        lines.iter().rev().find_map(|heard| heard.said.count()).unwrap_or(self.count)
    }

    /// The place in the transcript where the next line comes; the count is the last one before it.
    pub(super) fn begin_here(&mut self) -> usize {
        let lines = self.transcript.since(self.boot);
        let last = lines.iter().rev().find_map(|heard| heard.said.count());
        self.count = last.unwrap_or(self.count);
        self.boot + lines.len()
    }

    /// It takes keys; its memory is what it wrote there.
    fn senses(&mut self) -> Result<(), BenchError> {
        let place = self.transcript.place();
        let (keys, what) =
            if self.kind.is_linux() { ("c", "the checksum") } else { ("Q", "the echo") };
        let mut typist = Typist::at(self.host, &self.name)?;
        typist.type_keys(keys)?;
        let answer = |said: &Said| matches!(said, Said::Checked(_) | Said::Echo(_));
        let heard = self.transcript.wait(place, SOON, answer);
        typist.leave()?;
        match heard.map(|(heard, _)| heard.said) {
            Some(Said::Checked(true) | Said::Echo(_)) => Ok(()),
            Some(said) => Err(BenchError::wrong(format!("{what} is wrong: {said:?}"))),
            None => Err(BenchError::wrong(format!("{what} does not come"))),
        }
    }

    /// A paused guest says nothing.
    fn stands_still(&mut self) -> Result<(), BenchError> {
        // What it said before may still be on its way through the monitor.
        std::thread::sleep(Duration::from_millis(100));
        let place = self.transcript.place();
        std::thread::sleep(Duration::from_millis(4 * self.kind.tick_ms()));
        if let Some(heard) = self.transcript.since(place).first() {
            return Err(BenchError::wrong(format!("it is paused and says {:?}", heard.said)));
        }
        self.count = self.latest();
        Ok(())
    }

    /// A resting domain has no process.
    fn rests(&self) -> Result<(), BenchError> {
        let shown = self.shown()?;
        match shown.pid {
            Some(pid) => {
                Err(BenchError::wrong(format!("it is {} with emulator {pid}", self.state)))
            }
            None => Ok(()),
        }
    }

    /// One monitor where it is live, none otherwise.
    fn processes(&self) -> Result<(), BenchError> {
        let wanted = usize::from(self.state.is_live());
        self.in_time(SOON, || {
            let found = watch::monitors(&self.host.root, self.uuid).len();
            Ok((found != wanted).then(|| format!("{found} monitors of a {} domain", self.state)))
        })
    }

    /// A suspended domain is one image; any other one has none.
    fn images(&self) -> Result<(), BenchError> {
        self.in_time(REMOVAL, || {
            let found = watch::images(&self.paths, self.uuid)?;
            if !found.broken.is_empty() {
                return Ok(Some(format!("a broken image in the store: {:?}", found.broken)));
            }
            let row = self.store.managed(self.uuid)?;
            let own: Vec<_> = row.and_then(|row| row.image).into_iter().collect();
            let right = match self.state {
                State::Suspended => own.len() == 1 && found.of_domain == own,
                _ => found.of_domain.is_empty() && own.is_empty(),
            };
            let text = format!(
                "a {} domain with images {:?} in the store and {own:?} in its record",
                self.state, found.of_domain
            );
            Ok((!right).then_some(text))
        })
    }

    /// Waits until nothing is wrong any more; what was wrong at last.
    fn in_time(
        &self,
        within: Duration,
        mut wrong: impl FnMut() -> Result<Option<String>, BenchError>,
    ) -> Result<(), BenchError> {
        let until = Instant::now() + within;
        while let Some(text) = wrong()? {
            if Instant::now() > until {
                return Err(BenchError::wrong(format!("for {within:?} there were {text}")));
            }
            // Other processes bring it about.
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// What a person would look at.
    pub(super) fn evidence(&self) -> String {
        let mut text = format!("{self:?}, boots at line {}\n", self.boot);
        for args in [&["list", "-v"][..], &["why", &self.name], &["events", &self.name]] {
            let ran = self.run(args, None);
            let told = ran.map_or_else(
                |error| error.to_string(),
                |(ended, _)| format!("{}{}", ended.stdout, ended.stderr),
            );
            text.push_str(&format!("\n--- kxl {}\n{}", args.join(" "), tail(&told, 12_000)));
        }
        let row = self.store.find(&self.name);
        text.push_str(&format!("\n--- row\n{row:#?}\n"));
        text.push_str(&format!("\n--- images\n{:?}\n", watch::images(&self.paths, self.uuid)));
        let running = watch::left_running(&self.host.root);
        text.push_str(&format!("\n--- processes\n{}\n", running.join("\n")));
        if let Ok(Some(row)) = row {
            for path in [self.paths.monitor_log(&row.name), self.paths.emulator_log(&row.name)] {
                text.push_str(&logged(&path, 12_000));
            }
            text.push_str(&logged(&self.paths.console_log(&row.name), 3_000));
        }
        text
    }
}

fn logged(path: &Path, most: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    format!("\n--- {}\n{}\n", path.display(), tail(&String::from_utf8_lossy(&bytes), most))
}

fn tail(text: &str, most: usize) -> &str {
    let mut at = text.len().saturating_sub(most);
    while !text.is_char_boundary(at) {
        at += 1;
    }
    &text[at..]
}
