//! What a backend has to offer to be driven by kxl's engine.
//!
//! A [`Backend`] launches emulator processes; a [`Live`] handle steers one of them. The engine
//! sees nothing else of QEMU, SIMH or the mock. A new backend is a profile or an implementation of
//! these two traits, a conformance run, one configuration and one paragraph of manual.
//!
//! Rules every implementation keeps:
//! * **No emulator lives unrecorded.** The process is made by [`spawn::spawn`], which blocks the
//!   child before `exec` until [`Recorder::record`] has committed its identity.
//! * **Every call has a deadline**; none waits for ever on an emulator that does not answer.
//! * **Signals go through a pidfd** ([`process::Process`]), never to a bare number.
//! * **What it cannot do it declares** in [`Backend::capabilities`], and the method then answers
//!   [`BackendError::Unsupported`].

#[allow(unsafe_code, reason = "fork, exec and pidfd system calls")]
pub mod process;
#[allow(unsafe_code, reason = "fork, exec and pidfd system calls")]
pub mod spawn;
#[allow(unsafe_code, reason = "ioctls of userfaultfd and pagemap")]
pub mod tracking;

pub mod charon;
pub mod children;
pub mod console;
pub mod error;
mod freezer;
pub mod nics;
pub mod plain;
pub mod rules;
pub mod state;
pub mod trusted;

use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;

use kxl_domain::config::model::GuestEvents;
use kxl_domain::{
    Capability, CapabilitySet, DomId, DomainConfig, DomainName, DomainUuid, GuestEvent, State,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use console::ConsoleEnd;
pub use error::BackendError;
pub use process::{Identity, Process};
pub use state::{
    MemorySource, OpenFile, Pause, ReadPages, SaveOrder, SavedState, StateSink, StateSize,
    StateSource, Watch,
};

/// A future that stays on the monitor's one thread.
pub type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Result of a backend call.
pub type Result<T, E = BackendError> = std::result::Result<T, E>;

/// Everything a backend needs to make one emulator process. All values are typed and checked:
/// nothing in it can turn into another option of the emulator.
#[derive(Clone, Debug)]
pub struct LaunchSpec {
    /// The domain's name.
    pub name: DomainName,
    /// Its durable identity.
    pub uuid: DomainUuid,
    /// Its live number.
    pub domid: DomId,
    /// The configuration, uuid and MACs filled in.
    pub config: DomainConfig,
    /// Directory for sockets and scratch files; exists, mode 0700, kept over reboots.
    pub rundir: PathBuf,
    /// Where the emulator's own stdout and stderr go (appended; never a tty of the caller).
    pub emulator_log: PathBuf,
    /// Directory for caches that may be deleted at any time (versions of emulators and the like).
    pub cachedir: PathBuf,
    /// Directory of the administrator's own profiles, read after the built-in ones.
    pub profiledir: PathBuf,
    /// The unprivileged user that emulators run as when root starts them; `None` = keep.
    pub run_as: Option<RunAs>,
    /// The bridge of interfaces that name none; `None` = such interfaces are an error.
    pub default_bridge: Option<String>,
    /// Control group directories that the emulator enters before exec ([`spawn::Command::cgroup`]).
    pub cgroups: Vec<PathBuf>,
    /// What a backend has to know of the host beside its own domain.
    pub host: HostFacts,
    /// The guest must not execute an instruction before [`Live::unpause`].
    pub paused: bool,
    /// The state to come back from; `None` boots. With a state the guest never runs before
    /// [`Live::unpause`], whatever `paused` says: what comes before that can be repeated.
    pub image: Option<StateSource>,
}

/// What a host has for all its domains, and what its other domains have taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The list of interfaces that are there for emulators; it may not exist.
    pub nics_file: PathBuf,
    /// Names of the other living domains whose emulator has a configuration file, and the file.
    pub other_charons: std::collections::BTreeMap<String, PathBuf>,
    /// Such files of domains that rest: the ports that they name are for their next start.
    pub resting_charons: Vec<PathBuf>,
}

/// A user to run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// What a backend writes down at launch so that a later monitor can adopt the process. Stored
/// with the domain's row; opaque to the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachments {
    /// Which driver and program: `qemu`, `simh`, …, the emulator's path and version.
    pub emulator: String,
    /// Machine type as resolved (never an alias).
    pub machine: Option<String>,
    /// CPU model as resolved.
    pub cpu: Option<String>,
    /// Number of the console's pty master among the emulator's own descriptors, to be taken back
    /// with `pidfd_getfd`; `None` where the console is a socket in the runtime directory.
    pub pty_fd: Option<i32>,
    /// Names of host network interfaces that belong to this domain.
    pub taps: Vec<String>,
    /// The VNC display in use.
    pub vnc: Option<String>,
    /// Anything else the profile wants back.
    pub notes: std::collections::BTreeMap<String, String>,
}

