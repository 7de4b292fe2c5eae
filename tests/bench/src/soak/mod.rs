//! `make soak`: real domains through random saves, restores, suspends, resumes and kills, for as long
//! as one likes. After each step the guest has to count on from where it was, its memory has to be
//! what it wrote there, and the host has to show exactly one domain, one monitor and one image or
//! none. Whatever is not so is an oddity: told, with what a person would look at, and the domain is
//! made anew.
//!
//! ```text
//!   run ──► Drive (a thread each) ──► steps: what next, by dice    action: do it, expect
//!                                       watch: what the host shows   course: how the guest counts
//! ```
//!
//! A look that a busy host may be to blame for, or at a domain whose emulator was killed at that
//! moment, is repeated for some seconds (`excuse`); the summary says how often and for how long.

mod action;
mod course;
mod dice;
mod drive;
mod exact;
mod excuse;
mod guest;
mod journal;
mod run;
mod steps;
mod watch;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kxl_domain::State;
use kxl_store::Paths;

use self::dice::Dice;
use self::drive::Drive;
pub(crate) use self::guest::Kind;
use self::journal::Journal;
use self::steps::{Step, Victim};
use crate::args::Rounds;
use crate::console::Transcript;
use crate::error::BenchError;
use crate::host::{Host, Lab, uuid};
use crate::interrupt;

/// After so many oddities there is no more to learn.
const ENOUGH: usize = 20;

/// Of a hundred steps that move a state, in so many somebody is killed.
const BROKEN: u64 = 40;

/// What to soak, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Soak {
    /// For how long.
    pub(crate) minutes: u64,
    /// What the dice start from.
    pub(crate) seed: u64,
    /// The domains.
    pub(crate) kinds: Vec<Kind>,
}

/// Drives the domains at the same time; the summary, and an error when anything was odd.
///
/// # Errors
/// When there is nothing to drive, and when anything was odd.
pub(crate) fn run(soak: &Soak) -> Result<String, BenchError> {
    interrupt::listen()?;
    let lab = Lab::new(Rounds::Full)?;
    let host = lab.host("soak")?;
    let dir = std::env::temp_dir();
    let dir = dir.join(format!("kxl-soak-{}-{}", soak.seed, std::process::id()));
    let journal = Journal::new(dir)?;
    journal.line(&format!("seed {}, {} minutes, {:?}", soak.seed, soak.minutes, soak.kinds));
    let end = Instant::now() + Duration::from_secs(soak.minutes * 60);
    let mut driven = 0;
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, kind) in (1_u32..).zip(&soak.kinds) {
            let (lab, host, journal) = (&lab, &host, &journal);
            if let Some(why) = kind.missing(&Lab::built().unwrap_or_default()) {
                journal.line(&format!("skipped: {}: {why}", kind.name()));
                continue;
            }
            driven += 1;
            let seed = soak.seed;
            threads.push(scope.spawn(move || {
                let outcome = drive(lab, host, journal, *kind, number, seed, end);
                if let Err(error) = outcome {
                    journal.line(&format!("{}: {error}", kind.name()));
                    if !matches!(error, BenchError::Interrupted) {
                        journal.odd(kind.name(), "drive", &error.to_string(), "");
                    }
                }
            }));
        }
        for thread in threads {
            if thread.join().is_err() {
                journal.odd("soak", "drive", "a driver panicked", "");
            }
        }
    });
    if driven == 0 {
        return Err(BenchError::wrong("there is no guest to drive"));
    }
    if journal.oddities() == 0 {
        leftovers(&host, &journal)?;
    }
    let summary = journal.summary();
    journal.line(&format!("the end\n{summary}"));
    match journal.oddities() {
        0 => Ok(summary),
        odd => Err(BenchError::Wrong(format!("{odd} oddities with seed {}", soak.seed))),
    }
}

