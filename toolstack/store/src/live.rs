//! `live.db`: the domains with a process. In the runtime directory, gone with the boot, never
//! waited for a disk.

use kxl_domain::supervision::Record;
use kxl_domain::{DomId, DomainName, DomainUuid, Op, Reason, State, Wanted};
use rusqlite::{Connection, params};

use crate::clock::now_ms;
use crate::columns::{Columns, config_text, json_text, same_start, signed};
use crate::db::{Spec, Synchronous};
use crate::error::Fault;
use crate::paths::Paths;
use crate::registry;
use crate::rows::{Asked, Claim, ListRow, LiveChange, LiveRow};

/// As in the registry, what lists do not read is apart.
const SCHEMA_1: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE live (
        uuid TEXT PRIMARY KEY,
        domid INTEGER NOT NULL UNIQUE,
        name TEXT NOT NULL UNIQUE,
        managed INTEGER NOT NULL CHECK (managed IN (0, 1)),
        backend TEXT NOT NULL,
        memory_mib INTEGER NOT NULL,
        vcpus INTEGER NOT NULL,
        wanted TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT,
        detail TEXT NOT NULL DEFAULT '',
        op TEXT,
        asked TEXT,
        pid INTEGER,
        start_time INTEGER,
        process_boot TEXT,
        boot_id TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        started_ms INTEGER,
        spawn_count INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE body (
        uuid TEXT PRIMARY KEY,
        config TEXT NOT NULL,
        attachments TEXT
    ) STRICT;
";

/// The image that a domain comes from.
const SCHEMA_2: &str = "ALTER TABLE body ADD COLUMN image TEXT;";

/// What supervision remembers.
const SCHEMA_3: &str = "ALTER TABLE live ADD COLUMN supervision TEXT;";

pub(crate) const SPEC: Spec = Spec {
    path: Paths::live_db,
    synchronous: Synchronous::Off,
    migrations: &[SCHEMA_1, SCHEMA_2, SCHEMA_3],
    next: "look for emulators that still run (ps), then move it and its -wal and -shm files away",
};

/// What [`light`] reads, in its order.
const LIGHT: &str = "uuid, name, domid, managed, backend, memory_mib, vcpus, wanted, state, reason, \
     detail, op, started_ms, pid, start_time, process_boot, supervision";

fn light(row: &rusqlite::Row<'_>) -> Result<ListRow, Fault> {
    let columns = Columns(row);
    Ok(ListRow {
        uuid: columns.uuid()?,
        name: columns.name()?,
        domid: Some(DomId(columns.get(2)?)),
        managed: columns.get(3)?,
        backend: columns.get(4)?,
        memory_mib: columns.count(5)?,
        vcpus: columns.get(6)?,
        wanted: columns.word(7, Wanted::parse)?,
        state: columns.word(8, State::parse)?,
        reason: columns.maybe(9, Reason::parse)?,
        detail: columns.get(10)?,
        op: columns.maybe(11, Op::parse)?,
        started_ms: columns.get(12)?,
        process: columns.process(13)?,
        supervision: columns.supervision(16)?.unwrap_or_else(Record::assumed),
    })
}

fn full(row: &rusqlite::Row<'_>) -> Result<LiveRow, Fault> {
    let (list, columns) = (light(row)?, Columns(row));
    Ok(LiveRow {
        uuid: list.uuid,
        domid: DomId(columns.get("domid")?),
        name: list.name,
        managed: list.managed,
        config: columns.config()?,
        backend: list.backend,
        memory_mib: list.memory_mib,
        vcpus: list.vcpus,
        wanted: list.wanted,
        state: list.state,
        reason: list.reason,
        detail: list.detail,
        op: list.op,
        asked: columns.maybe("asked", Asked::parse)?,
        process: list.process,
        attachments: columns.document("attachments")?,
        image: columns.json("image")?,
        supervision: list.supervision,
        boot_id: columns.get("boot_id")?,
        created_ms: columns.get("created_ms")?,
        started_ms: list.started_ms,
        spawn_count: columns.get("spawn_count")?,
    })
}

/// A way to pick one row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Key<'a> {
    Uuid(DomainUuid),
    DomId(DomId),
    Name(&'a str),
}

impl Key<'_> {
    const fn column(self) -> &'static str {
        match self {
            Self::Uuid(_) => "uuid",
            Self::DomId(_) => "domid",
            Self::Name(_) => "name",
        }
    }

    fn value(self) -> rusqlite::types::Value {
        match self {
            Self::Uuid(uuid) => uuid.to_string().into(),
            Self::DomId(domid) => i64::from(domid.0).into(),
            Self::Name(name) => name.to_owned().into(),
        }
    }
}

