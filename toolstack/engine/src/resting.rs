//! The verbs of resting domains, carried out by the command itself: new, delete, and the first
//! half of start and create, up to the hand-over to a monitor.

use std::time::{Duration, Instant};

use kxl_control::{Moved, Ready};
use kxl_domain::image::ImageUse;
use kxl_domain::state::Status;
use kxl_domain::supervision::Record;
use kxl_domain::{
    Denied, DomId, DomainConfig, DomainName, DomainUuid, Failure, Kind, Op, Reason, State, Verb,
    Verdict, Wanted, decide,
};
use kxl_store::{Claim, DomainLock, ListRow, ManagedChange, Severity};

use crate::ahead;
use crate::error::denied;
use crate::handover::{Mission, monitor_program, start_monitor};
use crate::host::{Host, stored};
use crate::steps::{Step, reach};

/// How long a command waits for another one that holds the lock of a resting domain.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);

/// How to start.
#[derive(Clone, Copy, Debug)]
pub struct StartOpts {
    /// Leave the guest paused.
    pub paused: bool,
    /// How long the command waits for the backend's answer; the start goes on after it.
    pub deadline: Duration,
}

/// What a claim and a monitor are made for.
pub(crate) struct Launch {
    pub(crate) config: DomainConfig,
    pub(crate) uuid: DomainUuid,
    pub(crate) managed: bool,
    pub(crate) verb: Verb,
    pub(crate) op: Op,
    pub(crate) wanted: Wanted,
    /// The image to come back from.
    pub(crate) image: Option<ImageUse>,
    /// The number to take again.
    pub(crate) domid: Option<DomId>,
    /// How long to wait without a word of the monitor.
    pub(crate) deadline: Duration,
}

impl Launch {
    pub(crate) fn boot(
        config: DomainConfig,
        uuid: DomainUuid,
        managed: bool,
        verb: Verb,
        opts: StartOpts,
    ) -> Self {
        let wanted = if opts.paused { Wanted::Paused } else { Wanted::Running };
        let (op, deadline) = (Op::Starting, opts.deadline);
        Self { config, uuid, managed, verb, op, wanted, image: None, domid: None, deadline }
    }
}

/// A domain that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Durable identity.
    pub uuid: DomainUuid,
    /// Live number.
    pub domid: DomId,
    /// Name.
    pub name: DomainName,
    /// It is supervised, and its first try failed, for this reason; the next one follows.
    pub retrying: Option<Failure>,
}

/// A domain that was registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defined {
    /// Durable identity.
    pub uuid: DomainUuid,
    /// Name.
    pub name: DomainName,
    /// An older definition of the same uuid was replaced.
    pub replaced: bool,
}

/// Fills in what is made once and then kept: the uuid, and from it the MAC addresses.
pub(crate) fn settle_identity(config: &mut DomainConfig, uuid: DomainUuid) {
    config.uuid = Some(uuid);
    for (index, nic) in config.nics.iter_mut().enumerate() {
        let index = u8::try_from(index).unwrap_or(u8::MAX);
        nic.mac.get_or_insert_with(|| uuid.mac(index));
    }
}

impl Host {
    /// `new`: registers a domain without starting it. The same uuid again replaces the stored
    /// definition.
    ///
    /// # Errors
    /// [`Kind::Failed`] when another domain has the name, [`Kind::Denied`] when the domain of this
    /// uuid is live.
    pub fn define(&mut self, mut config: DomainConfig) -> Result<Defined, Failure> {
        let name = config.name.clone();
        let attempt = format!("cannot register domain \"{name}\"");
        let uuid = config.uuid.unwrap_or_else(DomainUuid::random);
        settle_identity(&mut config, uuid);
        self.prepare()?;
        let _lock = self.resting_lock(uuid, &name, Verb::New)?;
        let defined = self.store.define(&config, uuid).map_err(|e| taken(&attempt, &name, &e))?;
        self.note(uuid, &name, "defined", "");
        Ok(Defined { uuid, name, replaced: defined == kxl_store::Defined::Replaced })
    }

    /// `delete`: removes a registered domain that rests. Its disks are not touched.
    ///
    /// # Errors
    /// [`Kind::Denied`] with what to do first when it is live or suspended.
    pub fn delete(&mut self, row: &ListRow) -> Result<(), Failure> {
        let lock = self.resting_lock(row.uuid, &row.name, Verb::Delete)?;
        self.undefine(lock, row)
    }

