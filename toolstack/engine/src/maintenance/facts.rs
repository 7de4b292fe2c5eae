//! What the planner has to know of this host: its domains, what their backends can, the disk.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kxl_domain::supervision::Word;
use kxl_domain::{Capability, CapabilitySet, DomainConfig, Failure, Kind};
use kxl_store::{ListRow, Paths};
use nix::fcntl::OFlag;
use serde::Deserialize;

use super::plan::{Disk, Member};
use crate::handover::monitor_program;
use crate::host::{Host, stored};

/// What is written to find out how fast a disk is.
const PROBE: usize = 32 << 20;

/// What is assumed of a disk that cannot be tried: one that turns.
const ASSUMED: u64 = 100 << 20;

/// Which domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// Every live one.
    All,
    /// Every live one that is registered.
    Managed,
    /// These, by name, domid or uuid.
    Named(&'a [String]),
}

/// What the backends of this host can, by name.
#[derive(Clone, Debug, Default)]
pub struct Abilities(HashMap<String, CapabilitySet>);

impl Abilities {
    /// Whether a backend has a capability. One that is not known is taken to: it will say itself
    /// that it has not, before anything is touched.
    fn has(&self, backend: &str, capability: Capability) -> bool {
        self.0.get(backend).is_none_or(|set| set.has(capability))
    }
}

#[derive(Deserialize)]
struct BackendLine {
    name: String,
    #[serde(default)]
    capabilities: Vec<String>,
}

/// Asks the monitor program, which links the backends, what they can.
///
/// # Errors
/// When it is missing, or does not answer in its own way.
pub fn abilities() -> Result<Abilities, Failure> {
    let program = monitor_program()?;
    let attempt = || format!("cannot list the backends with {}", program.display());
    let output = Command::new(&program)
        .arg("--list-backends")
        .output()
        .map_err(|error| Failure::because(Kind::Failed, attempt(), &error))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Result<Vec<BackendLine>, _> = text.lines().map(serde_json::from_str).collect();
    let lines = lines.map_err(|error| Failure::because(Kind::Internal, attempt(), &error))?;
    let known = lines.into_iter().map(|line| {
        let set: Vec<_> = line.capabilities.iter().filter_map(|c| Capability::parse(c)).collect();
        (line.name, CapabilitySet::of(&set))
    });
    Ok(Abilities(known.collect()))
}

impl Host {
    /// The domains of `scope`. Of all, only live ones; a named one also when it rests.
    ///
    /// # Errors
    /// [`Kind::NoSuchDomain`] for a name that nobody has; when the databases cannot be read.
    pub fn members(
        &mut self,
        scope: Scope<'_>,
        abilities: &Abilities,
    ) -> Result<Vec<Member>, Failure> {
        let rows = match scope {
            Scope::Named(names) => {
                let mut rows: Vec<ListRow> = Vec::new();
                for name in names {
                    let row = self.find(name)?;
                    if !rows.iter().any(|other| other.uuid == row.uuid) {
                        rows.push(row);
                    }
                }
                rows
            }
            Scope::All | Scope::Managed => {
                let rows = self.store.list().map_err(|e| stored("cannot read the domains", &e))?;
                let ours =
                    |row: &ListRow| row.domid.is_some() && (scope == Scope::All || row.managed);
                rows.into_iter().filter(ours).collect()
            }
        };
        let mut members = Vec::new();
        for row in rows {
            if let Some(config) = self.config_of(&row)? {
                members.push(member(&self.paths, row, &config, abilities));
            }
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(members)
    }

    /// The configuration a domain runs with, else the registered one; `None` when it is gone.
    pub(crate) fn config_of(&mut self, row: &ListRow) -> Result<Option<DomainConfig>, Failure> {
        let attempt = || format!("cannot read domain \"{}\"", row.name);
        if let Some(live) = self.store.live(row.uuid).map_err(|e| stored(attempt(), &e))? {
            return Ok(Some(live.config));
        }
        let managed = self.store.managed(row.uuid).map_err(|e| stored(attempt(), &e))?;
        Ok(managed.map(|managed| managed.config))
    }

    /// Puts a wish back that maintenance must not change.
    ///
    /// # Errors
    /// When the registry cannot be written.
    pub(super) fn keep_wish(&mut self, entry: &super::Entry) -> Result<(), Failure> {
        if !entry.managed {
            return Ok(());
        }
        let wish = kxl_store::ManagedChange {
            wanted: Some(entry.wanted),
            ..kxl_store::ManagedChange::default()
        };
        let attempt = || format!("cannot keep the wish of domain \"{}\"", entry.name);
        self.store.set_managed(entry.uuid, wish).map_err(|e| stored(attempt(), &e))
    }
}

fn member(paths: &Paths, row: ListRow, config: &DomainConfig, abilities: &Abilities) -> Member {
    let stop_command = crate::stop_script::command(paths, config);
    let is_script = config.maintenance.stop_command.is_empty() && !stop_command.is_empty();
    let memory = row.memory_mib << 20;
    let pid = row.process.as_ref().map(|process| process.pid);
    let touched = pid.and_then(|pid| touched(paths, pid)).unwrap_or(memory).min(memory);
    Member {
        waits: row.word() == Word::Backoff,
        can_save: abilities.has(&row.backend, Capability::SaveState),
        can_shutdown: abilities.has(&row.backend, Capability::Powerdown),
        uuid: row.uuid,
        name: row.name,
        domid: row.domid,
        managed: row.managed,
        wanted: row.wanted,
        state: row.state,
        backend: row.backend,
        memory,
        touched,
        priority: config.maintenance.priority,
        after: config.maintenance.predecessors().cloned().collect(),
        script_time: is_script.then(|| Duration::from_secs(u64::from(config.stop.wait_secs))),
        stop_command,
    }
}

/// Bytes that a process has in memory or in swap; `None` where that tells too little: memory that
/// is mapped from an image and not read yet is nowhere, and has to be saved all the same.
fn touched(paths: &Paths, pid: i32) -> Option<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let store = paths.image_store();
    if store.to_str().is_none_or(|store| maps.contains(store)) {
        return None;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    };
    Some((kib("VmRSS:")? + kib("VmSwap:").unwrap_or(0)) << 10)
}

