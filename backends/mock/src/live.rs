//! One living mock.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use kxl_backend::{
    BackendError, ConsoleEnd, Event, Exit, Live, Local, Process, Report, Result, SaveOrder,
    SavedState, StateSink, StateSize,
};
use kxl_domain::{Capability, CapabilitySet, DomainConfig};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;

use crate::control::{Control, Unanswered};
use crate::hold;
use crate::protocol::{Status, With};
use crate::script::{Outcome, Script, Step};
use crate::watch::Watch;

/// How long a command may take.
pub(crate) const COMMAND: Duration = Duration::from_secs(5);

/// How long an answer to a query may take.
const QUERY: Duration = Duration::from_millis(150);

/// How long the end of the process may take once it was killed, with everything around it.
const DESTROY: Duration = Duration::from_secs(3);

/// How long an emulator that is scripted to die at its destroy may take to do so.
const DYING: Duration = Duration::from_secs(1);

/// How long a closed connection may be ahead of the news that the process has ended.
const NEWS: Duration = Duration::from_secs(1);

/// A handle on an emulator. Dropped, it leaves the emulator running for the next monitor.
#[derive(Debug)]
pub(crate) struct MockLive {
    pub(crate) process: Rc<Process>,
    pub(crate) control: Control,
    pub(crate) watch: Watch,
    pub(crate) events: Option<mpsc::UnboundedReceiver<Event>>,
    pub(crate) console: Option<ConsoleEnd>,
    pub(crate) capabilities: CapabilitySet,
    /// The configuration's part of the script.
    pub(crate) script: Script,
    pub(crate) rundir: PathBuf,
    /// What the machine was made from.
    pub(crate) config: DomainConfig,
}

impl MockLive {
    /// Refuses what the script took back.
    pub(crate) fn needs(&self, capability: Capability) -> Result<()> {
        if self.capabilities.has(capability) { Ok(()) } else { Err(self.lacks(capability)) }
    }

    async fn command(&mut self, step: Step, needs: Capability) -> Result<()> {
        self.needs(needs)?;
        self.ask(step, COMMAND).await.map(|_| ())
    }

    pub(crate) async fn ask(&mut self, step: Step, deadline: Duration) -> Result<Status> {
        self.ask_with(step, With::Nothing, deadline).await
    }

    pub(crate) async fn ask_with(
        &mut self,
        step: Step,
        with: With,
        deadline: Duration,
    ) -> Result<Status> {
        if let Some(exit) = self.watch.known() {
            return Err(BackendError::Exited { text: exit.text });
        }
        let script = hold::released(&self.script, &self.rundir, step).await?;
        match self.control.ask(step, &script, with, deadline).await {
            Ok(status) => Ok(status),
            Err(Unanswered::Lost) => match self.watch.exit(NEWS).await {
                Some(exit) => Err(BackendError::Exited { text: exit.text }),
                None => Err(Unanswered::Lost.error(step)),
            },
            Err(unanswered) => Err(unanswered.error(step)),
        }
    }

    /// The scripted part of a destroy, then the kill, then the wait.
    async fn end(&mut self) -> Result<()> {
        // A script that cannot be read must not keep the process alive.
        let script = self.script.with_file(&self.rundir).unwrap_or_else(|error| {
            tracing::warn!(%error, "destroying without the script file");
            self.script.clone()
        });
        let fault = script.fault(Step::Destroy);
        tokio::time::sleep(Duration::from_millis(fault.delay_ms)).await;
        match fault.outcome {
            Outcome::Obey | Outcome::Ignore => {}
            Outcome::Refuse => {
                let why = "refused as the script says".to_owned();
                return Err(Unanswered::Refused(why).error(Step::Destroy));
            }
            Outcome::Hang => std::future::pending().await,
            Outcome::Die => {
                self.watch.destroying();
                let mut script = script;
                script.clear_delay(Step::Destroy);
                // It ends before it answers, and its connection before itself; if it does not, the
                // kill below ends it.
                let dying = async {
                    let _lost =
                        self.control.ask(Step::Destroy, &script, With::Nothing, DYING).await;
                    self.process.gone().await
                };
                let _still_there = tokio::time::timeout(DYING, dying).await;
            }
        }
        self.watch.destroying();
        kill(&self.process)?;
        self.process
            .gone()
            .await
            .map_err(|error| BackendError::io("cannot watch the emulator", error))
    }
}

