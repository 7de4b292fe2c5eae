//! Whether a state belongs to the machine that this host would make.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use kxl_backend::{BackendError, LaunchSpec, Result, StateSource};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::args::Plan;
use super::binary::{Accel, Emulator};
use super::family::Family;
use super::machine;
use super::processor;
use crate::program;

/// What the accelerator of a state is; `None` for one that is not known here.
pub(super) fn accel(name: &str) -> Option<Accel> {
    [Accel::Kvm, Accel::Tcg].into_iter().find(|accel| accel.as_str() == name)
}

/// Refuses a state that does not fit. `plan` has the state's machine, processor and accelerator.
///
/// # Errors
/// [`BackendError::Foreign`], saying what it was saved with and what is here.
pub(super) fn check(
    family: &dyn Family,
    spec: &LaunchSpec,
    image: &StateSource,
    emulator: &Emulator,
    plan: &Plan,
) -> Result<()> {
    let saved = &image.machine;
    let best = family.accelerator(plan.arch);
    let refused = |why: String| Err(BackendError::Foreign { why });
    if saved.emulator != family.name() {
        let (there, here) = (&saved.emulator, family.title());
        return refused(format!("saved by {there}; this domain runs on {here}"));
    }
    let by = format!("saved by {} {} with {}", family.title(), saved.version, saved.machine);
    if !emulator.offers(&saved.machine) {
        let path = emulator.path.display();
        return refused(format!(
            "{by}; {path} of this host is {} and has no such machine",
            emulator.version
        ));
    }
    if older(&emulator.version, &saved.version) {
        return refused(format!("{by}; this host has {}", emulator.version));
    }
    if plan.accel != best && plan.accel == Accel::Kvm || accel(&saved.accel).is_none() {
        let here = best.as_str();
        return refused(format!("{by} under {}; this host has {here}", saved.accel));
    }
    memory(spec, image)?;
    let here = family.parts(spec, plan)?;
    if let Some(what) = difference(&saved.devices, &here) {
        return refused(format!("{by}; the configuration makes another machine: {what}"));
    }
    features(spec, image, emulator, plan)
}

/// The memory block must be the one that the domain gets.
fn memory(spec: &LaunchSpec, image: &StateSource) -> Result<()> {
    let refused = |why: String| Err(BackendError::Foreign { why });
    let here = machine::layout(&spec.config);
    let Some(memory) = &image.memory else {
        return refused("it has no memory of its own, which states of QEMU have".into());
    };
    if memory.layout.id != here.id {
        return refused(format!("its memory is called {}, not {}", memory.layout.id, here.id));
    }
    if memory.layout.size != here.size {
        let (there, here) = (memory.layout.size >> 20, here.size >> 20);
        return refused(format!(
            "saved with {there} MiB of memory; the configuration says {here} MiB (maxmem)"
        ));
    }
    // QEMU would make a shorter file longer.
    let file = fs::File::from(
        memory
            .file
            .try_clone()
            .map_err(|error| BackendError::io("cannot look at the memory", error))?,
    );
    let length = file
        .metadata()
        .map_err(|error| BackendError::io("cannot look at the memory", error))?
        .len();
    if length != memory.layout.size {
        return refused(format!(
            "its memory file has {length} bytes instead of {}",
            memory.layout.size
        ));
    }
    Ok(())
}

/// Whether the first version is older than the second; parts that are no numbers count as 0.
fn older(here: &str, saved: &str) -> bool {
    let parts = |text: &str| -> Vec<u64> {
        text.split('.').map(|part| part.parse().unwrap_or(0)).collect()
    };
    parts(here) < parts(saved)
}

/// The first difference between two lists of devices.
fn difference(saved: &[String], here: &[String]) -> Option<String> {
    let longest = saved.len().max(here.len());
    let nothing = "nothing".to_owned();
    (0..longest)
        .map(|index| (saved.get(index).unwrap_or(&nothing), here.get(index).unwrap_or(&nothing)))
        .find(|(saved, here)| saved != here)
        .map(|(saved, here)| format!("{here} where the state has {saved}"))
}

