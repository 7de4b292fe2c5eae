//! States of an emulator that writes and reads them by itself, told to by QMP.
//!
//! It is brought to a stop, writes its state where its profile says, and is let go again or ended.
//! Such emulators let a guest go as soon as they have read its state. So that it stands still until
//! the image is marked as spent, the program of a restore is executed only when it is let go.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kxl_backend::process::RunState;
use kxl_backend::{
    BackendError, LaunchSpec, Live, Result, SaveOrder, SavedState, StateSink, StateSize, Watch,
};
use kxl_domain::image::{Machine, Moment};
use kxl_domain::{Capability, DomainConfig, State};
use serde_json::{Value, json};

use super::channel::Channel;
use super::freezer::Freezer;
use super::identify::Nature;
use super::live::Terminal;
use super::save::{Tether, files, now_ms, open_whole};
use super::{bundle, room};
use crate::profile::{self, Meaning, Profile, StateWay};
use crate::template::Values;

/// Pause between two questions for how far it is; nothing wakes us.
const PAUSE: Duration = Duration::from_millis(20);

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// What the devices may take beside the memory.
const DEVICES: u64 = 64 << 20;

/// What a state depends on of a configuration.
pub(super) fn shape(config: &DomainConfig) -> BTreeMap<String, String> {
    let shape = [("memory_mib", config.memory_mib), ("vcpus", config.vcpus.into())];
    shape.into_iter().map(|(key, value)| (key.to_owned(), value.to_string())).collect()
}

/// What of it is not as it was.
pub(super) fn misshapen(then: &Machine, config: &DomainConfig) -> Option<String> {
    let here = shape(config);
    let differs = |(key, value): (&String, &String)| {
        let now = here.get(key)?;
        (now != value).then(|| format!("saved with {key} {value}, this domain has {now}"))
    };
    then.notes.iter().find_map(differs)
}

/// The values with the place where the program finds its state.
///
/// # Errors
/// [`BackendError::Config`].
pub(super) fn with_file(profile: &Profile, values: Values) -> Result<Values> {
    let Some(template) = &profile.restore.file else { return Ok(values) };
    let file = values.argument(template)?.unwrap_or_default();
    Ok(values.with("file", file))
}

/// Puts the files of a state to where the program finds them.
///
/// # Errors
/// [`BackendError::Io`].
pub(super) async fn lay_out(device: Arc<OwnedFd>, path: PathBuf) -> Result<()> {
    let to = path.clone();
    let laid = tokio::task::spawn_blocking(move || {
        bundle::remove(&to);
        // Read by offset: others may hold the same open file.
        bundle::unpack(ByOffset { file: std::fs::File::from(device.try_clone()?), at: 0 }, &to)
    });
    let laid = laid.await.map_err(io::Error::other).and_then(|laid| laid);
    laid.map_err(|error| {
        bundle::remove(&path);
        BackendError::io(format!("cannot write {}", path.display()), error)
    })
}

struct ByOffset {
    file: std::fs::File,
    at: u64,
}

impl io::Read for ByOffset {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Whether the domain of this specification is brought back by a program that reads its state.
pub(super) fn begins_with_a_state(profile: &Profile, spec: &LaunchSpec) -> bool {
    spec.image.is_some() && reads_by_itself(profile)
}

/// Whether its program reads a state when it begins.
pub(super) fn reads_by_itself(profile: &Profile) -> bool {
    matches!(profile.restore.kind, StateWay::Qmp | StateWay::SignalThenExit)
}

/// Its program has ended: what it wrote is all that there is of the guest, and is kept.
fn kept(path: &Path, error: &BackendError) -> BackendError {
    let (mut place, mut text) = (path.to_owned(), format!("{error}; its program has ended"));
    place.set_extension("kept");
    bundle::remove(&place);
    if std::fs::rename(path, &place).is_ok() {
        text = format!("{text}, and what it wrote is kept as {}", place.display());
    }
    BackendError::Exited { text }
}

impl Terminal {
    pub(super) fn snapshot_size(&self) -> Result<StateSize> {
        let device = room::resident(&self.process).ok_or_else(|| self.gone())? + DEVICES;
        Ok(StateSize { memory: None, touched: 0, device })
    }

