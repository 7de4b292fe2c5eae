//! How a profile's running state is saved and brought back, as data.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::mistake::Wrong;
use super::{ControlKind, Detach, PauseWay, Profile, StartFile, signal};

/// How the running state is saved.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Save {
    /// The way; the other fields are for `script`.
    pub kind: StateWay,
    /// Signal, by name without `SIG`, that brings a running machine to its prompt.
    #[serde(default)]
    pub signal: Option<String>,
    /// Template of the file that the emulator writes; `{file}` in the steps.
    #[serde(default)]
    pub file: Option<String>,
    /// What a file that was written to its end ends with.
    #[serde(default)]
    pub end: String,
    /// Template of where the emulator is told to write by QMP, for `qmp` without `start.arguments`;
    /// `{file}` is the file, which may become a directory.
    #[serde(default)]
    pub uri: Option<String>,
    /// How many times larger the variables of the program itself get in the file.
    #[serde(default = "one")]
    pub growth: u64,
    /// How long each step may take, in milliseconds.
    #[serde(default = "a_minute")]
    pub timeout_ms: u64,
    /// What is typed at the prompt to have the file written.
    #[serde(default)]
    pub step: Vec<Step>,
    /// A line that contains this says that a disk is kept in the emulator's memory.
    #[serde(default)]
    pub buffered: Option<String>,
    /// What is typed after the steps to have such disks written, where there are any.
    #[serde(default)]
    pub flush: Vec<Step>,
}

/// How the running state is saved while the guest runs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaveLive {
    /// The way: `none` or `qmp`.
    pub kind: StateWay,
}

/// How a saved state comes back.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// The way; the other fields are for `script`.
    pub kind: StateWay,
    /// Template of the file that the state is put into; `{file}` in the steps.
    #[serde(default)]
    pub file: Option<String>,
    /// Files written before the start instead of those of `start`. They must end at the prompt.
    #[serde(default)]
    pub start: Vec<StartFile>,
    /// Commands that are left out of the administrator's `ini` beside those of `start.runs`, each
    /// with the length of its shortest abbreviation: those that end the program or change a disk.
    #[serde(default)]
    pub leave_out: BTreeMap<String, usize>,
    /// Templates of arguments that are added to those of `start`, for `qmp` without
    /// `start.arguments`; `{file}` is the file.
    #[serde(default)]
    pub argv: Vec<String>,
    /// How long each step may take, in milliseconds.
    #[serde(default = "a_minute")]
    pub timeout_ms: u64,
    /// What is typed at the prompt to have the state read.
    #[serde(default)]
    pub step: Vec<Step>,
}

/// A line typed at the prompt.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Template of the line.
    #[serde(rename = "type")]
    pub text: String,
    /// Lines of the answer that contain one of these are fine; any other is a failure.
    #[serde(default)]
    pub accept: Vec<String>,
}

/// How the program tells what it is: typed at its prompt, and as a command file of its own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identify {
    /// Arguments with which it reads commands from its standard input.
    pub argv: Vec<String>,
    /// The command that prints its kind and version.
    pub version: String,
    /// What stands between kind and version in the answer.
    pub between: String,
    /// The command that lists its devices, one a line, the name first.
    #[serde(default)]
    pub devices: Option<String>,
    /// The command that ends it.
    pub leave: String,
}

/// A way to move a running state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateWay {
    /// It cannot be done.
    #[default]
    None,
    /// By QMP.
    Qmp,
    /// By lines typed at the prompt.
    Script,
    /// A signal has the program write its state and end.
    SignalThenExit,
}

const fn one() -> u64 {
    1
}

const fn a_minute() -> u64 {
    60_000
}

