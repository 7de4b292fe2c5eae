//! QEMU, and the emulators that speak its protocol as it does: see [`family`].
//!
//! The monitor binds, listens on and connects to both sockets before QEMU exists, and QEMU
//! inherits the listeners: its greeting is there as soon as it runs, and a later monitor can
//! connect by the same names. QEMU starts standing still and goes on when everything is recorded.

mod args;
mod binary;
mod cause;
#[allow(unsafe_code, reason = "localtime_r")]
mod clock;
mod devices;
mod family;
mod firmware;
mod foreign;
mod incoming;
pub(crate) mod kvm;
mod live;
mod machine;
mod maps;
mod memory;
mod migration;
mod options;
mod processor;
mod record;
mod save;
mod shadow;
mod sleep;
pub(crate) mod split;
mod stream;

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use kxl_backend::process::Identity;
use kxl_backend::rules::{self, Honours};
use kxl_backend::spawn::Attributes;
use kxl_backend::{
    Attachments, Backend, BackendError, ConsoleEnd, LaunchSpec, Live, Local, Process, Recorder,
    Result, RunAs, check_guest_events, spawn,
};
use kxl_domain::config::model::GuestEvents;
use kxl_domain::{Capability, CapabilitySet, DomainConfig};
use kxl_qmp::{Client, QmpError};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::ending::{self, Status};
use crate::files::{self, Kind};
use crate::kill::Doomed;
use crate::profile::Profile;
use crate::sockets::Dir;
use crate::tap;

use args::{Memory, Plan};
use binary::Emulator;
use family::{Choice, Family};
pub(crate) use live::translated;
use live::{COMMAND, Parts, Qemu, Shared};
use machine::Facts;
use record::{LOG_OFFSET, attachments};
use shadow::Shadow;

/// Names of the sockets in the runtime directory.
const CONTROL: &str = "qmp.sock";
const CONSOLE: &str = "console.sock";
const CHANNEL: &str = "guest.sock";

/// Numbers of the passed descriptors in the child; taps follow.
const CONTROL_FD: RawFd = 3;
const CONSOLE_FD: RawFd = 4;
const FIRST_TAP_FD: RawFd = 5;

/// Size at which the emulator's log is turned over. QEMU writes little; the cap is for one that
/// complains for years.
const LOG_LIMIT: u64 = 1 << 20;

/// The driver.
#[derive(Debug)]
pub(crate) struct Driver {
    profile: Profile,
    family: &'static dyn Family,
    /// Emulators are made so that their guests' memory can be read past them.
    direct: bool,
}

impl Driver {
    pub(crate) fn new(profile: Profile) -> Self {
        let family = family::of(profile.start.arguments);
        Self { profile, family, direct: family.tells_of_writes() }
    }

    /// Whether an emulator that was made with these attachments is of this driver's family.
    pub(crate) fn made(&self, attachments: &Attachments) -> bool {
        attachments.emulator.split(' ').next() == Some(self.family.name())
    }

    /// Resolves what the configuration leaves open. Descriptors are numbered, not opened.
    fn plan(&self, spec: &LaunchSpec) -> Result<(Emulator, Plan)> {
        let config = &spec.config;
        let (emulator, choice) = self.family.choose(spec)?;
        let Choice { arch, accel, machine, cpu, flash } = choice;
        let mut next = FIRST_TAP_FD;
        let taps = config.nics.iter().map(|nic| {
            let number = next;
            next += RawFd::from(!nic.user);
            (!nic.user).then_some(number)
        });
        let taps = taps.collect();
        let memory = spec.image.as_ref().and_then(|image| image.memory.as_ref());
        let plan = Plan {
            arch,
            accel,
            machine,
            cpu,
            control: CONTROL_FD,
            console: devices::has_console(config).then_some(CONSOLE_FD),
            taps,
            flash,
            run_as: match Attributes::of(config)?.user {
                Some(user) => Some(RunAs { uid: user.uid, gid: user.gid }),
                // Named, and who we are already.
                None if config.process.user.is_some() => None,
                None => spec.run_as.filter(|_| nix::unistd::geteuid().is_root()),
            },
            clock: clock::base(config),
            memory: memory.map(|memory| Memory { number: next, own: memory.own }),
            state: spec.image.as_ref().map(|_| next + 1),
            channel: (config.guest_events == GuestEvents::Port).then_some(next + 2),
        };
        Ok((emulator, plan))
    }

