//! Emulators that put themselves into the background: what was executed ends, and a child of it, or
//! a child's child, is the emulator.
//!
//! It is known by an entry of its environment that only this start has, and comes to us when its
//! parent ends, because the monitor is the reaper of what it starts for that time. Until it is
//! recorded a later monitor finds it by the same entry.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kxl_backend::process::Identity;
use kxl_backend::{Attachments, BackendError, LaunchSpec, Process, Result};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::transcript::Transcript;
use crate::kill;

/// Name of the entry of the environment.
const ENTRY: &str = "KXL_START";

/// Key of its value among [`kxl_backend::Attachments::notes`].
pub(super) const NOTE: &str = "start";

/// Key there of the process that was executed, until the emulator itself is recorded.
pub(super) const FIRST: &str = "first";

/// How long an emulator may take to find its final place after what was executed has ended: it may
/// fork more than once.
const SETTLED: Duration = Duration::from_millis(100);

/// Writes down that the process that is recorded now is the emulator.
pub(super) fn note_emulator(attachments: &mut Attachments) {
    attachments.notes.remove(FIRST);
}

/// A process as it is written down.
pub(super) fn name_of(identity: &Identity) -> String {
    format!("{} {}", identity.pid, identity.start_time)
}

/// The emulator behind a process that an earlier monitor has recorded: it may still be the one that
/// was executed and is about to end.
///
/// # Errors
/// [`BackendError::Exited`] when there is none, [`BackendError::TimedOut`].
pub(super) async fn settled(
    process: Process,
    attachments: &Attachments,
    patience: Duration,
) -> Result<Process> {
    let (Some(mark), Some(first)) = (attachments.notes.get(NOTE), attachments.notes.get(FIRST))
    else {
        return Ok(process);
    };
    if *first != name_of(process.identity()) {
        return Ok(process);
    }
    if tokio::time::timeout(patience, process.gone()).await.is_err() {
        let waited_for = "the program to put itself into the background".to_owned();
        return Err(BackendError::TimedOut { waited_for, after: patience });
    }
    let gone = || BackendError::Exited { text: "it left no emulator running".to_owned() };
    Process::open(successor(mark).ok_or_else(gone)?).map_err(|_| gone())
}

/// A value that no other start on this host has.
pub(super) fn mark(spec: &LaunchSpec) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}-{:x}", spec.uuid.short(), spec.domid, now.as_nanos())
}

/// The entry of the environment for a mark.
pub(super) fn entry(mark: &str) -> String {
    format!("{ENTRY}={mark}")
}

/// Everything alive that has this mark.
fn marked(mark: &str) -> Vec<Identity> {
    let entry = entry(mark).into_bytes();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|dir| dir.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: &i32| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|own| own == entry))
    };
    let living = |pid| Identity::of(pid).ok().filter(Identity::alive);
    pids.filter(has).filter_map(living).collect()
}

/// The emulator of a start that an earlier monitor did not live to record.
pub(super) fn successor(mark: &str) -> Option<Identity> {
    eldest(marked(mark))
}

/// The one that the others come from.
fn eldest(found: Vec<Identity>) -> Option<Identity> {
    found.into_iter().min_by_key(|identity| (identity.start_time, identity.pid))
}

/// The monitor as the reaper of what the programs that it starts leave behind, until this is
/// dropped.
pub(super) struct Reaper {
    mark: String,
    /// Passing ones that were seen and may have become ours to reap.
    seen: BTreeSet<i32>,
    keep: bool,
}

impl Reaper {
    /// Before the program is started.
    ///
    /// # Errors
    /// When the kernel does not let us.
    pub(super) fn new(mark: &str) -> Result<Self> {
        nix::sys::prctl::set_child_subreaper(true)
            .map_err(|error| BackendError::io("cannot become the reaper of an emulator", error))?;
        Ok(Self { mark: mark.to_owned(), seen: BTreeSet::new(), keep: false })
    }

    /// Waits until what was executed has ended and left the emulator.
    ///
    /// # Errors
    /// [`BackendError::Launch`] with what the program said; nothing is left of it.
    pub(super) async fn find(
        mut self,
        program: &str,
        first: &Process,
        terminal: &OwnedFd,
        patience: Duration,
    ) -> Result<Process> {
        let mut said = Transcript::default();
        let failed = |why: String| BackendError::Launch { program: program.to_owned(), why };
        let ended = async {
            let end = first.wait();
            let mut end = std::pin::pin!(end);
            loop {
                tokio::select! {
                    status = &mut end => return status,
                    // Its words are few; a terminal that nobody empties would hold it up.
                    () = tokio::time::sleep(Duration::from_millis(10)) => {
                        read(terminal, &mut said);
                        self.look();
                    }
                }
            }
        };
        let Ok(status) = tokio::time::timeout(patience, ended).await else {
            let waited_for = "the program to put itself into the background".to_owned();
            return Err(BackendError::TimedOut { waited_for, after: patience });
        };
        read(terminal, &mut said);
        let words = said.words(None);
        match status {
            Ok((Some(0), _)) => {}
            Ok((code, signal)) => {
                let status = crate::ending::Status { code, signal };
                return Err(failed(status.text(&words)));
            }
            Err(error) => return Err(BackendError::io("cannot watch the emulator", error)),
        }
        // Whoever is there twice, some time apart, is not passing by.
        let mut before = eldest(self.look());
        loop {
            tokio::time::sleep(SETTLED).await;
            let now = eldest(self.look());
            let Some(found) = now else {
                let words = if words.is_empty() { String::new() } else { format!(": {words}") };
                return Err(failed(format!("it ended and left no emulator running{words}")));
            };
            if before.as_ref() == Some(&found) {
                let process = Process::open(found)
                    .map_err(|error| failed(format!("its emulator has ended: {error}")))?;
                self.keep = true;
                return Ok(process);
            }
            before = Some(found);
        }
    }

    fn look(&mut self) -> Vec<Identity> {
        let found = marked(&self.mark);
        self.seen.extend(found.iter().map(|identity| identity.pid));
        found
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        if !self.keep {
            for process in marked(&self.mark).into_iter().filter_map(|id| Process::open(id).ok()) {
                kill::kill_and_reap(&process);
            }
        }
        for pid in &self.seen {
            // Only zombies of ours; a living one is none of these.
            let _not_ours = waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG));
        }
        if let Err(error) = nix::sys::prctl::set_child_subreaper(false) {
            tracing::debug!(%error, "still the reaper of what emulators leave");
        }
    }
}

fn read(terminal: &OwnedFd, said: &mut Transcript) {
    let mut buffer = [0; 4096];
    while let Ok(count) = nix::unistd::read(terminal, &mut buffer) {
        if count == 0 {
            return;
        }
        said.feed(&buffer[..count]);
    }
}
