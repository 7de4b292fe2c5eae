//! `events.db`: what happened. Bounded, and apart from the other two, so that a flood of events
//! never delays the record of a domain.

use kxl_domain::{DomId, DomainName, DomainUuid, Reason};
use rusqlite::types::Value;
use rusqlite::{Connection, Params, params, params_from_iter};
use serde::{Deserialize, Serialize};

use crate::alerts::{self, OPEN};
use crate::clock::now_ms;
use crate::db::{Spec, Synchronous};
use crate::error::Fault;
use crate::paths::Paths;
use crate::retention::{Retention, trim};

/// How many are written between two times at which old ones are removed; so many more than are to
/// be kept may be there.
pub const BATCH: i64 = 1_000;
/// Longest text of an event in bytes; guests have a say in some.
pub const TEXT_MAX: usize = 4096;

/// A key makes a second report of the same thing vanish, wherever it comes from.
const SCHEMA_1: &str = "
    CREATE TABLE event (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time_ms INTEGER NOT NULL,
        uuid TEXT,
        name TEXT NOT NULL,
        domid INTEGER,
        severity TEXT NOT NULL,
        what TEXT NOT NULL,
        reason TEXT,
        action TEXT,
        text TEXT NOT NULL,
        key TEXT
    ) STRICT;
    CREATE INDEX event_name ON event (name, id);
    CREATE INDEX event_uuid ON event (uuid, id);
    CREATE UNIQUE INDEX event_key ON event (key) WHERE key IS NOT NULL;
";

/// Alerts stay open until somebody acknowledges them; what repeats one points at it. And how far
/// each hook has come, in the same database as the numbers that this is told in.
const SCHEMA_2: &str = "
    ALTER TABLE event ADD COLUMN repeats INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE event ADD COLUMN last_ms INTEGER;
    ALTER TABLE event ADD COLUMN repeat_of INTEGER;
    ALTER TABLE event ADD COLUMN acked_ms INTEGER;
    ALTER TABLE event ADD COLUMN acked_by TEXT;
    CREATE INDEX event_open ON event (uuid, what)
        WHERE severity = 'alert' AND acked_ms IS NULL AND repeat_of IS NULL;
    CREATE INDEX event_time ON event (time_ms);
    CREATE TABLE hook (
        name TEXT PRIMARY KEY,
        told INTEGER NOT NULL,
        tries INTEGER NOT NULL,
        next_ms INTEGER NOT NULL,
        problem TEXT
    ) STRICT;
";

pub(crate) const SPEC: Spec = Spec {
    path: Paths::events_db,
    synchronous: Synchronous::Normal,
    migrations: &[SCHEMA_1, SCHEMA_2],
    next: "move it and its -wal and -shm files away; the history of events then starts anew",
};

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Info,
    /// Somebody should look at it some time.
    Warning,
    /// Somebody should look at it now.
    Alert,
}

impl Severity {
    /// All, the least first.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Alert];

    /// The stable spelling, as stored and printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Alert => "alert",
        }
    }

    /// The value of this spelling, if there is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.as_str() == text)
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When; milliseconds since 1970.
    pub time_ms: i64,
    /// To which domain; `None` = the host.
    pub uuid: Option<DomainUuid>,
    /// Its name then; empty for the host.
    pub name: String,
    /// Its number then.
    pub domid: Option<DomId>,
    /// How much it matters.
    pub severity: Severity,
    /// What happened, in a word or two that stay the same: `started`, `guest powered off`.
    pub what: String,
    /// Why, where there is a reason.
    pub reason: Option<Reason>,
    /// What policy made of it, where it had a say.
    pub action: Option<String>,
    /// More, for people; cut at [`TEXT_MAX`] bytes.
    pub text: String,
}

impl Event {
    /// An event of the host, now.
    pub fn new(severity: Severity, what: impl Into<String>) -> Self {
        Self {
            time_ms: now_ms(),
            uuid: None,
            name: String::new(),
            domid: None,
            severity,
            what: what.into(),
            reason: None,
            action: None,
            text: String::new(),
        }
    }

