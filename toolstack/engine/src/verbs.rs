//! The verbs of a live domain, each a few lines: decide by the table, check the capability, write
//! the operation, act, write where it rests.

use kxl_backend::{BackendError, Live};
use kxl_domain::state::Status;
use kxl_domain::{Capability, Failure, Kind, Op, State, Verb, Verdict, Wanted, decide};
use kxl_store::{Asked, LiveChange, Severity};

use crate::error::{denied, unsupported};
use crate::live::{LiveDomain, Next, error_kind};

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
        // A script of the operator's is as good as a power button.
        let by_script = verb == Verb::Shutdown && self.ready_stop_script().is_some();
        if by_script || self.backend.capabilities(&self.row.config).has(need) {
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
}
