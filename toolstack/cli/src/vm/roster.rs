//! What there is to tell about each emulator: its record, what the host shows of it, and what its
//! own configuration says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kxl_backend::nics::host_nics;
use kxl_domain::charon::stop_script::StopScript;
use kxl_domain::charon::{
    ConsoleLine, Facts, HostNics, LogFiles, NicFinding, ServiceState, newest_log, service_state,
};
use kxl_domain::{DomainConfig, DomainUuid, Failure, Kind};
use kxl_engine::{Answering, Host, Seen, observe, stop_script};
use kxl_store::ListRow;

use super::{default, own_file};
use crate::charon;
use crate::commands::LOOK_BUDGET;
use crate::report;

/// One emulator.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) seen: Seen,
    pub(super) config: DomainConfig,
    /// It starts with the host.
    pub(super) autostart: bool,
    /// Of its own configuration, where that is one of Charon.
    pub(super) facts: Option<Facts>,
    pub(super) state: ServiceState,
    /// This user means it by naming none.
    pub(super) is_default: bool,
    pub(super) stop_script: StopScript,
    /// Its interfaces, and what is wrong with each.
    pub(super) nics: Vec<(String, Vec<NicFinding>)>,
}

/// The managed domains of these rows. The others of the host are looked at, too: for the
/// interfaces that they take.
///
/// # Errors
/// When the databases cannot be read.
pub(super) fn gather(
    host: &mut Host,
    all: Vec<ListRow>,
    wanted: impl Fn(&ListRow) -> bool,
) -> Result<Vec<Entry>, Failure> {
    let mut records = Vec::new();
    for row in all.into_iter().filter(|row| row.managed) {
        let record = host.store.managed(row.uuid).map_err(|error| {
            Failure::because(Kind::Failed, format!("cannot read domain \"{}\"", row.name), &error)
        })?;
        // Deleted meanwhile: not in the list.
        let Some(record) = record else { continue };
        let facts = record.config.emulator_config.as_deref().and_then(charon::facts_of);
        records.push((row, record.config, record.autostart, facts));
    }
    let nics = interfaces(host);
    let takers = takers(&records);
    let own = default::get(host).map(|row| row.uuid);
    records.retain(|(row, ..)| wanted(row));
    let rows = records.iter().map(|(row, ..)| row.clone()).collect();
    let seen = observe(&host.paths, rows, LOOK_BUDGET);
    let entries = seen.into_iter().zip(records).map(|(seen, (row, config, autostart, facts))| {
        let lost = seen.answering == Answering::Lost;
        Entry {
            state: service_state(seen.word(), &seen.row.supervision, lost),
            is_default: own == Some(row.uuid),
            stop_script: stop_script(&host.paths, &config).0,
            nics: checked(facts.as_ref(), &nics, &takers, row.uuid),
            seen,
            config,
            autostart,
            facts,
        }
    });
    let mut entries: Vec<Entry> = entries.collect();
    entries.sort_by(|a, b| a.seen.row.name.cmp(&b.seen.row.name));
    Ok(entries)
}

fn interfaces(host: &Host) -> HostNics {
    host_nics(&host.paths.nics_file()).unwrap_or_else(|error| {
        report::warning(&format!("the interfaces of the host cannot be told: {error}"));
        HostNics::default()
    })
}

type Record = (ListRow, DomainConfig, bool, Option<Facts>);

/// Who takes which interface.
fn takers(records: &[Record]) -> BTreeMap<String, Vec<(DomainUuid, String)>> {
    let mut takers: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for (row, _, _, facts) in records {
        for nic in facts.iter().flat_map(|facts| &facts.nics) {
            let one = (row.uuid, row.name.to_string());
            takers.entry(nic.interface.clone()).or_default().push(one);
        }
    }
    takers
}

fn checked(
    facts: Option<&Facts>,
    nics: &HostNics,
    takers: &BTreeMap<String, Vec<(DomainUuid, String)>>,
    own: DomainUuid,
) -> Vec<(String, Vec<NicFinding>)> {
    let Some(facts) = facts else { return Vec::new() };
    let mut nics = nics.clone();
    for (interface, users) in takers {
        let other = users.iter().find(|(uuid, _)| *uuid != own);
        // Taking one interface twice is as bad.
        let twice = users.iter().filter(|(uuid, _)| *uuid == own).nth(1);
        if let Some((_, name)) = other.or(twice) {
            nics.used.insert(interface.clone(), name.clone());
        }
    }
    facts.nics.iter().map(|nic| (nic.interface.clone(), nics.findings(nic))).collect()
}

impl Entry {
    /// The emulator's program, with its full path where it has one.
    pub(super) fn emulator(&self) -> String {
        let named = self.config.emulator.clone();
        let named = named.or_else(|| match self.config.backend.as_str() {
            "simh" => self.config.machine.as_deref().map(PathBuf::from),
            _ => None,
        });
        match named {
            Some(program) => in_path(&program).display().to_string(),
            None => self.seen.row.backend.clone(),
        }
    }

    /// The file that sets it up.
    pub(super) fn file(&self) -> Option<&Path> {
        own_file(&self.config)
    }

    /// Whether kxl itself makes the machine, so that its own numbers are those of the machine.
    fn is_made_by_kxl(&self) -> bool {
        matches!(self.config.backend.as_str(), "auto" | "qemu" | "kvm" | "mock")
    }

    pub(super) fn cpus(&self) -> Option<u32> {
        let own = self.is_made_by_kxl().then_some(self.config.vcpus);
        self.facts.as_ref().map_or(own, |facts| facts.cpus)
    }

    pub(super) fn memory_mib(&self) -> Option<u64> {
        let own = self.is_made_by_kxl().then_some(self.config.memory_mib);
        self.facts.as_ref().map_or(own, |facts| facts.memory_mib)
    }

    pub(super) fn model(&self) -> Option<&str> {
        let own = self.config.machine.as_deref();
        self.facts.as_ref().map(|facts| facts.model.as_str()).or(own)
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.seen.domid?;
        self.seen.row.process.as_ref().map(|process| process.pid)
    }

    pub(super) fn console_port(&self) -> Option<u16> {
        match self.facts.as_ref()?.console {
            ConsoleLine::Port(port) => Some(port),
            ConsoleLine::Physical(_) | ConsoleLine::None => None,
        }
    }

    /// Its score for the kernel that looks for memory; of the process where there is one.
    pub(super) fn oom_score(&self) -> i32 {
        let of_process = self.pid().and_then(|pid| {
            fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).ok()?.trim().parse().ok()
        });
        of_process.unwrap_or_else(|| self.config.process.oom_protect.map_or(0, i32::from))
    }

    /// The log, with its full path; of one for each start, the last.
    pub(super) fn log(&self) -> Option<PathBuf> {
        let facts = self.facts.as_ref()?;
        let beside = self.file().and_then(Path::parent).unwrap_or(Path::new("/"));
        let at = self.config.process.directory.as_deref().unwrap_or(beside);
        let directory = match facts.log.resolve(at, Path::is_dir) {
            LogFiles::File(file) => return Some(file),
            LogFiles::Rotating(directory) => directory,
        };
        let names: Vec<String> = fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let newest = newest_log(facts.log_stem(), names.iter().map(String::as_str));
        Some(directory.join(newest.map_or(format!("{}-*.log", facts.log_stem()), str::to_owned)))
    }
}

/// The program as a search of `PATH` finds it.
fn in_path(program: &Path) -> PathBuf {
    if program.is_absolute() {
        return program.to_owned();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|p| p.is_file());
    found.unwrap_or_else(|| program.to_owned())
}