    /// The same, of a domain.
    #[must_use]
    pub fn of(mut self, uuid: DomainUuid, name: &DomainName, domid: Option<DomId>) -> Self {
        (self.uuid, self.name, self.domid) = (Some(uuid), name.to_string(), domid);
        self
    }

    /// The same with a reason.
    #[must_use]
    pub const fn reason(mut self, reason: Option<Reason>) -> Self {
        self.reason = reason;
        self
    }

    /// The same with what policy made of it.
    #[must_use]
    pub fn action(mut self, action: impl Into<String>) -> Self {
        self.action = Some(action.into());
        self
    }

    /// The same with more text.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }
}

/// An event as recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    /// Its number; ascending, never used twice.
    pub id: i64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// Of an alert: how often the same was raised again while it was open.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeats: u64,
    /// Of a repeated alert: when the last of them was raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ms: Option<i64>,
    /// The open alert that this one repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat_of: Option<i64>,
    /// Of an alert: who has acknowledged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked: Option<Acked>,
}

/// That somebody has taken note of an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acked {
    /// Who.
    pub by: String,
    /// When; milliseconds since 1970.
    pub time_ms: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde asks for")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl EventRow {
    /// An event that nothing more is known of.
    #[must_use]
    pub const fn new(id: i64, event: Event) -> Self {
        Self { id, event, repeats: 0, last_ms: None, repeat_of: None, acked: None }
    }

    /// Whether it is an alert that nobody has acknowledged, and no repetition of one.
    #[must_use]
    pub fn is_open_alert(&self) -> bool {
        self.event.severity == Severity::Alert && self.acked.is_none() && self.repeat_of.is_none()
    }
}

/// Which events to give; every part that is set narrows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Of this domain.
    pub uuid: Option<DomainUuid>,
    /// Of domains that had this name.
    pub name: Option<String>,
    /// After this number.
    pub since_id: Option<i64>,
    /// Up to this number.
    pub until_id: Option<i64>,
    /// Not before this moment, in milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// Not after this moment.
    pub until_ms: Option<i64>,
    /// That matter at least so much.
    pub severity: Option<Severity>,
    /// With one of these words in `what`; none: with any.
    pub what: Vec<String>,
    /// Alerts that nobody has acknowledged, without those that repeat one.
    pub open: bool,
    /// The newest so many; `None` = all.
    pub limit: Option<u32>,
}

/// Appends events, each with an optional key; one whose key is there already is left out.
pub(crate) fn append<'a>(
    db: &Connection,
    retention: Retention,
    events: impl IntoIterator<Item = (&'a Event, Option<&'a str>)>,
) -> Result<(), Fault> {
    let before = newest(db)?;
    let mut insert = db.prepare(
        "INSERT OR IGNORE INTO event (time_ms, uuid, name, domid, severity, what, reason, action,
                                      text, key, repeat_of)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    for (event, key) in events {
        let text = cut(&event.text);
        let repeated = match event.severity {
            Severity::Alert => alerts::same_open(db, event, text)?,
            Severity::Info | Severity::Warning => None,
        };
        let added = insert.execute(params![
            event.time_ms,
            event.uuid.map(|uuid| uuid.to_string()),
            event.name,
            event.domid.map(|domid| domid.0),
            event.severity.as_str(),
            event.what,
            event.reason.map(Reason::as_str),
            event.action,
            text,
            key,
            repeated,
        ])?;
        if let Some(open) = repeated
            && added > 0
        {
            alerts::count(db, open, event.time_ms)?;
        }
    }
    let after = newest(db)?;
    if after / BATCH != before / BATCH {
        trim(db, retention)?;
    }
    Ok(())
}

pub(crate) fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Number of the newest event; 0 when there is none.
pub(crate) fn newest(db: &Connection) -> Result<i64, Fault> {
    Ok(db.query_row("SELECT coalesce(max(id), 0) FROM event", [], |row| row.get(0))?)
}

