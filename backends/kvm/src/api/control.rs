//! What the api-channel asks of a machine.
//!
//! Everything here is called from the main thread, the one that serves the api-channel, and may
//! take as long as it takes to stop a processor, not longer: a save runs on a thread of its own and
//! is asked about. What a call brings about is told by [`Notices`], never by the call's result:
//! a notice that was posted before the call returns is written to the clients as an event **before**
//! the answer to the command. So `stop` of a running machine posts [`What::Stop`] and returns, and
//! `stop` of a machine that stands still just returns.
//!
//! [`Notices`]: super::notices::Notices
//! [`What::Stop`]: super::notices::What::Stop

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use kxl_qmp::server::ErrorClass;

use super::notices::{Cause, Notices};
use crate::config::{Actions, Vhost};

/// Why a command was not carried out: what its client is told. Any error becomes one with `?`, with
/// its causes in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The class by which clients tell refusals apart.
    pub class: ErrorClass,
    /// For people.
    pub text: String,
}

impl Refusal {
    /// A refusal of the class that most have.
    pub fn new(text: impl Into<String>) -> Self {
        Self { class: ErrorClass::GenericError, text: text.into() }
    }

    /// There is no such device.
    #[must_use]
    pub fn no_device(id: &str) -> Self {
        Self { class: ErrorClass::DeviceNotFound, text: format!("there is no device '{id}'") }
    }
}

impl<E: std::error::Error> From<E> for Refusal {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        Self::new(text)
    }
}

/// How a command ended.
pub type Outcome<T = ()> = Result<T, Refusal>;

/// A machine, as the api-channel sees it.
pub trait Control {
    /// Where this machine's threads tell what happens.
    fn notices(&self) -> &Notices;

    /// Called whenever the notices' descriptor was readable, before the notices are taken: makes the
    /// consequences of what other threads have left for this one (the guest has ended, a save has
    /// come to its last pass) and posts what comes of it.
    fn attend(&mut self);

    /// Name and uuid, as they were configured.
    fn identity(&self) -> Identity;

    /// Where the machine stands.
    fn status(&self) -> Status;

    /// Lets every processor stand still, and then the devices: nothing of the machine changes after
    /// the return. Posts `Stop` if it ran. One that stands still already, for whatever reason,
    /// stays as it is.
    ///
    /// # Errors
    /// Where processors could not be stopped.
    fn stop(&mut self) -> Outcome;

    /// Lets the processors go on, and posts `Resume` if they stood still. After a save the machine
    /// takes its disks up again first.
    ///
    /// # Errors
    /// Of a guest that has ended (`system_reset` comes first), of one whose state has not come in.
    fn cont(&mut self) -> Outcome;

    /// Resets the machine, as [`Actions::reboot`] says; posts `Reset`, or what an end posts. It runs
    /// or stands still afterwards as before; one that has ended is `paused` afterwards.
    ///
    /// # Errors
    /// Where the machine cannot be built again.
    fn reset(&mut self) -> Outcome;

    /// Presses the power button and posts `Powerdown`. What the guest makes of it is its own.
    ///
    /// # Errors
    /// Of a guest that has ended.
    fn powerdown(&mut self) -> Outcome;

    /// Ends the machine at once: posts `Shutdown` with this cause (`quit`, or a signal) and then
    /// `Exit(0)`.
    fn quit(&mut self, cause: Cause);

    /// What follows when the guest ends.
    fn actions(&self) -> Actions;

    /// Changes what follows when the guest ends.
    fn set_actions(&mut self, actions: Actions);

    /// The virtual processors, by number.
    fn vcpus(&self) -> Vec<Vcpu>;

    /// Bytes of guest memory, the balloon included.
    fn memory(&self) -> u64;

    /// The disks, by slot; only slots that hold one.
    fn blocks(&self) -> Vec<Block>;

    /// Bytes that the guest has at the moment; `None` without a balloon.
    fn balloon(&self) -> Option<u64>;

