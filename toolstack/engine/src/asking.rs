//! Reaching the one who is in charge of a domain: its monitor, a new one, or ourselves.
//!
//! The domain lock is the truth. Whoever holds it is in charge: a monitor for as long as it lives,
//! a command while it changes a resting record. A free lock and a live row mean that the monitor
//! has died; a new one then adopts the domain before anything else happens.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use kxl_backend::{Identity, Process};
use kxl_control::client::{Client, Step};
use kxl_control::{Answer, Call, Moved, Ready, Save, Saved};
use kxl_domain::state::Status;
use kxl_domain::{DomainName, DomainUuid, Failure, Kind, Reason, State, Verb, Verdict, decide};
use kxl_store::{DomainLock, ListRow, StoreError, socket};
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;

use crate::error::denied;
use crate::handover::{Mission, start_monitor};
use crate::host::{Host, stored};

/// How long a monitor may take from its start to its listening socket.
const MONITOR_DEADLINE: Duration = Duration::from_secs(10);

/// How long an adoption may take: a backend's connect and its query.
const ADOPT_DEADLINE: Duration = Duration::from_secs(20);

/// How long a monitor may take over a destroy: the end of the emulator, 3 s, and its turns at the
/// databases.
const DESTROY_PATIENCE: Duration = Duration::from_secs(10);

/// How long a killed monitor may take to go, in milliseconds.
const KILL_DEADLINE_MS: u16 = 3000;

/// How a verb ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out, or accepted by the guest.
    Done,
    /// The wish was already met.
    Already,
}

/// Who is in charge of a domain.
pub(crate) enum Charge {
    /// Its monitor.
    Monitor(Client),
    /// Nobody: the domain rests, and this lock keeps it so.
    Ours(DomainLock),
}

/// What became of one domain in `recover`.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Its name.
    pub name: DomainName,
    /// Adopted, settled in a state, or why not.
    pub outcome: Result<Recovery, Failure>,
}

/// What a recovery found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Its monitor lives; nothing to do.
    Attended,
    /// A new monitor has adopted it.
    Adopted,
    /// There was no emulator; it rests in this state.
    Settled(State, Option<Reason>),
}

