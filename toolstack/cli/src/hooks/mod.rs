//! `kxl-hooks`: tells hooks and people of events, one process at a time.
//!
//! Whoever records an event starts it where there is a hook or somebody to send mail to. Each of
//! them has a cursor in the database of events: what it was told of is behind it, whatever dies in
//! between is told again. It ends when nothing is left; who has let go of the lock looks once more.

mod call;
mod event;
mod lane;
mod mail;
mod runner;

use kxl_domain::{Failure, Kind};
use kxl_engine::{Conf, HooksLock, Host};
use kxl_store::{Paths, Retention};

use crate::report;
use runner::Runner;

/// Runs until nothing is left to be told, or somebody else is at it.
pub(crate) fn main() -> u8 {
    match run() {
        Ok(()) => 0,
        Err(failure) => {
            report::failure(&failure);
            failure.kind.exit_code()
        }
    }
}

fn run() -> Result<(), Failure> {
    let host = host()?;
    loop {
        let Some(lock) = HooksLock::try_take(&host.paths)? else { return Ok(()) };
        let mut runner = Runner::new(&host);
        runner.work()?;
        drop(lock);
        // Who has recorded an event while the lock was held has left it to us.
        if !runner.has_work()? {
            return Ok(());
        }
    }
}

/// The host. A mistake in kxl.conf keeps no hook from being told; only who is sent mail, and how
/// much is kept, is unknown meanwhile.
fn host() -> Result<Host, Failure> {
    let failure = match Host::open() {
        Err(failure) if failure.kind == Kind::Usage => failure,
        other => return other,
    };
    let attempt = "cannot use this host's places";
    let paths =
        Paths::from_env().map_err(|error| Failure::because(Kind::Failed, attempt, &error))?;
    report::failure(&failure);
    let host = Host::with(paths, Conf::default())?;
    host.store.set_retention(Retention { count: i64::MAX, days: None });
    Ok(host)
}