    /// Removes the record and the runtime directory of a domain whose lock is held.
    pub(crate) fn undefine(&mut self, lock: DomainLock, row: &ListRow) -> Result<(), Failure> {
        let attempt = format!("cannot delete domain \"{}\"", row.name);
        self.store.undefine(row.uuid).map_err(|e| stored(&attempt, &e))?;
        lock.remove_rundir(&self.paths, row.uuid).map_err(|e| stored(&attempt, &e))?;
        ahead::forget(&self.paths, row.uuid);
        self.note(row.uuid, &row.name, "deleted", "");
        Ok(())
    }

    /// `create`: starts a transient domain, or the resting managed one of the same uuid with this
    /// configuration for one run.
    ///
    /// # Errors
    /// As [`Self::start`], and [`Kind::Failed`] when another domain has the name.
    pub fn create(
        &mut self,
        mut config: DomainConfig,
        opts: StartOpts,
    ) -> Result<Started, Failure> {
        let uuid = config.uuid.unwrap_or_else(DomainUuid::random);
        settle_identity(&mut config, uuid);
        self.prepare()?;
        let name = config.name.clone();
        let lock = self.resting_lock(uuid, &name, Verb::Create)?;
        let managed = self.store.managed(uuid);
        let managed = managed.map_err(|e| stored(format!("cannot read domain \"{name}\""), &e))?;
        let launch = Launch::boot(config, uuid, managed.is_some(), Verb::Create, opts);
        self.launch(lock, launch, drop)
    }

    /// `start`: starts a registered domain that rests.
    ///
    /// # Errors
    /// [`Kind::Denied`] when it is live, [`Kind::TimedOut`] when the backend has not answered by
    /// the deadline (the start goes on), the backend's own failure otherwise.
    pub fn start(&mut self, row: &ListRow, opts: StartOpts) -> Result<Started, Failure> {
        let lock = self.resting_lock(row.uuid, &row.name, Verb::Start)?;
        let managed = self.store.managed(row.uuid);
        let managed = managed
            .map_err(|e| stored(format!("cannot read domain \"{}\"", row.name), &e))?
            .ok_or_else(|| {
                let text = format!("domain \"{}\" is not registered any more", row.name);
                Failure::new(Kind::NoSuchDomain, text)
            })?;
        let launch = Launch::boot(managed.config, row.uuid, true, Verb::Start, opts);
        self.launch(lock, launch, drop)
    }

    /// Makes the directories that a first run lacks.
    pub(crate) fn prepare(&self) -> Result<(), Failure> {
        self.paths.prepare().map_err(|e| stored("cannot use this host's places", &e))
    }

    /// The lock of a domain that rests and on which the table allows `verb`.
    ///
    /// Another command that is starting the same domain is the winner; the refusal says what it
    /// is doing.
    pub(crate) fn resting_lock(
        &mut self,
        uuid: DomainUuid,
        name: &DomainName,
        verb: Verb,
    ) -> Result<DomainLock, Failure> {
        self.resting_lock_or(uuid, name, verb, &|reason| denied(name, reason))
    }