/// The disk under a directory: its free space, and how fast it is, by writing 32 MiB to it for a
/// moment.
///
/// # Errors
/// When the directory is not there.
pub fn disk(place: &Path) -> Result<Disk, Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::because(Kind::Failed, format!("cannot look at {}", place.display()), error)
    };
    let meta = fs::metadata(place).map_err(|error| failed(&error))?;
    if !meta.is_dir() {
        let text = format!("{} is not a directory", place.display());
        return Err(Failure::new(Kind::Failed, text));
    }
    let room = nix::sys::statvfs::statvfs(place).map_err(|error| failed(&error))?;
    // Blocks and their size are c_ulong, which is narrower elsewhere.
    #[allow(clippy::useless_conversion, reason = "c_ulong is u64 here and u32 elsewhere")]
    let free = u64::from(room.blocks_available()).saturating_mul(u64::from(room.fragment_size()));
    let measured = if free > 4 * PROBE as u64 { speed(place).ok() } else { None };
    Ok(Disk {
        place: place.to_path_buf(),
        free,
        bandwidth: measured.unwrap_or(ASSUMED),
        measured: measured.is_some(),
    })
}

/// Bytes a second to the disk, in one go and through to its end.
fn speed(place: &Path) -> io::Result<u64> {
    let mut file = File::options()
        .write(true)
        .mode(0o600)
        .custom_flags(OFlag::O_TMPFILE.bits())
        .open(place)?;
    // Nothing that a disk or file system could make small.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let block: Vec<u8> = (0..(1 << 17))
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect();
    let began = Instant::now();
    let mut written = 0;
    // A disk so slow that it takes seconds over this is known well enough before the end.
    while written < PROBE && began.elapsed() < Duration::from_secs(2) {
        file.write_all(&block)?;
        written += block.len();
    }
    file.sync_data()?;
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
    Ok((written as u64).saturating_mul(1_000_000) / micros)
}

/// A name for a domain's file in a directory of images.
pub(super) fn file_in(directory: &Path, name: &kxl_domain::DomainName, count: u32) -> PathBuf {
    match count {
        0 => directory.join(format!("{name}.kxl")),
        count => directory.join(format!("{name}.{count}.kxl")),
    }
}

/// Whether a directory may take the memory of guests: it is ours, and others cannot write in it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn is_safe(directory: &Path) -> Result<(), Failure> {
    let attempt = format!("cannot use {} for images", directory.display());
    let meta = fs::metadata(directory)
        .map_err(|error| Failure::because(Kind::Failed, attempt.clone(), &error))?;
    let ours = meta.uid() == nix::unistd::geteuid().as_raw() || meta.uid() == 0;
    if !meta.is_dir() {
        return Err(Failure::new(Kind::Failed, format!("{attempt}: it is not a directory")));
    }
    if !ours || meta.mode() & 0o022 != 0 {
        let text =
            format!("{attempt}: others can put files in it (mode {:o})", meta.mode() & 0o7777);
        return Err(Failure::new(Kind::Failed, text).hint("chmod go-w it, or name another one"));
    }
    Ok(())
}
