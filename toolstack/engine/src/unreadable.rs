//! A live domain whose record no kxl here can read in full, that of a newer version or a damaged one.
//! No monitor can attend it, but its process is known: the power can always be taken away.

use kxl_backend::Process;
use kxl_domain::supervision::Record;
use kxl_domain::{Failure, Kind, Reason, State, Wanted};
use kxl_store::{DomainLock, ListRow, Settle, StoreError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cgroup;
use crate::host::{Host, stored};
use crate::recorder::identity_of;
use crate::stopping::{KILL_DEADLINE, send_kill};

impl Host {
    /// Destroys the domain if it is such a one and has no monitor. Gives whether it was.
    ///
    /// # Errors
    /// When its process does not end, or its end cannot be recorded.
    pub(crate) fn destroy_unreadable(&mut self, row: &ListRow) -> Result<bool, Failure> {
        let Err(unread @ StoreError::Record { .. }) = self.store.live(row.uuid) else {
            return Ok(false);
        };
        let attempt = format!("cannot destroy domain \"{}\"", row.name);
        let lock = DomainLock::try_acquire(&self.paths, row.uuid);
        let Some(lock) = lock.map_err(|e| stored(&attempt, &e))? else { return Ok(false) };
        // Read again under the lock: a monitor that has just gone may have left another process.
        let found = self.store.find(&row.uuid.to_string()).map_err(|e| stored(&attempt, &e))?;
        let Some(now) = found.filter(ListRow::is_live) else { return Ok(true) };
        if let Some(process) = &now.process {
            end(process).map_err(|why| {
                let mut failure = Failure::new(Kind::Failed, &attempt);
                failure.causes.push(why);
                failure
            })?;
        }
        let settle = Settle {
            state: State::Halted,
            reason: Some(Reason::Destroyed),
            detail: String::new(),
            wanted: Some(Wanted::Halted),
            image: None,
            supervision: Record { stopped_by_person: true, ..Record::fresh(&now.supervision) },
        };
        cgroup::remove(now.uuid);
        self.store.settle(now.uuid, &settle).map_err(|e| stored(&attempt, &e))?;
        self.note(now.uuid, &now.name, "destroyed", &format!("without a monitor: {unread}"));
        if !now.managed
            && let Err(error) = lock.remove_rundir(&self.paths, now.uuid)
        {
            tracing::warn!(%error, "the runtime directory stays");
        }
        Ok(true)
    }
}

/// Kills the process and waits for its end.
fn end(row: &kxl_store::ProcessRow) -> Result<(), String> {
    let Ok(process) = Process::open(identity_of(row)) else { return Ok(()) };
    send_kill(&process);
    let deadline = u16::try_from(KILL_DEADLINE.as_millis()).unwrap_or(u16::MAX);
    let mut fds = [PollFd::new(process.pidfd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(deadline)) {
        Ok(0) => Err(format!("its process {} does not end although it was killed", row.pid)),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("its process {} cannot be waited for: {error}", row.pid)),
    }
}
