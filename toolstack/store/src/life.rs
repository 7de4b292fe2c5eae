//! Live domains: from the claim of a name to the end.

use kxl_domain::{DomId, DomainName, DomainUuid, Reason, State};

use crate::Result;
use crate::error::StoreError;
use crate::facade::Store;
use crate::live::{self, Key};
use crate::lock::NamesLock;
use crate::registry::{self, Rest};
use crate::rows::{Claim, LiveChange, LiveRow, Settle};
use crate::rundir;

impl Store {
    /// Takes the name and the next domid for a domain and records what it is claimed for.
    ///
    /// Of any number of claims to one name at once exactly one succeeds. The row rests in the
    /// managed domain's own state, or in [`State::Absent`]. The caller holds the domain lock.
    ///
    /// # Errors
    /// `NameTaken`, `UuidTaken`, `AlreadyLive`; `NotManaged` when the record is gone.
    pub fn claim(&self, claim: &Claim) -> Result<LiveRow> {
        self.ready()?;
        let names = NamesLock::acquire(&self.paths, self.patience())?;
        self.check_free(&names, claim.uuid, &claim.name)?;
        let uuid = claim.uuid;
        let rest = match (self.managed_light(uuid)?, claim.managed) {
            (Some(light), true) => {
                let row = self.true_row(light);
                (row.state, row.reason, row.detail)
            }
            (None, false) => (State::Absent, None, String::new()),
            (None, true) => return Err(StoreError::NotManaged { uuid }),
            (Some(light), false) => {
                let name = light.row.name.to_string();
                return Err(StoreError::UuidTaken { uuid, other: uuid, name });
            }
        };
        let row = self.live_db().write(&self.paths, "claim a name", |db| {
            if let Some(row) = live::one_full(db, Key::Uuid(uuid), &self.boot_id)? {
                let name = row.name.to_string();
                return Err(StoreError::AlreadyLive { name, domid: row.domid }.into());
            }
            self.stamp()?;
            let domid = match claim.domid {
                Some(wish) if live::one(db, Key::DomId(wish), &self.boot_id)?.is_none() => {
                    live::pass_domid(db, wish)?;
                    wish
                }
                _ => live::take_domid(db)?,
            };
            live::insert(db, claim, domid, (rest.0, rest.1, &rest.2), &self.boot_id)?;
            let row = live::one_full(db, Key::Uuid(uuid), &self.boot_id)?;
            row.ok_or_else(|| StoreError::NotLive { uuid }.into())
        })?;
        self.link(row.uuid, row.domid, &row.name);
        Ok(row)
    }

