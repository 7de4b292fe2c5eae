//! What the host shows of a domain: the list, the databases, the processes, the image store.

use std::fs;
use std::path::{Path, PathBuf};

use kxl_backend::{Identity, Process};
use kxl_domain::{DomainUuid, ImageId, State};
use kxl_store::Paths;
use kxl_store::image::Image;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::excuse::Excuse;
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
    /// Why it does not answer.
    silent_because: Option<String>,
}

/// What a look at a domain means for one who waits until it rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It rests where it may.
    Rests,
    /// It does not, for a reason that may pass within so long.
    Excused(Excuse),
    /// It is somewhere else, or something is being done to it, or somebody of it is missing.
    Elsewhere,
}

/// The reasons not to answer that a busy host may be to blame for.
const BUSY: [&str; 3] = [
    "its monitor does not answer",
    "its emulator does not answer",
    "its emulator is frozen or waits for a device",
];

impl Shown {
    /// What this look means where one of `allowed` is waited for; `killed` is the emulator that was
    /// killed meanwhile, and with which the domain cannot rest anywhere.
    pub(super) fn look(&self, allowed: &[State], killed: Option<i32>) -> Look {
        if self.op.is_some() || !allowed.contains(&self.state) {
            return Look::Elsewhere;
        }
        if self.pid.is_some() && self.pid == killed {
            let shown = self.answering == Some(true);
            return Look::Excused(if shown { Excuse::Dying } else { Excuse::Ended });
        }
        if self.answering != Some(false) {
            return Look::Rests;
        }
        let busy = self.silent_because.as_deref().is_some_and(|why| BUSY.contains(&why));
        if busy && self.pid.is_some() && self.monitor.is_some() {
            Look::Excused(Excuse::Late)
        } else {
            Look::Elsewhere
        }
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
            silent_because: text("silent_because"),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(change: &Value) -> Shown {
        let mut one = json!({
            "name": "web", "state": "paused", "answering": true, "pid": 40, "monitor_pid": 50,
        });
        for (key, value) in change.as_object().unwrap() {
            one[key] = value.clone();
        }
        Shown::among(&json!([one]).to_string(), "web").unwrap()
    }

    fn look(change: &Value, killed: Option<i32>) -> Look {
        shown(change).look(&[State::Paused], killed)
    }

    #[test]
    fn a_domain_rests_where_it_may_and_answers() {
        assert_eq!(look(&json!({}), None), Look::Rests);
        assert_eq!(look(&json!({"state": "running"}), None), Look::Elsewhere);
        assert_eq!(look(&json!({"operation": "saving"}), None), Look::Elsewhere);
        let gone = json!({"state": "halted", "pid": null, "monitor_pid": null, "answering": null});
        assert_eq!(shown(&gone).look(&[State::Halted], Some(40)), Look::Rests);
    }

    #[test]
    fn only_an_answer_that_a_busy_host_may_delay_is_waited_for_again() {
        let silent = |why: &str| json!({"answering": false, "silent_because": why});
        for why in BUSY {
            assert_eq!(look(&silent(why), None), Look::Excused(Excuse::Late), "{why}");
        }
        for why in ["its emulator is stopped by a signal", "its emulator has just ended"] {
            assert_eq!(look(&silent(why), None), Look::Elsewhere, "{why}");
        }
        for missing in ["pid", "monitor_pid"] {
            let mut one = silent(BUSY[0]);
            one[missing] = Value::Null;
            assert_eq!(look(&one, None), Look::Elsewhere, "without {missing}");
        }
        let mut busy = silent(BUSY[0]);
        busy["operation"] = "saving".into();
        assert_eq!(look(&busy, None), Look::Elsewhere);
        busy = silent(BUSY[0]);
        busy["state"] = "running".into();
        assert_eq!(look(&busy, None), Look::Elsewhere);
    }

    #[test]
    fn nothing_rests_with_an_emulator_that_was_killed() {
        assert_eq!(look(&json!({}), Some(40)), Look::Excused(Excuse::Dying));
        let ended = json!({"answering": false, "silent_because": "its emulator has just ended"});
        assert_eq!(look(&ended, Some(40)), Look::Excused(Excuse::Ended));
        assert_eq!(look(&json!({}), Some(41)), Look::Rests, "it has another one");
        assert_eq!(look(&json!({"state": "running"}), Some(40)), Look::Elsewhere);
    }

    #[test]
    fn a_domain_that_is_lost_or_there_twice_is_told() {
        Shown::among("[]", "web").unwrap_err();
        Shown::among(r#"[{"name": "web", "state": "paused"}, {"name": "web"}]"#, "web")
            .unwrap_err();
        Shown::among(r#"[{"name": "web", "state": "asleep?"}]"#, "web").unwrap_err();
    }
}