    /// [`kxl_backend::Live::save_state`] of such an emulator.
    pub(super) async fn snapshot(
        &mut self,
        watch: &Arc<Watch>,
        sink: Box<dyn StateSink>,
    ) -> Result<SavedState> {
        if self.run_state()? == RunState::Stopped {
            let why = "it was launched paused and has not begun: it has no state yet".to_owned();
            return Err(BackendError::Control { command: "save".to_owned(), why });
        }
        let machine = self.machine_by_program()?;
        let running = self.channel()?.state_within(ANSWER).await? == State::Running;
        self.channel()?.quiet.set(true);
        let saved = self.written(running, machine, watch, sink).await;
        bundle::remove(&self.shared.state_files.save);
        if saved.is_err()
            && let Err(error) = self.by_channel(!running).await
        {
            tracing::warn!(%error, "the guest stands still after a failed save");
        }
        saved
    }

    async fn written(
        &mut self,
        running: bool,
        machine: Machine,
        watch: &Arc<Watch>,
        sink: Box<dyn StateSink>,
    ) -> Result<SavedState> {
        if running {
            self.channel()?.command("stop").await?;
        }
        let moment = Moment { stopped_ms: now_ms(), running };
        self.tell_to_write().await?;
        if watch.is_cancelled() {
            return Err(BackendError::Cancelled);
        }
        self.take_in(sink, watch).await?;
        let files = files(self.process.identity().pid, &self.rundir);
        if watch.is_cancelled() {
            return Err(BackendError::Cancelled);
        }
        Ok(SavedState { machine, moment, went_on_ms: None, snapshots: Vec::new(), files })
    }

    /// Has the state written and waits until it is.
    async fn tell_to_write(&self) -> Result<()> {
        let save = &self.shared.profile.save;
        let patience = Duration::from_millis(save.timeout_ms);
        let path = &self.shared.state_files.save;
        bundle::remove(path);
        let template = save.uri.as_deref().unwrap_or_default();
        let uri = template.replace("{file}", &path.to_string_lossy());
        let channel = self.channel()?;
        let writing = async {
            channel.ask("migrate", Some(json!({ "uri": uri })), patience).await?;
            loop {
                let answer = channel.ask("query-migrate", None, ANSWER).await?;
                let status = answer.get("status").and_then(Value::as_str).unwrap_or_default();
                match status.to_ascii_lowercase().as_str() {
                    "completed" => return Ok(()),
                    "failed" | "cancelled" | "canceled" => {
                        let error = answer.get("error-desc").and_then(Value::as_str);
                        let why = error.unwrap_or("it says no more than that it failed");
                        let command = "migrate".to_owned();
                        return Err(BackendError::Control { command, why: why.to_owned() });
                    }
                    _ => tokio::time::sleep(PAUSE).await,
                }
            }
        };
        tokio::time::timeout(patience, writing).await.map_err(|_| BackendError::TimedOut {
            waited_for: "the emulator to write its state".to_owned(),
            after: patience,
        })?
    }

    /// [`kxl_backend::Live::save_state`] of a program that a signal has write its state and end.
    pub(super) async fn save_by_end(
        &mut self,
        order: &SaveOrder,
        sink: Box<dyn StateSink>,
    ) -> Result<SavedState> {
        let refused = |why: &str| {
            Err(BackendError::Control { command: "save".to_owned(), why: why.to_owned() })
        };
        if order.go_on.is_some() {
            return refused("it ends when it is saved and cannot go on: save it, then restore it");
        }
        let frozen = self.shared.own.freezer.as_ref().is_some_and(Freezer::frozen);
        if frozen || self.run_state()? == RunState::Stopped {
            return refused("it stands still and would not obey: unpause it first");
        }
        let machine = self.machine_of_a_program()?;
        let files = files(self.process.identity().pid, &self.rundir);
        let path = self.shared.state_files.save.clone();
        bundle::remove(&path);
        let moment = Moment { stopped_ms: now_ms(), running: true };
        self.has_ended_by_signal().await?;
        let taken = match self.whole(&path) {
            Ok(()) => self.take_in(sink, &order.watch).await,
            Err(error) => Err(error),
        };
        match taken {
            Ok(()) => bundle::remove(&path),
            Err(error) => return Err(kept(&path, &error)),
        }
        Ok(SavedState { machine, moment, went_on_ms: None, snapshots: Vec::new(), files })
    }

