//! What the library and its emulator say to each other: one JSON value per line.
//!
//! Private to this crate. The emulator holds its listeners for life, so that a later monitor can
//! connect; the newest connection is the one that counts.

use kxl_domain::{GuestEvent, State};
use serde::{Deserialize, Serialize};

use crate::script::{Fault, Guest, Step};

/// Descriptor of the emulator's control listener.
pub const CONTROL_FD: i32 = 3;

/// Descriptor of its console listener.
pub const CONSOLE_FD: i32 = 4;

/// Name of the control socket in the runtime directory.
pub const CONTROL_SOCKET: &str = "mock.sock";

/// Name of the console socket there.
pub const CONSOLE_SOCKET: &str = "console.sock";

/// The machine, told to the emulator at launch and kept by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Whether the guest stands still until it is let go.
    pub paused: bool,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
}

/// One step, with what the script makes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Number of the request, repeated in the reply.
    pub id: u64,
    /// The step.
    pub step: Step,
    /// What is to happen to it.
    pub fault: Fault,
    /// The guest's doings from now on; they start anew where they differ from before.
    pub guest: Guest,
    /// Only for [`Step::Launch`].
    pub machine: Option<Machine>,
}

/// Where the emulator stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its pid: a socket may have come to belong to another emulator.
    pub pid: u32,
    /// Running, Paused or Shutdown.
    pub state: State,
    /// How the guest ended.
    pub ended: Option<GuestEvent>,
    /// The machine.
    pub machine: Machine,
}

/// A line from the emulator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Message {
    /// The answer to the request of this number.
    Reply {
        /// The request's number.
        id: u64,
        /// Why it was refused; `None` = done.
        refused: Option<String>,
        /// Where the emulator stands now.
        status: Status,
    },
    /// Something happened.
    Event(Notice),
}

/// An event of the emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Notice {
    /// The guest stands still.
    Stopped,
    /// It goes on.
    Resumed,
    /// It was reset in place.
    Reset,
    /// It ended.
    Ended(GuestEvent),
}