/// The processor must have every feature that the guest has seen.
fn features(
    spec: &LaunchSpec,
    image: &StateSource,
    emulator: &Emulator,
    plan: &Plan,
) -> Result<()> {
    let saved = &image.machine;
    // Translated, a model is the same wherever the translator is.
    let same = plan.accel == Accel::Tcg && saved.version == emulator.version;
    if same || saved.features.is_empty() {
        return Ok(());
    }
    let here = Processor::of(emulator, plan.accel, &saved.cpu, &spec.cachedir)?;
    let missing: Vec<&str> = saved
        .features
        .iter()
        .filter(|feature| !here.features.contains(feature))
        .map(String::as_str)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "saved on a processor {} with {}, which this host's lacks",
        saved.cpu,
        missing.join(", ")
    );
    Err(BackendError::Foreign { why })
}

/// What a processor model comes to on this host; cached.
#[derive(Debug, Serialize, Deserialize)]
struct Processor {
    /// The emulator, and the processor of the host where that matters.
    stamp: String,
    features: Vec<String>,
}

impl Processor {
    /// Asks an emulator without a machine, once for each build of it and processor of the host.
    fn of(emulator: &Emulator, accel: Accel, model: &str, cachedir: &Path) -> Result<Self> {
        let mut stamp = program::stamp(&emulator.path).map_err(|error| {
            BackendError::io(format!("cannot look at {}", emulator.path.display()), error)
        })?;
        // Its features would make the name of a file too long.
        let (model_alone, features) = model.split_once(',').unwrap_or((model, ""));
        if !features.is_empty() {
            stamp = format!("{stamp} {features}");
        }
        if accel == Accel::Kvm {
            stamp = format!("{stamp} {:x}", host());
        }
        let name = emulator.path.file_name().unwrap_or(emulator.path.as_os_str());
        let file = cachedir.join(format!(
            "{}-{}-{}.json",
            name.to_string_lossy(),
            accel.as_str(),
            model_alone.replace('/', "_")
        ));
        let known =
            fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        if let Some(known) = known.filter(|known| known.stamp == stamp) {
            return Ok(known);
        }
        let processor = Self { stamp, features: asked(&emulator.path, accel, model)? };
        let written =
            serde_json::to_vec(&processor).map_err(std::io::Error::other).and_then(|text| {
                let new = file.with_extension(format!("{}.new", std::process::id()));
                fs::write(&new, text)?;
                fs::rename(&new, &file)
            });
        if let Err(error) = written {
            tracing::warn!(%error, file = %file.display(), "cannot cache");
        }
        Ok(processor)
    }
}

/// The features of a model, by the emulator itself.
fn asked(path: &Path, accel: Accel, model: &str) -> Result<Vec<String>> {
    let expand = json!({"execute": "query-cpu-model-expansion", "id": "features",
        "arguments": processor::expansion(model)});
    let words = format!(
        "{}\n{expand}\n{}\n",
        json!({"execute": "qmp_capabilities"}),
        json!({"execute": "quit"})
    );
    let machine = format!("none,accel={}", accel.as_str());
    let args = ["-nodefaults", "-no-user-config", "-display", "none", "-machine", &machine];
    let args: Vec<&str> = args.into_iter().chain(["-qmp", "stdio"]).collect();
    let answers = program::answer(path, &args, &words)?;
    let answer = answers
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|answer| answer.get("id").is_some_and(|id| id == "features"));
    match answer.as_ref().and_then(|answer| answer.get("return")) {
        Some(told) => Ok(machine::features(told)),
        None => {
            let why = format!("{} has no processor {model}", path.display());
            Err(BackendError::Foreign { why })
        }
    }
}

/// A number for the host's processor.
fn host() -> u64 {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    for line in text.lines().take_while(|line| !line.is_empty()) {
        if ["flags", "Features", "model", "CPU", "microcode"]
            .iter()
            .any(|key| line.starts_with(key))
        {
            line.hash(&mut hasher);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(older("7.2.9", "7.2.22") && older("6.9", "7.0") && older("7.2", "7.2.1"));
        assert!(!older("7.2.22", "7.2.22") && !older("10.0.0", "9.2.1"));
    }

    #[test]
    fn the_first_difference_of_devices_is_told() {
        let list = |words: &[&str]| -> Vec<String> { words.iter().map(|w| (*w).into()).collect() };
        assert_eq!(difference(&list(&["a", "b"]), &list(&["a", "b"])), None);
        let told = difference(&list(&["a", "b"]), &list(&["a"]));
        assert_eq!(told.unwrap(), "nothing where the state has b");
        let told = difference(&list(&["a"]), &list(&["c"]));
        assert_eq!(told.unwrap(), "c where the state has a");
    }
}
