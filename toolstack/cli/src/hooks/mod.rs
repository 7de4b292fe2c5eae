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

use kxl_domain::Failure;
use kxl_engine::{HooksLock, Host};

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
    let host = Host::open()?;
    if let Some(mistake) = &host.conf.mistake {
        report::failure(mistake);
    }
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