    /// Checks everything that can be checked without making anything.
    fn checked(&self, spec: &LaunchSpec) -> Result<(Emulator, Plan)> {
        let config = &spec.config;
        check_guest_events(self, config)?;
        rules::refuse(config, &self.profile.name, Honours::Emulator, false)?;
        let (emulator, plan) = self.plan(spec)?;
        if let Some(image) = &spec.image {
            foreign::check(self.family, spec, image, &emulator, &plan)?;
        }
        let boot = &config.boot;
        if let Some(kernel) = &boot.kernel {
            files::check("kernel", kernel, Kind::Regular, false)?;
        } else if boot.ramdisk.is_some() || boot.cmdline.is_some() {
            let key = if boot.ramdisk.is_some() { "ramdisk" } else { "cmdline" };
            return Err(BackendError::config(key, "means nothing without kernel="));
        }
        if let Some(ramdisk) = &boot.ramdisk {
            files::check("ramdisk", ramdisk, Kind::Regular, false)?;
        }
        if let Some(kxl_domain::config::model::Firmware::Path(path)) = &boot.firmware {
            files::check("firmware", path, Kind::Regular, false)?;
        }
        for disk in &config.disks {
            if let Some(script) = disk.script.as_deref().filter(|script| !script.is_empty()) {
                let why = format!("{}: script={script}: block scripts are not run", disk.vdev);
                return Err(BackendError::config("disk", why));
            }
            if let Some(target) = &disk.target {
                files::check("disk", target, Kind::Storage, disk.readwrite && !disk.cdrom)?;
            }
        }
        for tap in wanted_taps(spec)? {
            tap::check(&tap)?;
        }
        self.family.arguments(spec, &plan)?;
        Ok((emulator, plan))
    }

    fn facts(&self, config: &DomainConfig, attachments: &Attachments, client: &Client) -> Facts {
        let version = client.greeting().version;
        Facts::of(self.family, &self.profile.name, config, attachments, version)
    }

    async fn start(&self, spec: &LaunchSpec, recorder: &mut dyn Recorder) -> Result<Box<dyn Live>> {
        let (emulator, plan) = self.checked(spec)?;
        if let Some(flash) = &plan.flash {
            firmware::prepare(spec, plan.arch, &flash.1)?;
        }
        let program = emulator.path.display().to_string();
        let arguments = self.family.arguments(spec, &plan)?;
        let (mut command, opened) = command(spec, &emulator, &plan, arguments)?;
        if self.direct {
            command.track_writes();
        }
        tracing::info!(command = command.line(), "launch");
        let failed = |error: std::io::Error| BackendError::not_started(&program, &error);
        let attachments = attachments(self.family, spec, &emulator, &plan, opened.log_offset)?;
        let gated = spawn::spawn(command).map_err(failed)?;
        recorder
            .record(gated.identity(), &attachments)
            .map_err(|why| BackendError::Launch { program: program.clone(), why })?;
        let process = Doomed::new(gated.open().map_err(failed)?);
        let shared = Shared::new(spec.emulator_log.clone(), opened.log_offset, &self.profile);

        let ready = Duration::from_millis(self.profile.ready.timeout_ms);
        let (client, qmp_events, notes) =
            match greet(spec, opened.control, ready, attachments.vnc.as_deref()).await {
                Ok(parts) => parts,
                Err(error) => return Err(explained(error, &process, &shared, &program).await),
            };
        let facts = self.facts(&spec.config, &attachments, &client);
        Ok(Box::new(Qemu::new(Parts {
            process: process.keep(),
            client,
            qmp_events,
            console: opened.console,
            channel: opened.channel,
            shared,
            facts,
            notes,
            vcpus: spec.config.vcpus,
            shadow: Shadow::of(&plan.machine),
        })))
    }

    async fn take_up(
        &self,
        spec: &LaunchSpec,
        identity: Identity,
        attachments: &Attachments,
    ) -> Result<Box<dyn Live>> {
        let process = Process::open(identity)
            .map_err(|error| BackendError::Exited { text: error.to_string() })?;
        let dir = Dir::open(&spec.rundir)
            .map_err(|error| BackendError::io("cannot open the runtime directory", error))?;
        // An emulator that stands still accepts nobody: its queue of one fills up.
        let refused = |_| BackendError::TimedOut {
            waited_for: "connection to the control channel".into(),
            after: Duration::ZERO,
        };
        let control = stream(dir.connect(CONTROL).map_err(refused)?)?;
        let (client, qmp_events) = Client::connect(control, COMMAND).await.map_err(translated)?;
        let console = match dir.connect(CONSOLE) {
            Ok(fd) => Some(console_end(spec, &self.profile, fd)),
            Err(error) => {
                tracing::warn!(%error, "no console");
                None
            }
        };
        // An emulator that was made without it has no such socket.
        let channel = dir.connect(CHANNEL).ok();
        let offset = attachments.notes.get(LOG_OFFSET).and_then(|text| text.parse().ok());
        let shared = Shared::new(spec.emulator_log.clone(), offset.unwrap_or(0), &self.profile);
        // An earlier monitor may have died in the middle of a reset of its own.
        let action = json!({"reboot": "shutdown"});
        client.execute("set-action", Some(action), COMMAND).await.map_err(translated)?;
        let facts = self.facts(&spec.config, attachments, &client);
        let parts = Parts {
            process,
            client,
            qmp_events,
            console,
            channel,
            shared,
            facts,
            notes: Vec::new(),
            vcpus: spec.config.vcpus,
            shadow: attachments.machine.as_deref().and_then(Shadow::of),
        };
        let live = Qemu::new(parts);
        // Learns whether the guest has ended meanwhile, and how.
        let _report = live.report(COMMAND).await?;
        // An earlier monitor may have saved it, which cannot be seen.
        live.shared.released.set(live.run_state().await? == "paused");
        Ok(Box::new(live))
    }
}

