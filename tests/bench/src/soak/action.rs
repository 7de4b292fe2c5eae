//! How each step is done, and what has to be true after it.

use std::fs;
use std::time::{Duration, Instant};

use kxl_domain::State;
use kxl_store::image::Image;

use super::course::SLACK;
use super::drive::{Drive, Kept};
use super::exact;
use super::steps::{Fell, Step, Victim};
use crate::console::Said;
use crate::error::BenchError;
use crate::typist::Typist;

/// How many files of saved states are kept.
const FILES: usize = 3;

/// How long a verb is taken to need before it was seen.
const GUESS: Duration = Duration::from_millis(600);

/// What a step did.
#[derive(Debug)]
pub(super) struct Did {
    /// Whether somebody was killed in time.
    pub(super) hit: bool,
    /// How long the command took.
    pub(super) took: Duration,
    /// For people.
    pub(super) note: String,
}

/// What a step may come to.
struct Expect {
    then: State,
    /// The guest has to boot.
    anew: bool,
    counts: (u64, u64),
}

impl Drive<'_> {
    /// Does one step and checks everything after it.
    pub(super) fn perform(
        &mut self,
        step: Step,
        victim: Option<Victim>,
    ) -> Result<Did, BenchError> {
        match step {
            Step::Rewrite => return self.rewrite(),
            Step::KillMonitor | Step::KillEmulator | Step::KillBoth => return self.strike(step),
            Step::Verify => {
                let took = self.ok(&["image", "verify", &self.name])?.took;
                return Ok(Did { hit: false, took, note: String::new() });
            }
            Step::Restore => return self.restore(victim),
            Step::SaveAway | Step::SaveOn | Step::SavePaused => return self.save(step, victim),
            _ => {}
        }
        let from = self.begin_here();
        let before = self.state;
        let (mut words, expect) = self.plain(step);
        let name = self.name.clone();
        words.push(&name);
        let (fell, took) = self.do_it(step, &words, victim)?;
        self.settle(&fell.allowed(before, expect.then), fell)?;
        if step == Step::Suspend && self.state == State::Suspended {
            self.back = self.kept_as(before, fell)?;
        }
        self.hear_the_rest();
        let crash = fell.emulator.is_some();
        let note = self.healthy(from, expect.anew || crash, expect.counts)?;
        self.boots(expect.anew || crash, &note)?;
        Ok(Did { hit: fell.anybody(), took, note })
    }

    /// Where a suspended domain comes back to: that is where it was, unless the image is that of its
    /// next boot.
    fn kept_as(&mut self, before: State, fell: Fell) -> Result<State, BenchError> {
        let row = self.store.managed(self.uuid)?;
        let Some(id) = row.and_then(|row| row.image) else {
            return Err(BenchError::wrong("it is suspended and its record names no image"));
        };
        let moment = Image::open_store(&self.paths, id)?.facts().moment;
        let anew = fell.is_of_a_boot_after(moment.stopped_ms);
        let has_to_be = if anew { State::Running } else { before };
        let is = if moment.running { State::Running } else { State::Paused };
        if is != has_to_be {
            return Err(BenchError::wrong(format!("it was {has_to_be}, and its image is {is}")));
        }
        if anew {
            self.forget_the_count();
        }
        Ok(is)
    }

    /// The guest booted where nobody looked: nothing is known of its count.
    fn forget_the_count(&mut self) {
        self.boot = self.transcript.place();
        self.count = 0;
        (self.deaf, self.unseen) = (true, true);
    }

    /// Refuses a guest that has to have booted and goes on.
    fn boots(&self, has_to: bool, note: &str) -> Result<(), BenchError> {
        if has_to && self.state == State::Running && !note.starts_with("booted") {
            return Err(BenchError::wrong(format!("it has to boot, and it {note}")));
        }
        Ok(())
    }

    /// Runs the command, and kills somebody in the middle of it. Where nobody was there to be killed
    /// it has to succeed.
    fn do_it(
        &mut self,
        step: Step,
        args: &[&str],
        victim: Option<Victim>,
    ) -> Result<(Fell, Duration), BenchError> {
        let typical = self.typical.get(step.name()).copied().unwrap_or(GUESS);
        let fault = victim.map(|victim| (victim, self.dice.moment(typical.mul_f32(1.1))));
        let (ended, fell) = self.run(args, fault)?;
        if !fell.anybody() {
            let took = ended.succeeded()?.took;
            if victim.is_none() {
                self.typical.insert(step.name(), took);
            }
            return Ok((fell, took));
        }
        // A monitor that is gone, or an emulator, is heard of no more for a while.
        self.deaf |= victim != Some(Victim::Command);
        Ok((fell, ended.took))
    }

    /// The words of a step that needs only the name, and what it may come to.
    fn plain(&self, step: Step) -> (Vec<&'static str>, Expect) {
        let (args, then): (&[&str], State) = match step {
            Step::Suspend => (&["suspend"], State::Suspended),
            Step::Resume => (&["resume"], self.back),
            Step::ResumePaused => (&["resume", "-p"], State::Paused),
            Step::Pause => (&["pause"], State::Paused),
            Step::Unpause => (&["unpause"], State::Running),
            Step::Reboot => (&["reboot", "-w"], State::Running),
            Step::Reset => (&["reset"], State::Running),
            Step::Start => (&["start"], State::Running),
            Step::Destroy => (&["destroy"], State::Halted),
            _ => (&["list"], self.state),
        };
        let anew = matches!(step, Step::Reboot | Step::Reset | Step::Start);
        // No count is that high: the guest has to boot.
        let counts = if anew && !matches!(step, Step::Reboot | Step::Reset) {
            (u64::MAX, u64::MAX)
        } else {
            (self.count + 1, self.count + SLACK)
        };
        (args.to_vec(), Expect { then, counts, anew })
    }

    /// What the guest said last may still be on its way through the log.
    fn hear_the_rest(&mut self) {
        if !self.state.is_live() {
            std::thread::sleep(Duration::from_millis(60));
            self.count = self.latest();
        }
    }

    fn rewrite(&mut self) -> Result<Did, BenchError> {
        let start = Instant::now();
        let mut typist = Typist::at(self.host, &self.name)?;
        let place = self.transcript.place();
        // The second byte is read when the first one's work is done, so it is under way then.
        typist.type_keys("ww")?;
        let begun = self
            .transcript
            .wait(place, Duration::from_secs(60), |said| matches!(said, Said::Rewritten));
        typist.leave()?;
        let place = begun.ok_or_else(|| BenchError::wrong("the memory is not rewritten"))?.1;
        self.count = self.latest();
        Ok(Did { hit: false, took: start.elapsed(), note: format!("under way at line {place}") })
    }

    fn strike(&mut self, step: Step) -> Result<Did, BenchError> {
        let from = self.begin_here();
        let start = Instant::now();
        let before = self.state;
        let fell = self.kill(step != Step::KillEmulator, step != Step::KillMonitor);
        let crash = step != Step::KillMonitor;
        if !fell.anybody() || crash != fell.emulator.is_some() {
            return Err(BenchError::wrong("there was nobody to kill"));
        }
        self.deaf |= step != Step::KillEmulator;
        let state = if crash { State::Running } else { before };
        self.settle(&[state], fell)?;
        let note = self.healthy(from, crash, (self.count + 1, self.count + SLACK))?;
        self.boots(crash, &note)?;
        Ok(Did { hit: true, took: start.elapsed(), note })
    }

    fn save(&mut self, step: Step, victim: Option<Victim>) -> Result<Did, BenchError> {
        let from = self.begin_here();
        let before = self.state;
        let low = self.count;
        let path = self.host.root.join(format!("{}-{}.kxl", self.name, self.next_file));
        self.next_file += 1;
        let file = path.to_string_lossy().into_owned();
        let name = self.name.clone();
        let mut words = vec!["save"];
        words.extend_from_slice(match step {
            Step::SaveOn => &["-c"],
            // As little of it standing still as can be: then it is compared with the guest.
            Step::SavePaused => &["-p", "--live"],
            _ => &[],
        });
        words.extend([name.as_str(), file.as_str()]);
        let (fell, took) = self.do_it(step, &words, victim)?;
        let then = match step {
            Step::SaveOn => before,
            Step::SavePaused => State::Paused,
            _ => State::Halted,
        };
        let crash = fell.emulator.is_some();
        self.settle(&fell.allowed(before, then), fell)?;
        self.hear_the_rest();
        let high = self.latest();
        let note = self.healthy(from, crash, (low + 1, low + SLACK))?;
        self.boots(crash, &note)?;
        let booted = note.starts_with("booted");
        let saved = path.exists();
        if step == Step::SaveAway && saved != (self.state == State::Halted) {
            let text = format!("it is {} and the file is {}", self.state, there(saved));
            return Err(BenchError::wrong(text));
        }
        if !fell.anybody() && !saved {
            return Err(BenchError::wrong("the file is not there"));
        }
        if saved {
            self.ok(&["image", "verify", &file])?;
            if step == Step::SavePaused {
                self.compare(&path)?;
            }
            let moment = Image::open_file(&path)?.facts().moment;
            let unseen = fell.is_of_a_boot_after(moment.stopped_ms);
            let counts = match (unseen, booted) {
                (true, _) => (0, u64::MAX),
                (false, true) => (low, u64::MAX),
                (false, false) => (low, high.max(low)),
            };
            let paused = before == State::Paused && !unseen;
            if paused == moment.running {
                return Err(BenchError::wrong(format!("it was {before}, and its file is not")));
            }
            let mark = mark(&path)?;
            self.keep(Kept { path, counts, mark, paused, unseen })?;
        }
        let note = format!("{note}; file {}", there(saved));
        Ok(Did { hit: fell.anybody(), took, note })
    }

    /// The memory in the file is the memory of the emulator, which stands still.
    fn compare(&self, file: &std::path::Path) -> Result<(), BenchError> {
        let Some(pid) = self.shown()?.pid else {
            return Err(BenchError::wrong("it is paused without an emulator"));
        };
        let scratch = self.host.root.join(format!("{}.memory", self.name));
        match exact::differing(file, pid, &scratch)? {
            Some(pages) if !pages.is_empty() => {
                let some: Vec<_> = pages.iter().take(20).collect();
                let text = format!("{} pages are not saved as they are: {some:?}", pages.len());
                Err(BenchError::wrong(text))
            }
            _ => Ok(()),
        }
    }

    fn keep(&mut self, kept: Kept) -> Result<(), BenchError> {
        self.files.push(kept);
        if self.files.len() > FILES {
            let old = self.files.remove(0);
            fs::remove_file(&old.path)
                .map_err(BenchError::io(format!("remove {}", old.path.display())))?;
        }
        Ok(())
    }

    fn restore(&mut self, victim: Option<Victim>) -> Result<Did, BenchError> {
        let from = self.begin_here();
        let number = self.dice.below(self.files.len() as u64);
        let kept = usize::try_from(number).ok().and_then(|number| self.files.get(number)).cloned();
        let kept = kept.ok_or_else(|| BenchError::wrong("there is no file to restore"))?;
        let file = kept.path.to_string_lossy().into_owned();
        let then = if kept.paused { State::Paused } else { State::Running };
        let (fell, took) = self.do_it(Step::Restore, &["restore", &file], victim)?;
        let crash = fell.emulator.is_some();
        self.settle(&fell.allowed(self.state, then), fell)?;
        let (low, high) = kept.counts;
        if self.state.is_live() {
            self.boot = from;
            self.count = low;
            self.unseen = kept.unseen;
        }
        // What it says first was counted after the file's moment, and some lines may be cut.
        let at = (low + 1, high.saturating_add(SLACK));
        let note = self.healthy(from, crash, at)?;
        self.boots(crash, &note)?;
        if self.state == State::Paused {
            // The first count after it is unpaused is that of the file.
            self.deaf = true;
            self.count = low;
        }
        if mark(&kept.path)? != kept.mark {
            return Err(BenchError::wrong(format!("{file} was changed by its restore")));
        }
        Ok(Did { hit: fell.anybody(), took, note })
    }
}

const fn there(is: bool) -> &'static str {
    if is { "there" } else { "not there" }
}

/// What no restore may alter.
fn mark(path: &std::path::Path) -> Result<(u64, std::time::SystemTime), BenchError> {
    let look = || {
        let data = path.metadata()?;
        Ok((data.len(), data.modified()?))
    };
    look().map_err(BenchError::io(format!("look at {}", path.display())))
}
