//! Launching and adopting mocks.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use kxl_backend::rules::{self, Honours};
use kxl_backend::spawn::Attributes;
use kxl_backend::{
    Attachments, Backend, BackendError, ConsoleEnd, Identity, LaunchSpec, Live, Local, Process,
    Recorder, Result, check_guest_events, spawn,
};
use kxl_domain::{Capability, CapabilitySet, DomainConfig};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use tokio::sync::mpsc;

use crate::control::{Control, Unanswered};
use crate::hold;
use crate::live::{MockLive, kill};
use crate::protocol::{
    CONSOLE_FD, CONSOLE_SOCKET, CONTROL_FD, CONTROL_SOCKET, Machine, Status, With,
};
use crate::script::{Script, Step};
use crate::sockets::RunDir;
use crate::state;
use crate::watch::{Log, Watch};

/// The backend's name.
pub(crate) const NAME: &str = "mock";

/// How long an emulator may take to get ready.
const READY: Duration = Duration::from_secs(10);

/// How long one that runs already may take to answer a new monitor.
const ADOPTED: Duration = Duration::from_secs(2);

/// The backend.
#[derive(Debug)]
pub(crate) struct Mock {
    program: Option<PathBuf>,
}

impl Mock {
    /// With this emulator program, or the one of this installation.
    pub(crate) const fn new(program: Option<PathBuf>) -> Self {
        Self { program }
    }

    /// `device_model_override=` wins, as with every backend.
    fn program(&self, config: &DomainConfig) -> Result<PathBuf> {
        let Some(program) = config.emulator.as_ref().or(self.program.as_ref()) else {
            return crate::program::find();
        };
        let executable = |meta: std::fs::Metadata| meta.is_file() && meta.mode() & 0o111 != 0;
        if std::fs::metadata(program).is_ok_and(executable) {
            return Ok(program.clone());
        }
        let hint = "it is not there or not a program".to_owned();
        Err(BackendError::Missing { what: program.display().to_string(), hint })
    }

    async fn start(&self, spec: &LaunchSpec, recorder: &mut dyn Recorder) -> Result<Box<dyn Live>> {
        let program = self.program(&spec.config)?;
        let words = Script::of(&spec.config)?;
        let script = words.with_file(&spec.rundir)?;
        state::fits(spec, &script)?;
        let log = Log::now(&spec.emulator_log);
        let shown = program.display().to_string();
        let failed = |why: String| BackendError::Launch { program: shown.clone(), why };
        let state = match spec.image.clone() {
            Some(source) => Some(state::read(source, script.clone()).await.map_err(&failed)?),
            None => None,
        };
        let (command, ends) = prepare(&program, spec)?;

        let gated = spawn::spawn(command).map_err(|error| failed(error.to_string()))?;
        let identity = gated.identity().clone();
        let mut newborn = Newborn::of(identity.clone()).map_err(|e| failed(e.to_string()))?;
        let attachments = Attachments {
            emulator: format!("{NAME} {shown} {}", env!("CARGO_PKG_VERSION")),
            ..Attachments::default()
        };
        recorder.record(&identity, &attachments).map_err(&failed)?;
        gated.open().map_err(|error| BackendError::not_started(&shown, &error))?;

        // Gone already: the words in its log are all it leaves.
        let process = newborn.process().map_err(|_| failed(log.last_words()))?;
        let mut live = assemble(spec, words, process, ends, log.clone())?;
        let machine = Machine {
            paused: spec.paused || state.is_some(),
            memory_mib: spec.config.memory_mib,
            vcpus: spec.config.vcpus,
            seed: spec.uuid.0.as_u64_pair().0,
        };
        let script = hold::released(&live.script, &spec.rundir, Step::Launch).await?;
        let mut answer =
            live.control.ask(Step::Launch, &script, With::Machine(machine), READY).await;
        if let (Ok(_), Some(saved)) = (&answer, state) {
            let with = With::State(Box::new(saved));
            let script = hold::released(&live.script, &spec.rundir, Step::Restore).await?;
            answer = live.control.ask(Step::Restore, &script, with, READY).await;
        }
        match answer {
            Ok(_) => {
                newborn.grown_up();
                Ok(Box::new(live))
            }
            Err(Unanswered::Lost) => {
                let exit = live.watch.exit(Duration::from_secs(1)).await;
                let why = exit.map_or_else(|| log.last_words(), |exit| exit.text);
                Err(failed(why))
            }
            Err(Unanswered::Refused(why)) => Err(failed(why)),
            Err(Unanswered::Late(after)) => {
                Err(BackendError::TimedOut { waited_for: format!("answer of {shown}"), after })
            }
        }
    }

    async fn take_up(&self, spec: &LaunchSpec, identity: Identity) -> Result<Box<dyn Live>> {
        let gone = |_| BackendError::Exited { text: "its process is gone".to_owned() };
        let process = Process::open(identity.clone()).map_err(gone)?;
        let words = Script::of(&spec.config)?;
        let script = hold::released(&words, &spec.rundir, Step::Adopt).await?;
        let ends = connect(spec, &words).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                let waited_for = "new connection to the emulator".to_owned();
                BackendError::TimedOut { waited_for, after: Duration::ZERO }
            }
            _ => BackendError::io(format!("cannot connect in {}", spec.rundir.display()), error),
        })?;
        let log = Log::now(&spec.emulator_log);
        let mut live = assemble(spec, words, process, ends, log)?;
        match live.control.ask(Step::Adopt, &script, With::Nothing, ADOPTED).await {
            Ok(status) => same(&identity, &status).map(|()| Box::new(live) as Box<dyn Live>),
            Err(Unanswered::Lost) => match live.watch.exit(Duration::from_secs(1)).await {
                Some(exit) => Err(BackendError::Exited { text: exit.text }),
                None => Err(Unanswered::Lost.error(Step::Adopt)),
            },
            Err(unanswered) => Err(unanswered.error(Step::Adopt)),
        }
    }
}