impl Backend for Driver {
    fn name(&self) -> &str {
        &self.profile.name
    }

    fn capabilities(&self, config: &DomainConfig) -> CapabilitySet {
        let all = self.profile.capabilities();
        let list: Vec<_> = all
            .iter()
            .filter(|capability| *capability != Capability::Console || devices::has_console(config))
            .collect();
        CapabilitySet::of(&list)
    }

    fn check(&self, spec: &LaunchSpec) -> Result<()> {
        self.checked(spec).map(drop)
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

/// What stays with us when QEMU has its descriptors.
struct Opened {
    control: OwnedFd,
    console: Option<ConsoleEnd>,
    channel: Option<OwnedFd>,
    log_offset: u64,
}

/// Opens everything that QEMU inherits and puts its command together.
fn command(
    spec: &LaunchSpec,
    emulator: &Emulator,
    plan: &Plan,
    arguments: Vec<OsString>,
) -> Result<(spawn::Command, Opened)> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| BackendError::io(what, error)
    };
    let (log, log_offset) = files::open_log(&spec.emulator_log, LOG_LIMIT)?;
    let dir = Dir::open(&spec.rundir).map_err(failed("cannot open the runtime directory"))?;
    let (listener, control) =
        dir.pair(CONTROL).map_err(failed("cannot make the control socket"))?;
    let mut command = spawn::Command::new(&emulator.path).map_err(failed("the emulator's path"))?;
    for arg in arguments {
        command.arg(arg).map_err(failed("an argument"))?;
    }
    let null = File::open("/dev/null").map_err(failed("cannot open /dev/null"))?;
    let errors = log.try_clone().map_err(failed("cannot copy a descriptor"))?;
    command.fd(null.into(), 0).fd(log.into(), 1).fd(errors.into(), 2);
    command.fd(listener, plan.control);
    let mut console = None;
    if let Some(number) = plan.console {
        let (listener, client) =
            dir.pair(CONSOLE).map_err(failed("cannot make the console socket"))?;
        command.fd(listener, number);
        let pace = spec.config.console.pace_ms.map(|ms| Duration::from_millis(ms.into()));
        console = Some(ConsoleEnd::Socket { stream: client, pace });
    }
    let mut channel = None;
    if let Some(number) = plan.channel {
        let (listener, client) =
            dir.pair(CHANNEL).map_err(failed("cannot make the socket of the guest's port"))?;
        command.fd(listener, number);
        channel = Some(client);
    }
    for (tap, number) in wanted_taps(spec)?.iter().zip(plan.taps.iter().flatten()) {
        command.fd(tap::make(tap)?, *number);
    }
    if let (Some(Memory { number, .. }), Some(image)) = (plan.memory, &spec.image)
        && let Some(memory) = &image.memory
    {
        let file = memory.file.try_clone().map_err(failed("cannot copy a descriptor"))?;
        command.fd(file, number);
        if !memory.own {
            // QEMU opens for writing also what it maps privately. A balloon that takes memory back
            // from the guest would punch it out of the image, and a guest may ask for that.
            command.no_holes().map_err(failed("cannot keep the image whole"))?;
        }
    }
    if let (Some(number), Some(image)) = (plan.state, &spec.image) {
        let stream = incoming::stream(image).map_err(failed("cannot read the device stream"))?;
        command.fd(stream, number);
        // It is made to go on at once: large pages spare it most of the faults of its start, a
        // quarter of its time. Known to glibc, and nothing to other C libraries.
        command.env("GLIBC_TUNABLES=glibc.malloc.hugetlb=1").map_err(failed("the environment"))?;
    }
    command.nofile(spec.config.limits.nofile);
    command.attributes(Attributes::of(&spec.config)?.without_user());
    for group in &spec.cgroups {
        command.cgroup(group).map_err(failed("a control group's path"))?;
    }
    Ok((command, Opened { control, console, channel, log_offset }))
}

