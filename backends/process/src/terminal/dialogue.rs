//! Talking to an emulator at its prompt, with the terminal held (see [`super::hold`]).

use std::time::Duration;

use kxl_backend::process::RunState;
use kxl_backend::{BackendError, Event, Live, Result};
use nix::sys::signal::Signal;

use super::hold::Note;
use super::keeper::Phase;
use super::live::{Restarts, Terminal};
use super::pty;
use crate::profile::{self, Meaning, Step};

/// How long a machine may take to come to its prompt, and to leave it.
const TURN: Duration = Duration::from_secs(10);

/// Erases what stands in the line already: somebody may have typed at the prompt.
const ERASE: char = '\u{15}';

/// Why a machine that was started paused is not saved: its command file has not been read either.
const NOT_BEGUN: &str = "it was started paused and its guest has not begun to run, so there is no \
                         state yet: unpause it first, or destroy it and start it paused again later";

/// How the machine stood before it was brought to its prompt by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// It ran.
    Running,
    /// It was stopped by a signal, or stood at a prompt that is ours.
    Paused,
    /// Somebody had stopped it at its prompt from the console.
    Prompt,
}

impl Terminal {
    /// Brings the machine to its prompt, with the terminal ours. `before` is set as soon as
    /// anything was done.
    ///
    /// # Errors
    /// [`BackendError::Control`] where the guest has ended or not begun; nothing was done then.
    /// [`BackendError::TimedOut`] where the emulator does not come to its prompt.
    pub(super) async fn bring_to_prompt(&mut self) -> Result<()> {
        let stopped = self.run_state()? == RunState::Stopped;
        let hold = &self.shared.hold;
        match self.shared.phase.get() {
            _ if self.shared.ended().is_some() => {
                return Err(self.refused("save", "the guest has ended".to_owned()));
            }
            Phase::AtPrompt(_) => {
                let before = if hold.held() { Before::Paused } else { Before::Prompt };
                self.before = Some(before);
                hold.take(Note::Still);
                if stopped {
                    self.signal_and_see(Signal::SIGCONT, false).await?;
                }
                return Ok(());
            }
            Phase::Starting if !stopped => {
                return Err(self.refused("save", "the guest has not begun to run".to_owned()));
            }
            Phase::Starting | Phase::Running => {}
        }
        if self.restarts == Restarts::Anew {
            let why = "its ini file starts the machine and start= would start it anew: take the \
                       command that starts it out of the ini file";
            return Err(self.refused("save", why.to_owned()));
        }
        self.before = Some(if stopped { Before::Paused } else { Before::Running });
        hold.take(Note::Still);
        if !stopped {
            hold.settled().await;
            self.signal_and_see(Signal::SIGSTOP, true).await?;
        }
        // Stopped it cannot change: in raw mode it has a handler for the signal, which at the
        // prompt would end it.
        if pty::cooked(&self.shared.master) {
            self.shared.hold.give_back(0);
            if !stopped {
                self.signal_and_see(Signal::SIGCONT, false).await?;
            }
            self.before = None;
            let why = match self.shared.phase.get() {
                Phase::Starting => NOT_BEGUN,
                Phase::Running | Phase::AtPrompt(_) => "the guest does not run",
            };
            return Err(self.refused("save", why.to_owned()));
        }
        self.interrupted = true;
        self.interrupt()?;
        self.signal_and_see(Signal::SIGCONT, false).await?;
        if self.restarts == Restarts::GoesOn {
            self.restarts = Restarts::Never;
            if !self.comes_to_rest().await? {
                self.interrupt()?;
            }
        }
        self.at_prompt().await
    }

    fn interrupt(&self) -> Result<()> {
        let name = self.shared.profile.save.signal.as_deref();
        match name.and_then(profile::signal) {
            Some(signal) => self.signal(signal),
            None => Err(self.lacks(kxl_domain::Capability::SaveState)),
        }
    }

