//! Emulators that put themselves into the background: what was executed ends, and a child of it, or
//! a child's child, is the emulator.
//!
//! It comes to us when its parent ends, because the monitor is the reaper of what it starts for
//! that time: a child that we have not made. Until it is recorded a later monitor finds it by what
//! only this start has: a control group, an entry of the environment, the terminal that is inherited.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kxl_backend::process::Identity;
use kxl_backend::{Attachments, BackendError, LaunchSpec, Process, Result, children};

use super::left::{self, Orphan, Traces, marked};
use super::transcript::Transcript;
use crate::kill;

/// Name of the entry of the environment.
pub(super) const ENTRY: &str = "KXL_START";

/// Key of its value among [`kxl_backend::Attachments::notes`].
pub(super) const NOTE: &str = "start";

/// Key there of the process that was executed, until the emulator itself is recorded.
pub(super) const FIRST: &str = "first";

/// How long an emulator may take to find its final place after what was executed has ended: it may
/// fork more than once.
const SETTLED: Duration = Duration::from_millis(100);

/// How often what a failed start has left is looked for again: whoever is killed leaves its own
/// children to us.
const SWEEPS: u8 = 10;

/// Writes down that the process that is recorded now is the emulator.
pub(super) fn note_emulator(attachments: &mut Attachments) {
    attachments.notes.remove(FIRST);
}

/// A process as it is written down.
pub(super) fn name_of(identity: &Identity) -> String {
    format!("{} {}", identity.pid, identity.start_time)
}

/// Whether a process that an earlier monitor has recorded is the one that was executed, which leaves
/// the emulator behind.
pub(super) fn executed(identity: &Identity, attachments: &Attachments) -> bool {
    attachments.notes.get(FIRST).is_some_and(|first| *first == name_of(identity))
}

/// The emulator behind the process that was executed, which may have ended by now or be about to.
///
/// # Errors
/// [`BackendError::Exited`] when there is none, [`BackendError::TimedOut`].
pub(super) async fn settled(
    first: &Identity,
    attachments: &Attachments,
    patience: Duration,
) -> Result<Process> {
    if let Ok(process) = Process::open(first.clone())
        && tokio::time::timeout(patience, process.gone()).await.is_err()
    {
        let waited_for = "the program to put itself into the background".to_owned();
        return Err(BackendError::TimedOut { waited_for, after: patience });
    }
    let gone = || BackendError::Exited { text: "it left no emulator running".to_owned() };
    let traces = Traces::of(attachments).ok_or_else(gone)?;
    // Whoever is there twice, some time apart, is not passing by.
    let mut before = eldest(traces.living());
    loop {
        tokio::time::sleep(SETTLED).await;
        let found = eldest(traces.living()).ok_or_else(gone)?;
        if before.as_ref() == Some(&found) {
            return Process::open(found).map_err(|_| gone());
        }
        before = Some(found);
    }
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

/// The emulator of a start that an earlier monitor did not live to record; none once it has been
/// recorded, whatever else has its mark.
pub(super) fn successor(attachments: &Attachments) -> Option<Identity> {
    attachments.notes.get(FIRST)?;
    eldest(Traces::of(attachments)?.living())
}

/// Ends what an emulator that is gone has left running: nothing of it shall hold the disks of the
/// next one.
pub(super) fn end_what_is_left(mark: &str, group: Option<&Path>) {
    let left = Traces::of_ended(mark, group).living();
    for process in left.into_iter().filter_map(|identity| Process::open(identity).ok()) {
        tracing::info!(pid = process.identity().pid, "the emulator has left it running: killed");
        if let Err(error) = kill::kill(&process) {
            tracing::warn!(%error, pid = process.identity().pid, "cannot kill");
        }
    }
}

/// The one that the others come from.
fn eldest(found: Vec<Identity>) -> Option<Identity> {
    found.into_iter().min_by_key(|identity| (identity.start_time, identity.pid))
}

/// The monitor as the reaper of what the programs that it starts leave behind, until this is
/// dropped.
pub(super) struct Reaper {
    mark: String,
    /// What was executed; what it leaves is no older.
    first: Option<Identity>,
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
        Ok(Self { mark: mark.to_owned(), first: None, keep: false })
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
        self.first = Some(first.identity().clone());
        let mut said = Transcript::default();
        let failed = |why: String| BackendError::Launch { program: program.to_owned(), why };
        let ended = async {
            let end = first.wait();
            let mut end = std::pin::pin!(end);
            loop {
                tokio::select! {
                    status = &mut end => return status,
                    // Its words are few; a terminal that nobody empties would hold it up.
                    () = tokio::time::sleep(Duration::from_millis(10)) => read(terminal, &mut said),
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
        let mut before = eldest(self.left());
        loop {
            tokio::time::sleep(SETTLED).await;
            let now = eldest(self.left());
            let Some(found) = now else {
                let words = if words.is_empty() { String::new() } else { format!(": {words}") };
                return Err(failed(format!("it ended and left no emulator running{words}")));
            };
            if before.as_ref() == Some(&found) {
                let process = Process::open(found)
                    .map_err(|error| failed(format!("its emulator has ended: {error}")))?;
                children::take_in(process.identity());
                self.keep = true;
                return Ok(process);
            }
            before = Some(found);
        }
    }

    fn orphans(&self) -> Vec<Orphan> {
        self.first.as_ref().map(|first| left::orphans(first, &self.mark)).unwrap_or_default()
    }

    /// What lives of the start.
    fn left(&self) -> Vec<Identity> {
        let living = self.orphans().into_iter().filter(|orphan| !orphan.dead);
        living.map(|orphan| orphan.identity).chain(marked(&self.mark)).collect()
    }

    fn end_all(&self) {
        for _ in 0..SWEEPS {
            let left: Vec<_> =
                self.left().into_iter().filter_map(|id| Process::open(id).ok()).collect();
            if left.is_empty() {
                return;
            }
            left.iter().for_each(kill::kill_and_reap);
        }
        tracing::warn!("a start that failed has left processes that do not end");
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        if !self.keep {
            self.end_all();
        }
        // The emulator is none of these: however it ends, whoever waits for it is told.
        self.orphans().iter().for_each(Orphan::reap);
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
