//! One living emulator on a terminal.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use kxl_backend::process::RunState;
use kxl_backend::{BackendError, ConsoleEnd, Event, Exit, Live, Local, Process, Report, Result};
use kxl_domain::{Capability, State};
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::keeper::{Phase, Shared};
use crate::ending;
use crate::profile::{self, Way};

/// How long a signal may take to show.
const SIGNAL: Duration = Duration::from_secs(5);

/// The handle.
pub(crate) struct Terminal {
    pub(crate) process: Rc<Process>,
    pub(crate) shared: Rc<Shared>,
    pub(crate) receiver: Option<mpsc::UnboundedReceiver<Event>>,
    pub(crate) console: Option<OwnedFd>,
    pub(crate) exit: watch::Receiver<Option<Exit>>,
    pub(crate) keeper: JoinHandle<()>,
    pub(crate) pace: Option<Duration>,
}

impl Terminal {
    fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal).map_err(|error| {
            if self.process.identity().alive() {
                BackendError::io(format!("cannot send {signal} to the emulator"), error)
            } else {
                self.gone()
            }
        })
    }

    fn gone(&self) -> BackendError {
        let told = self.exit.borrow().as_ref().map(|exit| exit.text.clone());
        BackendError::Exited { text: told.unwrap_or_else(|| "just now".into()) }
    }

    fn run_state(&self) -> Result<RunState> {
        self.process.identity().stat().map(|stat| stat.state).ok_or_else(|| self.gone())
    }

    /// Sends STOP or CONT and waits until it shows; nothing where it is so already.
    async fn stop_or_go(&self, stop: bool) -> Result<()> {
        if self.shared.profile.pause.kind != Way::Signal {
            return Err(self.lacks(Capability::Pause));
        }
        let stopped = self.run_state()? == RunState::Stopped;
        if stop == stopped {
            return if stop { Ok(()) } else { self.go_on().await };
        }
        self.signal(if stop { Signal::SIGSTOP } else { Signal::SIGCONT })?;
        let shows = async {
            while (self.run_state()? == RunState::Stopped) != stop {
                // Delivery takes microseconds; there is nothing to be woken by.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        };
        tokio::time::timeout(SIGNAL, shows).await.map_err(|_| BackendError::TimedOut {
            waited_for: "effect of a signal".into(),
            after: SIGNAL,
        })??;
        let event = if stop { Event::Stopped } else { Event::Resumed };
        let _nobody_listens = self.shared.events.send(event);
        Ok(())
    }

    /// An emulator that somebody stopped at its prompt is told to go on.
    async fn go_on(&self) -> Result<()> {
        let Phase::AtPrompt(_) = self.shared.phase.get() else { return Ok(()) };
        if let Some(how) = self.shared.ended() {
            let why = format!("the guest has ended ({how}) and can only be started anew");
            return Err(BackendError::Control { command: "unpause".into(), why });
        }
        match self.shared.profile.control.go_on.clone() {
            Some(text) => self.type_in(&format!("{text}\r")).await,
            None => Err(self.lacks(Capability::Pause)),
        }
    }

    /// Types on the terminal, as slowly as the profile says.
    async fn type_in(&self, text: &str) -> Result<()> {
        for byte in text.bytes() {
            nix::unistd::write(&self.shared.master, &[byte])
                .map_err(|errno| BackendError::io("cannot type on the console", errno))?;
            if let Some(pace) = self.pace {
                tokio::time::sleep(pace).await;
            }
        }
        Ok(())
    }

    async fn press_the_button(&self) -> Result<()> {
        let shutdown = &self.shared.profile.shutdown;
        self.run_state()?;
        match (shutdown.kind, &shutdown.signal, &shutdown.text) {
            (Way::Signal, Some(name), _) => match profile::signal(name) {
                Some(signal) => self.signal(signal),
                None => Err(self.lacks(Capability::Powerdown)),
            },
            (Way::Type, _, Some(text)) => self.type_in(text).await,
            _ => Err(self.lacks(Capability::Powerdown)),
        }
    }

    fn report(&self) -> Result<Report> {
        let stopped = self.run_state()? == RunState::Stopped;
        let ended = self.shared.ended();
        let state = match self.shared.phase.get() {
            _ if ended.is_some() => State::Shutdown,
            Phase::AtPrompt(_) => State::Paused,
            _ if stopped => State::Paused,
            Phase::Starting | Phase::Running => State::Running,
        };
        Ok(Report { state, ended, memory_mib: None, vcpus: None })
    }

    async fn end(&self) -> Result<Exit> {
        let destroy = &self.shared.profile.destroy;
        if let Some(signal) = destroy.signal.as_deref().and_then(profile::signal)
            && self.process.identity().alive()
        {
            let _gone = self.process.signal(signal);
            let wait = Duration::from_millis(destroy.wait_ms);
            let _still_there = tokio::time::timeout(wait, self.process.gone()).await;
        }
        ending::destroy(&self.process, self.exit.clone()).await
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Live for Terminal {
    fn backend(&self) -> &str {
        &self.shared.profile.name
    }

    fn process(&self) -> &Process {
        &self.process
    }

    fn events(&mut self) -> Option<mpsc::UnboundedReceiver<Event>> {
        self.receiver.take()
    }

    fn console(&mut self) -> Option<ConsoleEnd> {
        let stream = self.console.take()?;
        match self.shared.master.try_clone() {
            Ok(master) => Some(ConsoleEnd::Relay { stream, master, pace: self.pace }),
            Err(error) => {
                tracing::warn!(%error, "the console cannot be resized");
                Some(ConsoleEnd::Socket { stream, pace: self.pace })
            }
        }
    }

    fn pause(&mut self) -> Local<'_, Result<()>> {
        Box::pin(self.stop_or_go(true))
    }

    fn unpause(&mut self) -> Local<'_, Result<()>> {
        Box::pin(self.stop_or_go(false))
    }

    fn powerdown(&mut self) -> Local<'_, Result<()>> {
        Box::pin(self.press_the_button())
    }

    fn reset(&mut self) -> Local<'_, Result<()>> {
        Box::pin(async { Err(self.lacks(Capability::Reset)) })
    }

    fn query(&mut self) -> Local<'_, Result<Report>> {
        Box::pin(async { self.report() })
    }

    fn destroy(&mut self) -> Local<'_, Result<Exit>> {
        self.shared.destroyed.set(true);
        Box::pin(self.end())
    }
}