    /// Asks the guest to make do with so many bytes. Posts `BalloonChange` whenever the guest has
    /// moved, which may be never.
    ///
    /// # Errors
    /// Without a balloon ([`ErrorClass::DeviceNotActive`]), or beyond the machine's memory.
    fn set_balloon(&mut self, bytes: u64) -> Outcome;

    /// Puts a disk into a slot that was reserved for one.
    ///
    /// # Errors
    /// No free slot, a slot in use, an id in use, a file that cannot be opened here.
    fn plug_disk(&mut self, disk: NewDisk) -> Outcome;

    /// Puts a network interface into a slot that was reserved for one.
    ///
    /// # Errors
    /// No free slot, a slot in use, an id in use, a tap that cannot be opened here.
    fn plug_nic(&mut self, nic: NewNic) -> Outcome;

    /// Takes a disk or an interface out, also one of the configuration. Posts `DeviceDeleted` when
    /// it is gone, before the return or later; its file and its tap are closed by then.
    ///
    /// # Errors
    /// No such device ([`Refusal::no_device`]).
    fn unplug(&mut self, id: &str) -> Outcome;

    /// Begins a save, by the limits of [`Self::limit_migration`]. Posts `Migration` with each status
    /// as it is reached, `MigrationPass` for each pass over memory, `Stop` when the guest stands
    /// still for the last one.
    ///
    /// # Errors
    /// One is in flight already; a guest that has ended; a file that cannot be opened here.
    fn migrate(&mut self, order: Migrate) -> Outcome;

    /// Lets a save go on that waits at [`MigrationStatus::PreSwitchover`].
    ///
    /// # Errors
    /// None waits there.
    fn continue_migration(&mut self) -> Outcome;

    /// Gives the save in flight up, if there is one; `Migration` tells when it is over. A guest that
    /// ran when it began goes on.
    fn cancel_migration(&mut self);

    /// Sets the limits for the save in flight and for those to come.
    fn limit_migration(&mut self, limits: Limits);

    /// The limits.
    fn limits(&self) -> Limits;

    /// How the save in flight stands, or how the last one ended.
    fn migration(&self) -> Migration;

    /// Loads a state, that begins at this byte of a file, into a machine that waits for one
    /// ([`RunState::Inmigrate`]). It stands still
    /// afterwards (`paused`), or goes on where the configuration does not say otherwise.
    ///
    /// # Errors
    /// It waits for none; a state that does not fit. A machine that could not load a state is as it
    /// was, and may be given another.
    fn incoming(&mut self, from: Place, offset: u64) -> Outcome;
}

/// What a machine is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The name.
    pub name: Option<String>,
    /// The uuid.
    pub uuid: Option<String>,
}

/// Where a machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The word.
    pub state: RunState,
    /// How its guest ended, where it has.
    pub ended: Option<Cause>,
}

/// QEMU's words for where a machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// It waits for the first `cont`.
    Prelaunch,
    /// It waits for a state.
    Inmigrate,
    /// Its processors run.
    Running,
    /// They were stopped.
    Paused,
    /// A save has stopped them and is not over.
    FinishMigrate,
    /// It was saved.
    Postmigrate,
    /// The guest has ended.
    Shutdown,
    /// It has panicked.
    GuestPanicked,
    /// A processor cannot go on.
    InternalError,
}

impl RunState {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::Inmigrate => "inmigrate",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::FinishMigrate => "finish-migrate",
            Self::Postmigrate => "postmigrate",
            Self::Shutdown => "shutdown",
            Self::GuestPanicked => "guest-panicked",
            Self::InternalError => "internal-error",
        }
    }
}

/// A virtual processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vcpu {
    /// The thread that runs it.
    pub thread: i32,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The device's id.
    pub id: String,
    /// Where its bytes are, as far as that is known: a descriptor has no name.
    pub file: Option<PathBuf>,
    /// It refuses writes.
    pub readonly: bool,
    /// Its size in bytes.
    pub size: u64,
}

