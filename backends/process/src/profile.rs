//! Profiles: how to run one program, as data.
//!
//! Built in are `qemu`, `kvm`, `simh` and `any`; an administrator adds files `NAME.toml` to the profile
//! directory. They are read at use, after the built-in ones, which they cannot replace.

mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kxl_backend::BackendError;
use kxl_domain::{Capability, CapabilitySet, GuestEvent};
use serde::Deserialize;

pub use state::{Identify, Restore, Save, SaveLive, StateWay, Step};

/// The built-in profiles.
const BUILT_IN: &[(&str, &str)] = &[
    ("qemu", include_str!("../profiles/qemu.toml")),
    ("kvm", include_str!("../profiles/kvm.toml")),
    ("simh", include_str!("../profiles/simh.toml")),
    ("any", include_str!("../profiles/any.toml")),
];

/// How to run one program.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Version of this format: 1.
    pub schema: u32,
    /// The name, as in `backend=` and in the file's name.
    pub name: String,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// The package that brings the program.
    #[serde(default)]
    pub package: Option<String>,
    /// The process.
    pub start: Start,
    /// How it is steered.
    pub control: Control,
    /// When it counts as started.
    #[serde(default)]
    pub ready: Ready,
    /// Where the guest's console is.
    #[serde(default)]
    pub console: Console,
    /// How it stands still.
    #[serde(default)]
    pub pause: Pause,
    /// How it sleeps in memory.
    #[serde(default)]
    pub sleep: Sleep,
    /// How the guest is asked to end.
    #[serde(default)]
    pub shutdown: Shutdown,
    /// How the machine is reset in place.
    #[serde(default)]
    pub reset: Reset,
    /// How the process is ended.
    #[serde(default)]
    pub destroy: Destroy,
    /// What its end means.
    #[serde(default)]
    pub exit: Exit,
    /// How the running state is saved.
    #[serde(default)]
    pub save: Save,
    /// How it is saved while the guest runs.
    #[serde(default)]
    pub save_live: SaveLive,
    /// How a saved state comes back.
    #[serde(default)]
    pub restore: Restore,
    /// How the program tells what it is.
    #[serde(default)]
    pub identify: Option<Identify>,
}

/// The process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Template of the program: a path, or a name searched in `PATH`.
    pub exec: String,
    /// Templates of its arguments, one item each.
    #[serde(default)]
    pub argv: Vec<String>,
    /// The arguments are built from the typed configuration instead.
    #[serde(default)]
    pub arguments: Option<Builder>,
    /// Environment beside `PATH`; values are templates.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files written before the start.
    #[serde(default)]
    pub file: Vec<StartFile>,
    /// Commands that start the machine, each with the length of its shortest abbreviation.
    #[serde(default)]
    pub runs: BTreeMap<String, usize>,
}

/// A builder of arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Builder {
    /// QEMU's command line.
    Qemu,
    /// kxl-vmm's command line.
    Kvm,
}

/// A file written before the start.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartFile {
    /// Template of its path; must lie in the runtime directory.
    pub path: String,
    /// Template of its contents. A line whose only value is absent is left out.
    pub text: String,
}

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

/// When the emulator counts as started.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// The kind of sign.
    pub kind: ReadyKind,
    /// How long to wait for it, in milliseconds.
    #[serde(default = "ten_seconds")]
    pub timeout_ms: u64,
}

const fn ten_seconds() -> u64 {
    10_000
}

impl Default for Ready {
    fn default() -> Self {
        Self { kind: ReadyKind::Alive, timeout_ms: ten_seconds() }
    }
}

/// The kinds of readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadyKind {
    /// It answers `query-status`.
    Qmp,
    /// The emulator has taken its terminal out of cooked mode: the guest runs.
    GuestRuns,
    /// Its exec has succeeded.
    Alive,
}

/// Where the guest's console is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Console {
    /// The kind.
    pub kind: ConsoleKind,
    /// Pause between two bytes of input, in milliseconds.
    #[serde(default)]
    pub pace_ms: Option<u32>,
}

impl Default for Console {
    fn default() -> Self {
        Self { kind: ConsoleKind::Pty, pace_ms: None }
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
}

/// How the machine stands still.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// The way.
    pub kind: Way,
}

/// How the guest sleeps in memory.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sleep {
    /// The way.
    pub kind: Way,
}