/// Combinations that no driver carries out.
pub(super) fn consistent(profile: &Profile) -> Result<(), Wrong> {
    let wrong = |path: &str, why: &str| Err(Wrong::at(path, why));
    let (save, restore) = (&profile.save, &profile.restore);
    if save.kind != restore.kind {
        return wrong(
            "restore.kind",
            "what saves a state brings it back: the kind is that of save",
        );
    }
    let built = profile.start.arguments.is_some();
    let own = save.kind == StateWay::Qmp && !built;
    if own {
        by_channel(profile)?;
    } else if save.uri.is_some() {
        return wrong("save.uri", "uri goes with kind = \"qmp\" of your own");
    }
    let by_itself = own || save.kind == StateWay::SignalThenExit;
    if !by_itself && !restore.argv.is_empty() {
        let why = "argv goes with kind = \"qmp\" of your own, or \"signal-then-exit\"";
        return wrong("restore.argv", why);
    }
    if !matches!(profile.save_live.kind, StateWay::None | StateWay::Qmp)
        || profile.save_live.kind == StateWay::Qmp && (own || save.kind != StateWay::Qmp)
    {
        return wrong("save_live.kind", "it takes \"none\", or \"qmp\" where save.kind does");
    }
    let ends = save.kind == StateWay::SignalThenExit;
    if ends {
        by_end(profile)?;
    }
    let scripted = save.kind == StateWay::Script;
    if scripted && (profile.control.prompt.is_none() || profile.control.go_on.is_none()) {
        return wrong("save.kind", "\"script\" needs control.prompt and control.go_on");
    }
    if scripted && (save.step.is_empty() || save.file.is_none() || save.signal.is_none()) {
        return wrong("save.kind", "\"script\" needs signal, file and at least one step");
    }
    if scripted && (restore.step.is_empty() || restore.file.is_none()) {
        return wrong("restore.kind", "\"script\" needs file and at least one step");
    }
    if scripted && profile.identify.is_none() {
        let why = "\"script\" needs [identify]: a state fits one kind of machine only";
        return wrong("save.kind", why);
    }
    if !scripted && !by_itself && (save.file.is_some() || restore.file.is_some()) {
        return wrong(
            "save.file",
            "file goes with \"script\", \"signal-then-exit\" and \"qmp\" of your own",
        );
    }
    if save.signal.as_deref().is_some_and(|name| signal(name).is_none()) {
        return wrong("save.signal", "no such signal; say INT, USR1, ...");
    }
    if save.buffered.is_some() == save.flush.is_empty() {
        return wrong("save", "buffered and flush go together");
    }
    Ok(())
}

/// What a program needs that writes its state and ends when a signal comes.
fn by_end(profile: &Profile) -> Result<(), Wrong> {
    let wrong = |path: &str, why: &str| Err(Wrong::at(path, why));
    let (save, restore) = (&profile.save, &profile.restore);
    if profile.control.kind != ControlKind::Signal || profile.start.detach != Detach::Monitor {
        let why = "\"signal-then-exit\" needs control.kind = \"signal\" and a program that stays";
        return wrong("save.kind", why);
    }
    if profile.pause.kind == PauseWay::None {
        return wrong("save.kind", "\"signal-then-exit\" needs [pause]: a guest comes back paused");
    }
    if save.file.is_none() || save.signal.is_none() {
        return wrong("save.kind", "\"signal-then-exit\" needs signal and file");
    }
    let mut texts = restore.argv.iter().chain(restore.start.iter().map(|file| &file.text));
    if restore.file.is_none() || !texts.any(|text| text.contains("{file}")) {
        let why = "\"signal-then-exit\" needs file, and argv or start with {file} in it";
        return wrong("restore.kind", why);
    }
    Ok(())
}

/// What an emulator needs that writes and reads its state when it is told so by QMP.
fn by_channel(profile: &Profile) -> Result<(), Wrong> {
    let wrong = |path: &str, why: &str| Err(Wrong::at(path, why));
    let (save, restore) = (&profile.save, &profile.restore);
    if profile.control.kind != ControlKind::Qmp || profile.pause.kind != PauseWay::Qmp {
        let why =
            "\"qmp\" needs control.kind and pause.kind = \"qmp\": the guest stands still then";
        return wrong("save.kind", why);
    }
    let named = |text: &Option<String>| text.as_ref().is_some_and(|text| text.contains("{file}"));
    if save.file.is_none() || !named(&save.uri) {
        return wrong("save.kind", "\"qmp\" needs file, and uri with {file} in it");
    }
    if restore.file.is_none() || !restore.argv.iter().any(|text| text.contains("{file}")) {
        return wrong("restore.kind", "\"qmp\" needs file, and argv with {file} in it");
    }
    if profile.identify.is_none() {
        let why = "\"qmp\" needs [identify]: a state fits one kind of emulator only";
        return wrong("save.kind", why);
    }
    Ok(())
}
