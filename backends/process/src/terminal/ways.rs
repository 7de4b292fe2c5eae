//! The ways to stop, to ask and to end that a profile may name.

use std::ffi::OsString;
use std::time::Duration;

use kxl_backend::process::RunState;
use kxl_backend::{BackendError, Event, Exit, Live, Result};
use kxl_domain::Capability;
use nix::sys::signal::Signal;
use tokio::task::JoinHandle;

use super::bundle;
use super::freezer::{self, Freezer};
use super::live::Terminal;
use crate::ending;
use crate::errand::Errand;
use crate::profile::{self, DestroyStep, ShutdownWay};

impl Terminal {
    /// Freezes or thaws the emulator's group.
    pub(super) async fn by_freezer(&mut self, stop: bool) -> Result<()> {
        let Some(freezer) = self.shared.own.freezer.clone() else { return Ok(()) };
        if !stop && self.run_state()? == RunState::Stopped {
            // It was launched paused.
            self.signal_and_see(Signal::SIGCONT, false).await?;
        } else if freezer.frozen() == stop {
            return Ok(());
        }
        let failed = |error| BackendError::io("cannot freeze or thaw the emulator", error);
        freezer.set(stop).map_err(failed)?;
        let shows = async {
            while freezer.frozen() != stop {
                // The kernel tells by inotify only; it takes a millisecond or two.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(freezer::PATIENCE, shows).await.is_err() {
            let _as_before = freezer.set(!stop);
            let waited_for = "the control group to freeze or thaw".to_owned();
            return Err(BackendError::TimedOut { waited_for, after: freezer::PATIENCE });
        }
        let event = if stop { Event::Stopped } else { Event::Resumed };
        let _nobody_listens = self.shared.events.send(event);
        Ok(())
    }

    /// Stops or continues by QMP, which tells of it itself.
    pub(super) async fn by_channel(&mut self, stop: bool) -> Result<()> {
        let Some(channel) = &self.shared.channel else {
            return Err(self.lacks(Capability::Pause));
        };
        if !stop && self.run_state()? == RunState::Stopped {
            // It was launched paused, and begins now.
            self.signal_and_see(Signal::SIGCONT, false).await?;
            let _nobody_listens = self.shared.events.send(Event::Resumed);
        }
        if !channel.is_connected() {
            let patience = Duration::from_millis(self.shared.profile.ready.timeout_ms);
            let connected = channel.connect(&self.process, patience).await;
            if matches!(connected, Err(BackendError::Exited { .. })) {
                return Err(self.last_words().await);
            }
            connected?;
        }
        let done = channel.command(if stop { "stop" } else { "cont" }).await;
        channel.quiet.set(false);
        if done.is_ok() && !stop {
            // What it began with was read.
            bundle::remove(&self.shared.state_files.restore);
        }
        done
    }

    /// Why it has ended, as soon as that is known.
    async fn last_words(&self) -> BackendError {
        let mut exit = self.exit.clone();
        let told = exit.wait_for(Option::is_some);
        let _not_told = tokio::time::timeout(freezer::PATIENCE, told).await;
        self.gone()
    }

    /// [`Live::powerdown`].
    pub(super) async fn press_the_button(&mut self) -> Result<()> {
        let shutdown = self.shared.profile.shutdown.clone();
        self.run_state()?;
        match (shutdown.kind, &shutdown.signal, &shutdown.text, &self.shared.channel) {
            (ShutdownWay::Signal, Some(name), ..) => match profile::signal(name) {
                Some(signal) => self.signal(signal),
                None => Err(self.lacks(Capability::Powerdown)),
            },
            (ShutdownWay::Type, _, Some(text), _) => self.shared.type_in(text, self.pace).await,
            // One at a time: two talks would type into one another.
            (ShutdownWay::Script | ShutdownWay::Exec, ..) if self.is_pressing() => Ok(()),
            (ShutdownWay::Script, ..) => {
                let talk = self.shared.talk(shutdown.step, self.pace);
                self.press(talk);
                Ok(())
            }
            (ShutdownWay::Exec, ..) => self.run_errand(shutdown.timeout_ms),
            (ShutdownWay::Qmp, _, _, Some(channel)) => channel.command("system_powerdown").await,
            _ => Err(self.lacks(Capability::Powerdown)),
        }
    }

    /// Runs the program of the profile in the background; one that fails is told as an event.
    fn run_errand(&mut self, timeout_ms: u64) -> Result<()> {
        let mut words = self.shared.button.iter().cloned();
        let Some(program) = words.next() else {
            return Err(self.lacks(Capability::Powerdown));
        };
        let args: Vec<OsString> = words.collect();
        let errand = Errand { program, args, env: self.shared.environment.clone() };
        let events = self.shared.events.clone();
        let task = async move {
            if let Err(text) = errand.run(Duration::from_millis(timeout_ms)).await {
                let warning = Event::Warning { what: "shutdown-failed", text };
                let _nobody_listens = events.send(warning);
            }
        };
        self.press(tokio::task::spawn_local(task));
        Ok(())
    }

    /// Whether a talk or a program that asks the guest to end is at it.
    fn is_pressing(&self) -> bool {
        self.pressing.as_ref().is_some_and(|task| !task.is_finished())
    }

    fn press(&mut self, task: JoinHandle<()>) {
        self.pressing = Some(task.abort_handle());
        self.tasks.push(task);
    }

    /// [`Live::reset`].
    pub(super) async fn reset_by_channel(&self) -> Result<()> {
        match &self.shared.channel {
            Some(channel) if self.shared.profile.reset.kind == profile::QmpWay::Qmp => {
                channel.command("system_reset").await?;
                channel.command("cont").await
            }
            _ => Err(self.lacks(Capability::Reset)),
        }
    }

    /// [`Live::destroy`]: the steps of the profile, and a KILL at the end.
    pub(super) async fn end(&self) -> Result<Exit> {
        let steps = self.shared.profile.destroy.steps();
        if !steps.is_empty() && self.process.identity().alive() {
            self.wake();
        }
        for step in &steps {
            if !self.process.identity().alive() {
                break;
            }
            let wait = Duration::from_millis(step.wait_ms);
            // One that does not take the step must not hold up the next.
            let taken = tokio::time::timeout(wait, self.take_step(step)).await;
            match taken {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::info!(%error, ?step, "a step of the end failed"),
                Err(_) => tracing::debug!(?step, "a step of the end took its time"),
            }
        }
        let exit = ending::destroy(&self.process, self.exit.clone()).await?;
        // The keeper of an emulator that another process reaps may still wait for its status, and
        // the monitor does not wait for the keeper.
        self.shared.give_back();
        Ok(exit)
    }

    /// An emulator that stands still obeys nothing.
    fn wake(&self) {
        if let Some(freezer) = self.shared.own.freezer.as_ref().filter(|own| Freezer::frozen(own)) {
            let _killed_in_any_case = freezer.set(false);
        }
        if self.run_state().is_ok_and(|state| state == RunState::Stopped) {
            let _gone = self.process.signal(Signal::SIGCONT);
        }
    }

    /// Takes a step and waits for the end of the process.
    async fn take_step(&self, step: &DestroyStep) -> Result<()> {
        let wait = Duration::from_millis(step.wait_ms);
        if let Some(signal) = step.signal.as_deref().and_then(profile::signal) {
            self.signal(signal)?;
        }
        if let Some(keys) = &step.key {
            self.shared.type_in(keys, None).await?;
        }
        if let (Some(command), Some(channel)) = (&step.qmp, &self.shared.channel) {
            match channel.execute(command, wait).await {
                // Many end before they have answered.
                Err(BackendError::Control { .. }) if !self.process.identity().alive() => {}
                answer => answer?,
            }
        }
        let gone = self.process.gone().await;
        gone.map_err(|error| BackendError::io("cannot watch the emulator", error))
    }
}
