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
    /// What its memory is filled from.
    pub seed: u64,
}

/// What a step needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum With {
    /// Nothing.
    #[default]
    Nothing,
    /// The machine to make, for [`Step::Launch`].
    Machine(Machine),
    /// The state to take on, for [`Step::Restore`].
    State(Box<Saved>),
    /// Whether the guest runs then, for [`Step::GoOn`].
    Run(bool),
}

/// The state of a guest that stands still: with the script everything that decides what it does
/// from then on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Number of the last counter line.
    pub count: u64,
    /// Milliseconds since its first instruction; `None` = it has executed none.
    pub uptime_ms: Option<u64>,
    /// The beginning of a line that was typed.
    pub line: Vec<u8>,
    /// The power button was pressed while it stood still.
    pub pressed: bool,
    /// What the script made it do.
    pub guest: Guest,
    /// Milliseconds until its next counter line.
    pub tick_left_ms: Option<u64>,
    /// Milliseconds until its scripted end.
    pub end_left_ms: Option<u64>,
    /// What its memory is filled from.
    pub seed: u64,
    /// How many pages it has written since its boot.
    pub writes: u64,
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
    /// What it needs to know.
    pub with: With,
}

/// Where the emulator stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its pid: a socket may have come to belong to another emulator.
    pub pid: u32,
    /// Running, Paused or Shutdown.
    pub state: State,
    /// How the guest ended.
    pub ended: Option<GuestEvent>,
    /// The machine.
    pub machine: Machine,
    /// How many pages the guest has written since its boot.
    pub writes: u64,
    /// Its state, in the answer to [`Step::SaveStop`].
    pub saved: Option<Box<Saved>>,
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
