//! Programs on a terminal of their own: SIMH and any other.
//!
//! The emulator inherits the master of its own pty as well, under a fixed number: whoever dies, the
//! pty stays, and a later monitor takes the master back with `pidfd_getfd`. A plain program that
//! closes what it does not know is taken up without.

mod buffers;
mod command;
mod dialogue;
mod hold;
mod identify;
mod inherited;
mod keeper;
mod live;
mod output;
#[allow(unsafe_code, reason = "window size of a pty")]
mod pty;
mod regular;
mod restore;
#[allow(unsafe_code, reason = "credentials of one thread")]
mod rights;
mod room;
mod said;
mod save;
mod streams;
mod transcript;
mod wires;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kxl_backend::process::Identity;
use kxl_backend::rules::{self, Honours};
use kxl_backend::spawn::Attributes;
use kxl_backend::{
    Attachments, Backend, BackendError, LaunchSpec, Live, Local, Process, Recorder, Result,
    check_guest_events, spawn,
};
use kxl_domain::{CapabilitySet, DomainConfig, GuestEvent};
use tokio::sync::{mpsc, watch};

use crate::files::{self, Kind};
use crate::kill::Doomed;
use crate::profile::{ControlKind, Meaning, Profile, ReadyKind, Way};
use crate::program;
use crate::template::Values;

use buffers::Buffers;
use command::command;
use hold::{Hold, Note};
use keeper::{Keeper, Phase, Shared, StateFiles};
use live::Terminal;
use streams::Streams;
use transcript::Transcript;
use wires::{Guard, Wires};

/// Number of the master among the emulator's own descriptors: above any that programs expect to
/// have for themselves.
const MASTER_FD: RawFd = 100;

/// File in the runtime directory that tells a later monitor how the guest ended.
const ENDED: &str = "ended";

/// File there that tells it that the prompt is ours.
const PROMPT: &str = "prompt";

/// File there that tells it of disks in the emulator's memory.
const BUFFERS: &str = "buffers";

/// Name of the administrator's command file as it is run for a restore.
const RESTORE_INI: &str = "restore.ini";

/// The driver.
#[derive(Debug)]
pub(crate) struct Driver {
    profile: Profile,
}