/// The columns that [`event`] reads.
const COLUMNS: &str = "id, time_ms, uuid, name, domid, severity, what, reason, action, text,
                       repeats, last_ms, repeat_of, acked_ms, acked_by";

/// The events asked for, oldest first.
pub(crate) fn query(db: &Connection, query: &EventQuery) -> Result<Vec<EventRow>, Fault> {
    let mut sql = format!("SELECT {COLUMNS} FROM event WHERE true");
    let mut values: Vec<Value> = Vec::new();
    if let Some(uuid) = query.uuid {
        sql.push_str(" AND uuid = ?");
        values.push(uuid.to_string().into());
    }
    if let Some(name) = &query.name {
        sql.push_str(" AND name = ?");
        values.push(name.clone().into());
    }
    let bounds = [
        (query.since_id, " AND id > ?"),
        (query.until_id, " AND id <= ?"),
        (query.since_ms, " AND time_ms >= ?"),
        (query.until_ms, " AND time_ms <= ?"),
    ];
    for (bound, clause) in bounds {
        if let Some(bound) = bound {
            sql.push_str(clause);
            values.push(bound.into());
        }
    }
    sql.push_str(match query.severity {
        None | Some(Severity::Info) => "",
        Some(Severity::Warning) => " AND severity <> 'info'",
        Some(Severity::Alert) => " AND severity = 'alert'",
    });
    if !query.what.is_empty() {
        let marks = vec!["?"; query.what.len()].join(", ");
        sql.push_str(&format!(" AND what IN ({marks})"));
        values.extend(query.what.iter().map(|what| Value::from(what.clone())));
    }
    if query.open {
        sql.push_str(&format!(" AND {OPEN}"));
    }
    sql.push_str(" ORDER BY id DESC");
    if let Some(limit) = query.limit {
        sql.push_str(" LIMIT ?");
        values.push(i64::from(limit).into());
    }
    let mut found = rows(db, &sql, params_from_iter(values))?;
    found.reverse();
    Ok(found)
}

/// The oldest events after the number `after`, at most `most` of them, oldest first.
pub(crate) fn following(db: &Connection, after: i64, most: u32) -> Result<Vec<EventRow>, Fault> {
    let sql = format!("SELECT {COLUMNS} FROM event WHERE id > ?1 ORDER BY id LIMIT ?2");
    rows(db, &sql, params![after, most])
}

fn rows(db: &Connection, sql: &str, values: impl Params) -> Result<Vec<EventRow>, Fault> {
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(event(row)?);
    }
    Ok(found)
}

fn event(row: &rusqlite::Row<'_>) -> Result<EventRow, Fault> {
    let odd = |what: &str| Fault::Record {
        what: format!("event {}", row.get::<_, i64>("id").unwrap_or_default()),
        problem: format!("its {what} is unknown"),
    };
    let uuid = row.get::<_, Option<String>>("uuid")?;
    let reason = row.get::<_, Option<String>>("reason")?;
    let by = row.get::<_, Option<String>>("acked_by")?.unwrap_or_default();
    let acked = row.get::<_, Option<i64>>("acked_ms")?.map(|time_ms| Acked { by, time_ms });
    let event = Event {
        time_ms: row.get("time_ms")?,
        uuid: uuid.map(|text| text.parse().map_err(|_| odd("uuid"))).transpose()?,
        name: row.get("name")?,
        domid: row.get::<_, Option<u32>>("domid")?.map(DomId),
        severity: Severity::parse(row.get_ref("severity")?.as_str().unwrap_or_default())
            .ok_or_else(|| odd("severity"))?,
        what: row.get("what")?,
        reason: reason.map(|text| Reason::parse(&text).ok_or_else(|| odd("reason"))).transpose()?,
        action: row.get("action")?,
        text: row.get("text")?,
    };
    Ok(EventRow {
        id: row.get("id")?,
        event,
        repeats: row.get::<_, i64>("repeats")?.try_into().unwrap_or(0),
        last_ms: row.get("last_ms")?,
        repeat_of: row.get("repeat_of")?,
        acked,
    })
}
