//! What there is to tell about each emulator: its record, what the host shows of it, and what its
//! own configuration says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kxl_backend::nics::host_nics;
use kxl_domain::charon::stop_script::StopScript;
use kxl_domain::charon::{
    ConsoleLine, Facts, HostNics, LogFiles, Nic, NicFinding, ServiceState, newest_log,
    service_state,
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
    /// An empty one where it cannot be read.
    pub(super) config: DomainConfig,
    /// Why its record cannot be read.
    pub(super) unread: Option<String>,
    /// It starts with the host.
    pub(super) autostart: bool,
    /// Of its own configuration, where that is one of Charon.
    pub(super) facts: Option<Facts>,
    pub(super) state: ServiceState,
    /// This user means it by naming none.
    pub(super) is_default: bool,
    /// How far the script has got that shuts its guest down; `None` where its emulator has a power
    /// button.
    stop_script: Option<StopScript>,
    /// Those that its own configuration takes.
    pub(super) nics: Vec<Interface>,
}

/// An interface of the host that an emulator takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    /// What is wrong with it.
    pub(super) findings: Vec<NicFinding>,
    /// A domain at rest that takes it, too, when it runs.
    pub(super) also: Option<String>,
}

/// What is read of a domain, before it is looked at.
struct Record {
    row: ListRow,
    config: DomainConfig,
    unread: Option<String>,
    autostart: bool,
    facts: Option<Facts>,
}

/// The managed domains of these rows. The others of the host are looked at, too: for the
/// interfaces that they take. A record that cannot be read is told of in the entry.
pub(super) fn gather(
    host: &mut Host,
    all: Vec<ListRow>,
    wanted: impl Fn(&ListRow) -> bool,
) -> Vec<Entry> {
    let managed = all.into_iter().filter(|row| row.managed);
    let mut records: Vec<Record> = managed.filter_map(|row| record(host, row)).collect();
    let nics = interfaces(host);
    let takers = takers(&records);
    let own = default::get(host).map(|row| row.uuid);
    records.retain(|record| wanted(&record.row));
    let rows = records.iter().map(|record| record.row.clone()).collect();
    let seen = observe(&host.paths, rows, LOOK_BUDGET);
    let entries = seen.into_iter().zip(records).map(|(seen, record)| {
        let Record { row, config, unread, autostart, facts } = record;
        let lost = seen.answering == Answering::Lost || unread.is_some();
        let by_script = config.emulator_config.is_some() || config.scripts.stop.is_some();
        Entry {
            state: service_state(seen.word(), &seen.row.supervision, lost),
            is_default: own == Some(row.uuid),
            stop_script: by_script.then(|| stop_script(&host.paths, &config).0),
            nics: checked(facts.as_ref(), &nics, &takers, row.uuid),
            seen,
            config,
            unread,
            autostart,
            facts,
        }
    });
    let mut entries: Vec<Entry> = entries.collect();
    entries.sort_by(|a, b| a.seen.row.name.cmp(&b.seen.row.name));
    entries
}

/// `None` for one that was deleted meanwhile.
fn record(host: &Host, row: ListRow) -> Option<Record> {
    match host.store.managed(row.uuid) {
        Ok(found) => {
            let found = found?;
            let facts = found.config.emulator_config.as_deref().and_then(charon::facts_of);
            let (config, autostart) = (found.config, found.autostart);
            Some(Record { row, config, unread: None, autostart, facts })
        }
        Err(error) => {
            let config = DomainConfig::new(row.name.clone());
            let unread = Failure::because(Kind::Failed, "its record cannot be read", &error);
            let unread = Some(unread.to_string());
            Some(Record { row, config, unread, autostart: false, facts: None })
        }
    }
}

fn interfaces(host: &Host) -> HostNics {
    host_nics(&host.paths.nics_file()).unwrap_or_else(|error| {
        report::warning(&format!("the interfaces of the host cannot be told: {error}"));
        HostNics::default()
    })
}

/// A domain that takes an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Taker {
    uuid: DomainUuid,
    name: String,
    live: bool,
}

/// Who takes which interface.
fn takers(records: &[Record]) -> BTreeMap<String, Vec<Taker>> {
    let mut takers: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for Record { row, facts, .. } in records {
        for nic in facts.iter().flat_map(|facts| &facts.nics) {
            let (name, live) = (row.name.to_string(), row.domid.is_some());
            let taker = Taker { uuid: row.uuid, name, live };
            takers.entry(nic.interface.clone()).or_default().push(taker);
        }
    }
    takers
}

/// An interface is used by who runs with it; those who take turns with it are only told.
fn checked(
    facts: Option<&Facts>,
    nics: &HostNics,
    takers: &BTreeMap<String, Vec<Taker>>,
    own: DomainUuid,
) -> Vec<Interface> {
    let Some(facts) = facts else { return Vec::new() };
    let mut nics = nics.clone();
    let mut also = BTreeMap::new();
    for (interface, takers) in takers {
        let others = || takers.iter().filter(|taker| taker.uuid != own);
        // Taking one interface twice is as bad.
        let twice = takers.iter().filter(|taker| taker.uuid == own).nth(1);
        if let Some(taker) = others().find(|taker| taker.live).or(twice) {
            nics.used.insert(interface.clone(), format!("domain \"{}\"", taker.name));
        } else if let Some(taker) = others().next() {
            also.insert(interface, taker.name.clone());
        }
    }
    let interface = |nic: &Nic| Interface {
        name: nic.interface.clone(),
        findings: nics.findings(nic),
        also: also.get(&nic.interface).cloned(),
    };
    facts.nics.iter().map(interface).collect()
}

impl Entry {
    /// The emulator's program, with its full path where it has one.
    pub(super) fn emulator(&self) -> String {
        if self.unread.is_some() {
            return "-".to_owned();
        }
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
        let makes = matches!(self.config.backend.as_str(), "auto" | "qemu" | "kvm" | "mock");
        makes && self.unread.is_none()
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

    /// How far its stop script has got, in the words of `kxl stop-script check`.
    pub(super) fn stop_script(&self) -> String {
        self.stop_script.map_or("-".to_owned(), |status| status.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_take_turns_with_an_interface_may_and_one_that_runs_with_it_uses_it() {
        let text = "set session hw_model=AlphaServer_DS20\nload packet_port P interface=\"e1\"\n";
        let facts = kxl_domain::charon::facts(&kxl_domain::charon::parse(text, |_| None).unwrap());
        let host = HostNics {
            present: [("e1".to_owned(), Vec::new())].into(),
            managed: ["e1".to_owned()].into(),
            ..HostNics::default()
        };
        let uuid =
            |n: u32| -> DomainUuid { format!("8d5dbf3a-0000-4000-8000-{n:012}").parse().unwrap() };
        let taker = |n, live| Taker { uuid: uuid(n), name: format!("d{n}"), live };
        let seen = |takers: Vec<Taker>| {
            let takers = [("e1".to_owned(), takers)].into();
            checked(Some(&facts), &host, &takers, uuid(1)).remove(0)
        };
        let nic = |findings, also| Interface { name: "e1".into(), findings, also };
        assert_eq!(seen(vec![taker(1, false)]), nic(vec![], None));
        let turns = seen(vec![taker(1, false), taker(2, false)]);
        assert_eq!(turns, nic(vec![], Some("d2".into())));
        let used = nic(vec![NicFinding::Used], None);
        assert_eq!(seen(vec![taker(1, false), taker(2, false), taker(3, true)]), used);
        assert_eq!(seen(vec![taker(1, false), taker(1, false)]), used);
    }
}