    /// Waits for what a machine comes to that was interrupted: its prompt, or, where a command file
    /// lets it go on, running again.
    async fn comes_to_rest(&self) -> Result<bool> {
        let prompt = self.shared.prompt().unwrap_or_default().as_bytes();
        let rules = &self.shared.profile.exit.rule;
        let stopped = |heard: &[u8]| {
            rules.iter().any(|rule| last(heard, format!("\n{}", rule.start).as_bytes()).is_some())
        };
        let rests = |heard: &[u8]| match pty::cooked(&self.shared.master) {
            true => heard.ends_with(prompt).then_some(true),
            false => stopped(heard).then_some(false),
        };
        self.until("prompt of the emulator", TURN, rests).await
    }

    /// Waits for the prompt that an interrupt brings, and takes what the guest has printed before
    /// it apart from what the emulator says.
    pub(super) async fn at_prompt(&mut self) -> Result<()> {
        self.prompted("prompt of the emulator", TURN).await?;
        self.interrupted = false;
        let shared = &self.shared;
        let rules = &shared.profile.exit.rule;
        let found = shared.hold.heard(|heard| {
            let starts = rules.iter().filter_map(|rule| {
                last(heard, format!("\n{}", rule.start).as_bytes()).map(|at| (at, rule.means))
            });
            starts.max_by_key(|(at, _)| *at)
        });
        if let Some((at, Meaning::Stopped)) = found {
            // The emulator begins a line of its own: CR LF and its words.
            let carriage = shared.hold.heard(|heard| heard[..at].ends_with(b"\r"));
            shared.hold.release(at - usize::from(carriage));
            shared.phase.set(Phase::AtPrompt(Some(Meaning::Stopped)));
            if self.before == Some(Before::Running) {
                let _nobody_listens = shared.events.send(Event::Stopped);
            }
            return Ok(());
        }
        // The guest was faster: this is its end, for everybody to see.
        shared.hold.heard(|heard| shared.transcript.borrow_mut().feed(heard));
        shared.hold.give_back(0);
        shared.look();
        self.before = None;
        Err(self.refused("save", format!("the guest has ended: {}", shared.words())))
    }

    /// Types a line at the prompt and waits for the next one; what came in between.
    ///
    /// # Errors
    /// [`BackendError::TimedOut`] with what was said so far, or [`BackendError::Exited`].
    pub(super) async fn ask(&self, line: &str, deadline: Duration) -> Result<String> {
        self.paid().await?;
        self.shared.hold.forget();
        self.owed.set(true);
        self.write(&format!("{ERASE}{line}\r"))?;
        self.prompted(&format!("answer to \"{line}\""), deadline).await?;
        self.owed.set(false);
        let prompt = self.shared.prompt().unwrap_or_default().len();
        let heard = self.shared.hold.heard(|heard| String::from_utf8_lossy(heard).into_owned());
        let echo = format!("{line}\r\n");
        let from = heard.find(&echo).map_or(0, |at| at + echo.len());
        let answer = heard.get(from..heard.len().saturating_sub(prompt)).unwrap_or_default();
        Ok(answer.replace('\r', ""))
    }

    /// Goes through the steps of a script; `{file}` stands for the file.
    ///
    /// # Errors
    /// As [`ask`](Self::ask), and [`BackendError::Control`] for an answer that is no step's.
    pub(super) async fn go_through(
        &self,
        steps: &[Step],
        file: &std::path::Path,
        deadline: Duration,
    ) -> Result<()> {
        for step in steps {
            let line = step.text.replace("{file}", &file.display().to_string());
            let answer = self.ask(&line, deadline).await?;
            let fine = |line: &str| step.accept.iter().any(|text| line.contains(text.as_str()));
            let bad: Vec<_> =
                answer.lines().map(str::trim).filter(|l| !l.is_empty() && !fine(l)).collect();
            if !bad.is_empty() {
                return Err(self.refused(&line, bad.join("; ")));
            }
        }
        Ok(())
    }

    /// Waits for the prompt that follows a line whose answer nobody waited for: a save was dropped.
    async fn paid(&self) -> Result<()> {
        if self.owed.get() {
            self.prompted("prompt of the emulator", TURN).await?;
            self.owed.set(false);
        }
        Ok(())
    }