/// Commits a new process to the domain's record while its child still waits before `exec`.
///
/// Called once in every launch. An error makes the backend end the child unborn.
pub trait Recorder {
    /// Writes identity and attachments to the live database.
    ///
    /// # Errors
    /// A text saying why the record could not be written; the launch fails with it.
    fn record(&mut self, identity: &Identity, attachments: &Attachments) -> Result<(), String>;
}

/// A driver.
pub trait Backend {
    /// Its name, as in `backend=`.
    fn name(&self) -> &str;

    /// What its domains can do. May depend on the configuration (a profile's program or machine).
    fn capabilities(&self, config: &DomainConfig) -> CapabilitySet;

    /// Checks a configuration against this host without making anything: emulator found, files
    /// there and of the right kind, nothing asked for that the backend cannot do; and, with
    /// `spec.image`, that the machine it would make is the one that the state belongs to.
    ///
    /// # Errors
    /// [`BackendError::Config`] or [`BackendError::Missing`], naming the key, file or package;
    /// [`BackendError::Foreign`] for a state that does not fit.
    fn check(&self, spec: &LaunchSpec) -> Result<()>;

    /// Whether a launch chooses a free port of the host: only then is it told which of them are
    /// meant for others. It does not by default.
    fn picks_a_port(&self) -> bool {
        false
    }

    /// The process that has taken the place of one on record that has ended: an emulator that puts
    /// itself into the background while nobody is there to write that down. None by default.
    fn successor(&self, attachments: &Attachments) -> Option<Identity> {
        let _unused = attachments;
        None
    }

    /// Gives back to the host what an emulator had taken from it whose end nobody saw, and ends
    /// what it left running. Nothing by default.
    fn sweep(&self, spec: &LaunchSpec, attachments: &Attachments) {
        let _unused = (spec, attachments);
    }

    /// Makes the emulator process and waits until it is ready: for QEMU the answer to
    /// `query-status`, for others what their profile says. With `spec.paused` the guest does not run.
    ///
    /// Cancel-safe: dropping the future ends the process if it was made.
    ///
    /// # Errors
    /// Any [`BackendError`]; no process is left behind.
    fn launch<'a>(
        &'a self,
        spec: &'a LaunchSpec,
        recorder: &'a mut dyn Recorder,
    ) -> Local<'a, Result<Box<dyn Live>>>;

    /// Takes up a process that an earlier monitor launched. Reconnects the control channel and the
    /// console; the guest notices nothing. `spec` is as at launch.
    ///
    /// # Errors
    /// [`BackendError::Exited`] when `identity` names no living process (a zombie is dead),
    /// [`BackendError::TimedOut`] when it does not answer; the process is left alone.
    fn adopt<'a>(
        &'a self,
        spec: &'a LaunchSpec,
        identity: Identity,
        attachments: &'a Attachments,
    ) -> Local<'a, Result<Box<dyn Live>>>;
}

/// Checks that a domain has the way by which its guest is to tell how it stands.
///
/// # Errors
/// [`BackendError::Config`] for `guest_events`, saying what would work.
pub fn check_guest_events(backend: &dyn Backend, config: &DomainConfig) -> Result<()> {
    let (needed, hint) = match config.guest_events {
        GuestEvents::None => return Ok(()),
        GuestEvents::Port => (Capability::GuestPort, "a virtio port; \"console\" would do"),
        GuestEvents::Console => {
            (Capability::Console, "a console; \"port\" or serial=\"pty\" would do")
        }
    };
    if backend.capabilities(config).has(needed) {
        return Ok(());
    }
    let why = format!("a domain of backend {} has not got {hint}", backend.name());
    Err(BackendError::config("guest_events", why))
}

/// What an emulator reports of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Running, Paused, Asleep or Shutdown.
    pub state: State,
    /// How the guest ended, for `Shutdown`.
    pub ended: Option<GuestEvent>,
    /// Current memory in MiB, where the backend can tell.
    pub memory_mib: Option<u64>,
    /// Virtual CPUs on line, where the backend can tell.
    pub vcpus: Option<u32>,
}

/// Something that happened in or to an emulator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The virtual CPUs stopped (not because of a guest's end).
    Stopped,
    /// They go on.
    Resumed,
    /// The guest ended; the emulator stands still and waits to be destroyed, reset or kept.
    GuestEnded(GuestEvent),
    /// The guest was reset in place.
    Reset,
    /// The process is gone. Always the last event.
    Exited(Exit),
    /// Worth a line in the log, changes nothing.
    Note(String),
    /// Worth an event, changes nothing.
    Warning {
        /// The event's word.
        what: &'static str,
        /// One line for people.
        text: String,
    },
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status, if it exited and somebody saw it.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// What that means by the backend's exit rules; `None` = we destroyed it, or nobody can tell.
    pub meaning: Option<GuestEvent>,
    /// One line for people: status, signal, or the emulator's last words.
    pub text: String,
}

/// One living emulator. Owned by the monitor's domain task; all calls come from there, one at a
/// time.
pub trait Live {
    /// The process.
    fn process(&self) -> &Process;

