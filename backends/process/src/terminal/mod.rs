//! Programs on a terminal of their own: SIMH and any other.
//!
//! The emulator inherits the master of its own pty as well, under a fixed number: whoever dies, the
//! pty stays, and a later monitor takes the master back with `pidfd_getfd`. For a plain program
//! that closes what it does not know another process holds it.

mod adopt;
mod before;
mod buffers;
mod bundle;
mod channel;
mod command;
mod detached;
mod dialogue;
mod ear;
mod freezer;
mod hold;
mod identify;
mod inherited;
mod keeper;
mod left;
mod lifeline;
mod line;
mod live;
mod outgoing;
mod outlet;
mod output;
mod own;
mod plan;
#[allow(unsafe_code, reason = "window size of a pty")]
mod pty;
mod readiness;
mod regular;
mod restore;
#[allow(unsafe_code, reason = "credentials of one thread")]
mod rights;
mod room;
mod said;
mod save;
mod snapshot;
mod streams;
mod tail;
mod talk;
mod transcript;
mod ways;
mod wires;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use kxl_backend::process::Identity;
use kxl_backend::rules::{self, Honours};
use kxl_backend::spawn::Attributes;
use kxl_backend::{
    Attachments, Backend, BackendError, LaunchSpec, Live, Local, Process, Recorder, Result,
    check_guest_events, spawn,
};
use kxl_domain::{CapabilitySet, DomainConfig};
use tokio::sync::{mpsc, watch};

use crate::charon::offload;
use crate::kill::Doomed;
use crate::ports;
use crate::profile::{ConsoleKind, ControlKind, Detach, Profile, ReadyKind, ShutdownWay};
use crate::template::Values;

use buffers::Buffers;
use channel::Channel;
use command::command;
use detached::Reaper;
use ear::Ear;
use freezer::Group;
use hold::{Hold, Note};
use keeper::{Keeper, Phase, Shared, StateFiles};
use live::Terminal;
use outlet::{Outlet, Where};
use own::Own;
use plan::Plan;
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

/// How long our own listener of the emulator before may take to go.
const OWN_LISTENER: Duration = Duration::from_secs(2);

/// The driver.
#[derive(Debug)]
pub(crate) struct Driver {
    profile: Profile,
}

impl Driver {
    pub(crate) const fn new(profile: Profile) -> Self {
        Self { profile }
    }

    async fn start(&self, spec: &LaunchSpec, recorder: &mut dyn Recorder) -> Result<Box<dyn Live>> {
        let before = before::prepare(&self.profile, spec).await?;
        let own = Own::make(&self.profile, spec, before.charon.as_ref())?;
        let group = Group(own.freezer.clone());
        let values = own.values(&self.profile, spec);
        let place = Where::of(&self.profile.console, &values)?;
        let publish = outlet::port(&values, self.profile.console.publish.as_deref())?;
        let ready_at = outlet::port(&values, self.profile.ready.port.as_deref())?;
        let mut plan = self.plan(spec, values)?;
        plan.files.extend(before.copy(own.port)?);
        plan.directory = before.charon.as_ref().map(|charon| charon.directory.clone());
        let program = plan.program.display().to_string();
        let failed = |error: std::io::Error| BackendError::not_started(&program, &error);
        restore::fits(&self.profile, spec, &plan.program)?;
        let listener = match publish {
            Some(port) => Some(published(port).await?),
            None => None,
        };
        plan.prepare()?;
        place.prepare()?;
        self.forget_earlier(spec, &own)?;
        let (master, slave) = match self.profile.console.kind {
            ConsoleKind::Stdio => inherited::pair().map_err(failed)?,
            _ => pty::open().map_err(failed)?,
        };
        let mut wires = Wires::of(&master).map_err(failed)?;
        let reaper = own.mark.as_deref().map(Reaper::new).transpose()?;
        let (command, streams, lifeline) =
            command(spec, &self.profile, &plan, &own, &master, &slave)?;
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
        lifeline.note(&mut attachments).map_err(failed)?;
        wires.lifeline = lifeline;
        own.note(&mut attachments, gated.identity());
        record(recorder, gated.identity(), &attachments, &program)?;
        let image = spec.image.as_ref();
        let by_itself = snapshot::begins_with_a_state(&self.profile, spec);
        let stopped = by_itself || spec.paused && image.is_none();
        let process = if stopped { gated.open_stopped() } else { gated.open() };
        let mut process = Doomed::new(process.map_err(failed)?);
        if let Some(reaper) = reaper {
            let found = reaper.find(&program, process.get(), &master, self.patience()).await?;
            process = Doomed::new(found);
            detached::note_emulator(&mut attachments);
            record(recorder, process.get().identity(), &attachments, &program)?;
        }
        let shared = self.shared(spec, master, streams, Phase::Starting, &own)?;
        shared.tell_warnings(before.warnings);
        if image.is_some() && !by_itself {
            shared.hold.take(Note::Empty);
        }
        let (keep, path) = (process.keep(), &plan.program);
        let mut terminal = self.assemble(spec, keep, shared, wires, place, path);
        let mut guard = Guard(Some(Rc::clone(&terminal.process)));
        if image.is_some() || !stopped {
            terminal.begin(image, &program, ready_at).await?;
        }
        guard.disarm();
        group.keep();
        if let Some(off) = before.off {
            off.keep();
        }
        terminal.listener = listener;
        Ok(Box::new(terminal))
    }

