//! One live domain, from the inside of its monitor: the only code that acts on an emulator.
//!
//! Here are its launch and its records. Its verbs are in [`crate::verbs`], what follows when a guest
//! ends in [`crate::ending`], taking up what an earlier monitor left in [`crate::adoption`]. Other
//! tasks of the monitor see the domain through [`Snapshot`]s only.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kxl_backend::{
    Attachments, Backend, BackendError, Event, LaunchSpec, Live, StateSource, Watch,
};
use kxl_control::MonitorStatus;
use kxl_domain::{DomId, Failure, ImageId, Kind, Op, Reason, State, Verb};
use kxl_store::{LiveChange, LiveRow, Paths, Settle, Severity, Store, boot_ms, now_ms};
use tokio::sync::{mpsc, watch};

use crate::conf::Conf;
use crate::recorder::RowRecorder;
use crate::restoring::Back;
use crate::spec::launch_spec;
use crate::steps::{Step, reach};
use crate::stop_script::Shutting;
use crate::verifying::Verifier;
use crate::{affinity, ahead, cgroup};

/// What the rest of the monitor may know of the domain; published at every change.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What a client is told; `answering` is for the one who asks the emulator.
    pub status: MonitorStatus,
    /// The last end of a run: its domid, and why.
    pub last_end: Option<(DomId, Reason)>,
    /// How many runs have ended. Waiters compare it with what they saw before.
    pub ends: u64,
    /// Nothing follows: the domain has no emulator any more.
    pub over: bool,
    /// It is to be launched in a moment, and there is nothing yet: a shutdown keeps it off.
    pub pausing: bool,
    /// Why its guest could not be asked to end, while it is being stopped.
    pub unheard: Option<String>,
}

/// What the monitor does after a step of the domain's life.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on; nothing about the emulator's streams changed.
    Continue,
    /// A new emulator runs: take its events and its console.
    Relaunched,
    /// There is no emulator for now: nothing more is to be heard of the last one.
    Parted,
    /// The domain is at rest: tell everybody and end.
    Over,
}

