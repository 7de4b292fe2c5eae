//! Profiles: how to run one program, as data.
//!
//! Built in are those of `profiles/`; an administrator adds files `NAME.toml` to the profile
//! directory. They are read at use, after the built-in ones, which they cannot replace.

mod consistent;
mod console;
mod exit;
mod mistake;
mod start;
mod state;
mod steering;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kxl_backend::BackendError;
use kxl_domain::{Capability, CapabilitySet};
use serde::Deserialize;

pub use console::{Console, ConsoleKind, Ready, ReadyKind, Standard};
pub use exit::{Exit, Meaning, Rule};
pub use mistake::Mistake;
use mistake::Wrong;
pub use start::{Builder, Configured, Detach, Start, StartFile};
pub use state::{Identify, Restore, Save, SaveLive, StateWay, Step};
pub use steering::{
    Control, ControlKind, Destroy, DestroyStep, Pause, PauseWay, QmpWay, Reset, Said, Shutdown,
    ShutdownWay, Sleep,
};

/// The built-in profiles.
const BUILT_IN: [(&str, &str); 7] = [
    ("qemu", include_str!("../profiles/qemu.toml")),
    ("kvm", include_str!("../profiles/kvm.toml")),
    ("simh", include_str!("../profiles/simh.toml")),
    ("any", include_str!("../profiles/any.toml")),
    ("charon", include_str!("../profiles/charon.toml")),
    ("stratovirt", include_str!("../profiles/stratovirt.toml")),
    ("bochs", include_str!("../profiles/bochs.toml")),
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
    /// What its events mean, by name or `NAME:reason`, for QMP of its own.
    #[serde(default)]
    pub events: BTreeMap<String, Meaning>,
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
                    "there is no backend \"{name}\": expected auto, {}, mock or a profile in {}",
                    BUILT_IN.map(|(name, _)| name).join(", "),
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
    /// [`BackendError::Config`] with the first mistake and its place.
    pub fn parse(text: &str, name: &str, path: &Path) -> Result<Self, BackendError> {
        Self::examine(text, Some(name), path)
            .map_err(|mistake| BackendError::config("backend", mistake.to_string()))
    }

    /// Reads a profile's text, of this name if one is given.
    ///
    /// # Errors
    /// The first mistake.
    pub fn examine(text: &str, name: Option<&str>, path: &Path) -> Result<Self, Mistake> {
        let source = path.display().to_string();
        let profile: Self =
            toml::from_str(text).map_err(|error| Mistake::of(&source, text, &error))?;
        let wrong = |wrong| Mistake::at(&source, text, wrong);
        if profile.schema != 1 {
            return Err(wrong(Wrong::at("schema", "this build reads schema 1")));
        }
        if name.is_some_and(|name| profile.name != name) {
            return Err(wrong(Wrong::at("name", "the name must be that of the file")));
        }
        consistent::check(&profile).map_err(wrong)?;
        Ok(profile)
    }

    /// Whether a profile of this name is built in, and cannot be replaced by a file.
    #[must_use]
    pub fn is_built_in(name: &str) -> bool {
        BUILT_IN.iter().any(|(built_in, _)| *built_in == name)
    }

    /// The templates of what is started and connected to.
    pub(crate) fn templates(&self) -> impl Iterator<Item = &str> {
        let (start, console) = (&self.start, &self.console);
        let single = [&console.port, &console.publish, &console.path, &self.ready.port];
        let files = start.file.iter().map(|file| &file.text);
        let all = start.argv.iter().chain(start.env.values()).chain(files);
        all.chain(single.into_iter().flatten()).chain(&self.shutdown.argv).map(String::as_str)
    }

    /// What domains of this profile can do.
    #[must_use]
    pub fn capabilities(&self) -> CapabilitySet {
        let ways = [
            (Capability::Console, self.console.kind != ConsoleKind::None),
            (Capability::Pause, self.pause.kind != PauseWay::None),
            (Capability::Powerdown, self.shutdown.kind != ShutdownWay::None),
            (Capability::Reset, self.reset.kind != QmpWay::None),
            (Capability::Sleep, self.sleep.kind != QmpWay::None),
            (Capability::SaveState, self.save.kind != StateWay::None),
            (Capability::LiveSave, self.save_live.kind != StateWay::None),
            (Capability::GuestPort, self.start.arguments.is_some()),
        ];
        let list: Vec<_> = ways.into_iter().filter_map(|(what, has)| has.then_some(what)).collect();
        CapabilitySet::of(&list)
    }
}

/// The signal of this name without `SIG`.
#[must_use]
pub fn signal(name: &str) -> Option<nix::sys::signal::Signal> {
    format!("SIG{name}").parse().ok()
}

#[cfg(test)]
mod tests;
