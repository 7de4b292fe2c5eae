//! Ending a monitor and leaving its domain: the next command about the domain adopts it.

use std::time::{Duration, Instant};

use kxl_backend::{Identity, Process};
use kxl_control::Call;
use kxl_control::client::Client;
use kxl_domain::{Failure, Kind};
use kxl_store::{DomainLock, ListRow, socket};
use nix::poll::{PollFd, PollFlags, poll};

use crate::Outcome;
use crate::host::{Host, stored};

/// How long a monitor may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How long an operation in flight is waited for: a monitor does not leave in the middle of one.
const PATIENCE: Duration = Duration::from_secs(20);

/// After how many milliseconds a monitor that is still there is asked again: what it was told in the
/// middle of an operation it has forgotten by now.
const AGAIN_MS: u16 = 250;

impl Host {
    /// Ends the monitor of a live domain; the domain goes on. [`Outcome::Already`] where there is
    /// none to end. Nothing is adopted for this.
    ///
    /// # Errors
    /// [`Kind::TimedOut`] when the monitor does not answer, or stays because an operation does not
    /// come to its end.
    pub fn release(&mut self, row: &ListRow) -> Result<Outcome, Failure> {
        let name = &row.name;
        if row.domid.is_none() || self.lock_is_free(row)? {
            return Ok(Outcome::Already);
        }
        let attempt = format!("cannot end the monitor of domain \"{name}\"");
        let failed = |error: &std::io::Error| Failure::because(Kind::Failed, &attempt, error);
        let path = self.paths.control_socket(row.uuid);
        let monitor = {
            let stream = socket::connect(&path).map_err(|error| failed(&error))?;
            let pid = socket::peer_pid(&stream).map_err(|error| failed(&error))?;
            match Identity::of(pid).and_then(Process::open) {
                Ok(monitor) => monitor,
                // Gone between the two looks.
                Err(_) => return Ok(Outcome::Done),
            }
        };
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(stream) = socket::connect(&path) {
                match Client::new(stream).call(Call::Release, Some(ANSWER), |_| ()) {
                    Ok(_) => {}
                    // It hung up: it is leaving.
                    Err(failure) if failure.kind == Kind::Failed => {}
                    Err(failure) => return Err(late(row, &failure.text)),
                }
            }
            let mut end = [PollFd::new(monitor.pidfd(), PollFlags::POLLIN)];
            match poll(&mut end, AGAIN_MS) {
                Ok(0) if Instant::now() > until => {
                    return Err(late(row, "it is in the middle of an operation"));
                }
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(Outcome::Done),
                Err(error) => return Err(failed(&error.into())),
            }
        }
    }

    /// Whether nobody is in charge of a live domain.
    fn lock_is_free(&self, row: &ListRow) -> Result<bool, Failure> {
        let lock = DomainLock::try_acquire(&self.paths, row.uuid);
        let lock = lock.map_err(|e| stored(format!("cannot lock domain \"{}\"", row.name), &e))?;
        Ok(lock.is_some())
    }
}

fn late(row: &ListRow, why: &str) -> Failure {
    let name = &row.name;
    let text = format!("the monitor of domain \"{name}\" has not left: {why}");
    Failure::new(Kind::TimedOut, text).hint(format!("kxl list {name} shows what is being done"))
}
