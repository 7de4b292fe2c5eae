//! What the records hold, and the changes that can be made to them.

use kxl_domain::image::{ImageId, ImageUse};
use kxl_domain::supervision::{Record, Word, word};
use kxl_domain::{DomId, DomainConfig, DomainName, DomainUuid, Op, Reason, State, Wanted};
use serde::{Deserialize, Serialize};

/// What names a process for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRow {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub start_time: u64,
    /// The boot it belongs to.
    pub boot_id: String,
}

/// What a person asked the guest itself to do, so that a new monitor knows how its end is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Asked {
    /// To switch off (`shutdown`).
    Poweroff,
    /// To reboot (`reboot`).
    Reboot,
    /// It was reset in place (`reset`).
    Reset,
}

impl Asked {
    /// The stable spelling, as stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Poweroff => "poweroff",
            Self::Reboot => "reboot",
            Self::Reset => "reset",
        }
    }

    /// The value of this spelling, if there is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Poweroff, Self::Reboot, Self::Reset].into_iter().find(|v| v.as_str() == text)
    }
}

/// A managed domain, as registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ManagedRow {
    /// Its durable identity.
    pub uuid: DomainUuid,
    /// Its name.
    pub name: DomainName,
    /// Its configuration; the uuid in it is set.
    pub config: DomainConfig,
    /// The backend that the configuration asks for; `auto` is not resolved here.
    pub backend: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// The last wish.
    pub wanted: Wanted,
    /// Where it rests, or runs (then `boot_id` is set).
    pub state: State,
    /// Why.
    pub reason: Option<Reason>,
    /// More about why, for people; may be empty.
    pub detail: String,
    /// The boot in which it is live.
    pub boot_id: Option<String>,
    /// Whether it is started at boot.
    pub autostart: bool,
    /// The image that it is, while suspended.
    pub image: Option<ImageId>,
    /// What supervision remembers.
    pub supervision: Record,
    /// When it was registered first; milliseconds since 1970.
    pub created_ms: i64,
    /// When the record changed last; milliseconds since 1970.
    pub updated_ms: i64,
}

/// A domain with a process, or about to get or lose one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LiveRow {
    /// Its durable identity.
    pub uuid: DomainUuid,
    /// Its number.
    pub domid: DomId,
    /// Its name.
    pub name: DomainName,
    /// Whether it is registered as well.
    pub managed: bool,
    /// Its configuration as started.
    pub config: DomainConfig,
    /// The backend, resolved.
    pub backend: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// The last wish.
    pub wanted: Wanted,
    /// The state last recorded; [`State::Absent`] for a transient domain that has not started.
    pub state: State,
    /// Why.
    pub reason: Option<Reason>,
    /// More about why, for people; may be empty.
    pub detail: String,
    /// The operation in flight.
    pub op: Option<Op>,
    /// What the guest was asked to do and has not done yet.
    pub asked: Option<Asked>,
    /// The emulator.
    pub process: Option<ProcessRow>,
    /// What the backend needs to adopt the process: JSON that only it reads.
    pub attachments: Option<String>,
    /// The image that it comes from, until that is verified and done with.
    pub image: Option<ImageUse>,
    /// What supervision remembers.
    pub supervision: Record,
    /// The boot in which the row was made.
    pub boot_id: String,
    /// When it was claimed; milliseconds since 1970.
    pub created_ms: i64,
    /// When the emulator of now was started; milliseconds since 1970.
    pub started_ms: Option<i64>,
    /// How many emulators it has had in this life.
    pub spawn_count: u32,
}