fn drive(
    lab: &Lab,
    host: &Host,
    journal: &Journal,
    kind: Kind,
    number: u32,
    seed: u64,
    end: Instant,
) -> Result<(), BenchError> {
    let copies = lab.copies(kind.files())?;
    let name = kind.name().to_owned();
    let id = uuid(number);
    let config = format!("uuid = \"{id}\"\n{}", kind.config(&copies));
    let config = host.file(&format!("{name}.cfg"), &config)?.to_string_lossy().into_owned();
    let paths = Paths::under(&host.root);
    host.kxl(["new", &config])?;
    let log = name.parse().map_err(|_| BenchError::wrong(format!("{name} is no name")))?;
    let transcript = Transcript::of_log(&paths.console_log(&log), kind.dialect())?;
    let mut drive = Drive {
        host,
        journal,
        kind,
        name,
        uuid: id,
        store: host.store()?,
        paths,
        transcript,
        dice: Dice::new(seed, u64::from(number)),
        state: State::Halted,
        back: State::Running,
        boot: 0,
        count: 0,
        deaf: false,
        unseen: false,
        files: Vec::new(),
        next_file: 1,
        typical: BTreeMap::new(),
    };
    while Instant::now() < end && journal.oddities() < ENOUGH {
        interrupt::check()?;
        let steps = Step::of(drive.state, kind, !drive.files.is_empty());
        let Some(step) = drive.dice.pick(&steps) else {
            return Err(BenchError::wrong(format!("nothing can be done while {}", drive.state)));
        };
        let broken = step.breakable() && drive.dice.below(100) < BROKEN;
        let victim = if broken { drive.dice.pick(Victim::ALL) } else { None };
        one(&mut drive, step, victim, &config)?;
    }
    drive.remove()
}

/// One step, its line in the journal, and the domain anew where it went wrong.
fn one(
    drive: &mut Drive<'_>,
    step: Step,
    victim: Option<Victim>,
    config: &str,
) -> Result<(), BenchError> {
    let killed = victim.map(|victim| format!(", kill -9 {}", victim.name())).unwrap_or_default();
    let what = format!("{}{killed}", step.name());
    let before = drive.state;
    match drive.perform(step, victim) {
        Ok(did) => {
            let late = if victim.is_some() && !did.hit { " (too late)" } else { "" };
            let end = drive.state.to_string();
            let note = format!("{}{late}", did.note);
            drive.journal.step(&drive.name, &what, did.took, &end, &note);
            Ok(())
        }
        Err(BenchError::Interrupted) => Err(BenchError::Interrupted),
        Err(error) => {
            let evidence = drive.evidence();
            let told = format!("while {before}: {error}");
            drive.journal.odd(&drive.name, &what, &told, &evidence);
            drive.anew(config)
        }
    }
}

impl Drive<'_> {
    /// Throws the domain away and registers it again.
    fn anew(&mut self, config: &str) -> Result<(), BenchError> {
        self.remove()?;
        self.ok(&["new", config])?;
        self.state = State::Halted;
        (self.deaf, self.unseen) = (false, false);
        Ok(())
    }

    /// Ends the domain, however it stands, and takes it off the register with its files.
    fn remove(&mut self) -> Result<(), BenchError> {
        let name = self.name.clone();
        self.ok(&["recover"])?;
        let shown = self.shown()?;
        if shown.state.is_live() || shown.op.is_some() {
            self.ok(&["destroy", &name])?;
        }
        self.ok(&["delete", "--with-image", &name])?;
        // One that an oddity has left must not be told again with every step.
        for id in watch::images(&self.paths, self.uuid)?.of_domain {
            self.ok(&["image", "rm", &id.to_string()])?;
        }
        for kept in self.files.drain(..) {
            std::fs::remove_file(&kept.path)
                .map_err(BenchError::io(format!("remove {}", kept.path.display())))?;
        }
        Ok(())
    }
}

/// Nothing may be left when every domain is gone.
fn leftovers(host: &Host, journal: &Journal) -> Result<(), BenchError> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let processes = watch::left_running(&host.root);
        let images = watch::images(&Paths::under(&host.root), uuid(0))?;
        let files = kept_files(host)?;
        let left = [processes, images.broken, images.others, files].concat();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            journal.odd("soak", "end", &format!("left over: {left:?}"), "");
            return Ok(());
        }
        // A monitor writes its last lines after the command that ended its domain has returned.
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Files of saved states, complete or not, in the directory where they were written.
fn kept_files(host: &Host) -> Result<Vec<String>, BenchError> {
    let entries = std::fs::read_dir(&host.root).map_err(BenchError::io("read the host's root"))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.contains(".kxl")).collect())
}
