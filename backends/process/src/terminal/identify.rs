//! What a simulator says it is.

use std::fs;
use std::path::{Path, PathBuf};

use kxl_backend::{BackendError, Result};
use kxl_domain::image::Machine;
use serde::{Deserialize, Serialize};

use crate::profile::{Identify, Profile};
use crate::program;

/// Kind, version and devices of a simulator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nature {
    /// `PDP-11`.
    pub(crate) kind: String,
    /// `3.8-1`.
    pub(crate) version: String,
    /// Names of its devices.
    pub(crate) devices: Vec<String>,
}

/// What is known of a program file, and which build of it that was.
#[derive(Serialize, Deserialize)]
struct Known {
    stamp: String,
    nature: Nature,
}

impl Nature {
    /// Reads the answers to the two commands of the profile.
    pub(crate) fn read(identify: &Identify, version: &str, devices: &str) -> Option<Self> {
        let (kind, rest) =
            version.lines().filter_map(|line| line.split_once(&identify.between)).next_back()?;
        let devices = devices.lines().filter_map(|line| {
            let name = line.split(',').next()?.trim();
            // The heading of the list says the kind again.
            (!name.is_empty() && !line.starts_with(kind)).then(|| name.to_owned())
        });
        Some(Self {
            kind: kind.trim().to_owned(),
            version: rest.split_whitespace().next()?.to_owned(),
            devices: devices.collect(),
        })
    }

    /// What the program of this path says, remembered in `cachedir` for as long as it is the same.
    pub(crate) fn of(path: &Path, profile: &Profile, cachedir: &Path) -> Result<Option<Self>> {
        let Some(identify) = &profile.identify else { return Ok(None) };
        let stamp = program::stamp(path).map_err(|error| {
            BackendError::io(format!("cannot look at {}", path.display()), error)
        })?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let file: PathBuf = cachedir.join(format!("{}-{name}.json", profile.name));
        let known = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(Known { stamp: then, nature }) = known
            && then == stamp
        {
            return Ok(Some(nature));
        }
        let args: Vec<&str> = identify.argv.iter().map(String::as_str).collect();
        let ask = |command: &str| {
            program::answer(path, &args, &format!("{command}\n{}\n", identify.leave))
        };
        let devices = identify.devices.as_deref().map(ask).transpose()?.unwrap_or_default();
        let Some(nature) = Self::read(identify, &ask(&identify.version)?, &devices) else {
            let why = format!("it does not answer \"{}\" as its profile says", identify.version);
            return Err(BackendError::Launch { program: path.display().to_string(), why });
        };
        let known = Known { stamp, nature };
        if let Err(error) = remember(&file, &known) {
            // A cache that cannot be written costs time, nothing else.
            tracing::warn!(%error, file = %file.display(), "cannot cache");
        }
        Ok(Some(known.nature))
    }

    /// What does not fit where a state of `then` is to come back.
    pub(crate) fn misfit(&self, then: &Machine) -> Option<String> {
        if then.machine != self.kind {
            return Some(format!("saved by a {}, this is a {}", then.machine, self.kind));
        }
        let (saved, here) = (numbers(&then.version), numbers(&self.version));
        if saved.first() != here.first() || saved > here {
            return Some(format!(
                "saved by {} {}, this host has {}",
                then.emulator, then.version, self.version
            ));
        }
        let missing: Vec<_> =
            then.devices.iter().filter(|name| !self.devices.contains(name)).cloned().collect();
        (!missing.is_empty()).then(|| {
            format!("{} {} has no device {}", then.emulator, self.version, missing.join(", "))
        })
    }
}

fn remember(file: &Path, known: &Known) -> std::io::Result<()> {
    let new = file.with_extension(format!("{}.new", std::process::id()));
    fs::write(&new, serde_json::to_vec(known)?)?;
    fs::rename(&new, file)
}

/// The numbers in a version, in order.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        Profile::load("simh", Path::new("/nonexistent")).unwrap()
    }

    const VERSION: &str = "PDP-11 simulator V3.8-1 [32b data, 32b addresses, Ethernet support]\n";
    const DEVICES: &str =
        "PDP-11 simulator configuration\n\nCPU, 11/73, NOCIS\nSYSTEM\nRF, disabled\n";

    fn nature() -> Nature {
        Nature::read(&profile().identify.unwrap(), VERSION, DEVICES).unwrap()
    }

    #[test]
    fn kind_version_and_devices_are_read_from_recorded_answers() {
        let nature = nature();
        assert_eq!((nature.kind.as_str(), nature.version.as_str()), ("PDP-11", "3.8-1"));
        assert_eq!(nature.devices, ["CPU", "SYSTEM", "RF"]);
        let identify = profile().identify.unwrap();
        assert_eq!(Nature::read(&identify, "Unknown command\n", ""), None);
    }

    #[test]
    fn a_state_fits_its_kind_the_same_or_a_newer_version_and_all_its_devices() {
        let here = nature();
        let fits = |version: &str, kind: &str, devices: &[&str]| {
            here.misfit(&Machine {
                emulator: "pdp11".into(),
                version: version.into(),
                machine: kind.into(),
                devices: devices.iter().map(|name| (*name).to_owned()).collect(),
                ..Machine::default()
            })
        };
        assert_eq!(fits("3.8-1", "PDP-11", &["CPU", "RF"]), None);
        assert_eq!(fits("3.5", "PDP-11", &[]), None);
        for (version, kind, devices, said) in [
            ("3.8-1", "VAX780", &[][..], "saved by a VAX780, this is a PDP-11"),
            ("3.9", "PDP-11", &[], "saved by pdp11 3.9, this host has 3.8-1"),
            ("2.10", "PDP-11", &[], "saved by pdp11 2.10, this host has 3.8-1"),
            ("4.0", "PDP-11", &[], "saved by pdp11 4.0, this host has 3.8-1"),
            ("3.8-1", "PDP-11", &["RF", "RAM"], "pdp11 3.8-1 has no device RAM"),
        ] {
            assert_eq!(fits(version, kind, devices).as_deref(), Some(said));
        }
    }

    #[test]
    fn an_installed_simulator_is_asked_once() {
        let Some(path) = program::find(Path::new("pdp11")) else {
            crate::testing::skip("pdp11 is missing; install simh");
            return;
        };
        let scratch = crate::testing::Scratch::new("nature");
        let first = Nature::of(&path, &profile(), &scratch.0).unwrap().unwrap();
        assert_eq!(first.kind, "PDP-11");
        assert!(first.devices.iter().any(|name| name == "CPU"), "{first:?}");
        let file = scratch.0.join("simh-pdp11.json");
        let text = fs::read_to_string(&file).unwrap().replace("PDP-11", "PDP-0");
        fs::write(&file, text).unwrap();
        let again = Nature::of(&path, &profile(), &scratch.0).unwrap().unwrap();
        assert_eq!(again.kind, "PDP-0", "from the cache");
        fs::write(&file, "{}").unwrap();
        assert_eq!(Nature::of(&path, &profile(), &scratch.0).unwrap().unwrap(), first);
    }
}
