//! Where a guest's console is, and when a program counts as started, as data.

use serde::Deserialize;

/// Where the guest's console is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Console {
    /// The kind.
    pub kind: ConsoleKind,
    /// Pause between two bytes of input, in milliseconds.
    #[serde(default)]
    pub pace_ms: Option<u32>,
    /// Template of the socket or file, for `unix` and `file`.
    #[serde(default)]
    pub path: Option<String>,
    /// Template of the TCP port on 127.0.0.1 at which the emulator listens, for `telnet`.
    #[serde(default)]
    pub port: Option<String>,
    /// Template of a TCP port on 127.0.0.1 at which the monitor offers the console to telnet.
    #[serde(default)]
    pub publish: Option<String>,
    /// Those of the standard streams that are the terminal, for `pty`; the others lead nowhere.
    #[serde(default = "all_streams")]
    pub streams: Vec<Standard>,
}

impl Console {
    fn of(kind: ConsoleKind) -> Self {
        let streams = all_streams();
        Self { kind, pace_ms: None, path: None, port: None, publish: None, streams }
    }
}

/// A standard stream of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standard {
    /// What it reads.
    Stdin,
    /// What it prints.
    Stdout,
    /// What it complains.
    Stderr,
}

impl Standard {
    /// All of them, by their number.
    pub const ALL: [Self; 3] = [Self::Stdin, Self::Stdout, Self::Stderr];

    /// Its number among a program's descriptors.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }
}

fn all_streams() -> Vec<Standard> {
    Standard::ALL.to_vec()
}

impl Default for Console {
    fn default() -> Self {
        Self::of(ConsoleKind::Pty)
    }
}

/// The kinds of console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsoleKind {
    /// A pty that is the emulator's terminal.
    Pty,
    /// A unix socket that is handed to the emulator.
    Socket,
    /// A unix socket at which the emulator listens.
    Unix,
    /// A TCP port at which the emulator listens and speaks telnet.
    Telnet,
    /// Standard input and output, without a terminal.
    Stdio,
    /// A file that the emulator writes; nothing can be typed.
    File,
    /// There is none.
    None,
}

impl ConsoleKind {
    /// Whether the console is the program's own terminal or standard streams.
    #[must_use]
    pub const fn is_own(self) -> bool {
        matches!(self, Self::Pty | Self::Stdio)
    }
}

/// When the emulator counts as started.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// The kind of sign.
    pub kind: ReadyKind,
    /// How long to wait for it, in milliseconds.
    #[serde(default = "ten_seconds")]
    pub timeout_ms: u64,
    /// How long it must have lived since that sign, in milliseconds.
    #[serde(default)]
    pub after_ms: u64,
    /// The text that the console or the program's terminal shows, for `console-match`.
    #[serde(default, rename = "match")]
    pub text: Option<String>,
    /// Template of the TCP port on 127.0.0.1 that accepts a connection, for `tcp`; that of the
    /// console where there is none.
    #[serde(default)]
    pub port: Option<String>,
}

const fn ten_seconds() -> u64 {
    10_000
}

impl Default for Ready {
    fn default() -> Self {
        let kind = ReadyKind::Alive;
        Self { kind, timeout_ms: ten_seconds(), after_ms: 0, text: None, port: None }
    }
}

/// The kinds of readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadyKind {
    /// It answers `query-status`.
    #[serde(alias = "qmp-greeting")]
    Qmp,
    /// The emulator has taken its terminal out of cooked mode: the guest runs.
    GuestRuns,
    /// Its exec has succeeded, and it has lived for a while.
    Alive,
    /// The console shows a text.
    ConsoleMatch,
    /// A TCP port accepts a connection.
    Tcp,
}