/// Every light row of this boot, by domid.
pub(crate) fn all(db: &Connection, boot_id: &str) -> Result<Vec<ListRow>, Fault> {
    let sql = format!("SELECT {LIGHT} FROM live WHERE boot_id = ?1 ORDER BY domid");
    collect(db, &sql, boot_id, light)
}

/// Every row of this boot, by domid.
pub(crate) fn all_full(db: &Connection, boot_id: &str) -> Result<Vec<LiveRow>, Fault> {
    let sql = format!("{} WHERE boot_id = ?1 ORDER BY domid", full_sql());
    collect(db, &sql, boot_id, full)
}

/// Light rows that another boot has left, each with that boot.
pub(crate) fn of_other_boots(
    db: &Connection,
    boot_id: &str,
) -> Result<Vec<(ListRow, String)>, Fault> {
    let sql = format!("SELECT {LIGHT}, boot_id FROM live WHERE boot_id <> ?1 ORDER BY domid");
    collect(db, &sql, boot_id, |row| Ok((light(row)?, Columns(row).get("boot_id")?)))
}

fn collect<T>(
    db: &Connection,
    sql: &str,
    boot_id: &str,
    read: impl Fn(&rusqlite::Row<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([boot_id])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

fn full_sql() -> String {
    format!(
        "SELECT {LIGHT}, asked, boot_id, created_ms, spawn_count,
                (SELECT config FROM body WHERE body.uuid = live.uuid) AS config,
                (SELECT attachments FROM body WHERE body.uuid = live.uuid) AS attachments,
                (SELECT image FROM body WHERE body.uuid = live.uuid) AS image
         FROM live"
    )
}

/// One light row of this boot.
pub(crate) fn one(db: &Connection, key: Key<'_>, boot_id: &str) -> Result<Option<ListRow>, Fault> {
    let column = key.column();
    let mut statement =
        db.prepare(&format!("SELECT {LIGHT} FROM live WHERE {column} = ?1 AND boot_id = ?2"))?;
    let mut rows = statement.query(params![key.value(), boot_id])?;
    rows.next()?.map(light).transpose()
}

/// One row of this boot.
pub(crate) fn one_full(
    db: &Connection,
    key: Key<'_>,
    boot_id: &str,
) -> Result<Option<LiveRow>, Fault> {
    let sql = format!("{} WHERE {} = ?1 AND boot_id = ?2", full_sql(), key.column());
    let mut statement = db.prepare(&sql)?;
    let mut rows = statement.query(params![key.value(), boot_id])?;
    rows.next()?.map(full).transpose()
}

/// The live domain whose runtime directory is the one of this uuid, if that is another domain.
pub(crate) fn neighbour(
    db: &Connection,
    uuid: DomainUuid,
) -> Result<Option<(DomainUuid, DomainName)>, Fault> {
    let (from, to) = same_start(uuid);
    let mut statement = db.prepare(
        "SELECT uuid, name FROM live WHERE uuid >= ?1 AND uuid < ?2 AND uuid <> ?3 LIMIT 1",
    )?;
    let mut rows = statement.query([from, to, uuid.to_string()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let columns = Columns(row);
    Ok(Some((columns.uuid()?, columns.name()?)))
}

/// Takes the next domid. Numbers only ascend for as long as the database lives.
pub(crate) fn take_domid(db: &Connection) -> Result<DomId, Fault> {
    let next = match registry::meta(db, "next_domid")? {
        None => 1,
        Some(text) => text.parse::<u32>().map_err(|error| Fault::Record {
            what: "the next domid".into(),
            problem: error.to_string(),
        })?,
    };
    let after = next.checked_add(1).ok_or_else(|| Fault::Record {
        what: "the next domid".into(),
        problem: "all numbers of this boot are used up".into(),
    })?;
    registry::set_meta(db, "next_domid", &after.to_string())?;
    Ok(DomId(next))
}

/// Sees to it that `wish` is not taken by another domain later.
pub(crate) fn pass_domid(db: &Connection, wish: DomId) -> Result<(), Fault> {
    let next = take_domid(db)?;
    let after = next.0.max(wish.0.saturating_add(1));
    registry::set_meta(db, "next_domid", &after.to_string())
}

/// Inserts the row of a claim.
pub(crate) fn insert(
    db: &Connection,
    claim: &Claim,
    domid: DomId,
    (state, reason, detail): (State, Option<Reason>, &str),
    boot_id: &str,
) -> Result<(), Fault> {
    db.execute(
        "INSERT INTO live (uuid, domid, name, managed, backend, memory_mib, vcpus, wanted, state,
                           reason, detail, op, boot_id, created_ms, supervision)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        params![
            claim.uuid.to_string(),
            domid.0,
            claim.name.as_str(),
            claim.managed,
            claim.backend,
            signed(claim.config.memory_mib),
            claim.config.vcpus,
            claim.wanted.as_str(),
            state.as_str(),
            reason.map(Reason::as_str),
            detail,
            claim.op.as_str(),
            boot_id,
            now_ms(),
            json_text(Some(&claim.supervision))?,
        ],
    )?;
    db.execute(
        "INSERT OR REPLACE INTO body (uuid, config, image) VALUES (?1, ?2, ?3)",
        params![
            claim.uuid.to_string(),
            config_text(&claim.config, claim.uuid)?,
            json_text(claim.image.as_ref())?,
        ],
    )?;
    Ok(())
}

/// Writes a changed row back, all of it but identity, number and name.
pub(crate) fn change(db: &Connection, row: &LiveRow, change: &LiveChange) -> Result<(), Fault> {
    let new_process =
        matches!(&change.process, Some(Some(new)) if row.process.as_ref() != Some(new));
    let process = change.process.as_ref().unwrap_or(&row.process).as_ref();
    let config = change.config.as_ref().unwrap_or(&row.config);
    db.execute(
        "UPDATE live SET backend = ?2, memory_mib = ?3, vcpus = ?4, wanted = ?5, state = ?6,
             reason = ?7, detail = ?8, op = ?9, asked = ?10, pid = ?11, start_time = ?12,
             process_boot = ?13, started_ms = ?14, spawn_count = ?15, supervision = ?16
         WHERE uuid = ?1",
        params![
            row.uuid.to_string(),
            change.backend.as_ref().unwrap_or(&row.backend),
            signed(config.memory_mib),
            config.vcpus,
            change.wanted.unwrap_or(row.wanted).as_str(),
            change.state.unwrap_or(row.state).as_str(),
            change.reason.unwrap_or(row.reason).map(Reason::as_str),
            change.detail.as_ref().unwrap_or(&row.detail),
            change.op.unwrap_or(row.op).map(Op::as_str),
            change.asked.unwrap_or(row.asked).map(Asked::as_str),
            process.map(|process| process.pid),
            process.map(|process| signed(process.start_time)),
            process.map(|process| &process.boot_id),
            if new_process { Some(now_ms()) } else { row.started_ms },
            row.spawn_count + u32::from(new_process),
            json_text(Some(change.supervision.as_ref().unwrap_or(&row.supervision)))?,
        ],
    )?;
    if change.config.is_some() || change.attachments.is_some() || change.image.is_some() {
        db.execute(
            "INSERT OR REPLACE INTO body (uuid, config, attachments, image)
             VALUES (?1, ?2, ?3, ?4)",
            params![
                row.uuid.to_string(),
                config_text(config, row.uuid)?,
                change.attachments.as_ref().unwrap_or(&row.attachments),
                json_text(change.image.as_ref().unwrap_or(&row.image).as_ref())?,
            ],
        )?;
    }
    Ok(())
}

/// Gives a row another identity; it is no longer a registered domain's.
pub(crate) fn rekey(
    db: &Connection,
    row: &LiveRow,
    uuid: DomainUuid,
    name: &DomainName,
) -> Result<(), Fault> {
    let mut config = row.config.clone();
    config.name = name.clone();
    db.execute(
        "UPDATE live SET uuid = ?2, name = ?3, managed = 0 WHERE uuid = ?1",
        [row.uuid.to_string(), uuid.to_string(), name.as_str().to_owned()],
    )?;
    db.execute(
        "UPDATE body SET uuid = ?2, config = ?3 WHERE uuid = ?1",
        [row.uuid.to_string(), uuid.to_string(), config_text(&config, uuid)?],
    )?;
    Ok(())
}

pub(crate) fn set_domid(db: &Connection, uuid: DomainUuid, domid: DomId) -> Result<(), Fault> {
    db.execute("UPDATE live SET domid = ?2 WHERE uuid = ?1", params![uuid.to_string(), domid.0])?;
    Ok(())
}

pub(crate) fn remove(db: &Connection, uuid: DomainUuid) -> Result<(), Fault> {
    db.execute("DELETE FROM body WHERE uuid = ?1", [uuid.to_string()])?;
    db.execute("DELETE FROM live WHERE uuid = ?1", [uuid.to_string()])?;
    Ok(())
}
