//! One living emulator on a terminal.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use kxl_backend::process::RunState;
use kxl_backend::{
    BackendError, ConsoleEnd, Event, Exit, Live, Local, Process, Report, Result, SaveOrder,
    SavedState, StateSink, StateSize,
};
use kxl_domain::{Capability, State};
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use super::dialogue::Before;
use super::freezer::Freezer;
use super::identify::Nature;
use super::keeper::{Phase, Shared};
use crate::profile::{ConsoleKind, PauseWay};

/// How long a signal may take to show.
const SIGNAL: Duration = Duration::from_secs(5);

/// The handle.
pub(crate) struct Terminal {
    pub(crate) process: Rc<Process>,
    pub(crate) shared: Rc<Shared>,
    pub(crate) receiver: Option<mpsc::UnboundedReceiver<Event>>,
    pub(crate) console: Option<OwnedFd>,
    /// Where the console is offered to telnet.
    pub(crate) listener: Option<TcpListener>,
    pub(crate) exit: watch::Receiver<Option<Exit>>,
    /// The task beside it, and those that empty its streams.
    pub(crate) tasks: Vec<JoinHandle<()>>,
    /// The one of them that asks the guest to end.
    pub(crate) pressing: Option<AbortHandle>,
    pub(crate) pace: Option<Duration>,
    /// Kind of emulator, by its program's name.
    pub(crate) emulator: String,
    pub(crate) rundir: PathBuf,
    /// The program itself.
    pub(crate) program: PathBuf,
    /// Where it is remembered what programs are.
    pub(crate) cachedir: PathBuf,
    /// What a state of it depends on.
    pub(crate) shape: BTreeMap<String, String>,
    /// What it says it is, once it was asked.
    pub(crate) nature: Option<Nature>,
    /// How the machine stood before we brought it to its prompt.
    pub(crate) before: Option<Before>,
    /// It was told to come to its prompt and has not been seen there yet.
    pub(crate) interrupted: bool,
    /// A line was typed at the prompt and the next prompt has not been seen.
    pub(crate) owed: Cell<bool>,
    /// An earlier monitor may have typed one.
    pub(crate) unsure: bool,
    /// How often the machine is started by command files that go on when it stops.
    pub(crate) restarts: Restarts,
}

/// What a machine that was brought to a stop comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restarts {
    /// The prompt.
    Never,
    /// The next line of its command file, which lets it go on where it is.
    GoesOn,
    /// The next line of its command file, which starts it at another place.
    Anew,
}

impl Terminal {
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal).map_err(|error| {
            if self.process.identity().alive() {
                BackendError::io(format!("cannot send {signal} to the emulator"), error)
            } else {
                self.gone()
            }
        })
    }

    pub(super) fn gone(&self) -> BackendError {
        let told = self.exit.borrow().as_ref().map(|exit| exit.text.clone());
        BackendError::Exited { text: told.unwrap_or_else(|| "just now".into()) }
    }

    pub(super) fn run_state(&self) -> Result<RunState> {
        self.process.identity().stat().map(|stat| stat.state).ok_or_else(|| self.gone())
    }

    /// Stands still or goes on; nothing where it is so already.
    pub(super) async fn stop_or_go(&mut self, stop: bool) -> Result<()> {
        match self.shared.profile.pause.kind {
            PauseWay::None => Err(self.lacks(Capability::Pause)),
            PauseWay::Qmp => self.by_channel(stop).await,
            PauseWay::Freezer if self.shared.own.freezer.is_some() => self.by_freezer(stop).await,
            PauseWay::Signal | PauseWay::Freezer => self.by_signal(stop).await,
        }
    }

    async fn by_signal(&mut self, stop: bool) -> Result<()> {
        let stopped = self.run_state()? == RunState::Stopped;
        let at_prompt = matches!(self.shared.phase.get(), Phase::AtPrompt(_));
        if stop {
            // At a prompt that is ours nobody lets it go on.
            if stopped || at_prompt && self.shared.hold.held() {
                return Ok(());
            }
            self.signal_and_see(Signal::SIGSTOP, true).await?;
            let _nobody_listens = self.shared.events.send(Event::Stopped);
            return Ok(());
        }
        if stopped {
            self.signal_and_see(Signal::SIGCONT, false).await?;
        }
        if at_prompt {
            return self.go_on_from_prompt().await;
        }
        if stopped {
            let _nobody_listens = self.shared.events.send(Event::Resumed);
        }
        Ok(())
    }

    /// Sends STOP or CONT and waits until it shows.
    pub(super) async fn signal_and_see(&self, signal: Signal, stop: bool) -> Result<()> {
        self.signal(signal)?;
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
        })?
    }

    /// An emulator that stands at its prompt is told to go on.
    async fn go_on_from_prompt(&mut self) -> Result<()> {
        if let Some(how) = self.shared.ended() {
            let why = format!("the guest has ended ({how}) and can only be started anew");
            return Err(BackendError::Control { command: "unpause".into(), why });
        }
        if self.shared.hold.held() {
            return self.leave_prompt().await;
        }
        match self.shared.profile.control.go_on.clone() {
            Some(text) => self.shared.type_in(&format!("{text}\r"), self.pace).await,
            None => Err(self.lacks(Capability::Pause)),
        }
    }

    async fn report(&self) -> Result<Report> {
        let frozen = self.shared.own.freezer.as_ref().is_some_and(Freezer::frozen);
        let stopped = self.run_state()? == RunState::Stopped || frozen;
        if let Some(channel) = self.shared.channel.as_ref().filter(|_| !stopped) {
            let (state, ended) = (channel.state().await?, channel.ended());
            return Ok(Report { state, ended, memory_mib: None, vcpus: None });
        }
        let ended = self.shared.ended();
        let state = match self.shared.phase.get() {
            _ if ended.is_some() => State::Shutdown,
            Phase::AtPrompt(_) => State::Paused,
            _ if stopped => State::Paused,
            Phase::Starting | Phase::Running => State::Running,
        };
        Ok(Report { state, ended, memory_mib: None, vcpus: None })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
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
        if self.shared.profile.console.kind != ConsoleKind::Pty {
            return Some(ConsoleEnd::Socket { stream, pace: self.pace });
        }
        match self.shared.master.try_clone() {
            Ok(master) => Some(ConsoleEnd::Relay { stream, master, pace: self.pace }),
            Err(error) => {
                tracing::warn!(%error, "the console cannot be resized");
                Some(ConsoleEnd::Socket { stream, pace: self.pace })
            }
        }
    }

    fn guest_channel(&mut self) -> Option<OwnedFd> {
        self.shared.streams.channel()
    }

    fn console_listener(&mut self) -> Option<TcpListener> {
        self.listener.take()
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
        Box::pin(self.reset_by_channel())
    }

    fn state_size(&mut self) -> Local<'_, Result<StateSize>> {
        Box::pin(async { self.size() })
    }

    fn save_state(
        &mut self,
        order: SaveOrder,
        sink: Box<dyn StateSink>,
    ) -> Local<'_, Result<SavedState>> {
        Box::pin(self.save(order, sink))
    }

    fn go_on(&mut self, run: bool) -> Local<'_, Result<()>> {
        Box::pin(self.bring_back(run))
    }

    fn query(&mut self) -> Local<'_, Result<Report>> {
        Box::pin(self.report())
    }

    fn destroy(&mut self) -> Local<'_, Result<Exit>> {
        self.shared.destroyed.set(true);
        Box::pin(self.end())
    }
}
