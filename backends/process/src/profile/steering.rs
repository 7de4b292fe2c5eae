//! How a program is steered, as data.

use serde::Deserialize;

/// How the emulator is steered.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// The kind.
    pub kind: ControlKind,
    /// The prompt that a stopped emulator shows, for `prompt`.
    #[serde(default)]
    pub prompt: Option<String>,
    /// What is typed at the prompt to let a stopped guest go on.
    #[serde(default)]
    pub go_on: Option<String>,
    /// Template of the unix socket at which the emulator listens for QMP, for `qmp` without
    /// `start.arguments`.
    #[serde(default)]
    pub socket: Option<String>,
}

/// The kinds of control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlKind {
    /// A QMP socket.
    Qmp,
    /// A terminal that shows a prompt while the guest stands still.
    Prompt,
    /// Signals only.
    Signal,
}

/// How the machine stands still.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// The way.
    pub kind: PauseWay,
}

/// The ways to have a machine stand still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PauseWay {
    /// It cannot be done.
    #[default]
    None,
    /// By QMP: `stop` and `cont`.
    Qmp,
    /// The signals STOP and CONT.
    Signal,
    /// A control group of its own is frozen; signals where the host has no freezer for us.
    Freezer,
}

/// How the guest sleeps in memory.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sleep {
    /// The way.
    pub kind: QmpWay,
}

/// How the machine is reset.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// The way.
    pub kind: QmpWay,
}

/// What only QMP can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QmpWay {
    /// It cannot be done.
    #[default]
    None,
    /// By QMP.
    Qmp,
}

/// How the guest is asked to end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// The way.
    pub kind: ShutdownWay,
    /// Name of the signal without `SIG`, for `signal`.
    #[serde(default)]
    pub signal: Option<String>,
    /// What is typed on the console, for `type`.
    #[serde(default)]
    pub text: Option<String>,
    /// What is typed and waited for on the console, in order, for `script`.
    #[serde(default)]
    pub step: Vec<Said>,
    /// Templates of a program and its arguments, for `exec`.
    #[serde(default)]
    pub argv: Vec<String>,
    /// How long the program may take, in milliseconds, for `exec`.
    #[serde(default = "ten_minutes")]
    pub timeout_ms: u64,
}

const fn ten_minutes() -> u64 {
    600_000
}

/// The ways to ask a guest to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShutdownWay {
    /// It cannot be done.
    #[default]
    None,
    /// `system_powerdown` by QMP.
    Qmp,
    /// A signal.
    Signal,
    /// Text typed on the console.
    Type,
    /// Lines typed on the console, each after the answer to the one before.
    Script,
    /// A program of the administrator's is run.
    Exec,
}

/// One step of a talk on the console.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// What is typed, as it is.
    #[serde(default, rename = "type")]
    pub text: String,
    /// What the console has to show then before the next step.
    #[serde(default)]
    pub expect: Option<String>,
    /// How long to wait for it, in milliseconds.
    #[serde(default = "a_minute")]
    pub timeout_ms: u64,
}

const fn a_minute() -> u64 {
    60_000
}

/// How the process is ended; KILL comes last, always.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destroy {
    /// A signal sent before KILL, by name without `SIG`; none by default.
    #[serde(default)]
    pub signal: Option<String>,
    /// How long KILL waits after it, in milliseconds.
    #[serde(default)]
    pub wait_ms: u64,
    /// What is tried before KILL, in order, in the place of `signal`.
    #[serde(default)]
    pub step: Vec<DestroyStep>,
}

/// One thing that is tried before KILL: exactly one of the first three.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestroyStep {
    /// A QMP command.
    #[serde(default)]
    pub qmp: Option<String>,
    /// What is typed on the console.
    #[serde(default)]
    pub key: Option<String>,
    /// A signal, by name without `SIG`.
    #[serde(default)]
    pub signal: Option<String>,
    /// How long the process may take to end then, in milliseconds.
    #[serde(default)]
    pub wait_ms: u64,
}

impl Destroy {
    /// The longest that all the steps before KILL may take, in milliseconds: destroy takes at most
    /// three seconds.
    pub const MOST_MS: u64 = 2000;

    /// The steps before KILL.
    #[must_use]
    pub fn steps(&self) -> Vec<DestroyStep> {
        match &self.signal {
            Some(_) => {
                let (signal, wait_ms) = (self.signal.clone(), self.wait_ms);
                vec![DestroyStep { signal, wait_ms, ..DestroyStep::default() }]
            }
            None => self.step.clone(),
        }
    }
}
