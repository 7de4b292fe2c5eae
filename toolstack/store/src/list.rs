//! Lists and look-ups over both databases, and what a record means at this moment.

use std::collections::HashSet;

use kxl_domain::{DomId, DomainUuid, Reason, State};

use crate::Result;
use crate::facade::Store;
use crate::live::{self, Key};
use crate::registry::{self, Light};
use crate::rows::{ListRow, ManagedRow};

/// How often a list is read again when a domain came or went between reading the two databases.
const TRIES: u32 = 3;

impl Store {
    /// Every domain: the live ones by domid, then the resting ones by name. Reads no
    /// configuration.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn list(&self) -> Result<Vec<ListRow>> {
        self.ready_if_possible();
        for _ in 1..TRIES {
            let (rows, moved) = self.list_once()?;
            if !moved {
                return Ok(rows);
            }
        }
        Ok(self.list_once()?.0)
    }

    /// The list, and whether a domain is recorded as live here and has no live row there: either
    /// it changed between the two readings, or its end was never recorded.
    fn list_once(&self) -> Result<(Vec<ListRow>, bool)> {
        // In this order: an end is recorded in the registry first.
        let live = self
            .live_db()
            .read(&self.paths, "list the live domains", |db| live::all(db, &self.boot_id))?;
        let managed = self.registry().read(&self.paths, "list the domains", registry::all)?;
        let mut rows = live.unwrap_or_default();
        let mut moved = false;
        let known: HashSet<DomainUuid> = rows.iter().map(|row| row.uuid).collect();
        let mut resting: Vec<ListRow> = managed
            .unwrap_or_default()
            .into_iter()
            .filter(|light| !known.contains(&light.row.uuid))
            .map(|light| {
                moved |= self.says_live(&light);
                self.true_row(light)
            })
            .collect();
        resting.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        rows.append(&mut resting);
        Ok((rows, moved))
    }

    /// The domain that a person means: all digits are a domid; else the exact name of a live
    /// domain, of a managed one, or a whole uuid, in this order.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn find(&self, text: &str) -> Result<Option<ListRow>> {
        self.ready_if_possible();
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let Ok(domid) = text.parse() else { return Ok(None) };
            return self.find_live(Key::DomId(DomId(domid)));
        }
        let uuid = text.parse::<DomainUuid>().ok();
        for attempt in 1..=TRIES {
            let (row, moved) = self.find_once(text, uuid)?;
            if row.is_some() && (!moved || attempt == TRIES) {
                return Ok(row);
            }
        }
        Ok(None)
    }

    fn find_once(&self, name: &str, uuid: Option<DomainUuid>) -> Result<(Option<ListRow>, bool)> {
        let keys = [Some(Key::Name(name)), uuid.map(Key::Uuid)];
        for key in keys.into_iter().flatten() {
            if let Some(row) = self.find_live(key)? {
                return Ok((Some(row), false));
            }
            let light = self.registry().read(&self.paths, "look for a domain", |db| match key {
                Key::Uuid(uuid) => registry::by_uuid(db, uuid),
                Key::Name(_) | Key::DomId(_) => registry::by_name(db, name),
            })?;
            if let Some(light) = light.flatten() {
                let moved = self.says_live(&light);
                return Ok((Some(self.true_row(light)), moved));
            }
        }
        Ok((None, false))
    }

    pub(crate) fn find_live(&self, key: Key<'_>) -> Result<Option<ListRow>> {
        let found = self
            .live_db()
            .read(&self.paths, "look for a live domain", |db| live::one(db, key, &self.boot_id))?;
        Ok(found.flatten())
    }

    fn says_live(&self, light: &Light) -> bool {
        light.row.state.is_live() && light.boot_id.as_deref() == Some(&self.boot_id)
    }

    /// What the record of a managed domain means when it has no live row.
    pub(crate) fn true_row(&self, light: Light) -> ListRow {
        let Light { mut row, boot_id, .. } = light;
        if let Some(reason) = self.lost(row.state, boot_id.as_deref()) {
            row.state = State::Halted;
            row.reason = Some(reason);
        }
        row
    }

    /// A record as it is true now; one of a domain live in this boot stays as it is.
    pub(crate) fn true_record(&self, mut row: ManagedRow) -> ManagedRow {
        if row.boot_id.as_ref() != Some(&self.boot_id)
            && let Some(reason) = self.lost(row.state, row.boot_id.as_deref())
        {
            row.state = State::Halted;
            row.reason = Some(reason);
            row.boot_id = None;
        }
        row
    }

    /// Why a domain recorded in `state` has ended, if that is a live one and it has no process.
    fn lost(&self, state: State, boot_id: Option<&str>) -> Option<Reason> {
        state.is_live().then(|| {
            if boot_id == Some(&self.boot_id) { Reason::Unknown } else { Reason::LostAtHostReboot }
        })
    }
}