/// Takes the life of a process whatever its condition.
pub(crate) fn kill(process: &Process) -> Result<()> {
    for signal in [Signal::SIGKILL, Signal::SIGCONT] {
        match process.signal(signal) {
            Err(error) if error.raw_os_error() != Some(Errno::ESRCH as i32) => {
                let what = format!("cannot send {signal} to the emulator");
                return Err(BackendError::io(what, error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    if let Err(error) = process.thaw()
        && process.identity().alive()
    {
        tracing::warn!(%error, "the emulator's control group cannot be thawed");
    }
    Ok(())
}

impl Live for MockLive {
    fn backend(&self) -> &str {
        crate::backend::NAME
    }

    fn process(&self) -> &Process {
        &self.process
    }

    fn events(&mut self) -> Option<mpsc::UnboundedReceiver<Event>> {
        self.events.take()
    }

    fn console(&mut self) -> Option<ConsoleEnd> {
        self.console.take()
    }

    fn pause(&mut self) -> Local<'_, Result<()>> {
        Box::pin(self.command(Step::Pause, Capability::Pause))
    }

    fn unpause(&mut self) -> Local<'_, Result<()>> {
        Box::pin(self.command(Step::Unpause, Capability::Pause))
    }

    fn sleep(&mut self) -> Local<'_, Result<()>> {
        Box::pin(self.command(Step::Sleep, Capability::Sleep))
    }

    fn wake(&mut self) -> Local<'_, Result<()>> {
        Box::pin(self.command(Step::Wake, Capability::Sleep))
    }

    fn powerdown(&mut self) -> Local<'_, Result<()>> {
        Box::pin(self.command(Step::Powerdown, Capability::Powerdown))
    }

    fn reset(&mut self) -> Local<'_, Result<()>> {
        Box::pin(self.command(Step::Reset, Capability::Reset))
    }

    fn state_size(&mut self) -> Local<'_, Result<StateSize>> {
        Box::pin(self.size(COMMAND))
    }

    fn save_state(
        &mut self,
        order: SaveOrder,
        sink: Box<dyn StateSink>,
    ) -> Local<'_, Result<SavedState>> {
        Box::pin(self.save(order, sink))
    }

    fn go_on(&mut self, run: bool) -> Local<'_, Result<()>> {
        Box::pin(self.stand_or_go(run))
    }

    fn set_clock(&mut self) -> Local<'_, Result<bool>> {
        Box::pin(async { self.ask(Step::SetClock, COMMAND).await.map(|_| true) })
    }

    fn query(&mut self) -> Local<'_, Result<Report>> {
        Box::pin(async {
            let status = self.ask(Step::Status, QUERY).await?;
            Ok(Report {
                state: status.state,
                ended: status.ended,
                memory_mib: Some(status.machine.memory_mib),
                vcpus: Some(status.machine.vcpus),
            })
        })
    }

    fn destroy(&mut self) -> Local<'_, Result<Exit>> {
        Box::pin(async {
            if let Some(exit) = self.watch.known() {
                return Ok(exit);
            }
            match tokio::time::timeout(DESTROY, self.end()).await {
                Ok(ended) => ended?,
                Err(_) => {
                    let waited_for = "end of the emulator".to_owned();
                    return Err(BackendError::TimedOut { waited_for, after: DESTROY });
                }
            }
            // Where somebody else reaps it, how it ended may show seconds later: too late for us.
            let known = self.watch.exit(Duration::from_millis(200)).await;
            let text = "destroyed".to_owned();
            Ok(known.unwrap_or(Exit { code: None, signal: None, meaning: None, text }))
        })
    }
}
