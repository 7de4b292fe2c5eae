//! After a boot of the host: what the last one has left is made true.

use std::io::{ErrorKind, Write};
use std::path::Path;

use kxl_domain::supervision::Record;
use kxl_domain::{DomainUuid, Op, Reason, State, Wanted};
use rusqlite::Connection;

use crate::Result;
use crate::error::{Fault, StoreError};
use crate::events::{Event, Severity};
use crate::facade::Store;
use crate::image::Image;
use crate::image_ops::{self, ImageOp};
use crate::live;
use crate::lock::NamesLock;
use crate::paths::{open_private, remove};
use crate::registry::{self, Rest};
use crate::rows::ListRow;

/// Key of the boot whose start the database has dealt with.
const BOOT: &str = "boot_id";

impl Store {
    /// Makes every row of another boot true: managed domains recorded as live are halted, lost at
    /// host reboot; live rows go; each lost domain has one event, however often and by however
    /// many processes at once this is done. Costs one look at each database when there is nothing
    /// to do.
    pub(crate) fn settle_other_boots(&self) -> Result<()> {
        if self.is_new_to(self.registry().read(&self.paths, "read the boot id", boot_of)?) {
            self.registry().write(&self.paths, "settle the last boot", |db| {
                let mut lost = Vec::new();
                for light in registry::of_other_boots(db, &self.boot_id)? {
                    let uuid = light.row.uuid;
                    let op = self.complete(db, uuid)?;
                    let (state, reason) = match op.as_ref().map(|op| op.op) {
                        Some(Op::Suspending) => (State::Suspended, Reason::Suspended),
                        Some(_) => (State::Halted, Reason::Saved),
                        None => (State::Halted, Reason::LostAtHostReboot),
                    };
                    let rest = Rest {
                        state: Some(state),
                        reason: Some(Some(reason)),
                        detail: Some(String::new()),
                        wanted: (reason == Reason::Saved).then_some(Wanted::Halted),
                        image: Some(
                            op.as_ref().map(|op| op.image).filter(|_| state == State::Suspended),
                        ),
                        // What it remembered was in the live rows, and they are gone.
                        supervision: op.as_ref().map(|_| Record::assumed()),
                    };
                    registry::set_rest(db, uuid, &rest, &self.boot_id)?;
                    match op {
                        Some(op) => image_ops::remove(db, op.image)?,
                        None => lost.push(light),
                    }
                }
                self.report_lost(lost.iter().map(|light| (&light.row, light.boot_id.as_deref())));
                registry::set_meta(db, BOOT, &self.boot_id)
            })?;
        }
        match self.settle_live_rows() {
            Err(StoreError::Corrupt { path, .. }) if self.is_of_another_boot()? => {
                self.drop_damaged(&path)
            }
            other => other,
        }
    }

    /// The save by which a domain is an image, if the host went down between the commit of that
    /// and the record of it: such a guest never went on.
    fn complete(&self, db: &Connection, uuid: DomainUuid) -> Result<Option<ImageOp>, Fault> {
        let ops = image_ops::of_domain(db, uuid)?;
        Ok(ops.into_iter().rev().find(|op| op.ends && self.is_complete(op) && self.is_unspent(op)))
    }

    /// No guest went on from it since; what cannot be told counts as spent.
    fn is_unspent(&self, op: &ImageOp) -> bool {
        let spent = match &op.path {
            None => Image::open_store(&self.paths, op.image).and_then(|image| image.spent()),
            Some(_) => return true,
        };
        matches!(spent, Ok(None))
    }

    fn settle_live_rows(&self) -> Result<()> {
        if !self.is_new_to(self.live_db().read(&self.paths, "read the boot id", boot_of)?) {
            return Ok(());
        }
        self.live_db().write(&self.paths, "settle the last boot", |db| {
            let stale = live::of_other_boots(db, &self.boot_id)?;
            let mut lost: Vec<_> = stale.iter().filter(|(row, _)| row.process.is_some()).collect();
            lost.retain(|(row, _)| !self.is_kept(row.uuid));
            self.report_lost(lost.iter().map(|(row, boot)| (row, Some(boot.as_str()))));
            for (row, _) in &stale {
                live::remove(db, row.uuid)?;
            }
            self.stamp()?;
            registry::set_meta(db, BOOT, &self.boot_id)
        })
    }

