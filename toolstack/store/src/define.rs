//! Managed domains: registering, changing, removing.

use kxl_domain::{DomainConfig, DomainName, DomainUuid};

use crate::Result;
use crate::error::StoreError;
use crate::facade::Store;
use crate::live::{self, Key};
use crate::lock::NamesLock;
use crate::registry::{self, Light, Rest};
use crate::rows::{Defined, ManagedChange, ManagedRow};

impl Store {
    /// Registers a domain as halted, or replaces the configuration of the one with this uuid.
    /// Durable when it returns.
    ///
    /// # Errors
    /// `NameTaken`, `UuidTaken`, `AlreadyLive`.
    pub fn define(&self, config: &DomainConfig, uuid: DomainUuid) -> Result<Defined> {
        self.ready()?;
        let names = NamesLock::acquire(&self.paths, self.patience())?;
        self.refuse_live(uuid)?;
        self.check_free(&names, uuid, &config.name)?;
        self.registry()
            .write(&self.paths, "register a domain", |db| registry::define(db, config, uuid))
    }

    /// Removes a managed domain's record; gives whether there was one.
    ///
    /// # Errors
    /// `AlreadyLive` while it has a process.
    pub fn undefine(&self, uuid: DomainUuid) -> Result<bool> {
        self.ready()?;
        let _names = NamesLock::acquire(&self.paths, self.patience())?;
        self.refuse_live(uuid)?;
        if self.managed_light(uuid)?.is_none() {
            return Ok(false);
        }
        self.registry().write(&self.paths, "delete a domain", |db| registry::remove(db, uuid))
    }

    /// The record of a managed domain.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn managed(&self, uuid: DomainUuid) -> Result<Option<ManagedRow>> {
        self.ready_if_possible();
        let found = self
            .registry()
            .read(&self.paths, "read a domain", |db| registry::full(db, uuid))?
            .flatten();
        Ok(found.map(|row| self.true_record(row)))
    }

    /// The record of the managed domain of this name.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn managed_by_name(&self, name: &DomainName) -> Result<Option<ManagedRow>> {
        self.ready_if_possible();
        let found = self
            .registry()
            .read(&self.paths, "read a domain", |db| {
                let Some(light) = registry::by_name(db, name.as_str())? else { return Ok(None) };
                registry::full(db, light.row.uuid)
            })?
            .flatten();
        Ok(found.map(|row| self.true_record(row)))
    }

    /// Changes a managed domain's record. For a domain that is live, wish and state belong into
    /// [`change_live`](Self::change_live), which writes them here too.
    ///
    /// # Errors
    /// `NotManaged`.
    pub fn set_managed(&self, uuid: DomainUuid, change: ManagedChange) -> Result<()> {
        self.ready()?;
        let ManagedChange { wanted, state, reason, detail, config, autostart, image, supervision } =
            change;
        let rest = Rest { wanted, state, reason, detail, image, supervision };
        self.registry().write(&self.paths, "change a domain", |db| {
            if !registry::set_rest(db, uuid, &rest, &self.boot_id)? {
                return Err(StoreError::NotManaged { uuid }.into());
            }
            if let Some(config) = &config {
                registry::set_config(db, uuid, config)?;
            }
            autostart.map_or(Ok(()), |on| registry::set_autostart(db, uuid, on))
        })
    }

    pub(crate) fn managed_light(&self, uuid: DomainUuid) -> Result<Option<Light>> {
        let found =
            self.registry().read(&self.paths, "read a domain", |db| registry::by_uuid(db, uuid))?;
        Ok(found.flatten())
    }

    fn refuse_live(&self, uuid: DomainUuid) -> Result<()> {
        let row = self.live_db().read(&self.paths, "look for a live domain", |db| {
            live::one(db, Key::Uuid(uuid), &self.boot_id)
        })?;
        match row.flatten() {
            Some(row) => Err(StoreError::AlreadyLive {
                name: row.name.to_string(),
                domid: row.domid.unwrap_or(kxl_domain::DomId(0)),
            }),
            None => Ok(()),
        }
    }

    /// Checks that no other domain, managed or live, has this name or this runtime directory.
    /// Holds as long as the names lock is held.
    pub(crate) fn check_free(
        &self,
        _held: &NamesLock,
        uuid: DomainUuid,
        name: &DomainName,
    ) -> Result<()> {
        let live = self.live_db().read(&self.paths, "look for a name", |db| {
            Ok((
                live::one(db, Key::Name(name.as_str()), &self.boot_id)?,
                live::neighbour(db, uuid)?,
            ))
        })?;
        let managed = self.registry().read(&self.paths, "look for a name", |db| {
            Ok((registry::by_name(db, name.as_str())?, registry::neighbour(db, uuid)?))
        })?;
        let (live, live_neighbour) = live.unwrap_or_default();
        let (managed, managed_neighbour) = managed.unwrap_or_default();
        let owner = live
            .map(|row| (row.uuid, row.domid))
            .filter(|(owner, _)| *owner != uuid)
            .or_else(|| managed.map(|light| (light.row.uuid, None)))
            .filter(|(owner, _)| *owner != uuid);
        if let Some((owner, domid)) = owner {
            return Err(StoreError::NameTaken { name: name.to_string(), owner, domid });
        }
        match live_neighbour.or(managed_neighbour) {
            Some((other, name)) => {
                Err(StoreError::UuidTaken { uuid, other, name: name.to_string() })
            }
            None => Ok(()),
        }
    }
}
