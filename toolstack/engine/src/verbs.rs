//! The verbs of a live domain, each a few lines: decide by the table, check the capability, write
//! the operation, act, write where it rests.

use std::time::Duration;

use kxl_backend::{BackendError, Identity, Live, Process};
use kxl_domain::state::Status;
use kxl_domain::supervision::Record;
use kxl_domain::{Capability, Failure, Kind, Op, Reason, State, Verb, Verdict, Wanted, decide};
use kxl_store::{Asked, LiveChange, Severity};
use nix::sys::signal::Signal;

use crate::error::{denied, unsupported};
use crate::live::{LiveDomain, Next, error_kind};
use crate::recorder::identity_of;
use crate::steps::{Step, reach};

/// How long a killed process may take to go.
const KILL_DEADLINE: Duration = Duration::from_secs(3);

impl LiveDomain {
    /// Carries out a verb on the live domain.
    ///
    /// # Errors
    /// Refusals by the table ([`Kind::Denied`]) or the backend ([`Kind::Unsupported`]) change
    /// nothing; failures of the emulator leave the domain as the rule's failure column says.
    pub async fn verb(&mut self, verb: Verb) -> Result<(Verdict, Next), Failure> {
        // There is no guest to be asked, and nothing but the next try to be stopped.
        let verb = if verb == Verb::Shutdown && self.waits() { Verb::Destroy } else { verb };
        let status = Status { state: self.row.state, op: self.row.op };
        let rule = match decide(status, verb) {
            Verdict::Go(rule) => rule,
            Verdict::Already => return Ok((Verdict::Already, Next::Continue)),
            Verdict::Denied(reason) => return Err(denied(&self.row.name, reason)),
        };
        if let Some(need) = rule.needs {
            self.require(verb, need)?;
        }
        let next = match verb {
            Verb::Pause => self.pause().await?,
            Verb::Unpause => self.unpause().await?,
            Verb::Sleep => self.sleep().await?,
            Verb::Wake => self.wake().await?,
            Verb::Shutdown => self.ask(Asked::Poweroff, verb).await?,
            Verb::Reboot => self.ask(Asked::Reboot, verb).await?,
            Verb::Reset => self.reset().await?,
            Verb::Destroy => self.destroy().await?,
            other => {
                let text = format!("{other} is no verb for a monitor");
                return Err(Failure::new(Kind::Internal, text));
            }
        };
        Ok((Verdict::Go(rule), next))
    }

    pub(crate) fn require(&self, verb: Verb, need: Capability) -> Result<(), Failure> {
        if self.backend.capabilities(&self.row.config).has(need) {
            Ok(())
        } else {
            Err(unsupported(verb, &self.row.name, self.backend.name(), need))
        }
    }

    /// The living emulator, or the refusal.
    pub(crate) fn emulator(&mut self) -> Result<&mut Box<dyn Live>, Failure> {
        let text = format!("domain \"{}\" has no emulator", self.row.name);
        self.live.as_mut().ok_or_else(|| Failure::new(Kind::Internal, text))
    }

    pub(crate) fn cannot(&self, verb: Verb, error: &BackendError) -> Failure {
        let attempt =
            format!("cannot {verb} domain \"{}\" (domid {})", self.row.name, self.row.domid);
        Failure::because(error_kind(error), attempt, error)
    }

    async fn pause(&mut self) -> Result<Next, Failure> {
        let result = self.emulator()?.pause().await;
        result.map_err(|error| self.cannot(Verb::Pause, &error))?;
        self.row.wanted = Wanted::Paused;
        let more = LiveChange { wanted: Some(Wanted::Paused), ..LiveChange::default() };
        self.rest(State::Paused, None, more);
        self.event(Severity::Info, "paused", None, "");
        Ok(Next::Continue)
    }

    async fn unpause(&mut self) -> Result<Next, Failure> {
        let result = self.emulator()?.unpause().await;
        result.map_err(|error| self.cannot(Verb::Unpause, &error))?;
        self.row.wanted = Wanted::Running;
        let more = LiveChange { wanted: Some(Wanted::Running), ..LiveChange::default() };
        self.rest(State::Running, None, more);
        self.event(Severity::Info, "unpaused", None, "");
        Ok(Next::Continue)
    }

    /// Nothing is changed about the wish: whoever sleeps is to go on.
    async fn sleep(&mut self) -> Result<Next, Failure> {
        let result = self.emulator()?.sleep().await;
        result.map_err(|error| self.cannot(Verb::Sleep, &error))?;
        self.rest(State::Asleep, None, LiveChange::default());
        self.event(Severity::Info, "asleep", None, "");
        Ok(Next::Continue)
    }

    async fn wake(&mut self) -> Result<Next, Failure> {
        let result = self.emulator()?.wake().await;
        result.map_err(|error| self.cannot(Verb::Wake, &error))?;
        self.rest(State::Running, None, LiveChange::default());
        self.event(Severity::Info, "awake", None, "");
        Ok(Next::Continue)
    }

