//! save, suspend and checkpoint: the state of a live domain goes into an image.
//!
//! The commit of the image is the point of no return. Before it every failure, and the death of
//! anybody, leaves the domain as it was and nothing in the store; after it the image is the domain
//! (or, for a checkpoint, the domain goes on). Whoever dies in between leaves the journal in the
//! registry, from which the next monitor tells on which side of the commit it was.

mod disks;
mod journal;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kxl_backend::{BackendError, ReadPages, SaveOrder, SavedState, StateSink, StateSize, Watch};
use kxl_control::{After, Save, Saved};
use kxl_domain::image::{ImageId, ImagePlace, MemoryLayout};
use kxl_domain::state::Status;
use kxl_domain::{Failure, Kind, Reason, State, Verb, Verdict, Wanted, decide};
use kxl_store::image::{self, Committed, Facts, Need, Target, Writer};
use kxl_store::{LiveChange, Severity, StoreError, now_ms};

use self::disks::{Look, Seen};
use crate::error::denied;
use crate::live::{LiveDomain, Next};
use crate::steps::{Step, reach};
use crate::thread::apart;

/// What is added to the bytes that a save asks for: manifest, headers, rounding.
const MARGIN: u64 = 4 << 20;

/// An image that was made.
struct Made {
    state: SavedState,
    committed: Committed,
    /// Whether the guest went on, where it did so before the commit.
    went_on: Option<Result<(), BackendError>>,
    /// For how long it stood still, where that is over.
    still_ms: Option<u64>,
}

/// The image under way, shared by the thread that the backend feeds and the task that commits it.
#[derive(Clone)]
struct Sink {
    writer: Arc<Mutex<Option<Writer>>>,
    watch: Arc<Watch>,
}

impl Sink {
    fn new(writer: Writer, watch: Arc<Watch>) -> Self {
        Self { writer: Arc::new(Mutex::new(Some(writer))), watch }
    }

    fn hold(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, put: impl FnOnce(&mut Writer) -> io::Result<()>) -> io::Result<()> {
        if self.watch.is_cancelled() {
            return Err(io::Error::other("the save was given up"));
        }
        match self.hold().as_mut() {
            Some(writer) => put(writer),
            None => Err(io::Error::other("the image is closed")),
        }
    }
}

impl StateSink for Sink {
    fn memory(&mut self, layout: &MemoryLayout) -> io::Result<()> {
        self.put(|writer| writer.memory(layout))
    }

    fn pages(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.put(|writer| writer.pages(offset, bytes))
    }

    fn read(&mut self, offset: u64, length: u64, read: &mut ReadPages<'_>) -> io::Result<()> {
        self.put(|writer| writer.read(offset, length, read))
    }

    fn zeros(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.put(|writer| writer.zeros(offset, length))
    }

    fn device(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put(|writer| writer.device(bytes))
    }
}

/// The name of the snapshots that belong to an image.
fn snapshot_name(image: ImageId) -> String {
    format!("kxl-{image}")
}