impl Backend for Mock {
    fn name(&self) -> &str {
        NAME
    }

    fn capabilities(&self, config: &DomainConfig) -> CapabilitySet {
        // A script that cannot be read is an error of `check`.
        Script::of(config).unwrap_or_default().offered()
    }

    fn check(&self, spec: &LaunchSpec) -> Result<()> {
        rules::refuse(&spec.config, NAME, Honours::Nothing, false)?;
        self.program(&spec.config)?;
        check_guest_events(self, &spec.config)?;
        state::fits(spec, &Script::of(&spec.config)?.with_file(&spec.rundir)?)
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
        _attachments: &'a Attachments,
    ) -> Local<'a, Result<Box<dyn Live>>> {
        Box::pin(self.take_up(spec, identity))
    }
}

/// Our ends of the two connections.
struct Ends {
    control: UnixStream,
    console: Option<UnixStream>,
}

fn connect(spec: &LaunchSpec, script: &Script) -> io::Result<Ends> {
    let rundir = RunDir::open(&spec.rundir)?;
    let console = script
        .offered()
        .has(Capability::Console)
        .then(|| rundir.connect(CONSOLE_SOCKET))
        .transpose()?;
    Ok(Ends { control: rundir.connect(CONTROL_SOCKET)?, console })
}

/// The command with its descriptors, and our ends connected before it runs.
fn prepare(program: &std::path::Path, spec: &LaunchSpec) -> Result<(spawn::Command, Ends)> {
    let in_rundir =
        |error| BackendError::io(format!("cannot listen in {}", spec.rundir.display()), error);
    let rundir = RunDir::open(&spec.rundir).map_err(in_rundir)?;
    let control = rundir.listen(CONTROL_SOCKET).map_err(in_rundir)?;
    let console = rundir.listen(CONSOLE_SOCKET).map_err(in_rundir)?;
    let ends = connect(spec, &Script::of(&spec.config)?).map_err(in_rundir)?;
    let log = open_log(spec).map_err(|error| {
        BackendError::io(format!("cannot open {}", spec.emulator_log.display()), error)
    })?;
    let attributes = Attributes::of(&spec.config)?;
    let command = command(program, spec, control, console, log, attributes)
        .map_err(|error| BackendError::io(format!("cannot start {}", program.display()), error))?;
    Ok((command, ends))
}

fn open_log(spec: &LaunchSpec) -> io::Result<OwnedFd> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&spec.emulator_log)?;
    Ok(log.into())
}

fn command(
    program: &std::path::Path,
    spec: &LaunchSpec,
    control: OwnedFd,
    console: OwnedFd,
    log: OwnedFd,
    attributes: Attributes,
) -> io::Result<spawn::Command> {
    let mut command = spawn::Command::new(program)?;
    // Only for people who look at a list of processes.
    command.arg(spec.name.as_str())?;
    command.fd(std::fs::File::open("/dev/null")?.into(), 0);
    command.fd(log.try_clone()?, 1).fd(log, 2).fd(control, CONTROL_FD).fd(console, CONSOLE_FD);
    command.nofile(spec.config.limits.nofile);
    command.attributes(attributes);
    for group in &spec.cgroups {
        command.cgroup(group)?;
    }
    Ok(command)
}

fn assemble(
    spec: &LaunchSpec,
    script: Script,
    process: Process,
    ends: Ends,
    log: Log,
) -> Result<MockLive> {
    let (sender, events) = mpsc::unbounded_channel();
    let (control, reading) = Control::new(ends.control, sender.clone())
        .map_err(|error| BackendError::io("cannot read the control connection", error))?;
    let process = Rc::new(process);
    let pace = spec.config.console.pace_ms.map(|ms| Duration::from_millis(ms.into()));
    Ok(MockLive {
        watch: Watch::new(Rc::clone(&process), reading, sender, log),
        process,
        control,
        events: Some(events),
        console: ends.console.map(|stream| ConsoleEnd::Socket { stream: stream.into(), pace }),
        capabilities: script.offered(),
        script,
        rundir: spec.rundir.clone(),
        config: spec.config.clone(),
    })
}

/// A socket outlives its emulator; another one may have taken its place.
fn same(identity: &Identity, status: &Status) -> Result<()> {
    if i64::from(status.pid) == i64::from(identity.pid) {
        return Ok(());
    }
    let why = format!("process {} answers in the place of {}", status.pid, identity.pid);
    Err(BackendError::Control { command: Step::Adopt.as_str().to_owned(), why })
}

/// A process that is ended and reaped unless its launch succeeds.
struct Newborn {
    process: Option<Process>,
    identity: Identity,
}

impl Newborn {
    fn of(identity: Identity) -> io::Result<Self> {
        Ok(Self { process: Some(Process::open(identity.clone())?), identity })
    }

    /// Another handle on it.
    fn process(&self) -> io::Result<Process> {
        Process::open(self.identity.clone())
    }

    fn grown_up(&mut self) {
        self.process = None;
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        let Some(process) = self.process.take() else { return };
        if let Err(error) = kill(&process) {
            tracing::error!(%error, pid = self.identity.pid, "an emulator may be left behind");
        }
        // A killed process is gone within a scheduler tick; the limit is for one in the disk.
        let mut gone = [PollFd::new(process.pidfd(), PollFlags::POLLIN)];
        let _stuck = poll(&mut gone, PollTimeout::from(500u16));
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        // Where the watching task was faster there is nothing left to reap.
        let _reaped = waitid(Id::PIDFd(process.pidfd()), flags);
    }
}
