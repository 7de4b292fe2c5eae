//! What people and the launch need to know of a configuration.

use super::Configuration;
use super::console::{self, ConsoleLine};
use super::log::LogPlace;
use super::model::{Family, Model};
use super::nic::{self, Nic};

/// The facts; what a configuration does not say is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `hw_model`.
    pub model: String,
    /// Whose machine it is, if its name tells.
    pub family: Option<Family>,
    /// `configuration_name`.
    pub name: Option<String>,
    /// The processors: `n_of_cpus`, else what the model has by default. Host, licence and guest
    /// may all lower it.
    pub cpus: Option<u32>,
    /// The memory, of `set ram size=`.
    pub memory_mib: Option<u64>,
    /// The operator's console.
    pub console: ConsoleLine,
    /// The log.
    pub log: LogPlace,
    /// The interfaces of the host that it takes.
    pub nics: Vec<Nic>,
}

impl Facts {
    /// The name that stands at the front of the log files of single starts.
    #[must_use]
    pub fn log_stem(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.model)
    }
}

/// Reads the facts.
#[must_use]
pub fn facts(configuration: &Configuration) -> Facts {
    let session = |key| configuration.value("session", key).filter(|value| !value.is_empty());
    let model = session("hw_model").unwrap_or_default().to_owned();
    let said = ["session", "ace", "cpu"]
        .into_iter()
        .find_map(|object| configuration.value(object, "n_of_cpus")?.parse().ok())
        .filter(|count| *count > 0);
    Facts {
        family: Model::family_of(&model),
        name: session("configuration_name").map(str::to_owned),
        cpus: said.or_else(|| Model::find(&model).map(|model| model.cpus)),
        memory_mib: configuration.value("ram", "size").and_then(mebibytes),
        console: console::line(configuration),
        log: session("log").map_or(LogPlace::Unsaid, |path| LogPlace::Named(path.into())),
        nics: nic::nics(configuration),
        model,
    }
}

/// A number of MB, or one with a unit behind it.
fn mebibytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "m" | "mb" | "mib" => 1,
        "g" | "gb" | "gib" => 1024,
        _ => return None,
    };
    digits.trim_end().parse::<u64>().ok()?.checked_mul(factor).filter(|size| *size > 0)
}