fn console_end(spec: &LaunchSpec, profile: &Profile, stream: OwnedFd) -> ConsoleEnd {
    let pace = spec.config.console.pace_ms.or(profile.console.pace_ms);
    ConsoleEnd::Socket { stream, pace: pace.map(|ms| Duration::from_millis(ms.into())) }
}

/// The taps of a domain, one for each interface that has one.
fn wanted_taps(spec: &LaunchSpec) -> Result<Vec<tap::Wanted>> {
    let with_tap = spec.config.nics.iter().enumerate().filter(|(_, nic)| !nic.user);
    with_tap
        .map(|(index, nic)| {
            let bridge = nic.bridge.clone().or_else(|| spec.default_bridge.clone());
            let bridge = bridge.ok_or_else(|| {
                let why = format!(
                    "interface {index} names no bridge: say bridge=NAME, set a default bridge in \
                     kxl.conf, or say user for networking without one"
                );
                BackendError::config("vif", why)
            })?;
            let devid = nic.devid.map_or(index, |devid| devid as usize);
            let name = nic.vifname.clone().unwrap_or_else(|| format!("vif{}.{devid}", spec.domid));
            Ok(tap::Wanted { name, bridge, mtu: nic.mtu })
        })
        .collect()
}

fn stream(fd: OwnedFd) -> Result<UnixStream> {
    // Non-blocking already: every socket of `Dir` is.
    UnixStream::from_std(fd.into())
        .map_err(|error| BackendError::io("cannot use the control socket", error))
}

/// The client, its events, and notes for the monitor.
type Greeted = (Client, tokio::sync::mpsc::UnboundedReceiver<kxl_qmp::Event>, Vec<String>);

/// Readiness: greeting, the answer to `query-status`, what must be set before the guest runs, and,
/// unless it is to stay paused, `cont`.
async fn greet(
    spec: &LaunchSpec,
    control: OwnedFd,
    ready: Duration,
    vnc: Option<&str>,
) -> Result<Greeted, QmpError> {
    let control = UnixStream::from_std(control.into())?;
    let (client, events) = Client::connect(control, ready).await?;
    if spec.image.is_some() {
        incoming::loaded(&client).await?;
    } else {
        client.execute("query-status", None, ready).await?;
    }
    let config = &spec.config;
    let mut notes = Vec::new();
    if let Some(expected) = vnc {
        if let Some(password) = config.display.vncpasswd.as_deref().filter(|text| !text.is_empty())
        {
            let arguments = json!({"protocol": "vnc", "password": password});
            client.execute("set_password", Some(arguments), COMMAND).await?;
        }
        let answer = client.execute("query-vnc", None, COMMAND).await?;
        let text = |key: &str| answer.get(key).and_then(Value::as_str).map(str::to_owned);
        if let (Some(host), Some(port)) = (text("host"), text("service")) {
            let display = port.parse::<u32>().unwrap_or(0).saturating_sub(5900);
            if !expected.ends_with(&format!(":{display}")) {
                notes.push(format!("the screen is on {host}:{display}"));
            }
        }
    }
    for (index, nic) in config.nics.iter().enumerate() {
        if nic.rate.is_some() {
            notes.push(format!("interface {index}: rate= is kept but not enforced"));
        }
    }
    // A state has its balloon as it was.
    if spec.image.is_none() && config.memory_mib < config.maxmem_mib {
        let arguments = json!({"value": config.memory_mib << 20});
        client.execute("balloon", Some(arguments), COMMAND).await?;
    }
    if !spec.paused && spec.image.is_none() {
        client.execute("cont", None, COMMAND).await?;
    }
    Ok((client, events, notes))
}

/// Why a launch failed: the emulator's own last words where it has ended.
async fn explained(
    error: QmpError,
    process: &Doomed,
    shared: &Shared,
    program: &str,
) -> BackendError {
    if !matches!(error, QmpError::Closed { .. } | QmpError::Io(_)) {
        return translated(error);
    }
    let status = tokio::time::timeout(ending::LAST_MOMENTS, Status::of(process.get())).await;
    let why = status.map_or_else(
        |_| "it closed its control channel".to_owned(),
        |status| status.text(&shared.last_words()),
    );
    BackendError::Launch { program: program.to_owned(), why }
}

/// The emulator for an architecture on this host.
pub(crate) fn offer(
    arch: kxl_domain::config::model::Arch,
    cachedir: &std::path::Path,
) -> Result<crate::listing::Program> {
    let path = binary::installed(arch)?;
    let emulator = Emulator::of(&path, cachedir)?;
    Ok(crate::listing::Program {
        path: emulator.path,
        version: Some(emulator.version),
        accelerator: Some(binary::accelerator(arch).as_str()),
    })
}

#[cfg(test)]
mod tests;
