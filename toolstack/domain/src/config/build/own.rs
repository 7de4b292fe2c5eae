//! kxl's own keys, the emulator process, and the keys that are refused.

use std::path::PathBuf;

use super::general::unknown_word;
use super::reader::Reader;
use crate::config::error::{ErrorKind, WarningKind};
use crate::config::model::{DomainConfig, GuestKind};
use crate::ids::DomainName;
use crate::image::ClockPolicy;

/// Whether the backend starts kernels itself; the others have what they run from elsewhere.
pub(super) fn starts_kernels(config: &DomainConfig) -> bool {
    matches!(config.backend.as_str(), "auto" | "qemu" | "kvm")
}

/// A word that can be a file's name and cannot be an option or carry one along.
fn is_plain_word(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

pub(super) fn plain_word(reader: &mut Reader<'_>, key: &'static str) -> Option<String> {
    let text = reader.text(key)?;
    if is_plain_word(&text.value) {
        return Some(text.value);
    }
    unknown_word(reader, key, text, "letters and digits, with any of . _ - between them").done();
    None
}

/// Backend, machine, limits, console.
pub(super) fn read(reader: &mut Reader<'_>, config: &mut DomainConfig) {
    if let Some(backend) = plain_word(reader, "backend") {
        config.backend = backend;
    }
    config.machine = plain_word(reader, "machine");
    config.description = description(reader);
    config.emulator_config = emulator_config(reader);
    config.scripts.prestart = path(reader, "prestart");
    config.scripts.stop = path(reader, "stop_script");
    config.scripts.guest_status = path(reader, "guest_status_script");
    config.ini = path(reader, "ini");
    config.start = plain_word(reader, "start");
    config.limits.memory_mib = reader.ranged("limit_memory", 1..=16 << 20);
    config.limits.pids = reader.ranged("limit_pids", 1..=4_194_304);
    config.limits.nofile = reader.ranged("limit_nofile", 16..=1_048_576);
    if let Some(kib) = reader.ranged("console_log", 1..=1_048_576) {
        config.console.log_kib = kib;
    }
    if let Some(files) = reader.ranged("console_keep", 0..=1000) {
        config.console.keep = files;
    }
    config.console.pace_ms = reader.ranged("console_pace", 0..=10_000);
    if let Some(text) = reader.text("clock_after_restore") {
        match ClockPolicy::parse(&text.value) {
            Some(policy) => config.clock_after_restore = policy,
            None => unknown_word(reader, "clock_after_restore", text, "leave or host").done(),
        }
    }
    maintenance(reader, config);
}

/// One line, not empty.
fn description(reader: &mut Reader<'_>) -> Option<String> {
    let text = reader.text("description")?;
    if text.value.trim().is_empty() || text.value.chars().any(char::is_control) {
        unknown_word(reader, "description", text, "one line of text").done();
        return None;
    }
    Some(text.value)
}

/// What becomes of the domain when its host starts, stops or is emptied.
fn maintenance(reader: &mut Reader<'_>, config: &mut DomainConfig) {
    config.maintenance.autostart = reader.flag("autostart");
    if let Some(priority) = reader.ranged("priority", 0..=1000) {
        config.maintenance.priority = priority;
    }
    config.maintenance.after = names(reader, "after", &config.name);
    config.maintenance.requires = names(reader, "requires", &config.name);
    let command = reader.items("stop_command");
    if let Some(program) = command.first().filter(|program| !program.value.starts_with('/')) {
        let program = program.clone();
        unknown_word(reader, "stop_command", program, "the absolute path of a program").done();
    }
    config.maintenance.stop_command = command.into_iter().map(|text| text.value).collect();
}

/// The names of other domains.
fn names(reader: &mut Reader<'_>, key: &'static str, own: &DomainName) -> Vec<DomainName> {
    let mut names = Vec::new();
    for text in reader.texts(key) {
        match text.value.parse::<DomainName>() {
            Ok(name) if name == *own => {
                let what = "a domain cannot come after itself";
                reader.error(ErrorKind::Contradiction(what), &text.span).done();
            }
            Ok(name) if names.contains(&name) => {}
            Ok(name) => names.push(name),
            Err(_) => unknown_word(reader, key, text, "the name of a domain").done(),
        }
    }
    names
}

/// A path; an empty one is an error.
pub(super) fn path(reader: &mut Reader<'_>, key: &'static str) -> Option<PathBuf> {
    let text = reader.text(key)?;
    if text.value.is_empty() {
        unknown_word(reader, key, text, "a path").done();
        return None;
    }
    Some(PathBuf::from(text.value))
}

/// A path that stands in the common stop script, in a line of its own.
fn emulator_config(reader: &mut Reader<'_>) -> Option<PathBuf> {
    const KEY: &str = "emulator_config";
    let text = reader.text(KEY)?;
    if text.value.is_empty() || text.value.chars().any(char::is_control) {
        unknown_word(reader, KEY, text, "a path without control characters").done();
        return None;
    }
    Some(PathBuf::from(text.value))
}

/// The emulator and its further arguments.
pub(super) fn emulator(reader: &mut Reader<'_>, config: &mut DomainConfig) {
    let of_xl = path(reader, "device_model_override");
    let of_kxl = path(reader, "exec");
    if of_xl.is_some() && of_kxl.is_some() && of_xl != of_kxl {
        let what = "exec and device_model_override name different programs";
        reader.error_at(ErrorKind::Contradiction(what), "exec").done();
    }
    if let Some(text) = reader.text("device_model_version") {
        if text.value != "qemu-xen" {
            let line = format!("Unknown device_model_version \"{}\" specified", text.value);
            unknown_word(reader, "device_model_version", text, "qemu-xen").xl(line).done();
        }
    } else if of_xl.is_some() {
        let line = "WARNING: device model override given without specific DM version";
        reader.warn_at(WarningKind::Remark(line), "device_model_override", Some(line.into()));
    }
    config.emulator = of_kxl.or(of_xl);
    // Each list is read whatever the kind, so that a mistake in it is told in any case.
    let [all, hvm, pv] = ["device_model_args", "device_model_args_hvm", "device_model_args_pv"]
        .map(|key| reader.items(key));
    let (of_kind, others) = match config.kind {
        GuestKind::Hvm => (hvm, (!pv.is_empty()).then_some("device_model_args_pv")),
        GuestKind::Pv | GuestKind::Pvh => {
            (pv, (!hvm.is_empty()).then_some("device_model_args_hvm"))
        }
    };
    if let Some(key) = others {
        let why = "the domain is of the other kind";
        reader.warn_at(WarningKind::NoEffect { key, why }, key, None);
    }
    config.emulator_args = all.into_iter().chain(of_kind).map(|text| text.value).collect();
}

/// Keys that must not be passed over.
pub(super) fn refused(reader: &mut Reader<'_>) {
    if reader.flag("driver_domain") == Some(true) {
        let why = "no domain serves devices to others here";
        reader.error_at(ErrorKind::Refused { key: "driver_domain", why }, "driver_domain").done();
    }
    if !reader.items("pvcalls").is_empty() {
        let why = "the protocol exists between Xen guests and Xen hosts only";
        reader.error_at(ErrorKind::Refused { key: "pvcalls", why }, "pvcalls").done();
    }
}
