//! Commits a new emulator process to its domain's row before it may run.

use kxl_backend::{Attachments, Identity, Recorder};
use kxl_domain::DomainUuid;
use kxl_store::{LiveChange, ProcessRow, Store};

use crate::steps::{Step, reach};

/// The [`Recorder`] over the live database.
pub(crate) struct RowRecorder<'a> {
    store: &'a Store,
    uuid: DomainUuid,
    recorded: Option<(ProcessRow, Attachments)>,
    oom_protect: Option<i16>,
    warning: Option<String>,
}

impl<'a> RowRecorder<'a> {
    /// For a process whose out-of-memory score is adjusted while it still waits.
    pub(crate) const fn new(store: &'a Store, uuid: DomainUuid, oom_protect: Option<i16>) -> Self {
        Self { store, uuid, recorded: None, oom_protect, warning: None }
    }

    /// What the host did not let the process have.
    pub(crate) fn warning(&mut self) -> Option<String> {
        self.warning.take()
    }

    /// What was committed, if the launch came that far.
    pub(crate) fn into_recorded(self) -> Option<(ProcessRow, Attachments)> {
        self.recorded
    }
}

impl Recorder for RowRecorder<'_> {
    fn record(&mut self, identity: &Identity, attachments: &Attachments) -> Result<(), String> {
        let process = to_row(identity);
        let text = serde_json::to_string(attachments).map_err(|error| error.to_string())?;
        let change = LiveChange {
            process: Some(Some(process.clone())),
            attachments: Some(Some(text)),
            ..LiveChange::default()
        };
        self.store.change_live(self.uuid, &change).map_err(|error| error.to_string())?;
        self.recorded = Some((process, attachments.clone()));
        self.warning = self.oom_protect.and_then(|score| adjust(identity.pid, score));
        reach(Step::Recorded, Some(identity.pid));
        Ok(())
    }
}

/// Adjusts the score by which the kernel picks what to kill when memory runs out; what the program
/// starts inherits it. A refusal is a text, and keeps nothing from starting.
fn adjust(pid: i32, score: i16) -> Option<String> {
    let file = format!("/proc/{pid}/oom_score_adj");
    let error = std::fs::write(file, score.to_string()).err()?;
    Some(format!("oom_protect = {score} is not in force: {error}"))
}

/// The row that names an identity.
pub(crate) fn to_row(identity: &Identity) -> ProcessRow {
    ProcessRow {
        pid: identity.pid,
        start_time: identity.start_time,
        boot_id: identity.boot_id.clone(),
    }
}

/// The identity that a row names.
#[must_use]
pub(crate) fn identity_of(row: &ProcessRow) -> Identity {
    Identity { pid: row.pid, start_time: row.start_time, boot_id: row.boot_id.clone() }
}
