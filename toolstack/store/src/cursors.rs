//! How far each hook has come in telling of events: its cursor, in the database of the events
//! themselves, so that the numbers are of one history.

use rusqlite::{Connection, params};

use crate::Result;
use crate::error::Fault;
use crate::events::{self, EventRow};
use crate::facade::Store;

/// The cursor of one hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookRow {
    /// Its name.
    pub name: String,
    /// The last event that is done with: told, or given up.
    pub told: i64,
    /// How often the next one was tried in vain.
    pub tries: u32,
    /// When it may be tried again; milliseconds since 1970.
    pub next_ms: i64,
    /// Why it is not run at all, once that was told.
    pub problem: Option<String>,
}

fn all(db: &Connection) -> Result<Vec<HookRow>, Fault> {
    let mut statement =
        db.prepare("SELECT name, told, tries, next_ms, problem FROM hook ORDER BY name")?;
    let rows = statement.query_map([], |row| {
        Ok(HookRow {
            name: row.get(0)?,
            told: row.get(1)?,
            tries: row.get::<_, i64>(2)?.try_into().unwrap_or(0),
            next_ms: row.get(3)?,
            problem: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

impl Store {
    /// The cursors of all hooks, by name.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn hooks(&self) -> Result<Vec<HookRow>> {
        Ok(self.events_db().read(&self.paths, "read the hooks' cursors", all)?.unwrap_or_default())
    }

    /// Writes a cursor.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn set_hook(&self, hook: &HookRow) -> Result<()> {
        self.events_db().write(&self.paths, "write a hook's cursor", |db| {
            db.execute(
                "INSERT OR REPLACE INTO hook (name, told, tries, next_ms, problem)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![hook.name, hook.told, hook.tries, hook.next_ms, hook.problem],
            )?;
            Ok(())
        })
    }

    /// Removes the cursor of a hook that is gone.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn forget_hook(&self, name: &str) -> Result<()> {
        self.events_db().write(&self.paths, "forget a hook", |db| {
            db.execute("DELETE FROM hook WHERE name = ?1", [name])?;
            Ok(())
        })
    }

    /// The oldest events after the number `after`, at most `most`, oldest first.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn events_after(&self, after: i64, most: u32) -> Result<Vec<EventRow>> {
        let found = self
            .events_db()
            .read(&self.paths, "read events", |db| events::following(db, after, most))?;
        Ok(found.unwrap_or_default())
    }

    /// The number before that of the first event since this moment (milliseconds since 1970).
    ///
    /// # Errors
    /// See [`Store`].
    pub fn event_before(&self, time_ms: i64) -> Result<i64> {
        let found = self.events_db().read(&self.paths, "read events", |db| {
            let sql = "SELECT min(id) - 1 FROM event WHERE time_ms >= ?1";
            let first: Option<i64> = db.query_row(sql, [time_ms], |row| row.get(0))?;
            first.map_or_else(|| events::newest(db), Ok)
        })?;
        Ok(found.unwrap_or(0))
    }

    /// How many events of the same domain came before this one in the same minute of the clock: of
    /// those that its guest has a say in, or of the others, as it is one itself; of alerts only where `alerts` says so. Counted up to `most`.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn earlier_in_minute(&self, row: &EventRow, alerts: bool, most: u32) -> Result<u32> {
        let uuid = row.event.uuid.map(|uuid| uuid.to_string());
        let minute = row.event.time_ms.div_euclid(60_000) * 60_000;
        let found = self.events_db().read(&self.paths, "count events", |db| {
            let only = if alerts { "AND severity = 'alert' AND repeat_of IS NULL" } else { "" };
            // By number, because the index of a domain is in that order; a clock that was set back,
            // or a thousand others in between, only make the count smaller.
            let sql = format!(
                "SELECT count(*) FROM (
                     SELECT time_ms FROM (
                         SELECT time_ms, what, severity, repeat_of FROM event
                         WHERE uuid IS ?1 AND id < ?2 ORDER BY id DESC LIMIT 1000
                     ) WHERE (what LIKE 'guest-%') = (?5 LIKE 'guest-%') {only} LIMIT ?3
                 ) WHERE time_ms >= ?4 AND time_ms < ?4 + 60000"
            );
            Ok(db.query_row(&sql, params![uuid, row.id, most, minute, row.event.what], |row| {
                row.get(0)
            })?)
        })?;
        Ok(found.unwrap_or(0))
    }
}
