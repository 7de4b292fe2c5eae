//! One live domain, from the inside of its monitor: the only code that acts on an emulator.
//!
//! Every verb goes the same way: decide by the table, check the capability, write the operation,
//! act, write the resting state and clear the operation. What follows when a guest ends is looked
//! up in the policy table ([`crate::ending`]). Other tasks of the monitor see the domain through
//! [`Snapshot`]s only.

use std::time::Duration;

use kxl_backend::{Attachments, Backend, BackendError, Event, Identity, Live, Process};
use kxl_domain::state::Status;
use kxl_domain::{
    Capability, DomId, DomainName, DomainUuid, Failure, Kind, Op, Reason, State, Verb, Verdict,
    Wanted, decide,
};
use kxl_store::{Asked, LiveChange, LiveRow, Paths, Settle, Severity, Store};
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};

use crate::error::{denied, unsupported};
use crate::host::Conf;
use crate::recorder::{RowRecorder, identity_of};
use crate::spec::launch_spec;
use crate::steps::{Step, reach};
use crate::{affinity, cgroup};

/// How long a killed process may take to go.
const KILL_DEADLINE: Duration = Duration::from_secs(3);

/// What the rest of the monitor may know of the domain; published at every change.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Durable identity.
    pub uuid: DomainUuid,
    /// Name.
    pub name: DomainName,
    /// Live number.
    pub domid: DomId,
    /// The last wish.
    pub wanted: Wanted,
    /// Resting state.
    pub state: State,
    /// Operation in flight.
    pub op: Option<Op>,
    /// Why it is in its state.
    pub reason: Option<Reason>,
    /// Pid of the emulator.
    pub pid: Option<i32>,
    /// Memory in MiB, last reported.
    pub memory_mib: u64,
    /// Virtual CPUs, last reported.
    pub vcpus: u32,
    /// Start of this run, milliseconds since the epoch.
    pub started_ms: u64,
    /// VNC address.
    pub vnc: Option<String>,
    /// The last end of a run: its domid, and why.
    pub last_end: Option<(DomId, Reason)>,
    /// How many runs have ended. Waiters compare it with what they saw before.
    pub ends: u64,
    /// Nothing follows: the domain has no emulator any more.
    pub over: bool,
}

/// What the monitor does after a step of the domain's life.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on; nothing about the emulator's streams changed.
    Continue,
    /// A new emulator runs: take its events and its console.
    Relaunched,
    /// The domain is at rest: tell everybody and end.
    Over,
}

/// A live domain. Owned by the monitor's one task.
pub struct LiveDomain {
    pub(crate) paths: Paths,
    pub(crate) store: Store,
    pub(crate) conf: Conf,
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) row: LiveRow,
    pub(crate) live: Option<Box<dyn Live>>,
    pub(crate) attachments: Attachments,
    last_end: Option<(DomId, Reason)>,
    ends: u64,
    /// The next reset that the emulator reports is our own.
    pub(crate) reset_by_us: bool,
    /// The end that could not be written yet.
    unsettled: Option<Settle>,
    publisher: watch::Sender<Snapshot>,
}

impl std::fmt::Debug for LiveDomain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveDomain").field("row", &self.row).finish_non_exhaustive()
    }
}

impl LiveDomain {
    /// The domain of a live row; nothing is started or adopted yet.
    #[must_use]
    pub fn new(
        paths: Paths,
        store: Store,
        conf: Conf,
        backend: Box<dyn Backend>,
        row: LiveRow,
    ) -> Self {
        let snapshot = Snapshot {
            uuid: row.uuid,
            name: row.name.clone(),
            domid: row.domid,
            wanted: row.wanted,
            state: row.state,
            op: row.op,
            reason: row.reason,
            pid: row.process.as_ref().map(|p| p.pid),
            memory_mib: row.memory_mib,
            vcpus: row.vcpus,
            started_ms: started(&row),
            vnc: None,
            last_end: None,
            ends: 0,
            over: false,
        };
        let (publisher, _) = watch::channel(snapshot);
        let attachments = row
            .attachments
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        Self {
            paths,
            store,
            conf,
            backend,
            row,
            live: None,
            attachments,
            last_end: None,
            ends: 0,
            reset_by_us: false,
            unsettled: None,
            publisher,
        }
    }