    /// Removes what the program before has left: notes of it, and the socket of its channel.
    fn forget_earlier(&self, spec: &LaunchSpec, own: &Own) -> Result<()> {
        for note in [ENDED, PROMPT, BUFFERS, lifeline::HOLDER] {
            save::remove(&spec.rundir.join(note));
        }
        let values = own.values(&self.profile, spec);
        let socket = self.profile.control.socket.as_deref();
        if let Some(path) = socket.map(|template| values.argument(template)).transpose()?.flatten()
        {
            save::remove(Path::new(&path));
        }
        Ok(())
    }

    /// Refuses devices that the emulator would not have: it knows them from its own files and
    /// arguments only.
    fn refuse_devices(&self, config: &DomainConfig) -> Result<()> {
        let some = [("disk", !config.disks.is_empty()), ("vif", !config.nics.is_empty())];
        let Some((key, _)) = some.into_iter().find(|(_, some)| *some) else { return Ok(()) };
        let why = format!(
            "{} has no devices of kxl's: give it its own by ini, emulator_config or device_model_args",
            self.profile.name
        );
        Err(BackendError::config(key, why))
    }

    /// How long a start may take.
    const fn patience(&self) -> Duration {
        Duration::from_millis(self.profile.ready.timeout_ms)
    }

    /// What handle and task share.
    fn shared(
        &self,
        spec: &LaunchSpec,
        master: OwnedFd,
        streams: Streams,
        phase: Phase,
        own: &Own,
    ) -> Result<Received> {
        let (events, receiver) = mpsc::unbounded_channel();
        own.tell(&events);
        let values = own.values(&self.profile, spec);
        // What is left there is of a save or restore whose monitor has died.
        let place = |template: &Option<String>, keep: bool| {
            let path = template.as_ref().map(|text| values.argument(text)).transpose()?.flatten();
            let path = path.map(PathBuf::from).unwrap_or_default();
            if path.parent() == Some(spec.rundir.as_path()) {
                if !keep {
                    bundle::remove(&path);
                }
            } else if template.is_some() {
                let name = &self.profile.name;
                let why = format!("profile {name}: {} is not in {{rundir}}", path.display());
                return Err(BackendError::config("backend", why));
            }
            Ok(path)
        };
        let state_files = StateFiles {
            save: place(&self.profile.save.file, false)?,
            // One that has not begun yet reads it when it does.
            restore: place(
                &self.profile.restore.file,
                phase == Phase::Running && snapshot::reads_by_itself(&self.profile),
            )?,
        };
        let sign = self.profile.save.buffered.as_deref();
        let socket = self.profile.control.socket.as_deref();
        let socket = socket.map(|template| values.argument(template)).transpose()?.flatten();
        let channel = socket
            .map(|path| Channel::new(path.into(), self.profile.events.clone(), events.clone()));
        let button = button(&self.profile.shutdown.argv, &values)?;
        let ear = Rc::new(Ear::default());
        if self.profile.ready.kind == ReadyKind::ConsoleMatch {
            ear.open();
        }
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
            ear,
            outlet: RefCell::new(Outlet::Nothing),
            channel,
            own: own.clone(),
            button,
            environment: before::environment(spec),
            rundir: spec.rundir.clone(),
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
        place: Where,
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
        let no_console = matches!(place, Where::Nowhere);
        let (outlet, monitor) = place.open(&process, wires.ours, &shared.ear);
        shared.outlet.replace(outlet);
        let keeper = Keeper {
            process: Rc::clone(&process),
            shared: Rc::clone(&shared),
            terminal: wires.terminal,
            monitor,
            lifeline: wires.lifeline,
            printed: VecDeque::new(),
        };
        let pace = spec.config.console.pace_ms.or(self.profile.console.pace_ms);
        Terminal {
            process,
            shared,
            receiver: Some(receiver),
            listener: None,
            console: (!no_console).then_some(wires.theirs),
            exit,
            tasks: [tokio::task::spawn_local(keeper.run(told))].into_iter().chain(served).collect(),
            pressing: None,
            pace: pace.filter(|ms| *ms > 0).map(|ms| Duration::from_millis(ms.into())),
            emulator: restore::emulator(program),
            rundir: spec.rundir.clone(),
            program: program.to_owned(),
            cachedir: spec.cachedir.clone(),
            shape: snapshot::shape(&spec.config),
            nature: None,
            before: None,
            interrupted: false,
            owed: Cell::new(false),
            unsure: false,
            restarts: restore::restarts(&self.profile, spec),
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
        if spec.paused && self.profile.start.detach == Detach::Itself {
            let why = format!(
                "{} puts itself into the background and cannot be launched paused",
                self.profile.name
            );
            return Err(BackendError::config("backend", why));
        }
        before::check_script(spec)?;
        before::charon(&self.profile, spec)?;
        let plan = self.plan(spec, Own::sample().values(&self.profile, spec))?;
        check_guest_events(self, &spec.config)?;
        let simulator = self.profile.control.kind == ControlKind::Prompt;
        let honours = if simulator { Honours::Simulator } else { Honours::PlainProgram };
        let by_signal = self.profile.shutdown.kind == ShutdownWay::Signal;
        rules::refuse(&spec.config, &self.profile.name, honours, by_signal)?;
        self.refuse_devices(&spec.config)?;
        streams::check(&spec.config, &self.profile.console)?;
        let user = Attributes::of(&spec.config)?.user;
        own::check_user(&self.profile, user.as_ref())?;
        restore::fits(&self.profile, spec, &plan.program)
    }

    fn picks_a_port(&self) -> bool {
        own::picks_a_port(&self.profile)
    }

    fn successor(&self, attachments: &Attachments) -> Option<Identity> {
        detached::successor(attachments)
    }

    fn sweep(&self, spec: &LaunchSpec, attachments: &Attachments) {
        offload::restore(&spec.rundir);
        Own::of(attachments).give_back();
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

/// Commits a process to the domain's record.
fn record(
    recorder: &mut dyn Recorder,
    identity: &Identity,
    attachments: &Attachments,
    program: &str,
) -> Result<()> {
    let refused = |why| BackendError::Launch { program: program.to_owned(), why };
    recorder.record(identity, attachments).map_err(refused)
}

/// The program by which a guest is asked to end, with its arguments; nothing where a domain has
/// none.
fn button(argv: &[String], values: &Values) -> Result<Vec<std::ffi::OsString>> {
    let Some((program, args)) = argv.split_first() else { return Ok(Vec::new()) };
    let Some(program) = values.argument(program)? else { return Ok(Vec::new()) };
    let mut words = vec![program];
    for template in args {
        words.extend(values.argument(template)?);
    }
    Ok(words)
}

/// Listens on a port that a profile publishes the console at. The listener of the emulator before,
/// our own or that of a domain that was destroyed just now, goes within a moment.
async fn published(port: u16) -> Result<std::net::TcpListener> {
    let until = tokio::time::Instant::now() + OWN_LISTENER;
    loop {
        let error = match ports::listen(port) {
            Ok(listener) => return Ok(listener),
            Err(error) => error,
        };
        if !ports::is_a_monitors(port) || tokio::time::Instant::now() > until {
            let holder = ports::holder(port).map(|who| format!("it is taken by {who}"));
            let why = holder.unwrap_or_else(|| error.to_string());
            let why = format!("the console cannot be offered at port {port} of 127.0.0.1: {why}");
            return Err(BackendError::config("backend", why));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
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
mod detached_tests;
#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod lifeline_tests;
#[cfg(test)]
mod refusal_tests;
#[cfg(test)]
mod snapshot_tests;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod streams_tests;
#[cfg(test)]
mod tests;