    /// Takes the receiver of its events; `None` the second time. Events that came before are
    /// buffered, in order.
    fn events(&mut self) -> Option<mpsc::UnboundedReceiver<Event>>;

    /// Takes the console's byte stream; `None` when there is none, or the second time.
    fn console(&mut self) -> Option<ConsoleEnd>;

    /// Takes the TCP socket at which the console is to be offered to telnet, listening and
    /// non-blocking. `None` when it is not to be, or the second time.
    fn console_listener(&mut self) -> Option<std::net::TcpListener> {
        None
    }

    /// Takes the host's end of the port by which the guest tells how it stands, or of a way by
    /// which its marked lines come from where no console shows them: a connected socket,
    /// non-blocking. `None` when there is none, or the second time.
    fn guest_channel(&mut self) -> Option<OwnedFd> {
        None
    }

    /// Stops the virtual CPUs. Idempotent.
    fn pause(&mut self) -> Local<'_, Result<()>>;

    /// Lets the virtual CPUs go on. Idempotent.
    fn unpause(&mut self) -> Local<'_, Result<()>>;

    /// Puts the guest to sleep in memory: it stands still, and what it has given to its disks is on
    /// them. [`query`](Self::query) may call that paused. Idempotent; after an error it is as before.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] without [`Capability::Sleep`].
    fn sleep(&mut self) -> Local<'_, Result<()>> {
        Box::pin(async { Err(self.lacks(Capability::Sleep)) })
    }

    /// Wakes a guest that sleeps, also one that has gone to sleep by itself. Idempotent.
    ///
    /// # Errors
    /// As [`sleep`](Self::sleep).
    fn wake(&mut self) -> Local<'_, Result<()>> {
        Box::pin(async { Err(self.lacks(Capability::Sleep)) })
    }

    /// Presses the power button, or what stands for it. Returns when the emulator has accepted it;
    /// whether the guest obeys shows in [`Event::GuestEnded`].
    fn powerdown(&mut self) -> Local<'_, Result<()>>;

    /// Resets the machine in place and lets it run.
    fn reset(&mut self) -> Local<'_, Result<()>>;

    /// What a save is going to need. Changes nothing.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] without [`Capability::SaveState`].
    fn state_size(&mut self) -> Local<'_, Result<StateSize>> {
        Box::pin(async { Err(self.lacks(Capability::SaveState)) })
    }

    /// Puts the domain's state into `sink` and leaves the guest standing still, its disks flushed.
    /// Then either [`destroy`](Self::destroy) or [`go_on`](Self::go_on) follows.
    ///
    /// Takes as long as the disk does. Dropping the future leaves the guest running or standing
    /// still; [`go_on`](Self::go_on) or [`destroy`](Self::destroy) is the only thing to do then.
    ///
    /// # Errors
    /// Whatever the error, the guest is again as it was before: running, or paused.
    /// [`BackendError::Cancelled`] when `order.watch` asked for an end, [`BackendError::Sink`] when
    /// the state could not be written.
    fn save_state(
        &mut self,
        order: SaveOrder,
        sink: Box<dyn StateSink>,
    ) -> Local<'_, Result<SavedState>> {
        let _unused = (order, sink);
        Box::pin(async { Err(self.lacks(Capability::SaveState)) })
    }

    /// Brings a guest back that [`save_state`](Self::save_state) left standing still, also one that
    /// an earlier monitor left so: running, or paused with `run: false`. Idempotent.
    ///
    /// # Errors
    /// As [`unpause`](Self::unpause).
    fn go_on(&mut self, run: bool) -> Local<'_, Result<()>> {
        if run { self.unpause() } else { self.pause() }
    }

    /// Deletes the snapshots of this name from the disks: a save took them whose image was not kept.
    /// To be called when the guest has gone on or stands still again; does what it can, and tells in
    /// an [`Event::Note`] what is left. Nothing by default.
    fn forget_snapshots<'a>(&'a mut self, name: &'a str) -> Local<'a, ()> {
        let _unused = name;
        Box::pin(async {})
    }

    /// Sets the guest's clock to the host's, where the backend has a way; `false` where not.
    ///
    /// # Errors
    /// When the way did not work.
    fn set_clock(&mut self) -> Local<'_, Result<bool>> {
        Box::pin(async { Ok(false) })
    }

    /// The refusal of something that this emulator cannot do.
    fn lacks(&self, capability: Capability) -> BackendError {
        BackendError::Unsupported { backend: self.backend().to_owned(), capability }
    }

    /// Name of the backend.
    fn backend(&self) -> &str;

    /// Asks the emulator for its state, within 150 ms.
    ///
    /// # Errors
    /// [`BackendError::TimedOut`] when it does not answer (a SIGSTOPped emulator).
    fn query(&mut self) -> Local<'_, Result<Report>>;

    /// Ends the process whatever its condition (paused, frozen, stopped, hung) and waits until it
    /// is gone, at most 3 s. Thaws and continues it where a kill needs that. Idempotent.
    fn destroy(&mut self) -> Local<'_, Result<Exit>>;
}