/// What is run.
struct Plan {
    program: PathBuf,
    args: Vec<std::ffi::OsString>,
    env: Vec<std::ffi::OsString>,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Driver {
    pub(crate) const fn new(profile: Profile) -> Self {
        Self { profile }
    }

    fn plan(&self, spec: &LaunchSpec) -> Result<Plan> {
        let config = &spec.config;
        let start = &self.profile.start;
        let mut values = Values::of(&self.profile.name, spec);
        let program = self.program(config, &values)?;
        if let Some(ini) = &config.ini {
            files::check("ini", ini, Kind::Regular, false)?;
        }
        if let Some(kernel) = &config.boot.kernel {
            files::check("kernel", kernel, Kind::Regular, false)?;
        }
        let mut args = Vec::new();
        for template in &start.argv {
            args.extend(values.argument(template)?);
        }
        args.extend(config.emulator_args.iter().map(std::ffi::OsString::from));
        let mut env = Vec::new();
        for (name, template) in &start.env {
            if let Some(entry) = values.argument(&format!("{name}={template}"))? {
                env.push(entry);
            }
        }
        let mut files = Vec::new();
        let restores = spec.image.is_some();
        if let (true, Some(path)) = (restores, &config.ini) {
            let ours = spec.rundir.join(RESTORE_INI);
            files.push((ours.clone(), restore::ini(&self.profile, path)?));
            values = values.with("ini", ours);
        }
        let texts = if restores { &self.profile.restore.start } else { &start.file };
        for file in texts {
            let path = values.argument(&file.path)?.map(PathBuf::from).unwrap_or_default();
            if path.parent() != Some(spec.rundir.as_path()) {
                let why =
                    format!("profile {}: {} is not in {{rundir}}", self.profile.name, file.path);
                return Err(BackendError::config("backend", why));
            }
            files.push((path, values.text(&file.text)?));
        }
        Ok(Plan { program, args, env, files })
    }

    fn program(&self, config: &DomainConfig, values: &Values) -> Result<PathBuf> {
        if let Some(own) = &config.emulator {
            return program::find(own)
                .ok_or_else(|| BackendError::file("exec", own, "no executable file of that name"));
        }
        let name = PathBuf::from(values.argument(&self.profile.start.exec)?.unwrap_or_default());
        if !name.is_absolute() && name.components().count() != 1 {
            let why = format!("{}: expected a plain name or an absolute path", name.display());
            return Err(BackendError::config("machine", why));
        }
        program::find(&name).ok_or_else(|| BackendError::Missing {
            what: name.display().to_string(),
            hint: self.profile.package.as_ref().map_or_else(
                || "no executable file of that name in PATH".to_owned(),
                |package| format!("install the package {package}"),
            ),
        })
    }

    async fn start(&self, spec: &LaunchSpec, recorder: &mut dyn Recorder) -> Result<Box<dyn Live>> {
        let plan = self.plan(spec)?;
        let program = plan.program.display().to_string();
        let failed = |error: std::io::Error| BackendError::not_started(&program, &error);
        restore::fits(&self.profile, spec, &plan.program)?;
        for (path, text) in &plan.files {
            write(path, text).map_err(|error| {
                BackendError::io(format!("cannot write {}", path.display()), error)
            })?;
        }
        for note in [ENDED, PROMPT, BUFFERS] {
            save::remove(&spec.rundir.join(note));
        }
        let (master, slave) = pty::open().map_err(failed)?;
        let wires = Wires::of(&master).map_err(failed)?;
        let (command, streams) = command(spec, &plan, &master, &slave)?;
        drop(slave);
        tracing::info!(command = command.line(), "launch");
        let gated = spawn::spawn(command).map_err(failed)?;
        let mut attachments = Attachments {
            emulator: format!("{} {program}", self.profile.name),
            machine: spec.config.machine.clone(),
            pty_fd: Some(MASTER_FD),
            ..Attachments::default()
        };
        inherited::note_terminal(&mut attachments, &master).map_err(failed)?;
        streams.note(&mut attachments).map_err(failed)?;
        recorder
            .record(gated.identity(), &attachments)
            .map_err(|why| BackendError::Launch { program: program.clone(), why })?;
        let image = spec.image.as_ref();
        let stopped = spec.paused && image.is_none();
        let process = if stopped { gated.open_stopped() } else { gated.open() };
        let process = Doomed::new(process.map_err(failed)?);

        let shared = self.shared(spec, master, streams, Phase::Starting)?;
        if image.is_some() {
            shared.hold.take(Note::Empty);
        }
        let mut terminal = self.assemble(spec, process.keep(), shared, wires, &plan.program);
        let mut guard = Guard(Some(Rc::clone(&terminal.process)));
        match image {
            Some(image) => terminal.load(Arc::clone(&image.device), &program).await?,
            None if stopped => {}
            None => self.ready(&terminal, &program).await?,
        }
        guard.disarm();
        Ok(Box::new(terminal))
    }

    /// What handle and task share.
    fn shared(
        &self,
        spec: &LaunchSpec,
        master: OwnedFd,
        streams: Streams,
        phase: Phase,
    ) -> Result<Received> {
        let (events, receiver) = mpsc::unbounded_channel();
        let values = Values::of(&self.profile.name, spec);
        // What is left there is of a save or restore whose monitor has died.
        let place = |template: &Option<String>| {
            let path = template.as_ref().map(|text| values.argument(text)).transpose()?.flatten();
            let path = path.map(PathBuf::from).unwrap_or_default();
            if path.parent() == Some(spec.rundir.as_path()) {
                save::remove(&path);
            } else if template.is_some() {
                let name = &self.profile.name;
                let why = format!("profile {name}: {} is not in {{rundir}}", path.display());
                return Err(BackendError::config("backend", why));
            }
            Ok(path)
        };
        let state_files = StateFiles {
            save: place(&self.profile.save.file)?,
            restore: place(&self.profile.restore.file)?,
        };
        let sign = self.profile.save.buffered.as_deref();
        let mut profile = self.profile.clone();
        if let Some(signal) = spec.config.stop.signal {
            profile.shutdown.signal = Some(signal.as_str().to_owned());
        }
        let shared = Rc::new(Shared {
            master,
            streams,
            profile,
            phase: Cell::new(phase),
            transcript: RefCell::new(Transcript::default()),
            destroyed: Cell::new(false),
            events,
            note: spec.rundir.join(ENDED),
            log: spec.emulator_log.clone(),
            hold: Hold::new(spec.rundir.join(PROMPT)),
            state_files,
            buffers: Buffers::new(sign, spec.rundir.join(BUFFERS)),
        });
        Ok(Received { shared, receiver })
    }

    /// Puts handle and task together.
    fn assemble(
        &self,
        spec: &LaunchSpec,
        process: Process,
        received: Received,
        wires: Wires,
        program: &Path,
    ) -> Terminal {
        let Received { shared, receiver } = received;
        let (told, exit) = watch::channel(None);
        let process = Rc::new(process);
        let served = shared.streams.serve(&shared.events);
        let served = served.unwrap_or_else(|error| {
            tracing::error!(%error, "the program's output is not read");
            Vec::new()
        });
        let keeper = Keeper {
            process: Rc::clone(&process),
            shared: Rc::clone(&shared),
            terminal: wires.terminal,
            monitor: wires.ours,
            printed: VecDeque::new(),
        };
        let pace = spec.config.console.pace_ms.or(self.profile.console.pace_ms);
        Terminal {
            process,
            shared,
            receiver: Some(receiver),
            console: Some(wires.theirs),
            exit,
            tasks: [tokio::task::spawn_local(keeper.run(told))].into_iter().chain(served).collect(),
            pace: pace.filter(|ms| *ms > 0).map(|ms| Duration::from_millis(ms.into())),
            emulator: restore::emulator(program),
            rundir: spec.rundir.clone(),
            nature: None,
            before: None,
            interrupted: false,
            owed: Cell::new(false),
            unsure: false,
            restarts: restore::restarts(&self.profile, spec),
        }
    }

    /// Waits until the guest runs, or says why it does not.
    async fn ready(&self, terminal: &Terminal, program: &str) -> Result<()> {
        if self.profile.ready.kind != ReadyKind::GuestRuns {
            return Ok(());
        }
        let shared = &terminal.shared;
        let launch_failed = |why: String| BackendError::Launch { program: program.to_owned(), why };
        let deadline = Duration::from_millis(self.profile.ready.timeout_ms);
        let runs = async {
            loop {
                shared.look();
                if let Some(exit) = terminal.exit.borrow().as_ref() {
                    return Err(launch_failed(exit.text.clone()));
                }
                match shared.phase.get() {
                    Phase::Running => return Ok(()),
                    // It ran and ended before we could look: a launch that succeeded.
                    Phase::AtPrompt(Some(meaning)) if meaning != Meaning::Stopped => return Ok(()),
                    Phase::AtPrompt(_) => {
                        return Err(launch_failed(format!(
                            "it stands at its prompt: {}",
                            shared.words()
                        )));
                    }
                    // A terminal's mode changes without waking anybody; only while starting.
                    Phase::Starting => tokio::time::sleep(Duration::from_millis(3)).await,
                }
            }
        };
        tokio::time::timeout(deadline, runs).await.unwrap_or_else(|_| {
            Err(BackendError::TimedOut {
                waited_for: format!("start of the guest ({})", shared.words()),
                after: deadline,
            })
        })
    }

    async fn take_up(
        &self,
        spec: &LaunchSpec,
        identity: Identity,
        attachments: &Attachments,
    ) -> Result<Box<dyn Live>> {
        let gone = |error: std::io::Error| BackendError::Exited { text: error.to_string() };
        let process = Process::open(identity).map_err(gone)?;
        let (master, lost) = self.master_of(&process, attachments)?;
        pty::unblock(&master).map_err(|error| BackendError::io("the console", error))?;
        let stopped = process
            .identity()
            .stat()
            .is_some_and(|stat| stat.state == kxl_backend::process::RunState::Stopped);
        let at_rest = self.profile.control.prompt.is_some() && pty::cooked(&master);
        let wires = Wires::of(&master)
            .map_err(|error| BackendError::io("cannot set up the console", error))?;
        let (streams, closed) = Streams::take_back(&spec.config, &process, attachments)?;
        let shared = self.shared(spec, master, streams, Phase::Running)?;
        shared.tell_lost(lost.into_iter().chain(closed));
        let held = at_rest.then(|| shared.hold.left()).flatten();
        match held {
            Some(note) => {
                shared.phase.set(Phase::AtPrompt(Some(Meaning::Stopped)));
                shared.hold.take(note);
            }
            // It was about to come to its prompt and has not.
            None => save::remove(&spec.rundir.join(PROMPT)),
        }
        let program = attachments.emulator.split_once(' ').map_or("", |(_, path)| path);
        let mut terminal = self.assemble(spec, process, shared, wires, Path::new(program));
        terminal.unsure = held.is_some();
        if at_rest && held.is_none() {
            Self::find_out(spec, &terminal.shared, stopped).await;
        }
        Ok(Box::new(terminal))
    }

    /// The terminal of a running program. One that is steered by its terminal keeps it; a plain one
    /// may have closed it and gets one in its place that nobody is on.
    fn master_of(
        &self,
        process: &Process,
        attachments: &Attachments,
    ) -> Result<(OwnedFd, Option<&'static str>)> {
        let number = attachments.pty_fd.unwrap_or(MASTER_FD);
        let failed = |error| BackendError::io("cannot take the console back", error);
        if let Some(master) = inherited::terminal(process, attachments, number).map_err(failed)? {
            return Ok((master, None));
        }
        if self.profile.control.prompt.is_some() {
            return Err(failed(std::io::Error::other("the emulator has closed it")));
        }
        let (master, _slave) = pty::open().map_err(failed)?;
        Ok((master, Some("console")))
    }

    /// Why an adopted emulator stands at its prompt: by what it printed since, else by the note of
    /// the monitor that read it.
    async fn find_out(spec: &LaunchSpec, shared: &Shared, stopped: bool) {
        // What waits in the terminal is read by the task within one turn of the loop.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            if matches!(shared.phase.get(), Phase::AtPrompt(_)) {
                return;
            }
        }
        let note = fs::read_to_string(spec.rundir.join(ENDED)).ok();
        let meaning = note.and_then(|text| GuestEvent::parse(text.trim())).map(|how| match how {
            GuestEvent::Poweroff => Meaning::Poweroff,
            GuestEvent::Reboot => Meaning::Reboot,
            GuestEvent::Crash => Meaning::Crash,
            GuestEvent::Watchdog => Meaning::Watchdog,
        });
        // Stopped and silent: it was launched paused and has not begun.
        if meaning.is_some() || !(stopped && shared.transcript.borrow().is_empty()) {
            shared.phase.set(Phase::AtPrompt(meaning));
            if let Some(how) = shared.ended() {
                // Whether the earlier monitor still acted on it, the engine's record knows.
                let _nobody_listens = shared.events.send(kxl_backend::Event::GuestEnded(how));
            }
        } else {
            shared.phase.set(Phase::Starting);
        }
    }
}

