//! How a program is started, as data.

use std::collections::BTreeMap;

use serde::Deserialize;

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
    /// What is known of the emulator's own configuration file.
    #[serde(default)]
    pub configuration: Option<Configured>,
    /// Whose child it stays.
    #[serde(default)]
    pub detach: Detach,
    /// Commands that start the machine, each with the length of its shortest abbreviation.
    #[serde(default)]
    pub runs: BTreeMap<String, usize>,
}

/// A kind of configuration file that an emulator has of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Configured {
    /// Charon's: interfaces are checked, and the emulator reads a copy with another console port.
    Charon,
}

/// Whose child a program stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Detach {
    /// The monitor's: what was executed is the emulator.
    #[default]
    Monitor,
    /// Nobody's: what was executed ends with status 0 and leaves the emulator in the background.
    #[serde(rename = "self")]
    Itself,
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