    /// `shutdown` and `reboot`: the wish is written first, so that a monitor that adopts the
    /// domain later knows what the guest's power-off means.
    async fn ask(&mut self, asked: Asked, verb: Verb) -> Result<Next, Failure> {
        let before = (self.row.asked, self.row.wanted, self.row.supervision.clone());
        if asked == Asked::Poweroff {
            self.row.wanted = Wanted::Halted;
        }
        self.row.supervision.stopped_by_person = asked == Asked::Poweroff;
        self.row.asked = Some(asked);
        let wanted = self.row.wanted;
        self.change(&LiveChange {
            asked: Some(Some(asked)),
            wanted: Some(wanted),
            supervision: Some(self.row.supervision.clone()),
            ..LiveChange::default()
        });
        let pid = self.row.process.as_ref().map(|p| p.pid);
        reach(Step::Asked, pid);
        if let Err(error) = self.emulator()?.powerdown().await {
            (self.row.asked, self.row.wanted, self.row.supervision) = before.clone();
            self.change(&LiveChange {
                asked: Some(before.0),
                wanted: Some(before.1),
                supervision: Some(before.2),
                ..LiveChange::default()
            });
            return Err(self.cannot(verb, &error));
        }
        reach(Step::Sent, pid);
        self.event(Severity::Info, "asked", Some(verb.as_str()), "");
        Ok(Next::Continue)
    }

    async fn reset(&mut self) -> Result<Next, Failure> {
        let before = self.row.state;
        self.row.op = Some(Op::Resetting);
        self.change(&LiveChange { op: Some(Some(Op::Resetting)), ..LiveChange::default() });
        self.reset_by_us = true;
        let result = self.emulator()?.reset().await;
        if let Err(error) = result {
            self.reset_by_us = false;
            self.rest(before, None, LiveChange::default());
            return Err(self.cannot(Verb::Reset, &error));
        }
        self.row.wanted = Wanted::Running;
        self.row.asked = None;
        self.begin_start();
        let more = LiveChange {
            wanted: Some(Wanted::Running),
            asked: Some(None),
            ..LiveChange::default()
        };
        self.rest(State::Running, None, more);
        self.event(Severity::Info, "reset", None, "");
        Ok(Next::Continue)
    }

    async fn destroy(&mut self) -> Result<Next, Failure> {
        let (state, reason) = (self.row.state, self.row.reason);
        let before = self.row.supervision.clone();
        self.row.wanted = Wanted::Halted;
        self.row.supervision.stopped_by_person = true;
        // Written after the power is taken, with the time of now: nothing comes before that.
        let began = self.compose(Severity::Info, "destroying", None, "");
        self.begin_stopping();
        let destroyed = self.finish_stopping(Some(&began)).await;
        if let Err(failure) = &destroyed {
            self.event(Severity::Alert, "stop-failed", None, &failure.to_string());
            // It stands where it stood, and its end is still followed when it comes.
            self.row.supervision = Record { stopped_by_person: true, ..before };
            self.rest(state, reason, LiveChange::default());
        }
        destroyed
    }

    /// Writes op `stopping`.
    pub(crate) fn begin_stopping(&mut self) {
        self.row.op = Some(Op::Stopping);
        let wanted = self.row.wanted;
        let change = LiveChange {
            op: Some(Some(Op::Stopping)),
            wanted: Some(wanted),
            supervision: Some(self.row.supervision.clone()),
            ..LiveChange::default()
        };
        self.change(&change);
        reach(Step::Stopping, self.row.process.as_ref().map(|p| p.pid));
    }

    pub(crate) async fn finish_stopping(
        &mut self,
        began: Option<&kxl_store::Event>,
    ) -> Result<Next, Failure> {
        self.end_emulator(Verb::Destroy).await?;
        if let Some(began) = began {
            self.write_event(began);
        }
        self.row.supervision =
            Record { stopped_by_person: true, ..Record::fresh(&self.row.supervision) };
        let next = self.settle(State::Halted, Reason::Destroyed, "", Some(Wanted::Halted));
        self.event(Severity::Info, "destroyed", None, "");
        Ok(next)
    }

    /// Ends the emulator, if there is one, and forgets the handle.
    pub(crate) async fn end_emulator(&mut self, verb: Verb) -> Result<(), Failure> {
        if let Some(live) = self.live.as_mut() {
            let result = live.destroy().await;
            result.map_err(|error| self.cannot(verb, &error))?;
        } else if let Some(identity) = self.row.process.as_ref().map(identity_of) {
            // It could not be taken up (it hangs): there is no handle, but its identity is known.
            let result = kill(identity).await;
            result.map_err(|error| self.cannot(verb, &error))?;
        }
        self.live = None;
        self.row.process = None;
        reach(Step::Killed, None);
        Ok(())
    }
}

/// Ends a process that no backend holds: killed, continued and thawed, and gone within 3 s.
async fn kill(identity: Identity) -> Result<(), BackendError> {
    let Ok(process) = Process::open(identity) else { return Ok(()) };
    let failed = |error| BackendError::io("kill the emulator", error);
    // Each may find it gone already; whether it is gone is what is waited for.
    for signal in [Signal::SIGKILL, Signal::SIGCONT] {
        if let Err(error) = process.signal(signal) {
            tracing::debug!(%error, %signal, "not signalled");
        }
    }
    // A frozen process takes the signals only when it is thawed.
    if let Err(error) = process.thaw() {
        tracing::debug!(%error, "not thawed");
    }
    match tokio::time::timeout(KILL_DEADLINE, process.gone()).await {
        Ok(gone) => gone.map_err(failed),
        Err(_) => Err(BackendError::TimedOut {
            waited_for: "end of the killed emulator".to_owned(),
            after: KILL_DEADLINE,
        }),
    }
}
