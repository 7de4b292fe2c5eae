//! What this host offers: the profiles, their programs and what is missing.

use std::path::{Path, PathBuf};

use kxl_domain::config::model::Arch;
use serde::Serialize;

use crate::profile::{Builder, Profile};
use crate::{auto, program, qemu};

/// One profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// Its name, as in `backend=`.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Names of what its domains can do.
    pub capabilities: Vec<&'static str>,
    /// The programs that were found.
    pub programs: Vec<Program>,
    /// What keeps it from being used here, one text for each thing.
    pub missing: Vec<String>,
}

/// An emulator on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// Its version, where it can be asked without being started.
    pub version: Option<String>,
    /// `kvm` or `tcg`, for QEMU.
    pub accelerator: Option<&'static str>,
}

/// Simulators that SIMH's packages bring, for the list only: any name can be used.
const SIMULATORS: &[&str] = &[
    "altair",
    "altairz80",
    "eclipse",
    "eclipseemu",
    "gri909",
    "h316",
    "hp2100",
    "i1401",
    "i1620",
    "i7094",
    "id16",
    "id32",
    "lgp",
    "dgnova",
    "nova",
    "pdp1",
    "pdp4",
    "pdp7",
    "pdp8",
    "pdp9",
    "pdp10",
    "pdp11",
    "pdp15",
    "sds",
    "system3",
    "vax",
    "vax780",
];

/// Every profile, built in or in `profiledir`; one that cannot be read says why in `missing`.
/// Asks emulators for their version, which `cachedir` remembers.
#[must_use]
pub fn profiles(profiledir: &Path, cachedir: &Path) -> Vec<Listing> {
    Profile::names(profiledir)
        .into_iter()
        .map(|name| match Profile::load(&name, profiledir) {
            Ok(profile) => listing(&profile, cachedir),
            Err(error) => Listing {
                name,
                description: String::new(),
                capabilities: Vec::new(),
                programs: Vec::new(),
                missing: vec![error.to_string()],
            },
        })
        .collect()
}

fn listing(profile: &Profile, cachedir: &Path) -> Listing {
    let (mut programs, mut missing) = (Vec::new(), Vec::new());
    let exec = profile.start.exec.as_str();
    if profile.start.arguments == Some(Builder::Kvm) {
        let (found, why) = auto::offer(cachedir);
        missing = why;
        programs.extend(found.map(|(path, version)| Program {
            path,
            version: Some(version),
            accelerator: Some("kvm"),
        }));
    } else if profile.start.arguments == Some(Builder::Qemu) {
        for arch in Arch::ALL {
            match qemu::offer(*arch, cachedir) {
                Ok(program) => programs.push(program),
                Err(error) => missing.push(error.to_string()),
            }
        }
    } else if exec == "{machine}" {
        programs.extend(SIMULATORS.iter().filter_map(|name| found(name)));
    } else if !exec.contains('{') {
        programs.extend(found(exec));
    }
    let named_by_the_domain = exec == "{exec}";
    if programs.is_empty() && missing.is_empty() && !named_by_the_domain {
        missing.push(profile.package.as_ref().map_or_else(
            || format!("{exec} is missing"),
            |package| format!("{} is missing: install the package {package}", profile.name),
        ));
    }
    Listing {
        name: profile.name.clone(),
        description: profile.description.clone(),
        capabilities: profile.capabilities().iter().map(|item| item.as_str()).collect(),
        programs,
        missing,
    }
}

fn found(name: &str) -> Option<Program> {
    let path = program::find(Path::new(name))?;
    Some(Program { path, version: None, accelerator: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn every_profile_is_listed_with_what_is_found_and_what_is_missing() {
        let scratch = Scratch::new("listing");
        let own = "schema = 1\nname = \"own\"\npackage = \"own-tools\"\n\
                   [start]\nexec = \"/nonexistent/own\"\n[control]\nkind = \"signal\"\n";
        std::fs::write(scratch.0.join("own.toml"), own).unwrap();
        std::fs::write(scratch.0.join("bad.toml"), "schema = 1\ncolour = 3\n").unwrap();
        let list = profiles(&scratch.0, &scratch.0);
        let names: Vec<_> = list.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(
            names,
            ["qemu", "kvm", "simh", "any", "charon", "stratovirt", "bochs", "bad", "own"]
        );
        for entry in &list[..3] {
            assert!(!entry.programs.is_empty() || !entry.missing.is_empty(), "{entry:?}");
        }
        assert_eq!(list[3].missing, [""; 0]);
        assert!(
            list[7].missing[0].contains("bad.toml:2:1: unknown key \"colour\""),
            "{:?}",
            list[7]
        );
        assert_eq!(list[8].missing, ["own is missing: install the package own-tools"]);
        assert_eq!(list[2].capabilities, ["pause", "save-state", "console"]);
    }
}
