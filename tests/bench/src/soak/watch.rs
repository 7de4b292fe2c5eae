//! What the host shows of a domain: the list, the databases, the processes, the image store.

use std::fs;
use std::path::{Path, PathBuf};

use kxl_backend::{Identity, Process};
use kxl_domain::{DomainUuid, ImageId, State};
use kxl_store::Paths;
use kxl_store::image::Image;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::error::BenchError;

/// A domain as `kxl list --json` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) state: State,
    /// The operation in flight.
    pub(super) op: Option<String>,
    /// `Some(false)`: it does not answer, or has no monitor.
    pub(super) answering: Option<bool>,
    pub(super) pid: Option<i32>,
    pub(super) monitor: Option<i32>,
    pub(super) reason: Option<String>,
}

impl Shown {
    /// Nothing is being done to it and it is there.
    pub(super) fn settled(&self) -> bool {
        self.op.is_none() && self.answering != Some(false)
    }

    /// The only domain of that name.
    pub(super) fn among(list: &str, name: &str) -> Result<Self, BenchError> {
        let all: Vec<Value> = serde_json::from_str(list)
            .map_err(|error| BenchError::wrong(format!("the list is no JSON: {error}: {list}")))?;
        let mut found = all.iter().filter(|one| one["name"].as_str() == Some(name));
        let one = found.next().ok_or_else(|| BenchError::wrong("the domain is lost"))?;
        if found.next().is_some() {
            return Err(BenchError::wrong("the domain is listed twice"));
        }
        let text = |key: &str| one[key].as_str().map(str::to_owned);
        let number = |key: &str| one[key].as_i64().and_then(|number| i32::try_from(number).ok());
        let state = text("state").and_then(|word| State::parse(&word));
        Ok(Self {
            state: state.ok_or_else(|| BenchError::wrong(format!("a state unheard of: {one}")))?,
            op: text("operation"),
            answering: one["answering"].as_bool(),
            pid: number("pid"),
            monitor: number("monitor_pid"),
            reason: text("reason"),
        })
    }
}

/// The monitors of a domain: there has to be one at most.
pub(super) fn monitors(root: &Path, uuid: DomainUuid) -> Vec<Identity> {
    processes().filter(|(dir, _)| monitor_of(dir, root, Some(uuid))).map(|(_, id)| id).collect()
}

/// Everything of a host that runs, for people.
pub(super) fn left_running(root: &Path) -> Vec<String> {
    let ours = |dir: &Path| monitor_of(dir, root, None) || holds_below(dir, root);
    processes()
        .filter(|(dir, identity)| identity.pid != std::process::id().cast_signed() && ours(dir))
        .map(|(dir, identity)| format!("{} {}", identity.pid, words(&dir).join(" ")))
        .collect()
}

fn processes() -> impl Iterator<Item = (PathBuf, Identity)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((entry.path(), Identity::of(pid).ok()?))
    })
}

fn words(dir: &Path) -> Vec<String> {
    let bytes = fs::read(dir.join("cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn monitor_of(dir: &Path, root: &Path, uuid: Option<DomainUuid>) -> bool {
    let words = words(dir);
    let named = uuid.is_none_or(|uuid| words.contains(&uuid.to_string()));
    let program = words.first().map(|word| Path::new(word).ends_with("kxl-monitor"));
    let place = format!("KXL_ROOT={}", root.display());
    program == Some(true)
        && named
        && fs::read(dir.join("environ"))
            .is_ok_and(|bytes| bytes.split(|byte| *byte == 0).any(|one| one == place.as_bytes()))
}

/// Whether a process has a file below `root` open: emulators have their log.
fn holds_below(dir: &Path, root: &Path) -> bool {
    let fds = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
    fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| target.starts_with(root))
}

/// Kills a process by its identity; false when it was gone.
pub(super) fn kill(identity: Identity) -> bool {
    Process::open(identity).is_ok_and(|process| process.signal(Signal::SIGKILL).is_ok())
}

/// What is in the image store.
#[derive(Debug, Default)]
pub(super) struct Images {
    /// Images of the domain.
    pub(super) of_domain: Vec<ImageId>,
    /// Images that cannot be opened, and why.
    pub(super) broken: Vec<String>,
    /// Whatever else is there.
    pub(super) others: Vec<String>,
}

/// Looks into the image store.
pub(super) fn images(paths: &Paths, uuid: DomainUuid) -> Result<Images, BenchError> {
    let dir = paths.image_store();
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Images::default()),
        Err(error) => return Err(BenchError::io(format!("read {}", dir.display()))(error)),
    };
    let mut found = Images::default();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(id) = name.parse::<ImageId>() else {
            found.others.push(name);
            continue;
        };
        match Image::open_store(paths, id) {
            Ok(image) if image.facts().uuid == uuid => found.of_domain.push(id),
            Ok(_) => {}
            // The other driver's, removed while it was looked at.
            Err(_) if !entry.path().exists() => {}
            Err(error) => found.broken.push(format!("{name}: {error}")),
        }
    }
    Ok(found)
}