impl Host {
    /// Finds out who is in charge, adopting a domain whose monitor has died.
    pub(crate) fn in_charge(
        &mut self,
        uuid: DomainUuid,
        name: &DomainName,
    ) -> Result<Charge, Failure> {
        let until = Instant::now() + MONITOR_DEADLINE;
        let mut pause = Duration::from_millis(1);
        let mut failed = None;
        loop {
            let lock = DomainLock::try_acquire(&self.paths, uuid)
                .map_err(|e| stored(format!("cannot lock domain \"{name}\""), &e))?;
            match lock {
                Some(lock) => {
                    if let Some(failure) = failed {
                        return Err(failure);
                    }
                    let live = self.store.live(uuid).map_err(|e| unreadable(name, &e))?;
                    if live.is_none() {
                        return Ok(Charge::Ours(lock));
                    }
                    // A monitor that cannot take a hung emulator up stays all the same: it refuses
                    // what it cannot do, and can always destroy.
                    failed = self.adopt(lock, uuid, name).err();
                }
                None => {
                    if let Ok(stream) = socket::connect(&self.paths.control_socket(uuid)) {
                        return Ok(Charge::Monitor(Client::new(stream)));
                    }
                    if Instant::now() > until {
                        let text =
                            format!("domain \"{name}\" is held by a process that does not answer");
                        return Err(Failure::new(Kind::TimedOut, text)
                            .hint(format!("{} tells who", self.paths.lock_file(uuid).display())));
                    }
                    // The holder is a command at work or a monitor that is not listening yet; both
                    // take milliseconds, and neither can be waited for by the lock itself.
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
            }
        }
    }

    /// Starts a monitor that adopts the domain, or settles it when there is no emulator.
    pub(crate) fn adopt(
        &mut self,
        lock: DomainLock,
        uuid: DomainUuid,
        name: &DomainName,
    ) -> Result<Recovery, Failure> {
        let rising = start_monitor(lock, uuid, name, Mission::Adopt)?;
        match rising.wait(ADOPT_DEADLINE, drop)? {
            Ready::Up { .. } | Ready::Retrying { .. } => Ok(Recovery::Adopted),
            Ready::Settled { state, reason } => Ok(Recovery::Settled(state, reason)),
            Ready::Failed(failure) => Err(failure),
        }
    }

    /// A connection to the monitor of a live domain; adopts the domain first if its monitor has
    /// died.
    ///
    /// # Errors
    /// [`Kind::Denied`] when the domain is not live.
    pub fn connect(&mut self, row: &ListRow) -> Result<Client, Failure> {
        match self.in_charge(row.uuid, &row.name)? {
            Charge::Monitor(client) => Ok(client),
            Charge::Ours(_lock) => {
                let text = format!("domain \"{}\" is not running", row.name);
                Err(Failure::new(Kind::Denied, text).hint(format!("kxl start {}", row.name)))
            }
        }
    }

    /// Sees to it that the domain has a monitor if it is live, and returns its present row.
    ///
    /// # Errors
    /// [`Kind::NoSuchDomain`] when it turned out to be gone.
    pub fn attend(&mut self, row: &ListRow) -> Result<ListRow, Failure> {
        if row.domid.is_some() {
            // Only the look at the lock matters here; a connection is closed again.
            let _charge = self.in_charge(row.uuid, &row.name)?;
        }
        let row = self.find(&row.uuid.to_string()).map_err(|failure| match failure.kind {
            Kind::NoSuchDomain => {
                Failure::new(Kind::NoSuchDomain, format!("domain \"{}\" has ended", row.name))
                    .hint(format!("kxl why {} tells what became of it", row.name))
            }
            _ => failure,
        })?;
        Ok(row)
    }

    /// Carries out a verb on a domain: by its monitor when it is live, by the table alone when it
    /// rests. `progress` sees lines on the way.
    ///
    /// # Errors
    /// [`Kind::Denied`], [`Kind::Unsupported`], [`Kind::TimedOut`] and the backend's failures.
    pub fn verb(
        &mut self,
        row: &ListRow,
        verb: Verb,
        deadline: Duration,
        progress: impl FnMut(&str),
    ) -> Result<Outcome, Failure> {
        let mut progress = progress;
        if verb == Verb::Destroy && self.destroy_unreadable(row)? {
            return Ok(Outcome::Done);
        }
        match self.in_charge(row.uuid, &row.name)? {
            Charge::Monitor(mut client) => {
                let patience = if verb == Verb::Destroy { DESTROY_PATIENCE } else { deadline };
                let notes = |step: Step<'_>| note(step, &mut progress);
                match client.call(Call::Verb(verb), Some(patience.min(deadline)), notes) {
                    Ok(answer) => {
                        if let (Verb::Destroy, Some(domid)) = (verb, row.domid) {
                            let who = (row.uuid, &row.name, domid);
                            self.see_it_recorded(who, &mut client, &mut progress)?;
                        }
                        let already = answer == Answer::Already;
                        Ok(if already { Outcome::Already } else { Outcome::Done })
                    }
                    Err(failure) if verb == Verb::Destroy && failure.kind == Kind::TimedOut => {
                        progress("its monitor does not answer: another one takes its place");
                        end_monitor(&client)?;
                        self.destroy_anew(row, deadline, progress)
                    }
                    Err(failure) if client.has_hung_up() => {
                        self.look_again(row, verb, deadline, failure)
                    }
                    Err(failure) => Err(failure),
                }
            }
            Charge::Ours(_lock) => self.at_rest(row, verb),
        }
    }

    /// `save`, `suspend` and `checkpoint` of a live domain. `None` when the wish was met already.
    /// There is no deadline: a save takes as long as the disk does. It is given up when `give_up`
    /// becomes readable or comes to its end before the image is committed.
    ///
    /// # Errors
    /// [`Kind::Denied`], [`Kind::Unsupported`], no space, and the backend's failures; the domain is
    /// as it was after each of them.
    pub fn save(
        &mut self,
        row: &ListRow,
        save: Save,
        give_up: Option<OwnedFd>,
        mut moved: impl FnMut(Moved),
    ) -> Result<Option<Saved>, Failure> {
        let verb = save.verb;
        match self.in_charge(row.uuid, &row.name)? {
            Charge::Monitor(mut client) => {
                let steps = |step: Step<'_>| {
                    if let Step::Moved(step) = step {
                        moved(step);
                    }
                };
                if let Some(sign) = give_up {
                    client.take_back_on(sign);
                }
                match client.call(Call::Save(Box::new(save)), None, steps)? {
                    Answer::Saved(saved) => Ok(Some(saved)),
                    _ => Ok(None),
                }
            }
            Charge::Ours(_lock) => self.at_rest(row, verb).map(|_already| None),
        }
    }