    /// Whether a domain is an image, by its record: nothing of it was lost.
    fn is_kept(&self, uuid: DomainUuid) -> bool {
        let kept =
            |row: &ListRow| row.state == State::Suspended || row.reason == Some(Reason::Saved);
        matches!(self.managed_light(uuid), Ok(Some(light)) if kept(&light.row))
    }

    /// Notes beside the live rows which boot they are of, for the day on which they cannot be
    /// read. Called with the writer queue or the names lock held, before the first row of a boot.
    pub(crate) fn stamp(&self) -> Result<()> {
        if self.stamped()?.as_ref() == Some(&self.boot_id) {
            return Ok(());
        }
        let path = self.paths.live_boot();
        let new = path.with_extension("boot.new");
        remove(&new)?;
        open_private(&new)
            .and_then(|mut file| file.write_all(self.boot_id.as_bytes()))
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(|error| StoreError::io("note the boot", path, error))
    }

    fn stamped(&self) -> Result<Option<String>> {
        let path = self.paths.live_boot();
        match std::fs::read_to_string(&path) {
            Ok(boot) => Ok(Some(boot)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", path, error)),
        }
    }

    /// Without a note nothing is known of the file, and it is left alone.
    fn is_of_another_boot(&self) -> Result<bool> {
        Ok(self.stamped()?.is_some_and(|boot| boot != self.boot_id))
    }

    /// The live rows are not written through to the disk: where the runtime directory outlives a
    /// boot, a power cut may damage them. None of their processes is left, so nothing is lost
    /// with them but the names of transient domains.
    fn drop_damaged(&self, path: &Path) -> Result<()> {
        let _names = NamesLock::acquire(&self.paths, self.patience())?;
        // Another process may have been here first; what is open here is the file it removed.
        self.live_db().close();
        if !self.is_of_another_boot()? {
            return Ok(());
        }
        self.live_db().remove()?;
        self.stamp()?;
        let event = Event::new(Severity::Alert, "live records lost at host reboot")
            .reason(Some(Reason::LostAtHostReboot))
            .text(format!("{} was damaged when the host went down", path.display()));
        if let Err(error) = self.event(&event) {
            tracing::warn!(%error, "cannot record that the live records of another boot were damaged");
        }
        Ok(())
    }

    /// `None`: no database, so nothing to do. `Some(None)`: one that no boot has looked at.
    fn is_new_to(&self, found: Option<Option<String>>) -> bool {
        found.is_some_and(|boot| boot.as_ref() != Some(&self.boot_id))
    }

    /// Records the events before the rows change: killed in between, it is done again, and the
    /// key (domain and boot) keeps them from being there twice.
    pub(crate) fn report_lost<'a>(
        &self,
        lost: impl Iterator<Item = (&'a ListRow, Option<&'a str>)>,
    ) {
        let events: Vec<(Event, String)> = lost
            .map(|(row, boot)| {
                let event = Event::new(Severity::Warning, "lost at host reboot")
                    .of(row.uuid, &row.name, row.domid)
                    .reason(Some(Reason::LostAtHostReboot))
                    .text(format!("it was {} when the host went down", row.state));
                (event, format!("lost/{}/{}", boot.unwrap_or_default(), row.uuid))
            })
            .collect();
        if events.is_empty() {
            return;
        }
        let written = self.record(events.iter().map(|(event, key)| (event, Some(key.as_str()))));
        // Rows come before events: a full disk here must not keep them untrue.
        if let Err(error) = written {
            tracing::warn!(%error, "cannot record which domains the host's reboot has ended");
        }
    }
}

fn boot_of(db: &Connection) -> Result<Option<String>, Fault> {
    registry::meta(db, BOOT)
}