impl LiveDomain {
    /// Carries out `save`, `suspend` or `checkpoint`. `None` when the wish was met already.
    ///
    /// Takes as long as the disk does. `watch` tells how far it is and can give it up until the
    /// image is committed. The future must not be dropped before it has ended, but for a destroy
    /// of the domain.
    ///
    /// # Errors
    /// Refusals by the table, the backend or for want of space change nothing. After any other
    /// failure the domain is as it was before, and no image is left.
    pub async fn save(
        &mut self,
        save: &Save,
        watch: Arc<Watch>,
    ) -> Result<(Option<Saved>, Next), Failure> {
        let status = Status { state: self.row.state, op: self.row.op };
        let rule = match decide(status, save.verb) {
            Verdict::Go(rule) => rule,
            Verdict::Already => return Ok((None, Next::Continue)),
            Verdict::Denied(reason) => return Err(denied(&self.row.name, reason)),
        };
        if let Some(need) = rule.needs {
            self.require(save.verb, need)?;
        }
        self.refuse_transient(save)?;
        let began = Instant::now();
        let id = ImageId::random();
        let before = self.row.state;
        let writer = self.begin_image(save, id, &watch).await?;
        if let Err(failure) = self.journal(save, id) {
            drop(writer);
            return Err(failure);
        }
        reach(Step::Saving, self.pid());
        if let Some(verifier) = &self.verifier {
            verifier.hurry();
        }
        let made = self.make_image(save, id, writer, &watch).await;
        let made = match made {
            Ok(made) => made,
            Err(failure) => {
                self.forget_image(id);
                self.rest(before, self.row.reason, LiveChange::default());
                self.event(
                    Severity::Warning,
                    "save-failed",
                    Some(save.verb.as_str()),
                    &failure.to_string(),
                );
                return Err(failure);
            }
        };
        reach(Step::Committed, self.pid());
        let (bytes, stopped_ms) = (made.committed.bytes, made.state.moment.stopped_ms);
        let still_ms = made.still_ms;
        let next = self.after_commit(save, before, made).await?;
        let saved = Saved {
            image: id,
            bytes,
            still_ms: still_ms.unwrap_or_else(|| between(stopped_ms, now_ms())),
            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        Ok((Some(saved), next))
    }

    /// Reserves the space; nothing is stopped, and nothing is written down yet.
    async fn begin_image(
        &mut self,
        save: &Save,
        id: ImageId,
        watch: &Watch,
    ) -> Result<Writer, Failure> {
        let size = match self.emulator()?.state_size().await {
            Ok(size) => size,
            Err(error) => return Err(self.cannot(save.verb, &error)),
        };
        let StateSize { memory, touched, device } = size;
        watch.expect(touched + device);
        let need =
            Need { memory: memory.map(|layout| layout.size), touched, device: device + MARGIN };
        if let ImagePlace::File(path) = &save.place
            && !save.replace
            && path.symlink_metadata().is_ok()
        {
            let text = format!("cannot {} domain \"{}\"", save.verb, self.row.name);
            let mut failure =
                Failure::new(Kind::Failed, text).hint("choose another name, or say --force");
            failure.causes.push(format!("{} is there already", path.display()));
            return Err(failure);
        }
        let target = self.target(save);
        let begun = apart("image", move || Writer::begin(&target, id, &need)).await;
        self.stored(save.verb, begun)
    }

    fn target(&self, save: &Save) -> Target {
        match &save.place {
            ImagePlace::Store => Target::Store(self.paths.clone()),
            ImagePlace::File(path) => Target::File {
                path: path.clone(),
                replace: save.replace,
                header: save.header.clone().unwrap_or_default().into_bytes(),
            },
        }
    }

    /// From the first page to the commit. After an error the guest is as it was.
    async fn make_image(
        &mut self,
        save: &Save,
        id: ImageId,
        writer: Writer,
        watch: &Arc<Watch>,
    ) -> Result<Made, Failure> {
        let run = self.row.state == State::Running;
        let go_on = run && save.after == After::GoOn;
        let disks = Seen::default();
        let order = SaveOrder {
            live: save.live,
            snapshot: save.snapshot.then(|| snapshot_name(id)),
            go_on: go_on.then(|| self.look_at_disks(id, &disks)),
            watch: Arc::clone(watch),
        };
        let sink = Sink::new(writer, Arc::clone(watch));
        let streamed = self.emulator()?.save_state(order, Box::new(sink.clone())).await;
        let state = streamed.map_err(|error| self.not_streamed(save, id, error))?;
        reach(Step::Streamed, self.pid());
        if state.went_on_ms.is_none() {
            (self.look_at_disks(id, &disks).0)(state.snapshots.clone()).await;
        }
        let facts = match self.facts_with_disks(save, id, &state, disks.take()).await {
            Ok(facts) => facts,
            Err(failure) => {
                self.put_back(run).await;
                self.forget_snapshots(id).await;
                return Err(failure);
            }
        };
        // All that the image holds is known: a guest that is to go on need not wait for the disk.
        let went_on = match self.live.as_mut().filter(|_| go_on) {
            Some(_) if state.went_on_ms.is_some() => Some(Ok(())),
            Some(live) => Some(live.go_on(true).await),
            None => None,
        };
        let until = state.went_on_ms.unwrap_or_else(now_ms);
        let still_ms = went_on.as_ref().map(|_| between(state.moment.stopped_ms, until));
        if went_on.is_some() {
            reach(Step::WentOn, self.pid());
        }
        match self.commit(save, facts, sink, watch).await {
            Ok(committed) => Ok(Made { state, committed, went_on, still_ms }),
            Err(failure) => {
                if went_on.is_none() {
                    self.put_back(run).await;
                }
                self.forget_snapshots(id).await;
                Err(failure)
            }
        }
    }

    /// Why the state did not get into the image: where the disk is to blame, with the name of what
    /// could not be written.
    fn not_streamed(&self, save: &Save, id: ImageId, error: BackendError) -> Failure {
        match error {
            BackendError::Sink(error) if error.raw_os_error().is_some() => {
                let path = match &save.place {
                    ImagePlace::Store => self.paths.image_dir(id),
                    ImagePlace::File(path) => path.clone(),
                };
                let error = StoreError::writing_image(path, error);
                let attempt = format!("cannot {} domain \"{}\"", save.verb, self.row.name);
                Failure::because(error.kind(), attempt, &error)
            }
            error => self.cannot(save.verb, &error),
        }
    }

    /// What the manifest is going to say, with the disks as they were seen.
    async fn facts_with_disks(
        &mut self,
        save: &Save,
        id: ImageId,
        state: &SavedState,
        disks: Look,
    ) -> Result<Facts, Failure> {
        let mut facts = self.facts(save, id, state);
        facts.disks = self.stored(save.verb, disks)?;
        let files = state.files.clone();
        let done = apart("disks", move || {
            for file in files {
                if !facts.disks.iter().any(|disk| disk.path == file.path) {
                    facts.disks.push(image::identify_file(&file.path, file.writable)?);
                }
            }
            Ok(facts)
        });
        self.stored(save.verb, done.await)
    }

    async fn commit(
        &mut self,
        save: &Save,
        facts: Facts,
        sink: Sink,
        watch: &Arc<Watch>,
    ) -> Result<Committed, Failure> {
        let writer = sink.hold().take();
        let Some(mut writer) = writer else {
            return Err(Failure::new(Kind::Internal, "the image was closed before its end"));
        };
        let watch = Arc::clone(watch);
        let done = apart("image", move || {
            writer.finish()?;
            if watch.is_cancelled() {
                return Ok(None);
            }
            writer.commit(&facts).map(Some)
        });
        let committed = self.stored(save.verb, done.await)?;
        committed.ok_or_else(|| self.cannot(save.verb, &BackendError::Cancelled))
    }

    fn facts(&self, save: &Save, id: ImageId, state: &SavedState) -> Facts {
        let row = &self.row;
        let mut config = save.config.as_deref().unwrap_or(&row.config).clone();
        config.uuid = Some(row.uuid);
        Facts {
            id,
            purpose: save.purpose,
            created_ms: now_ms(),
            uuid: row.uuid,
            name: config.name.clone(),
            domid: save.keep_domid.then_some(row.domid),
            managed: row.managed,
            wanted: row.wanted,
            config,
            machine: state.machine.clone(),
            moment: state.moment,
            disks: Vec::new(),
        }
    }

    /// The image is complete: the domain ends, or goes on.
    async fn after_commit(
        &mut self,
        save: &Save,
        before: State,
        made: Made,
    ) -> Result<Next, Failure> {
        let committed = &made.committed;
        let text = format!("{} ({} bytes)", committed.path.display(), committed.bytes);
        self.event(Severity::Info, "saved", Some(save.verb.as_str()), &text);
        if save.after == After::End {
            return self.end_as_image(save.verb, committed.id).await;
        }
        self.forget_image(committed.id);
        let run = save.after == After::GoOn && before == State::Running;
        let went_on = match made.went_on {
            Some(went_on) => went_on,
            None => self.emulator()?.go_on(run).await,
        };
        if let Err(error) = went_on {
            self.rest(State::Paused, self.row.reason, LiveChange::default());
            let failure = self.cannot(save.verb, &error);
            return Err(failure.hint("the image is complete; kxl unpause NAME tries again"));
        }
        let paused = before == State::Running && !run;
        let wanted = if paused { Wanted::Paused } else { self.row.wanted };
        self.row.wanted = wanted;
        let state = if run { State::Running } else { State::Paused };
        let more = LiveChange { wanted: Some(wanted), ..LiveChange::default() };
        self.rest(state, self.row.reason, more);
        Ok(Next::Continue)
    }

    /// Ends the emulator of a domain whose image is complete and records that it is that image.
    pub(crate) async fn end_as_image(
        &mut self,
        verb: Verb,
        image: ImageId,
    ) -> Result<Next, Failure> {
        self.end_emulator(verb).await.map_err(|failure| {
            failure
                .hint("the image is complete, and is the domain as soon as its emulator has ended")
        })?;
        self.finish_check().await;
        Ok(self.settle_as_image(verb == Verb::Suspend, image))
    }

    /// Records that a domain is an image from now on: suspended in the store, or halted beside a
    /// file of the user's. What host maintenance saved is still wanted running.
    pub(crate) fn settle_as_image(&mut self, suspended: bool, image: ImageId) -> Next {
        let (state, reason) = if suspended {
            (State::Suspended, Reason::Suspended)
        } else {
            (State::Halted, Reason::Saved)
        };
        let wanted = if suspended { None } else { Some(Wanted::Halted) };
        self.settle_with(state, reason, "", wanted, suspended.then_some(image))
    }

    /// Lets the guest stand or run again as it did before a save that failed.
    async fn put_back(&mut self, run: bool) {
        let back = match self.emulator() {
            Ok(live) => live.go_on(run).await,
            Err(_) => return,
        };
        if let Err(error) = back {
            let text = format!("{error}; kxl unpause {} tries again", self.row.name);
            self.event(Severity::Alert, "standing-still", None, &text);
        }
    }

    /// Takes the snapshots off the disks that were made for an image which was not kept.
    pub(crate) async fn forget_snapshots(&mut self, image: ImageId) {
        if let Ok(live) = self.emulator() {
            live.forget_snapshots(&snapshot_name(image)).await;
        }
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        self.row.process.as_ref().map(|process| process.pid)
    }

    /// The outcome of work on the store, on a thread of its own.
    fn stored<T>(
        &self,
        verb: Verb,
        outcome: io::Result<kxl_store::Result<T>>,
    ) -> Result<T, Failure> {
        let attempt = || format!("cannot {verb} domain \"{}\"", self.row.name);
        match outcome {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Failure::because(error.kind(), attempt(), &error)),
            Err(error) => Err(Failure::because(Kind::Internal, attempt(), &error)),
        }
    }

    /// Why a domain cannot be suspended that nobody would find again.
    pub(crate) fn refuse_transient(&self, save: &Save) -> Result<(), Failure> {
        let nobodys = save.verb == Verb::Suspend
            && !self.row.managed
            && save.purpose == kxl_domain::image::Purpose::Suspend;
        if !nobodys {
            return Ok(());
        }
        let text = format!(
            "cannot suspend domain \"{0}\": it is not registered, and nothing would remember it",
            self.row.name
        );
        let file: PathBuf = format!("{}.kxl", self.row.name).into();
        let hint = format!(
            "kxl save {0} {1} keeps its state in a file; kxl new registers a domain",
            self.row.name,
            file.display()
        );
        Err(Failure::new(Kind::Denied, text).hint(hint))
    }
}

/// Milliseconds since that moment.
fn between(from_ms: i64, to_ms: i64) -> u64 {
    u64::try_from(to_ms - from_ms).unwrap_or(0)
}