    /// The row of a live domain.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn live(&self, uuid: DomainUuid) -> Result<Option<LiveRow>> {
        self.live_one(Key::Uuid(uuid))
    }

    /// The row of the live domain with this number.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn live_by_domid(&self, domid: DomId) -> Result<Option<LiveRow>> {
        self.live_one(Key::DomId(domid))
    }

    /// The row of the live domain of this name.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn live_by_name(&self, name: &DomainName) -> Result<Option<LiveRow>> {
        self.live_one(Key::Name(name.as_str()))
    }

    fn live_one(&self, key: Key<'_>) -> Result<Option<LiveRow>> {
        self.ready_if_possible();
        let found = self
            .live_db()
            .read(&self.paths, "read a live domain", |db| live::one_full(db, key, &self.boot_id))?;
        Ok(found.flatten())
    }

    /// The rows of all live domains, by domid.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn live_rows(&self) -> Result<Vec<LiveRow>> {
        self.ready_if_possible();
        let found = self
            .live_db()
            .read(&self.paths, "read the live domains", |db| live::all_full(db, &self.boot_id))?;
        Ok(found.unwrap_or_default())
    }

    /// Changes a live domain's row, in one transaction. Wish, state, reason and detail of a
    /// managed domain go to its record as well, and before: a kill between the two leaves a record
    /// that a boot of the host makes true.
    ///
    /// The live row is written even if the record fails, because what happened to a process has
    /// happened. A start that must not begin on a full disk writes its wish first
    /// ([`set_managed`](Self::set_managed)).
    ///
    /// # Errors
    /// `NotLive`; the failure of the live row, else that of the record.
    pub fn change_live(&self, uuid: DomainUuid, change: &LiveChange) -> Result<()> {
        self.ready_if_possible();
        let now = self.find_live(Key::Uuid(uuid))?.ok_or(StoreError::NotLive { uuid })?;
        let rest = Rest {
            wanted: change.wanted,
            state: change.state,
            reason: change.reason,
            detail: change.detail.clone(),
            // A domain that lives is no image any more.
            image: change.state.filter(|state| state.is_live()).map(|_| None),
            // While it lives, its live row alone knows.
            supervision: None,
        };
        let recorded = if now.managed && !change.passing && !rest.is_empty() {
            self.record_rest(uuid, &rest).map(drop)
        } else {
            Ok(())
        };
        self.live_db().write(&self.paths, "change a live domain", |db| {
            let row = live::one_full(db, Key::Uuid(uuid), &self.boot_id)?
                .ok_or(StoreError::NotLive { uuid })?;
            live::change(db, &row, change)
        })?;
        recorded
    }

    fn record_rest(&self, uuid: DomainUuid, rest: &Rest) -> Result<bool> {
        self.registry().write(&self.paths, "record a state", |db| {
            registry::set_rest(db, uuid, rest, &self.boot_id)
        })
    }

    /// Gives a live domain the next number, as a reboot does.
    ///
    /// # Errors
    /// `NotLive`.
    pub fn renew_domid(&self, uuid: DomainUuid) -> Result<DomId> {
        self.ready_if_possible();
        let (row, domid) = self.live_db().write(&self.paths, "renew a domid", |db| {
            let row = live::one(db, Key::Uuid(uuid), &self.boot_id)?
                .ok_or(StoreError::NotLive { uuid })?;
            let domid = live::take_domid(db)?;
            live::set_domid(db, uuid, domid)?;
            Ok((row, domid))
        })?;
        self.link(uuid, domid, &row.name);
        if let Some(old) = row.domid {
            self.unlink_one(uuid, old, None);
        }
        Ok(domid)
    }

    /// Gives a live domain another identity and name (rename-restart): its row, its runtime
    /// directory and the links to it. It is transient from then on; a managed domain's record
    /// stays with the old identity, halted. Domid, process and the lock on the (moved) lock file
    /// stay as they are.
    ///
    /// Killed at any moment, the directory is found under the uuid that the row has.
    ///
    /// # Errors
    /// `NotLive`; `NameTaken` or `UuidTaken` for the new identity.
    pub fn rekey(
        &self,
        uuid: DomainUuid,
        new_uuid: DomainUuid,
        new_name: &DomainName,
    ) -> Result<()> {
        self.ready()?;
        let names = NamesLock::acquire(&self.paths, self.patience())?;
        self.check_free(&names, new_uuid, new_name)?;
        if let Some(light) = self.managed_light(new_uuid)? {
            let name = light.row.name.to_string();
            return Err(StoreError::UuidTaken { uuid: new_uuid, other: new_uuid, name });
        }
        let row = self.live(uuid)?.ok_or(StoreError::NotLive { uuid })?;
        if row.managed {
            let reason = Some(row.reason.or(Some(Reason::Unknown)));
            let rest = Rest { state: Some(State::Halted), reason, ..Rest::default() };
            self.record_rest(uuid, &rest)?;
        }
        rundir::begin_move(&self.paths, uuid, new_uuid)?;
        self.live_db().write(&self.paths, "rename a live domain", |db| {
            let row = live::one_full(db, Key::Uuid(uuid), &self.boot_id)?
                .ok_or(StoreError::NotLive { uuid })?;
            if let Some(other) = live::one(db, Key::Uuid(new_uuid), &self.boot_id)? {
                let name = other.name.to_string();
                return Err(StoreError::UuidTaken { uuid: new_uuid, other: new_uuid, name }.into());
            }
            live::rekey(db, &row, new_uuid, new_name)
        })?;
        self.unlink_one(uuid, row.domid, Some(&row.name));
        rundir::finish_move(&self.paths, new_uuid)?;
        self.link(new_uuid, row.domid, new_name);
        Ok(())
    }

    /// Removes a live domain's row and links, and nothing else: for a domain whose end needs no
    /// record, such as one that was claimed and never started. No error when it is gone already.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn remove_live(&self, uuid: DomainUuid) -> Result<()> {
        self.ready_if_possible();
        if !self.paths.live_db().exists() {
            return Ok(());
        }
        let row = self.live_db().write(&self.paths, "remove a live domain", |db| {
            let row = live::one(db, Key::Uuid(uuid), &self.boot_id)?;
            live::remove(db, uuid)?;
            Ok(row)
        })?;
        if let Some((row, domid)) = row.and_then(|row| row.domid.map(|domid| (row, domid))) {
            self.unlink_one(uuid, domid, Some(&row.name));
        }
        Ok(())
    }

    /// Records the end of a domain's life: a managed one rests as told, a transient one is gone.
    ///
    /// The durable record is written first, so that a kill between the two leaves it true. If it
    /// cannot be written (a full disk), the live row stays, with a process that is seen to be
    /// dead, and the end can be recorded again later. It may be called any number of times.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn settle(&self, uuid: DomainUuid, settle: &Settle) -> Result<()> {
        self.settle_record(uuid, settle)?;
        self.remove_live(uuid)
    }

    /// The first half of [`settle`](Self::settle), for who has something to do between the two:
    /// writes the durable record of a managed domain and leaves the live row. Nothing to do for a
    /// transient one. The second half is [`remove_live`](Self::remove_live).
    ///
    /// # Errors
    /// See [`Store`].
    pub fn settle_record(&self, uuid: DomainUuid, settle: &Settle) -> Result<()> {
        self.ready_if_possible();
        if self.managed_light(uuid)?.is_none() {
            return Ok(());
        }
        let rest = Rest {
            wanted: settle.wanted,
            state: Some(settle.state),
            reason: Some(settle.reason),
            detail: Some(settle.detail.clone()),
            image: Some(settle.image),
            supervision: Some(settle.supervision.clone()),
        };
        self.record_rest(uuid, &rest).map(drop)
    }

    /// Links are for people and scripts; a domain does not fail for want of one.
    fn link(&self, uuid: DomainUuid, domid: DomId, name: &DomainName) {
        if let Err(error) = self.paths.link(uuid, domid, name) {
            tracing::warn!(%error, %uuid, "cannot link the runtime directory");
        }
    }

    fn unlink_one(&self, uuid: DomainUuid, domid: DomId, name: Option<&DomainName>) {
        if let Err(error) = self.paths.unlink(uuid, domid, name) {
            tracing::warn!(%error, %uuid, "cannot remove the links to the runtime directory");
        }
    }
}