    /// After a monitor that went without an answer: mostly its domain has come to rest, and the
    /// table tells what the verb means for it now. A domain that is left is destroyed by its next
    /// monitor; whether another verb was carried out nobody can tell.
    fn look_again(
        &mut self,
        row: &ListRow,
        verb: Verb,
        deadline: Duration,
        failure: Failure,
    ) -> Result<Outcome, Failure> {
        match self.in_charge(row.uuid, &row.name)? {
            Charge::Ours(_lock) => self.at_rest(row, verb),
            Charge::Monitor(mut client) if verb == Verb::Destroy => {
                match client.call(Call::Verb(verb), Some(deadline.min(DESTROY_PATIENCE)), |_| ())? {
                    Answer::Already => Ok(Outcome::Already),
                    _ => Ok(Outcome::Done),
                }
            }
            Charge::Monitor(_) => Err(failure),
        }
    }

    /// What the table says about a verb for a domain that rests.
    fn at_rest(&mut self, row: &ListRow, verb: Verb) -> Result<Outcome, Failure> {
        let state = self.resting_state(row.uuid, &row.name)?;
        match decide(Status { state, op: None }, verb) {
            Verdict::Already => Ok(Outcome::Already),
            Verdict::Denied(reason) => Err(denied(&row.name, reason)),
            Verdict::Go(_) => {
                let text = format!("{verb} of a resting domain has a command of its own");
                Err(Failure::new(Kind::Internal, text))
            }
        }
    }

    /// Destroys a domain whose monitor was just ended.
    fn destroy_anew(
        &mut self,
        row: &ListRow,
        deadline: Duration,
        mut progress: impl FnMut(&str),
    ) -> Result<Outcome, Failure> {
        match self.in_charge(row.uuid, &row.name)? {
            Charge::Monitor(mut client) => {
                let notes = |step: Step<'_>| note(step, &mut progress);
                client.call(Call::Verb(Verb::Destroy), Some(deadline), notes)?;
            }
            // Adoption has found nothing left to destroy.
            Charge::Ours(_lock) => {}
        }
        Ok(Outcome::Done)
    }

    /// The state of a domain that has no live row.
    pub(crate) fn resting_state(
        &mut self,
        uuid: DomainUuid,
        name: &DomainName,
    ) -> Result<State, Failure> {
        let managed = self.store.managed(uuid);
        let managed = managed.map_err(|e| stored(format!("cannot read domain \"{name}\""), &e))?;
        managed.map(|row| row.state).ok_or_else(|| {
            Failure::new(Kind::NoSuchDomain, format!("domain \"{name}\" has ended meanwhile"))
        })
    }

    /// Adopts or settles every live domain whose monitor has died.
    ///
    /// # Errors
    /// When the databases cannot be read; what failed for one domain is in its outcome.
    pub fn recover(&mut self) -> Result<Vec<Recovered>, Failure> {
        let rows = self.store.list().map_err(|e| stored("cannot read the live domains", &e))?;
        let mut done = Vec::new();
        for row in rows.into_iter().filter(ListRow::is_live) {
            let outcome = self.recover_one(row.uuid, &row.name);
            done.push(Recovered { name: row.name, outcome });
        }
        self.sweep()?;
        self.sweep_images();
        Ok(done)
    }

    /// Removes what dead writers of images have left. An image that is being written is locked by
    /// its writer, and stays.
    fn sweep_images(&self) {
        if let Err(error) = kxl_store::image::sweep(&self.paths, &|_| false) {
            tracing::warn!(%error, "what dead writers of images have left stays");
        }
        // The journal names files that were being written outside the store.
        for op in self.store.all_image_ops().unwrap_or_default() {
            if let Some(path) = &op.path
                && let Err(error) = kxl_store::image::sweep_file(path, op.image)
            {
                tracing::warn!(%error, path = %path.display(), "a part of an image stays");
                continue;
            }
            // What came of it is recorded, or was settled just now.
            if self.rests(op.domain)
                && let Err(error) = self.store.end_image_op(op.image)
            {
                tracing::warn!(%error, "the journal keeps an operation that has ended");
            }
        }
    }