    /// The same for what is not a verb of its own and goes where `verb` does; `refused` says what
    /// could not be done.
    pub(crate) fn resting_lock_or(
        &mut self,
        uuid: DomainUuid,
        name: &DomainName,
        verb: Verb,
        refused: &dyn Fn(Denied) -> Failure,
    ) -> Result<DomainLock, Failure> {
        let until = Instant::now() + LOCK_DEADLINE;
        let unreadable = |e: &_| stored(format!("cannot read domain \"{name}\""), e);
        loop {
            let lock = DomainLock::try_acquire(&self.paths, uuid)
                .map_err(|e| stored(format!("cannot lock domain \"{name}\""), &e))?;
            let live = self.store.live(uuid).map_err(|e| unreadable(&e))?;
            let status = match &live {
                Some(row) => Status { state: row.state, op: row.op },
                None => Status { state: self.registered_state(uuid, name)?, op: None },
            };
            match (lock, live, decide(status, verb)) {
                // Left by a monitor that died: adopted or settled, then looked at again.
                (Some(lock), Some(_), _) => drop(self.adopt(lock, uuid, name)?),
                (Some(lock), None, Verdict::Go(_)) => {
                    reach(Step::Locked, None);
                    return Ok(lock);
                }
                (_, _, Verdict::Denied(reason)) => return Err(refused(reason)),
                (Some(_), None, Verdict::Already) => {
                    return Err(Failure::new(
                        Kind::Internal,
                        format!("{verb} is never already so"),
                    ));
                }
                (None, _, _) if Instant::now() > until => {
                    let text = format!("domain \"{name}\" stays locked by another command");
                    return Err(Failure::new(Kind::TimedOut, text));
                }
                // Another command is between its lock and its claim: a moment.
                (None, _, _) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn registered_state(&mut self, uuid: DomainUuid, name: &DomainName) -> Result<State, Failure> {
        let managed = self.store.managed(uuid);
        let managed = managed.map_err(|e| stored(format!("cannot read domain \"{name}\""), &e))?;
        Ok(managed.map_or(State::Absent, |row| row.state))
    }

    /// Claims the name and a domid, and hands over to a monitor.
    pub(crate) fn launch(
        &mut self,
        lock: DomainLock,
        launch: Launch,
        moved: impl FnMut(Moved),
    ) -> Result<Started, Failure> {
        let (uuid, name, deadline) = (launch.uuid, launch.config.name.clone(), launch.deadline);
        let attempt = format!("cannot {} domain \"{name}\"", launch.verb);
        monitor_program()?;
        let lock = self.claim(lock, launch)?;
        let rising = start_monitor(lock, uuid, &name, Mission::Launch)?;
        match rising.wait(deadline, moved)? {
            Ready::Up { domid } => Ok(Started { uuid, domid, name, retrying: None }),
            Ready::Retrying { domid, failure } => {
                Ok(Started { uuid, domid, name, retrying: Some(failure) })
            }
            Ready::Failed(failure) => Err(failure),
            Ready::Settled { state, .. } => {
                Err(Failure::new(Kind::Failed, format!("{attempt}: it came to rest as {state}")))
            }
        }
    }

    /// Claims the name and a domid; the lock is given back for whoever attends to the domain.
    pub(crate) fn claim(
        &mut self,
        lock: DomainLock,
        launch: Launch,
    ) -> Result<DomainLock, Failure> {
        let Launch { config, uuid, managed, verb, op, wanted, image, domid, deadline: _ } = launch;
        let name = config.name.clone();
        let supervision = self.remembered(uuid, op);
        let attempt = format!("cannot {verb} domain \"{name}\"");
        if managed {
            // The wish outlives the boot; where it cannot be written nothing is started.
            let wish = ManagedChange { wanted: Some(wanted), ..ManagedChange::default() };
            self.store.set_managed(uuid, wish).map_err(|e| stored(&attempt, &e))?;
        }
        let claim = Claim {
            uuid,
            name: name.clone(),
            managed,
            backend: config.backend.clone(),
            config,
            wanted,
            op,
            image,
            domid,
            supervision,
        };
        if let Err(error) = self.store.claim(&claim) {
            if !managed && let Err(error) = lock.remove_rundir(&self.paths, uuid) {
                tracing::warn!(%error, "an unused directory stays");
            }
            return Err(taken(&attempt, &name, &error));
        }
        reach(Step::Claimed, None);
        Ok(lock)
    }

    /// What supervision remembers at a start: nothing but the last end, or, where a state comes
    /// back, what it knew of the guest. Of one that it does not know it knows that it ran.
    fn remembered(&self, uuid: DomainUuid, op: Op) -> Record {
        let before = self.store.managed(uuid).ok().flatten();
        match op {
            Op::Restoring | Op::Resuming => match before.map(|row| (row.reason, row.supervision)) {
                Some((Some(Reason::Saved | Reason::Suspended), record)) => {
                    Record { stopped_by_person: false, ..record }
                }
                _ => Record::assumed(),
            },
            _ => Record::fresh(&before.map(|row| row.supervision).unwrap_or_default()),
        }
    }

    pub(crate) fn note(&mut self, uuid: DomainUuid, name: &DomainName, what: &str, text: &str) {
        let event = kxl_store::Event::new(Severity::Info, what).of(uuid, name, None).text(text);
        if let Err(error) = self.store.event(&event) {
            tracing::warn!(%error, "event not recorded");
        }
    }
}

/// A failed claim or definition; another owner of the name gets a hint.
fn taken(attempt: &str, name: &DomainName, error: &kxl_store::StoreError) -> Failure {
    let failure = stored(attempt, error);
    match error {
        kxl_store::StoreError::NameTaken { .. } => {
            failure.hint(format!("kxl list {name} shows it; choose another name="))
        }
        _ => failure,
    }
}
