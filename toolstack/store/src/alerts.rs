//! Alerts: events that somebody has to look at, open until somebody has.
//!
//! The same alert again (domain, `what` and text) while one is open is recorded as an event of its
//! own, so that the history has it, and counted at the open one: there is one alert to look at and
//! one mail about it, however often it was raised. Of one domain at most [`MOST`] of a kind (`what`)
//! are open; what comes on top is counted at the newest of its kind, whatever it says. A guest has
//! a say in some of them, and cannot take the place of those that its host raises.

use rusqlite::{Connection, OptionalExtension, params};

use crate::Result;
use crate::error::Fault;
use crate::events::{self, Acked, Event, EventQuery, EventRow, Severity};
use crate::facade::Store;
use crate::retention::Retention;

/// Most open alerts of one kind, of one domain or of the host.
const MOST: i64 = 100;

/// Which rows are open alerts; written as in the index of them.
pub(crate) const OPEN: &str = "severity = 'alert' AND acked_ms IS NULL AND repeat_of IS NULL";

/// What became of a wish to acknowledge an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ack {
    /// It was open and is not any more.
    Done(i64),
    /// Somebody was faster.
    Already(i64, Acked),
    /// There is no event of this number, or none any more.
    Unknown(i64),
    /// The event of this number is no alert.
    NoAlert(i64),
}

/// The open alert that this one repeats.
pub(crate) fn same_open(db: &Connection, event: &Event, text: &str) -> Result<Option<i64>, Fault> {
    let uuid = event.uuid.map(|uuid| uuid.to_string());
    let same = db
        .query_row(
            &format!(
                "SELECT id FROM event WHERE {OPEN} AND uuid IS ?1 AND what = ?2 AND text = ?3
                 ORDER BY id DESC LIMIT 1"
            ),
            params![uuid, event.what, text],
            |row| row.get(0),
        )
        .optional()?;
    if same.is_some() {
        return Ok(same);
    }
    let (count, newest): (i64, Option<i64>) = db.query_row(
        &format!("SELECT count(*), max(id) FROM event WHERE {OPEN} AND uuid IS ?1 AND what = ?2"),
        params![uuid, event.what],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    Ok(newest.filter(|_| count >= MOST))
}

/// Counts a repetition at the open alert.
pub(crate) fn count(db: &Connection, open: i64, time_ms: i64) -> Result<(), Fault> {
    db.execute(
        "UPDATE event SET repeats = repeats + 1, last_ms = ?2 WHERE id = ?1",
        [open, time_ms],
    )?;
    Ok(())
}

/// Acknowledges one alert, or the one that it repeats.
fn ack(db: &Connection, id: i64, acked: &Acked) -> Result<(Ack, Option<EventRow>), Fault> {
    let one = |id| {
        let query =
            EventQuery { since_id: Some(id - 1), until_id: Some(id), ..EventQuery::default() };
        events::query(db, &query).map(|mut rows| rows.pop())
    };
    let Some(mut row) = one(id)? else { return Ok((Ack::Unknown(id), None)) };
    if row.event.severity != Severity::Alert {
        return Ok((Ack::NoAlert(id), None));
    }
    if let Some(first) = row.repeat_of {
        // Trimmed before its repetition: that one is closed for good.
        let Some(found) = one(first)? else { return Ok((Ack::Unknown(first), None)) };
        row = found;
    }
    if let Some(before) = row.acked {
        return Ok((Ack::Already(row.id, before), None));
    }
    db.execute(
        "UPDATE event SET acked_ms = ?2, acked_by = ?3 WHERE id = ?1",
        params![row.id, acked.time_ms, acked.by],
    )?;
    Ok((Ack::Done(row.id), Some(row)))
}

/// The event that tells of it, so that hooks can close what they have opened elsewhere.
fn closing(row: &EventRow, acked: &Acked) -> Event {
    let text = format!("alert {} ({}) was acknowledged by {}", row.id, row.event.what, acked.by);
    Event {
        time_ms: acked.time_ms,
        uuid: row.event.uuid,
        name: row.event.name.clone(),
        domid: row.event.domid,
        ..Event::new(Severity::Info, "alert-acked").text(text)
    }
}

impl Store {
    /// How many alerts are open. Costs microseconds, and nothing where no event was ever recorded.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn open_alerts(&self) -> Result<u64> {
        let count = self.events_db().read(&self.paths, "count the alerts", |db| {
            let sql = format!("SELECT count(*) FROM event WHERE {OPEN}");
            Ok(db.query_row(&sql, [], |row| row.get::<_, i64>(0))?)
        })?;
        Ok(count.unwrap_or(0).try_into().unwrap_or(0))
    }

    /// Acknowledges alerts: those of these numbers, or all that are open. What became of each.
    ///
    /// # Errors
    /// See [`Store`]; nothing is acknowledged then.
    pub fn ack_alerts(&self, ids: Option<&[i64]>, acked: &Acked) -> Result<Vec<Ack>> {
        let retention = self.retention();
        let outcome = self.events_db().write(&self.paths, "acknowledge alerts", |db| {
            let ids = match ids {
                Some(ids) => ids.to_vec(),
                None => {
                    let open = EventQuery { open: true, ..EventQuery::default() };
                    events::query(db, &open)?.iter().map(|row| row.id).collect()
                }
            };
            let mut outcome = Vec::new();
            let mut told = Vec::new();
            for id in ids {
                let (became, row) = ack(db, id, acked)?;
                outcome.push(became);
                told.extend(row.map(|row| closing(&row, acked)));
            }
            events::append(db, retention, told.iter().map(|event| (event, None)))?;
            Ok(outcome)
        })?;
        if outcome.iter().any(|one| matches!(one, Ack::Done(_))) {
            self.told(Severity::Info);
        }
        Ok(outcome)
    }

    /// Raises an alert of which one is enough: while the same is open, it is only counted there and
    /// leaves no event.
    ///
    /// # Errors
    /// See [`Store`].
    pub fn alert_once(&self, event: &Event) -> Result<()> {
        let retention: Retention = self.retention();
        self.events_db().write(&self.paths, "record events", |db| {
            match same_open(db, event, events::cut(&event.text))? {
                Some(open) => count(db, open, event.time_ms),
                None => events::append(db, retention, [(event, None)]),
            }
        })?;
        self.told(event.severity);
        Ok(())
    }
}