/// A launch that succeeded and is not written down yet.
#[derive(Debug)]
#[must_use = "until it is written down the domain is on its way up"]
pub enum Launched {
    /// The guest boots, or stands before its first instruction.
    Booted(State),
    /// It came back from an image.
    Back(Box<Back>),
    /// It could not be launched, for this reason, and is tried again: it is supervised.
    Waits(Failure),
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
    pub(crate) last_end: Option<(DomId, Reason)>,
    ends: u64,
    /// The next reset that the emulator reports is our own.
    pub(crate) reset_by_us: bool,
    /// The saves in the journal whose outcome is not recorded yet.
    pub(crate) journalled: Vec<ImageId>,
    /// The check of the image that the guest came from, while it goes on.
    pub(crate) verifier: Option<Verifier>,
    /// The end that could not be written yet.
    pub(crate) unsettled: Option<Settle>,
    /// The last launch failed in a way in which the next one would fail, too.
    hopeless: bool,
    /// Why the guest could not be asked to end.
    pub(crate) unheard: Option<String>,
    /// The stop script that runs.
    pub(crate) shutting: Option<Shutting>,
    /// Why the stop that is being carried through has failed.
    pub(crate) stop_failed: Option<String>,
    /// It is on its way up, and nothing is done about that at this moment but waiting.
    pub(crate) pausing: bool,
    /// Alerts that the disk did not take yet, oldest first.
    pub(crate) untold: VecDeque<kxl_store::Event>,
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
        mut row: LiveRow,
    ) -> Self {
        row.supervision = row.supervision.taken_over(row.config.stop.wait_secs, boot_ms());
        let pid = row.process.as_ref().map(|process| process.pid);
        let status = status_of(&row, pid, None);
        let snapshot = Snapshot {
            status,
            last_end: None,
            ends: 0,
            over: false,
            pausing: false,
            unheard: None,
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
            journalled: Vec::new(),
            verifier: None,
            unsettled: None,
            hopeless: false,
            unheard: None,
            shutting: None,
            stop_failed: None,
            pausing: false,
            untold: VecDeque::new(),
            publisher,
        }
    }

    /// Closes the databases and gives their memory back until they are used again. For a domain
    /// that nothing happens to for a while.
    pub fn idle(&mut self) {
        self.tell_untold();
        self.store.release();
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

    /// Where the console is offered to telnet, once per emulator.
    pub fn console_listener(&mut self) -> Option<std::net::TcpListener> {
        self.live.as_mut().and_then(|live| live.console_listener())
    }

    /// The host's end of the guest's port, once per emulator.
    pub fn guest_channel(&mut self) -> Option<std::os::fd::OwnedFd> {
        self.live.as_mut().and_then(|live| live.guest_channel())
    }

    /// Launches the emulator of a claimed row (op `starting`, `restoring` or `resuming`). `watch`
    /// tells how much of a state was read. The guest runs; [`Self::is_up`] writes that down, so
    /// that nobody who listens to it waits for the disk.
    ///
    /// Cancel-safe: when the future is dropped no process is left; the row keeps its operation and
    /// the next step is [`Self::verb`] with `destroy`.
    ///
    /// # Errors
    /// Why it did not start. The record is settled before: failed for a managed domain, gone for a
    /// transient one, and suspended again for one whose image did not come back.
    pub async fn launch(&mut self, watch: &Arc<Watch>) -> Result<Launched, Failure> {
        let comes_back = self.row.image.clone().filter(|_| is_return(self.row.op));
        let launched = match comes_back {
            Some(from) => self.come_back(from, watch).await.map(Box::new).map(Launched::Back),
            None => self.boot().await,
        };
        launched.or_else(|failure| self.did_not_start(failure))
    }

    /// Writes down that the domain is up.
    pub fn is_up(&mut self, launched: Launched) -> Next {
        match launched {
            Launched::Booted(state) => {
                self.begin_start();
                self.has_started(state, "started", "");
                Next::Relaunched
            }
            Launched::Back(back) => {
                self.has_come_back(*back);
                Next::Relaunched
            }
            Launched::Waits(_) => Next::Parted,
        }
    }

    async fn boot(&mut self) -> Result<Launched, Failure> {
        ahead::forget(&self.paths, self.row.uuid);
        let booted = async {
            let spec = self.new_spec(None)?;
            self.backend.check(&spec)?;
            self.spawn(&spec).await?;
            Ok(spec.paused)
        };
        let paused = booted.await.map_err(|error| {
            self.hopeless = is_for_good(&error);
            self.not_started(Verb::Start, &error)
        })?;
        Ok(Launched::Booted(if paused { State::Paused } else { State::Running }))
    }

    pub(crate) fn not_started(&self, verb: Verb, error: &BackendError) -> Failure {
        let attempt = format!("cannot {verb} domain \"{}\"", self.row.name);
        Failure::because(error_kind(error), attempt, error)
    }

    /// The record of a start that did not succeed. A supervised domain may be tried again.
    fn did_not_start(&mut self, failure: Failure) -> Result<Launched, Failure> {
        let for_good = std::mem::take(&mut self.hopeless);
        if self.row.op == Some(Op::Starting) && self.is_supervised() {
            return match self.launch_failed(for_good, &failure) {
                Next::Over => Err(failure),
                _ => Ok(Launched::Waits(failure)),
            };
        }
        let text = failure.causes.join(": ");
        self.event(Severity::Warning, "start-failed", None, &failure.to_string());
        match (self.row.op, self.row.image.as_ref().map(|image| image.id)) {
            (Some(Op::Resuming), Some(image)) => {
                let (state, reason) = (State::Suspended, Reason::Suspended);
                self.settle_with(state, reason, &text, None, Some(image));
            }
            (Some(Op::Restoring), _) => drop(self.settle_as_before(&text)),
            _ => drop(self.settle(State::Failed, Reason::StartFailed, &text, None)),
        }
        Err(failure)
    }

    /// What the backend is told, with the limits of a new process.
    ///
    /// # Errors
    /// When kxl.conf had a mistake as this monitor began and still has: nothing is launched as
    /// another user than it would name.
    pub(crate) fn new_spec(
        &mut self,
        image: Option<StateSource>,
    ) -> Result<LaunchSpec, BackendError> {
        if self.conf.mistake.is_some() {
            self.conf = Conf::read(&self.paths).map_err(|mistake| {
                BackendError::io("cannot use kxl.conf", std::io::Error::other(mistake))
            })?;
        }
        let groups = cgroup::prepare(self.row.uuid, &self.row.config);
        for warning in &groups.warnings {
            self.event(Severity::Warning, "limit-missing", None, warning);
        }
        let mut spec = launch_spec(&self.paths, &self.conf, &self.row, groups.dirs);
        if self.row.config.emulator_config.is_some() {
            spec.host.other_charons = self.other_charons();
        }
        // Reads the records of all domains.
        if self.backend.picks_a_port() {
            spec.host.resting_charons = self.resting_charons();
        }
        Ok(LaunchSpec { image, ..spec })
    }

    /// The other living domains whose emulator has a configuration file of its own.
    fn other_charons(&self) -> BTreeMap<String, PathBuf> {
        let rows = self.store.live_rows().unwrap_or_else(|error| {
            tracing::warn!(%error, "what other domains have taken is not known");
            Vec::new()
        });
        let others = rows.into_iter().filter(|row| row.uuid != self.row.uuid);
        let file =
            |row: kxl_store::LiveRow| Some((row.name.to_string(), row.config.emulator_config?));
        others.filter_map(file).collect()
    }

    /// The configuration files of emulators that do not run. What cannot be read is left out.
    fn resting_charons(&self) -> Vec<PathBuf> {
        let rows = self.store.list().unwrap_or_default();
        let resting = rows.into_iter().filter(|row| row.managed && row.domid.is_none());
        let file =
            |row: kxl_store::ListRow| self.store.managed(row.uuid).ok()??.config.emulator_config;
        resting.filter_map(file).collect()
    }

    /// Makes the emulator process and takes it up.
    pub(crate) async fn spawn(&mut self, spec: &LaunchSpec) -> Result<(), BackendError> {
        let oom_protect = self.row.config.process.oom_protect;
        let mut recorder = RowRecorder::new(&self.store, self.row.uuid, oom_protect);
        let launched = self.backend.launch(spec, &mut recorder).await;
        let warning = recorder.warning();
        let recorded = recorder.into_recorded();
        let live = launched?;
        let pid = live.process().identity().pid;
        reach(Step::Launched, Some(pid));
        if let Some((process, attachments)) = recorded {
            self.row.process = Some(process);
            self.row.started_ms = Some(now_ms());
            self.attachments = attachments;
        }
        self.live = Some(live);
        for warning in [warning, cgroup::outside(pid, &spec.cgroups)].into_iter().flatten() {
            self.event(Severity::Warning, "limit-missing", None, &warning);
        }
        if let Some(warning) = affinity::apply(pid, &self.row.config.cpus) {
            self.event(Severity::Warning, "affinity-missing", None, &warning);
        }
        Ok(())
    }

    /// Writes that the domain is up.
    pub(crate) fn has_started(&mut self, state: State, what: &str, text: &str) {
        // The wish goes into the record of a managed domain here: it is the last one by now.
        let more = LiveChange { wanted: Some(self.row.wanted), ..LiveChange::default() };
        self.rest(state, None, more);
        reach(Step::Started, self.pid());
        self.event(Severity::Info, what, None, text);
    }

    /// Writes a resting state with a process and clears the operation.
    pub(crate) fn rest(&mut self, state: State, reason: Option<Reason>, more: LiveChange) {
        self.row.state = state;
        self.row.op = None;
        self.row.reason = reason;
        self.keep_time(state);
        if state == State::Shutdown {
            self.row.supervision.ended_ms = Some(now_ms());
        }
        let supervision = Some(self.row.supervision.clone());
        let (state, op, reason) = (Some(state), Some(None), Some(reason));
        self.change(&LiveChange { state, op, reason, supervision, ..more });
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
        let pid = self.live.as_ref().map(|live| live.process().identity().pid);
        self.publisher.send_replace(Snapshot {
            status: status_of(row, pid, self.attachments.vnc.clone()),
            last_end: self.last_end,
            ends: self.ends,
            over: !row.state.is_live() && row.op.is_none(),
            pausing: self.pausing,
            unheard: self.unheard.clone(),
        });
    }

    /// Writes down that what the policy wants could not be done; the domain rests as it is.
    pub fn policy_failed(&mut self, failure: &Failure) {
        self.event(Severity::Alert, "policy-failed", None, &failure.to_string());
    }

    /// Whether the emulator answers within its query deadline; updates what it reports.
    pub async fn probe(&mut self) -> bool {
        // One that could not be adopted does not answer.
        let Some(live) = self.live.as_mut() else { return self.row.process.is_none() };
        match live.query().await {
            Ok(report) => {
                let (was, is) = (self.row.state, report.state);
                let moved = matches!(
                    (was, is),
                    (State::Running, State::Paused | State::Asleep)
                        | (State::Paused | State::Asleep, State::Running)
                );
                if moved && self.row.op.is_none() {
                    // Stopped or let go past us, where no event tells of it: by a plain signal.
                    self.rest(is, None, LiveChange::default());
                }
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
        let ms = self.row.started_ms.map_or(0, |started| now_ms() - started);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }
}

/// Whether the operation brings a state back.
const fn is_return(op: Option<Op>) -> bool {
    matches!(op, Some(Op::Restoring | Op::Resuming))
}

fn status_of(row: &LiveRow, pid: Option<i32>, vnc: Option<String>) -> MonitorStatus {
    MonitorStatus {
        uuid: row.uuid,
        name: row.name.clone(),
        domid: row.domid,
        wanted: row.wanted,
        state: row.state,
        op: row.op,
        reason: row.reason,
        pid,
        answering: None,
        memory_mib: row.memory_mib,
        vcpus: row.vcpus,
        started_ms: row.started_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0),
        vnc,
        supervision: row.supervision.clone(),
    }
}

/// Whether the same launch would fail again: its configuration, what is on this host, or what its
/// backend can, has to change before.
const fn is_for_good(error: &BackendError) -> bool {
    matches!(
        error,
        BackendError::Config { .. }
            | BackendError::Missing { .. }
            | BackendError::Unsupported { .. }
    )
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
        | BackendError::Foreign { .. }
        | BackendError::Cancelled
        | BackendError::Sink(_)
        | BackendError::Io { .. } => Kind::Failed,
    }
}