/// How the guest is asked to end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// The way.
    pub kind: Way,
    /// Name of the signal without `SIG`, for `signal`.
    #[serde(default)]
    pub signal: Option<String>,
    /// What is typed on the console, for `type`.
    #[serde(default)]
    pub text: Option<String>,
}

/// How the machine is reset.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// The way.
    pub kind: Way,
}

/// A way to have something done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// It cannot be done.
    #[default]
    None,
    /// A QMP command.
    Qmp,
    /// A signal.
    Signal,
    /// Text typed on the console.
    Type,
}

/// How the process is ended.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destroy {
    /// A signal sent before KILL, by name without `SIG`; none by default.
    #[serde(default)]
    pub signal: Option<String>,
    /// How long KILL waits after it, in milliseconds; at most 2000.
    #[serde(default)]
    pub wait_ms: u64,
}

/// What the end of the process means.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// By exit status; `*` = any other.
    #[serde(default)]
    pub code: BTreeMap<String, Meaning>,
    /// Ended by a signal.
    #[serde(default)]
    pub signal: Option<Meaning>,
    /// By the last line of the console that begins with a rule's text.
    #[serde(default)]
    pub rule: Vec<Rule>,
}

/// A line of the console and what it means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What the line begins with.
    #[serde(rename = "match")]
    pub start: String,
    /// Its meaning.
    pub means: Meaning,
}

/// What an end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Meaning {
    /// The guest switched itself off.
    Poweroff,
    /// The guest asked for a reboot.
    Reboot,
    /// The guest or the emulator crashed.
    Crash,
    /// A watchdog fired.
    Watchdog,
    /// It stands still because somebody stopped it; the guest has not ended.
    Stopped,
}

impl Meaning {
    /// The guest's event; `None` for [`Meaning::Stopped`].
    #[must_use]
    pub const fn event(self) -> Option<GuestEvent> {
        match self {
            Self::Poweroff => Some(GuestEvent::Poweroff),
            Self::Reboot => Some(GuestEvent::Reboot),
            Self::Crash => Some(GuestEvent::Crash),
            Self::Watchdog => Some(GuestEvent::Watchdog),
            Self::Stopped => None,
        }
    }
}

impl Exit {
    /// What this exit status or signal means.
    #[must_use]
    pub fn meaning(&self, code: Option<i32>, signal: Option<i32>) -> Option<GuestEvent> {
        let rule = match (code, signal) {
            (Some(code), _) => {
                self.code.get(&code.to_string()).or_else(|| self.code.get("*")).copied()
            }
            (None, Some(_)) => self.signal,
            (None, None) => None,
        };
        rule.and_then(Meaning::event)
    }
}