impl Backend for Driver {
    fn name(&self) -> &str {
        &self.profile.name
    }

    fn capabilities(&self, _config: &DomainConfig) -> CapabilitySet {
        self.profile.capabilities()
    }

    fn check(&self, spec: &LaunchSpec) -> Result<()> {
        let plan = self.plan(spec)?;
        check_guest_events(self, &spec.config)?;
        let simulator = self.profile.control.kind == ControlKind::Prompt;
        let honours = if simulator { Honours::Simulator } else { Honours::PlainProgram };
        let by_signal = self.profile.shutdown.kind == Way::Signal;
        rules::refuse(&spec.config, &self.profile.name, honours, by_signal)?;
        streams::check(&spec.config)?;
        Attributes::of(&spec.config)?;
        restore::fits(&self.profile, spec, &plan.program)
    }

    fn launch<'a>(
        &'a self,
        spec: &'a LaunchSpec,
        recorder: &'a mut dyn Recorder,
    ) -> Local<'a, Result<Box<dyn Live>>> {
        Box::pin(self.start(spec, recorder))
    }

    fn adopt<'a>(
        &'a self,
        spec: &'a LaunchSpec,
        identity: Identity,
        attachments: &'a Attachments,
    ) -> Local<'a, Result<Box<dyn Live>>> {
        Box::pin(self.take_up(spec, identity, attachments))
    }
}

/// What handle and task share, and the events for whoever holds the handle.
struct Received {
    shared: Rc<Shared>,
    receiver: mpsc::UnboundedReceiver<kxl_backend::Event>,
}

impl std::ops::Deref for Received {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// Writes a private file, whole or not at all.
fn write(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod streams_tests;
#[cfg(test)]
mod tests;