    /// Lets a machine that we brought to its prompt go on, and gives the terminal back.
    pub(super) async fn leave_prompt(&mut self) -> Result<()> {
        let Some(go_on) = self.shared.profile.control.go_on.clone() else {
            return Err(self.lacks(kxl_domain::Capability::SaveState));
        };
        if self.shared.hold.left() == Some(Note::Empty) {
            let why = "its state was never loaded: destroy it and restore it again".to_owned();
            return Err(self.refused("unpause", why));
        }
        self.paid().await?;
        if std::mem::take(&mut self.unsure) {
            self.ask("", TURN).await?;
            // The prompt may have been the one that an earlier monitor did not wait for.
            tokio::time::sleep(super::keeper::SETTLE).await;
            self.prompted("prompt of the emulator", TURN).await?;
        }
        self.shared.hold.forget();
        self.write(&format!("{ERASE}{go_on}\r"))?;
        let echo = format!("{go_on}\r\n");
        let echoed = |heard: &[u8]| last(heard, echo.as_bytes()).map(|at| at + echo.len());
        let from = self.until("echo of the terminal", TURN, echoed).await?;
        self.shared.hold.give_back(from);
        self.before = None;
        let raw = async {
            while pty::cooked(&self.shared.master) && self.exit.borrow().is_none() {
                // A terminal's mode changes without waking anybody.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // A guest that ends at once is back at the prompt before we could look.
        let _back_already = tokio::time::timeout(super::keeper::SETTLE, raw).await;
        self.shared.look();
        Ok(())
    }

    /// Waits until the last thing said is the prompt and the terminal is the emulator's.
    pub(super) async fn prompted(&self, waited_for: &str, deadline: Duration) -> Result<()> {
        let prompt = self.shared.prompt().unwrap_or_default().as_bytes();
        let shown = |heard: &[u8]| {
            (heard.ends_with(prompt) && pty::cooked(&self.shared.master)).then_some(())
        };
        self.until(waited_for, deadline, shown).await
    }

    /// Waits for the prompt of an emulator that was just started; false where it runs its guest
    /// instead.
    pub(super) async fn comes_to_prompt(&self, deadline: Duration) -> Result<bool> {
        let prompt = self.shared.prompt().unwrap_or_default().as_bytes();
        let shown = |heard: &[u8]| {
            let cooked = pty::cooked(&self.shared.master);
            (!cooked || heard.ends_with(prompt)).then_some(cooked)
        };
        self.until("prompt of the emulator", deadline, shown).await
    }

    /// Waits until what was heard is what is wanted.
    async fn until<T>(
        &self,
        waited_for: &str,
        deadline: Duration,
        wanted: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T> {
        let hold = &self.shared.hold;
        let heard = async {
            let mut exit = self.exit.clone();
            loop {
                if let Some(found) = hold.heard(&wanted) {
                    return Ok(found);
                }
                tokio::select! {
                    () = hold.more.notified() => {}
                    _ended = exit.wait_for(Option::is_some) => return Err(self.gone()),
                    // The mode of the terminal may follow its last output.
                    () = tokio::time::sleep(Duration::from_millis(1)) => {}
                }
            }
        };
        tokio::time::timeout(deadline, heard).await.unwrap_or_else(|_| {
            let said = hold.heard(|heard| String::from_utf8_lossy(heard).trim().to_owned());
            let waited_for = if said.is_empty() {
                waited_for.to_owned()
            } else {
                format!("{waited_for} (it says {said:?})")
            };
            Err(BackendError::TimedOut { waited_for, after: deadline })
        })
    }

    /// Types for the emulator itself, a line at once.
    fn write(&self, text: &str) -> Result<()> {
        match nix::unistd::write(&self.shared.master, text.as_bytes()) {
            Ok(count) if count == text.len() => Ok(()),
            Ok(_) => {
                let full = std::io::Error::from(std::io::ErrorKind::WriteZero);
                Err(BackendError::io("cannot type at the prompt", full))
            }
            Err(errno) => Err(BackendError::io("cannot type at the prompt", errno)),
        }
    }

    fn refused(&self, command: &str, why: String) -> BackendError {
        BackendError::Control { command: command.to_owned(), why }
    }
}

/// Where `needle` begins for the last time.
fn last(hay: &[u8], needle: &[u8]) -> Option<usize> {
    (0..=hay.len().checked_sub(needle.len())?).rev().find(|at| hay[*at..].starts_with(needle))
}