/// A file: by name, where the process can still open it (`--hotplug-dir`), or opened by the client.
#[derive(Debug)]
pub enum Place {
    /// A path.
    Path(PathBuf),
    /// Open already.
    Fd(OwnedFd),
}

/// A disk to be plugged in.
#[derive(Debug)]
pub struct NewDisk {
    /// The device's id; unique among all devices.
    pub id: String,
    /// The slot among those of the disks; `None` = the first free one.
    pub slot: Option<usize>,
    /// A raw image or a block device.
    pub source: Place,
    /// It refuses writes.
    pub readonly: bool,
}

/// A network interface to be plugged in.
#[derive(Debug)]
pub struct NewNic {
    /// The device's id; unique among all devices.
    pub id: String,
    /// The slot among those of the interfaces; `None` = the first free one.
    pub slot: Option<usize>,
    /// The host's end.
    pub tap: NewTap,
    /// The address that the guest is given; `None` = one is derived from the slot.
    pub mac: Option<[u8; 6]>,
    /// Whether packets go through the kernel's vhost.
    pub vhost: Vhost,
}

/// The host's end of an interface to be plugged in.
#[derive(Debug)]
pub enum NewTap {
    /// A tap of this name.
    Name(String),
    /// A tap that the client has opened; see [`Tap::Fd`](crate::config::Tap::Fd).
    Fd(OwnedFd),
}

/// A save to begin.
#[derive(Debug)]
pub struct Migrate {
    /// Where the state goes.
    pub to: Place,
    /// The first byte of it there; 0 unless it is a file.
    pub offset: u64,
    /// Wait at [`MigrationStatus::PreSwitchover`], the guest standing still, for
    /// [`Control::continue_migration`].
    pub pause_before_switchover: bool,
}

/// What a save may cost the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long the guest may stand still, in milliseconds.
    pub downtime_ms: u64,
    /// Bytes in a second; 0 = as fast as it goes.
    pub bandwidth: u64,
}

impl Default for Limits {
    /// QEMU's downtime, and no limit otherwise: a save does not go over a network.
    fn default() -> Self {
        Self { downtime_ms: 300, bandwidth: 0 }
    }
}

/// QEMU's words for how a save stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MigrationStatus {
    /// There was none.
    #[default]
    None,
    /// It begins.
    Setup,
    /// Memory is read.
    Active,
    /// The guest stands still; `migrate-continue` is waited for.
    PreSwitchover,
    /// The last pages and the devices.
    Device,
    /// It was given up, and is not over.
    Cancelling,
    /// It was given up.
    Cancelled,
    /// It is whole.
    Completed,
    /// It came to nothing.
    Failed,
}

impl MigrationStatus {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Setup => "setup",
            Self::Active => "active",
            Self::PreSwitchover => "pre-switchover",
            Self::Device => "device",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing more comes of it.
    #[must_use]
    pub const fn over(self) -> bool {
        matches!(self, Self::None | Self::Cancelled | Self::Completed | Self::Failed)
    }
}

/// A save, as `query-migrate` tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migration {
    /// How it stands.
    pub status: MigrationStatus,
    /// Bytes of guest memory in all.
    pub total: u64,
    /// Bytes written.
    pub transferred: u64,
    /// Bytes of guest memory that are still to be written.
    pub remaining: u64,
    /// Pages that held nothing but zeros.
    pub zero_pages: u64,
    /// Pages written.
    pub normal_pages: u64,
    /// Passes over memory begun.
    pub passes: u64,
    /// Milliseconds since it began, or that it took.
    pub total_ms: u64,
    /// Milliseconds that the guest stood still for it, once it is whole.
    pub downtime_ms: Option<u64>,
    /// Why it came to nothing.
    pub error: Option<String>,
}