    /// A receiver of snapshots.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.publisher.subscribe()
    }

    /// The row as last written.
    #[must_use]
    pub const fn row(&self) -> &LiveRow {
        &self.row
    }

    /// The emulator's event stream, once per emulator.
    pub fn events(&mut self) -> Option<mpsc::UnboundedReceiver<Event>> {
        self.live.as_mut().and_then(|live| live.events())
    }

    /// The emulator's console, once per emulator.
    pub fn console(&mut self) -> Option<kxl_backend::ConsoleEnd> {
        self.live.as_mut().and_then(|live| live.console())
    }

    /// Launches the emulator of a claimed row (op `starting`).
    ///
    /// Cancel-safe: when the future is dropped no process is left; the row keeps its operation and
    /// the next step is [`Self::verb`] with `destroy`.
    ///
    /// # Errors
    /// Why it did not start. The record is settled before: failed for a managed domain, gone for a
    /// transient one.
    pub async fn launch(&mut self) -> Result<(), Failure> {
        match self.try_launch().await {
            Ok(()) => Ok(()),
            Err(error) => {
                let name = self.row.name.clone();
                let kind = error_kind(&error);
                let failure =
                    Failure::because(kind, format!("cannot start domain \"{name}\""), &error);
                self.event(Severity::Warning, "start-failed", None, &failure.to_string());
                self.settle(State::Failed, Reason::StartFailed, &error.to_string(), None);
                Err(failure)
            }
        }
    }

    async fn try_launch(&mut self) -> Result<(), BackendError> {
        let groups = cgroup::prepare(self.row.uuid, &self.row.config);
        for warning in &groups.warnings {
            self.event(Severity::Warning, "limit-missing", None, warning);
        }
        let spec = launch_spec(&self.paths, &self.conf, &self.row, groups.dirs);
        self.backend.check(&spec)?;
        let mut recorder = RowRecorder::new(&self.store, self.row.uuid);
        let launched = self.backend.launch(&spec, &mut recorder).await;
        let recorded = recorder.into_recorded();
        let live = launched?;
        let pid = live.process().identity().pid;
        reach(Step::Launched, Some(pid));
        if let Some((process, attachments)) = recorded {
            self.row.process = Some(process);
            self.row.started_ms = Some(kxl_store::now_ms());
            self.attachments = attachments;
        }
        self.live = Some(live);
        if let Some(warning) = affinity::apply(pid, &self.row.config.cpus) {
            self.event(Severity::Warning, "affinity-missing", None, &warning);
        }
        let state = if spec.paused { State::Paused } else { State::Running };
        // The wish goes into the record of a managed domain here: it is the last one by now.
        let more = LiveChange { wanted: Some(self.row.wanted), ..LiveChange::default() };
        self.rest(state, None, more);
        reach(Step::Started, Some(pid));
        self.event(Severity::Info, "started", None, "");
        Ok(())
    }

    /// Takes up the emulator that an earlier monitor left, or settles the record when there is
    /// none. What the policy says about a guest that ended meanwhile is done by the events that
    /// the backend reports next.
    ///
    /// # Errors
    /// When the emulator lives and cannot be taken up; the domain is left as it is.
    pub async fn adopt(&mut self) -> Result<Next, Failure> {
        let identity = self.row.process.clone().map(|row| identity_of(&row));
        let Some(identity) = identity.filter(Identity::alive) else {
            return self.emulator_was_lost().await;
        };
        let spec = launch_spec(&self.paths, &self.conf, &self.row, Vec::new());
        let attachments = self.attachments.clone();
        match self.backend.adopt(&spec, identity, &attachments).await {
            Ok(live) => {
                self.live = Some(live);
                self.take_stock().await
            }
            Err(BackendError::Exited { .. }) => self.emulator_was_lost().await,
            Err(error) => Err(Failure::because(
                error_kind(&error),
                format!("cannot adopt domain \"{}\"", self.row.name),
                &error,
            )
            .hint(format!("kxl destroy {}", self.row.name))),
        }
    }

    /// Asks the adopted emulator where it stands and writes that down.
    async fn take_stock(&mut self) -> Result<Next, Failure> {
        let interrupted = self.row.op;
        let Some(live) = self.live.as_mut() else { return Ok(Next::Continue) };
        let seen = match live.query().await {
            Ok(report) => report.state,
            // It is stopped or slow: what was recorded stays the best knowledge.
            Err(error) if error.is_timeout() && self.row.state.is_live() => self.row.state,
            Err(error) if error.is_timeout() => State::Running,
            Err(error) => {
                let attempt = format!("cannot adopt domain \"{}\"", self.row.name);
                return Err(Failure::because(error_kind(&error), attempt, &error));
            }
        };
        if interrupted == Some(Op::Stopping) {
            // A destroy that was cut off between its record and its signal is carried through.
            self.event(Severity::Info, "adopted", None, "finishing what was cut off");
            return self.go_on_stopping().await;
        }
        let mut state = seen;
        if interrupted == Some(Op::Starting) && self.row.wanted != Wanted::Paused {
            // The launch was cut off before its last step, which lets the guest run.
            if let (State::Paused, Some(live)) = (seen, self.live.as_mut())
                && live.unpause().await.is_ok()
            {
                state = State::Running;
            }
        }
        // A guest's end is written by the event that follows, with its reason.
        if state != State::Shutdown {
            self.rest(state, None, LiveChange::default());
        }
        self.event(Severity::Warning, "adopted", None, "its monitor had died");
        if state == State::Shutdown && self.row.state == State::Shutdown {
            // The end is written already, so its event is passed over; what follows may not be.
            return self.follow_recorded_end().await;
        }
        Ok(Next::Continue)
    }

    /// Writes a resting state with a process and clears the operation.
    pub(crate) fn rest(&mut self, state: State, reason: Option<Reason>, more: LiveChange) {
        self.row.state = state;
        self.row.op = None;
        self.row.reason = reason;
        let change =
            LiveChange { state: Some(state), op: Some(None), reason: Some(reason), ..more };
        self.change(&change);
    }

    /// Writes a change of the live row and publishes it.
    ///
    /// What has happened to an emulator has happened, and a full disk must keep nobody from
    /// pausing, shutting down or destroying: a failed write is logged, and a later monitor reads
    /// the truth off the emulator. A start is refused all the same: its identity cannot be
    /// recorded ([`crate::recorder`]).
    pub(crate) fn change(&mut self, change: &LiveChange) {
        if let Err(error) = self.store.change_live(self.row.uuid, change) {
            tracing::error!(%error, name = %self.row.name, "the live row is behind");
        }
        self.publish();
    }

    /// Notes the end of this run for those who wait for it; published with the next change.
    pub(crate) fn note_end(&mut self, reason: Reason) {
        self.last_end = Some((self.row.domid, reason));
        self.ends += 1;
    }

    pub(crate) fn publish(&self) {
        let row = &self.row;
        self.publisher.send_replace(Snapshot {
            uuid: row.uuid,
            name: row.name.clone(),
            domid: row.domid,
            wanted: row.wanted,
            state: row.state,
            op: row.op,
            reason: row.reason,
            pid: self.live.as_ref().map(|live| live.process().identity().pid),
            memory_mib: row.memory_mib,
            vcpus: row.vcpus,
            started_ms: started(row),
            vnc: self.attachments.vnc.clone(),
            last_end: self.last_end,
            ends: self.ends,
            over: !row.state.is_live() && row.op.is_none(),
        });
    }

    /// Writes an event; the log has it when the database does not take it.
    pub(crate) fn event(
        &mut self,
        severity: Severity,
        what: &str,
        action: Option<&str>,
        text: &str,
    ) {
        tracing::info!(domid = self.row.domid.0, name = %self.row.name, what, text, "event");
        let mut event = kxl_store::Event::new(severity, what)
            .of(self.row.uuid, &self.row.name, Some(self.row.domid))
            .reason(self.row.reason)
            .text(text);
        event.action = action.map(str::to_owned);
        if let Err(error) = self.store.event(&event) {
            tracing::warn!(%error, "event not recorded");
        }
    }

    /// The end of the domain's live record.
    ///
    /// A write that fails is kept and tried again ([`Self::settle_again`]): without it the next
    /// monitor would take the end for a crash.
    pub(crate) fn settle(
        &mut self,
        state: State,
        reason: Reason,
        detail: &str,
        wanted: Option<Wanted>,
    ) -> Next {
        self.row.state = state;
        self.row.op = None;
        self.row.reason = Some(reason);
        if self.last_end.is_none_or(|(domid, _)| domid != self.row.domid) {
            self.note_end(reason);
        }
        if let Some(wanted) = wanted {
            self.row.wanted = wanted;
        }
        self.unsettled =
            Some(Settle { state, reason: Some(reason), detail: detail.to_owned(), wanted });
        self.settle_again();
        reach(Step::Removed, None);
        cgroup::remove(self.row.uuid);
        self.publish();
        Next::Over
    }

    /// Writes the end of the live record if it is not written yet; `true` when nothing is left to
    /// be written.
    pub fn settle_again(&mut self) -> bool {
        let Some(settle) = &self.unsettled else { return true };
        match self.store.settle(self.row.uuid, settle) {
            Ok(()) => self.unsettled = None,
            Err(error) => {
                tracing::error!(%error, name = %self.row.name, "the end is not recorded yet");
            }
        }
        self.unsettled.is_none()
    }

    /// Carries out a verb on the live domain.
    ///
    /// # Errors
    /// Refusals by the table ([`Kind::Denied`]) or the backend ([`Kind::Unsupported`]) change
    /// nothing; failures of the emulator leave the domain as the rule's failure column says.
    pub async fn verb(&mut self, verb: Verb) -> Result<(Verdict, Next), Failure> {
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

    /// Writes down that what the policy wants could not be done; the domain rests as it is.
    pub fn policy_failed(&mut self, failure: &Failure) {
        self.event(Severity::Alert, "policy-failed", None, &failure.to_string());
    }

    /// The emulator that could not be adopted (it hangs), so that somebody watches for its end.
    #[must_use]
    pub fn orphan(&self) -> Option<Process> {
        let row = self.row.process.as_ref().filter(|_| self.live.is_none())?;
        Process::open(identity_of(row)).ok()
    }

    fn require(&self, verb: Verb, need: Capability) -> Result<(), Failure> {
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

    fn cannot(&self, verb: Verb, error: &BackendError) -> Failure {
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

    /// `shutdown` and `reboot`: the wish is written first, so that a monitor that adopts the
    /// domain later knows what the guest's power-off means.
    async fn ask(&mut self, asked: Asked, verb: Verb) -> Result<Next, Failure> {
        let before = (self.row.asked, self.row.wanted);
        if asked == Asked::Poweroff {
            self.row.wanted = Wanted::Halted;
        }
        self.row.asked = Some(asked);
        let wanted = self.row.wanted;
        self.change(&LiveChange {
            asked: Some(Some(asked)),
            wanted: Some(wanted),
            ..LiveChange::default()
        });
        let pid = self.row.process.as_ref().map(|p| p.pid);
        reach(Step::Asked, pid);
        if let Err(error) = self.emulator()?.powerdown().await {
            (self.row.asked, self.row.wanted) = before;
            self.change(&LiveChange {
                asked: Some(before.0),
                wanted: Some(before.1),
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
        self.row.wanted = Wanted::Halted;
        self.begin_stopping();
        let destroyed = self.finish_stopping().await;
        if destroyed.is_err() {
            // It stands where it stood, and its end is still followed when it comes.
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
            ..LiveChange::default()
        };
        self.change(&change);
        reach(Step::Stopping, self.row.process.as_ref().map(|p| p.pid));
    }

    /// Op `stopping` of an earlier monitor: a person's destroy, or the clean-up after a guest that
    /// had ended, which its policy may want to be followed by a restart.
    async fn go_on_stopping(&mut self) -> Result<Next, Failure> {
        let ended = self.row.reason.filter(|_| self.row.state == State::Shutdown);
        match ended {
            Some(_) if self.row.wanted != Wanted::Halted => self.follow_recorded_end().await,
            Some(reason) => {
                self.end_emulator(Verb::Destroy).await?;
                Ok(self.settle(State::Halted, reason, "", Some(Wanted::Halted)))
            }
            None => self.finish_stopping().await,
        }
    }

    async fn finish_stopping(&mut self) -> Result<Next, Failure> {
        self.end_emulator(Verb::Destroy).await?;
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

    /// Whether the emulator answers within its query deadline; updates what it reports.
    pub async fn probe(&mut self) -> bool {
        // One that could not be adopted does not answer.
        let Some(live) = self.live.as_mut() else { return self.row.process.is_none() };
        match live.query().await {
            Ok(report) => {
                let memory = report.memory_mib.unwrap_or(self.row.memory_mib);
                let vcpus = report.vcpus.unwrap_or(self.row.vcpus);
                if (memory, vcpus) != (self.row.memory_mib, self.row.vcpus) {
                    (self.row.memory_mib, self.row.vcpus) = (memory, vcpus);
                    self.publish();
                }
                true
            }
            Err(error) => !error.is_timeout(),
        }
    }

    /// How long this run has lasted.
    pub(crate) fn ran_for(&self) -> Duration {
        let ms = self.row.started_ms.map_or(0, |started| kxl_store::now_ms() - started);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
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

fn started(row: &LiveRow) -> u64 {
    row.started_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0)
}

pub(crate) fn error_kind(error: &BackendError) -> Kind {
    match error {
        BackendError::Unsupported { .. } => Kind::Unsupported,
        BackendError::TimedOut { .. } => Kind::TimedOut,
        BackendError::Config { .. }
        | BackendError::Missing { .. }
        | BackendError::Launch { .. }
        | BackendError::Control { .. }
        | BackendError::Exited { .. }
        | BackendError::Io { .. } => Kind::Failed,
    }
}
