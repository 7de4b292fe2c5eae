//! `kxl wait`: until a domain has come to a state.
//!
//! What counts are the records, looked at whenever a writer has changed some, and not before: the
//! wait itself costs nothing. A connection to the monitor of a live domain is kept, because its end
//! is the one thing that no record tells; the domain is adopted then, and the wait goes on.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use kxl_control::client::Client;
use kxl_domain::supervision::Word;
use kxl_domain::{DomainUuid, Failure, Kind, State};
use kxl_engine::Host;
use kxl_store::{ListRow, RowWatch, StoreError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Exit;
use crate::args::{Goal, Wait};

/// Waits until the domain has come to what is asked for.
pub(crate) fn wait(args: &Wait) -> Exit {
    let mut host = Host::open()?;
    let until =
        args.timeout.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
    // Before the first look, so that nothing falls between.
    let watch = host.store.watch_rows().map_err(|error| blind(&error))?;
    let mut waiting = Waiting { args, uuid: None, seen: false, monitor: None };
    loop {
        if waiting.is_there(&mut host)? {
            return Ok(0);
        }
        if !waiting.sleep(&watch, until)? {
            return Err(waiting.late());
        }
    }
}

/// One wait.
struct Waiting<'a> {
    args: &'a Wait,
    /// The domain, where it was named by a number: that is another one after a reboot.
    uuid: Option<DomainUuid>,
    /// It was seen.
    seen: bool,
    /// Held for its end.
    monitor: Option<Client>,
}

impl Waiting<'_> {
    /// Whether the domain has come to it.
    fn is_there(&mut self, host: &mut Host) -> Result<bool, Failure> {
        let name = &self.args.name;
        let who = self.uuid.map_or_else(|| name.clone(), |uuid| uuid.to_string());
        let mut row = match host.find(&who) {
            Ok(row) => row,
            Err(failure) if failure.kind == Kind::NoSuchDomain => return self.without(failure),
            Err(failure) => return Err(failure),
        };
        if row.is_live() && self.monitor.is_none() {
            match host.connect(&row) {
                Ok(client) => self.monitor = Some(client),
                // It has just ended, or does not answer: the records tell what became of it.
                Err(failure) => tracing::debug!(%failure, "no monitor to watch"),
            }
            // It may have been adopted, or settled, for that.
            row = match host.find(&row.uuid.to_string()) {
                Ok(row) => row,
                Err(failure) if failure.kind == Kind::NoSuchDomain => return self.without(failure),
                Err(failure) => return Err(failure),
            };
        }
        self.seen = true;
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            self.uuid = Some(row.uuid);
        }
        if reached(&row, self.args.goal) {
            return Ok(true);
        }
        if let Some(failure) = never(&row).filter(|_| self.args.goal.is_up()) {
            return Err(failure);
        }
        Ok(false)
    }

    /// There is no such domain, any more or yet.
    fn without(&mut self, failure: Failure) -> Result<bool, Failure> {
        self.monitor = None;
        match self.args.goal {
            Goal::Gone => Ok(true),
            Goal::Stopped if self.seen => Ok(true),
            _ if self.args.create => Ok(false),
            _ if self.seen => {
                let name = &self.args.name;
                let text = format!("domain \"{name}\" has ended and is gone");
                Err(Failure::new(Kind::NoSuchDomain, text)
                    .hint(format!("kxl why {name} tells what became of it")))
            }
            _ => Err(failure),
        }
    }

    /// Sleeps until something may have changed; `false` when the time is up.
    fn sleep(&mut self, watch: &RowWatch, until: Option<Instant>) -> Result<bool, Failure> {
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(false);
            }
            // Rounded up: the last millisecond is waited for and not spun through.
            let timeout = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
            });
            let monitor = self.monitor.as_ref().map(|client| client.stream().as_fd());
            let mut fds: Vec<PollFd> = [Some(watch.as_fd()), monitor]
                .into_iter()
                .flatten()
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                .collect();
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => {
                    return Err(Failure::because(Kind::Internal, "cannot wait", &error));
                }
            }
            // It says nothing unasked: what there is to read is its end.
            if fds.get(1).and_then(PollFd::any).unwrap_or(false) {
                self.monitor = None;
                return Ok(true);
            }
            if watch.changed().map_err(|error| blind(&error))? {
                return Ok(true);
            }
        }
    }

    fn late(&self) -> Failure {
        let (name, goal) = (&self.args.name, self.args.goal.as_str());
        let seconds = self.args.timeout.unwrap_or_default();
        Failure::new(Kind::TimedOut, format!("domain \"{name}\" is not {goal} after {seconds} s"))
            .hint(format!("kxl list {name} shows where it is"))
    }
}

/// Why a domain does not come up any more by itself, also where it ended before anybody looked.
fn never(row: &ListRow) -> Option<Failure> {
    let (name, word) = (&row.name, row.word());
    let what = match word {
        _ if row.is_live() => return None,
        Word::Fatal => "could not be started",
        Word::Exited => "has ended",
        _ => return None,
    };
    let mut failure = Failure::new(Kind::Failed, format!("domain \"{name}\" {what}"))
        .hint(format!("kxl why {name} tells more; kxl start {name} tries again"));
    failure.causes.extend(row.supervision.why.clone().filter(|why| !why.is_empty()));
    Some(failure)
}

fn reached(row: &ListRow, goal: Goal) -> bool {
    match goal {
        // A program that has done its work was up.
        Goal::Started => row.word() == Word::Running || (!row.is_live() && has_done_its_work(row)),
        Goal::Running => row.state == State::Running && row.op.is_none(),
        Goal::Paused => row.state == State::Paused && row.op.is_none(),
        // What is kept for inspection runs no more.
        Goal::Stopped => !row.is_live() || (row.state == State::Shutdown && row.op.is_none()),
        Goal::Gone => false,
    }
}

fn has_done_its_work(row: &ListRow) -> bool {
    row.word() == Word::Exited && row.supervision.last_exit.is_some_and(|last| last.expected)
}

fn blind(error: &StoreError) -> Failure {
    Failure::because(Kind::Failed, "cannot watch the records of domains", error)
}