    /// Sends the signal and waits for the end, which must be the one that it brings about.
    async fn has_ended_by_signal(&self) -> Result<()> {
        let save = &self.shared.profile.save;
        let Some(signal) = save.signal.as_deref().and_then(profile::signal) else {
            return Err(self.lacks(Capability::SaveState));
        };
        self.signal(signal)?;
        let patience = Duration::from_millis(save.timeout_ms);
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some);
        let exit = match tokio::time::timeout(patience, ended).await {
            Ok(told) => told.ok().and_then(|told| told.clone()).ok_or_else(|| self.gone())?,
            Err(_) => {
                let waited_for = format!("the program to end after the signal {signal}");
                return Err(BackendError::TimedOut { waited_for, after: patience });
            }
        };
        // An end of the guest's own may come at the same moment, and look the same but for the text.
        let rules = &self.shared.profile.exit.rule;
        let said = self.shared.transcript.borrow().meaning(rules);
        let telling = rules.iter().any(|rule| rule.means == Meaning::Stopped);
        let ours = !telling || said == Some(Meaning::Stopped);
        if exit.code == Some(0) && ours {
            return Ok(());
        }
        Err(BackendError::Exited { text: exit.text })
    }

    /// Whether it has written its state to the end.
    fn whole(&self, path: &Path) -> Result<()> {
        let end = self.shared.profile.save.end.as_bytes();
        if path.is_dir() {
            return Ok(());
        }
        open_whole(path, end)
            .map(drop)
            .map_err(|error| BackendError::io(format!("{} is not whole", path.display()), error))
    }

    /// What a program is that may not tell: its name counts in any case.
    fn machine_of_a_program(&self) -> Result<Machine> {
        if self.shared.profile.identify.is_some() {
            return self.machine_by_program();
        }
        let (backend, emulator) = (self.shared.profile.name.clone(), self.emulator.clone());
        Ok(Machine { backend, emulator, ..Machine::default() })
    }

    /// Moves what it has written into the sink, on a thread that may wait for the disk.
    async fn take_in(&self, mut sink: Box<dyn StateSink>, watch: &Arc<Watch>) -> Result<()> {
        let dropped = Tether(Arc::<AtomicBool>::default());
        let (watch, gone) = (Arc::clone(watch), Arc::clone(&dropped.0));
        let path = self.shared.state_files.save.clone();
        let moving = tokio::task::spawn_blocking(move || {
            let unread = |error| BackendError::io("cannot read the state back", error);
            watch.expect(bundle::size(&path).map_err(unread)?);
            let mut refused = None;
            let packed = bundle::pack(&path, &mut |bytes, come| {
                if watch.is_cancelled() || gone.load(Ordering::Relaxed) {
                    refused = Some(BackendError::Cancelled);
                    return Err(io::Error::other("given up"));
                }
                watch.moved(come);
                sink.device(bytes).map_err(|error| {
                    let kind = error.kind();
                    refused = Some(BackendError::Sink(error));
                    kind.into()
                })
            });
            packed.map_err(|error| refused.unwrap_or_else(|| unread(error)))
        });
        moving.await.unwrap_or_else(|error| Err(BackendError::Sink(io::Error::other(error))))
    }

    /// What the program says it is.
    fn machine_by_program(&self) -> Result<Machine> {
        let profile = &self.shared.profile;
        let nature = Nature::of(&self.program, profile, &self.cachedir)?;
        let nature = nature.ok_or_else(|| self.lacks(Capability::SaveState))?;
        Ok(Machine {
            backend: profile.name.clone(),
            emulator: self.emulator.clone(),
            version: nature.version,
            machine: nature.kind,
            notes: self.shape.clone(),
            ..Machine::default()
        })
    }

    fn channel(&self) -> Result<&Channel> {
        self.shared.channel.as_ref().ok_or_else(|| self.lacks(Capability::SaveState))
    }
}