/// One line of a list: what it shows and no configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListRow {
    /// Its durable identity.
    pub uuid: DomainUuid,
    /// Its name.
    pub name: DomainName,
    /// Its number, when it is live.
    pub domid: Option<DomId>,
    /// Whether it is registered.
    pub managed: bool,
    /// The backend; resolved when it is live.
    pub backend: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// The last wish.
    pub wanted: Wanted,
    /// The state last recorded.
    pub state: State,
    /// Why.
    pub reason: Option<Reason>,
    /// More about why, for people; may be empty.
    pub detail: String,
    /// The operation in flight.
    pub op: Option<Op>,
    /// The emulator.
    pub process: Option<ProcessRow>,
    /// When the emulator of now was started; milliseconds since 1970.
    pub started_ms: Option<i64>,
    /// What supervision remembers.
    pub supervision: Record,
}

impl ListRow {
    /// Whether it has a row among the live ones.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.domid.is_some()
    }

    /// Its state in Supervisor's words, as recorded.
    #[must_use]
    pub fn word(&self) -> Word {
        word(self.state, self.op, self.reason, &self.supervision)
    }
}

/// What [`Store::define`](crate::Store::define) did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defined {
    /// A new record.
    New,
    /// A record of the same uuid was replaced; its wish and age are kept, and its autostart flag
    /// unless the configuration sets it.
    Replaced,
}

/// Changes to a managed domain's record; `None` leaves as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManagedChange {
    /// The last wish.
    pub wanted: Option<Wanted>,
    /// Where it rests or runs.
    pub state: Option<State>,
    /// Why; `Some(None)` clears it.
    pub reason: Option<Option<Reason>>,
    /// More about why.
    pub detail: Option<String>,
    /// Its configuration. The name in it has to be the recorded one.
    pub config: Option<DomainConfig>,
    /// Whether it is started at boot.
    pub autostart: Option<bool>,
    /// The image that it is; `Some(None)` when its state was thrown away.
    pub image: Option<Option<ImageId>>,
    /// What is remembered of its starts and ends.
    pub supervision: Option<Record>,
}

/// What a domain needs to become live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its durable identity.
    pub uuid: DomainUuid,
    /// The name it takes.
    pub name: DomainName,
    /// Whether it is registered; the record has to exist then.
    pub managed: bool,
    /// Its configuration as it is going to be started.
    pub config: DomainConfig,
    /// The backend, resolved.
    pub backend: String,
    /// The wish.
    pub wanted: Wanted,
    /// The operation that it is claimed for.
    pub op: Op,
    /// The image that it is going to come from.
    pub image: Option<ImageUse>,
    /// The number that it takes if no live domain has it.
    pub domid: Option<DomId>,
    /// What supervision remembers.
    pub supervision: Record,
}

/// Changes to a live domain's row; `None` leaves as it is, `Some(None)` clears.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveChange {
    /// The last wish.
    pub wanted: Option<Wanted>,
    /// The state.
    pub state: Option<State>,
    /// Why.
    pub reason: Option<Option<Reason>>,
    /// More about why.
    pub detail: Option<String>,
    /// The operation in flight.
    pub op: Option<Option<Op>>,
    /// What the guest is asked to do.
    pub asked: Option<Option<Asked>>,
    /// The emulator. A new one counts as a spawn and sets `started_ms`.
    pub process: Option<Option<ProcessRow>>,
    /// What the backend needs to adopt the process.
    pub attachments: Option<Option<String>>,
    /// Its configuration as running.
    pub config: Option<DomainConfig>,
    /// The backend, resolved.
    pub backend: Option<String>,
    /// The image that it comes from.
    pub image: Option<Option<ImageUse>>,
    /// What supervision remembers.
    pub supervision: Option<Record>,
    /// What this says of the state holds for a moment, as on the way from one run to the next: the
    /// record of a managed domain, which waits for the disk, keeps what it says of the run before.
    pub passing: bool,
}

/// How a domain's life ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// Where a managed domain rests from now on.
    pub state: State,
    /// Why.
    pub reason: Option<Reason>,
    /// More about why.
    pub detail: String,
    /// The wish, where the end fulfils or changes it.
    pub wanted: Option<Wanted>,
    /// The image that it is from now on, for [`State::Suspended`].
    pub image: Option<ImageId>,
    /// What supervision remembers.
    pub supervision: Record,
}