    /// Whether a domain has no live row, and a record that says the same.
    fn rests(&self, uuid: DomainUuid) -> bool {
        let recorded =
            self.store.managed(uuid).map(|row| row.is_none_or(|row| !row.state.is_live()));
        matches!((self.store.live(uuid), recorded), (Ok(None), Ok(true)))
    }

    /// Removes runtime directories of domains that no record knows: a command was killed between
    /// its lock and its claim. One whose lock is held is being claimed at this moment and stays.
    fn sweep(&self) -> Result<(), Failure> {
        let rows = self.store.list().map_err(|e| stored("cannot read the domains", &e))?;
        let known: HashSet<String> = rows.iter().map(|row| row.uuid.short()).collect();
        let Ok(entries) = std::fs::read_dir(self.paths.run_dir()) else { return Ok(()) };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = name.len() == 8 && name.bytes().all(|b| b.is_ascii_hexdigit());
            if !ours || known.contains(&name) {
                continue;
            }
            let lock = File::open(entry.path().join("lock"))
                .map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock));
            // Held while the directory goes, so that a claim of this moment sees that it went.
            let _lock = match lock {
                Ok(Err(_)) => continue,
                Ok(Ok(lock)) => Some(lock),
                Err(_) => None,
            };
            if let Err(error) = std::fs::remove_dir_all(entry.path()) {
                tracing::warn!(%error, dir = %entry.path().display(), "a stale directory stays");
            }
        }
        Ok(())
    }

    fn recover_one(&mut self, uuid: DomainUuid, name: &DomainName) -> Result<Recovery, Failure> {
        let until = Instant::now() + MONITOR_DEADLINE;
        loop {
            let lock = DomainLock::try_acquire(&self.paths, uuid)
                .map_err(|e| stored(format!("cannot lock domain \"{name}\""), &e))?;
            match lock {
                Some(lock) => {
                    let live = self.store.live(uuid);
                    let live = live.map_err(|e| unreadable(name, &e))?;
                    // It may have come to rest since it was listed.
                    return match live {
                        Some(_) => self.adopt(lock, uuid, name),
                        None => Ok(Recovery::Attended),
                    };
                }
                None if self.has_monitor(uuid) => {
                    self.settle_outdated(uuid, name)?;
                    return Ok(Recovery::Attended);
                }
                None if Instant::now() > until => return Ok(Recovery::Attended),
                // A monitor that is killed stops listening a moment before it lets its lock go.
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// Whether somebody listens for this domain; one that does not answer in time does listen.
    fn has_monitor(&self, uuid: DomainUuid) -> bool {
        let Ok(stream) = socket::connect(&self.paths.control_socket(uuid)) else { return false };
        let call = Call::Status { probe: false };
        let answer = Client::new(stream).call(call, Some(Duration::from_secs(1)), |_| ());
        answer.map_or_else(|failure| failure.kind == Kind::TimedOut, |_| true)
    }
}

/// Ends a monitor that hangs (stopped by a signal, say). Its death costs its domain nothing, while
/// its life would keep everybody from taking the power away.
pub(crate) fn end_monitor(client: &Client) -> Result<(), Failure> {
    let failed = |error| Failure::because(Kind::Failed, "cannot end the hung monitor", &error);
    let pid = socket::peer_pid(client.stream()).map_err(failed)?;
    let monitor = Identity::of(pid).and_then(Process::open).map_err(failed)?;
    monitor.signal(Signal::SIGKILL).map_err(failed)?;
    // Until it is gone its socket takes connections that nobody will answer.
    let mut end = [PollFd::new(monitor.pidfd(), PollFlags::POLLIN)];
    match poll(&mut end, KILL_DEADLINE_MS) {
        Ok(0) => Err(Failure::new(Kind::TimedOut, "the hung monitor does not end")),
        Ok(_) => Ok(()),
        Err(error) => Err(failed(error.into())),
    }
}

/// The failure to read the record of a live domain.
fn unreadable(name: &DomainName, error: &StoreError) -> Failure {
    let failure = stored(format!("cannot read domain \"{name}\""), error);
    match error {
        StoreError::Record { .. } => failure.hint(format!(
            "the kxl that made it may read it; kxl destroy {name} takes the power away"
        )),
        _ => failure,
    }
}

/// Passes on what is for people.
fn note(step: Step<'_>, progress: &mut impl FnMut(&str)) {
    if let Step::Note(text) = step {
        progress(text);
    }
}

#[cfg(test)]
#[path = "asking_tests.rs"]
mod tests;