impl Profile {
    /// The profile of this name: built in, or `NAME.toml` in `dir`.
    ///
    /// # Errors
    /// [`BackendError::Config`] for the key `backend`: no such profile, or a file that is wrong,
    /// with file and line.
    pub fn load(name: &str, dir: &Path) -> Result<Self, BackendError> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            return Self::parse(text, name, &PathBuf::from(format!("{name}.toml")));
        }
        let plain = !name.is_empty()
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if !plain {
            return Err(BackendError::config("backend", format!("{name:?} is no profile name")));
        }
        let path = dir.join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => BackendError::config(
                "backend",
                format!(
                    "there is no backend \"{name}\": expected auto, qemu, kvm, simh, any, mock \
                     or a profile in {}",
                    dir.display()
                ),
            ),
            _ => BackendError::file("backend", &path, error),
        })?;
        Self::parse(&text, name, &path)
    }

    /// Names of the built-in profiles and of those in `dir`, sorted, built-in ones first.
    #[must_use]
    pub fn names(dir: &Path) -> Vec<String> {
        let mut own: Vec<String> = std::fs::read_dir(dir)
            .map(|entries| {
                entries
                    .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                    .filter_map(|file| file.strip_suffix(".toml").map(str::to_owned))
                    .filter(|name| !BUILT_IN.iter().any(|(built_in, _)| built_in == name))
                    .collect()
            })
            .unwrap_or_default();
        own.sort();
        BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).chain(own).collect()
    }

    /// Reads a profile's text.
    ///
    /// # Errors
    /// [`BackendError::Config`] with `path` and the line.
    pub fn parse(text: &str, name: &str, path: &Path) -> Result<Self, BackendError> {
        let wrong = |line: usize, why: &str| {
            BackendError::config("backend", format!("{}:{line}: {why}", path.display()))
        };
        let profile: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            wrong(line, error.message().trim())
        })?;
        let at = |needle: &str| text.find(needle).map_or(1, |offset| line_of(text, offset));
        if profile.schema != 1 {
            return Err(wrong(at("schema"), "this build reads schema 1"));
        }
        if profile.name != name {
            return Err(wrong(at("name"), "the name must be that of the file"));
        }
        profile.consistent().map_err(|(section, why)| wrong(at(section), why))?;
        Ok(profile)
    }

    /// Combinations that no driver carries out.
    fn consistent(&self) -> Result<(), (&'static str, &'static str)> {
        let qmp = self.control.kind == ControlKind::Qmp;
        let ways = [
            ("[pause]", self.pause.kind),
            ("[sleep]", self.sleep.kind),
            ("[shutdown]", self.shutdown.kind),
            ("[reset]", self.reset.kind),
        ];
        for (section, way) in ways {
            if way == Way::Qmp && !qmp {
                return Err((section, "qmp needs control.kind = \"qmp\""));
            }
        }
        if qmp != self.start.arguments.is_some() {
            return Err(("[control]", "qmp goes with start.arguments = \"qemu\" or \"kvm\""));
        }
        if qmp != (self.console.kind == ConsoleKind::Socket) {
            return Err(("[console]", "socket goes with control.kind = \"qmp\", pty with others"));
        }
        if qmp != (self.ready.kind == ReadyKind::Qmp) {
            return Err(("[ready]", "qmp goes with control.kind = \"qmp\""));
        }
        if (self.control.kind == ControlKind::Prompt) != self.control.prompt.is_some() {
            return Err(("[control]", "prompt goes with control.kind = \"prompt\""));
        }
        if self.control.go_on.is_some() && self.control.prompt.is_none() {
            return Err(("[control]", "go_on is typed at a prompt"));
        }
        if (self.ready.kind == ReadyKind::GuestRuns) && self.control.prompt.is_none() {
            return Err(("[ready]", "guest-runs needs control.kind = \"prompt\""));
        }
        if self.pause.kind == Way::Type || matches!(self.reset.kind, Way::Signal | Way::Type) {
            return Err(("[pause]", "pause takes none, qmp or signal; reset takes none or qmp"));
        }
        if matches!(self.sleep.kind, Way::Signal | Way::Type) {
            return Err(("[sleep]", "sleep takes none or qmp"));
        }
        if (self.shutdown.kind == Way::Signal) != self.shutdown.signal.is_some() {
            return Err(("[shutdown]", "signal goes with kind = \"signal\""));
        }
        if (self.shutdown.kind == Way::Type) != self.shutdown.text.is_some() {
            return Err(("[shutdown]", "text goes with kind = \"type\""));
        }
        for name in [&self.shutdown.signal, &self.destroy.signal].into_iter().flatten() {
            if signal(name).is_none() {
                return Err((name_section(self, name), "no such signal; say TERM, INT, HUP, ..."));
            }
        }
        if self.destroy.wait_ms > 2000 {
            return Err(("[destroy]", "wait_ms is at most 2000: destroy takes at most 3 s"));
        }
        state::consistent(self)
    }

    /// What domains of this profile can do.
    #[must_use]
    pub fn capabilities(&self) -> CapabilitySet {
        let mut list = vec![Capability::Console];
        for (capability, way) in [
            (Capability::Pause, self.pause.kind),
            (Capability::Powerdown, self.shutdown.kind),
            (Capability::Reset, self.reset.kind),
            (Capability::Sleep, self.sleep.kind),
        ] {
            if way != Way::None {
                list.push(capability);
            }
        }
        if self.save.kind != StateWay::None {
            list.push(Capability::SaveState);
        }
        if self.save_live.kind != StateWay::None {
            list.push(Capability::LiveSave);
        }
        if self.start.arguments.is_some() {
            list.push(Capability::GuestPort);
        }
        CapabilitySet::of(&list)
    }
}

fn name_section(profile: &Profile, name: &String) -> &'static str {
    if profile.shutdown.signal.as_ref() == Some(name) { "[shutdown]" } else { "[destroy]" }
}

/// The signal of this name without `SIG`.
#[must_use]
pub fn signal(name: &str) -> Option<nix::sys::signal::Signal> {
    format!("SIG{name}").parse().ok()
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests;
