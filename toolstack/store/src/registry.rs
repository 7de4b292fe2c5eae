//! `registry.db`: the managed domains. Every commit is on the disk when it returns.

use kxl_domain::supervision::Record;
use kxl_domain::{DomainConfig, DomainName, DomainUuid, ImageId, Reason, State, Wanted};
use rusqlite::{Connection, OptionalExtension, params};

use crate::clock::now_ms;
use crate::columns::{Columns, config_text, json_text, same_start, signed};
use crate::db::{Spec, Synchronous};
use crate::error::Fault;
use crate::paths::Paths;
use crate::rows::{Defined, ListRow, ManagedRow};

/// The configuration is kept apart from what lists read, so that a list of ten thousand does not
/// touch it. `boot_id` is set exactly while the domain is live.
const SCHEMA_1: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE domain (
        uuid TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        backend TEXT NOT NULL,
        memory_mib INTEGER NOT NULL,
        vcpus INTEGER NOT NULL,
        wanted TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT,
        detail TEXT NOT NULL DEFAULT '',
        boot_id TEXT,
        autostart INTEGER NOT NULL DEFAULT 0 CHECK (autostart IN (0, 1)),
        created_ms INTEGER NOT NULL,
        updated_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX domain_live ON domain (boot_id) WHERE boot_id IS NOT NULL;
    CREATE TABLE config (uuid TEXT PRIMARY KEY, config TEXT NOT NULL) STRICT;
";

/// The image that a suspended domain is; operations on images, written before they begin and
/// removed when their outcome is recorded; images in users' files from which a guest went on.
const SCHEMA_2: &str = "
    ALTER TABLE domain ADD COLUMN image TEXT;
    CREATE TABLE image_op (
        image TEXT PRIMARY KEY,
        domain TEXT NOT NULL,
        op TEXT NOT NULL,
        path TEXT,
        ends INTEGER NOT NULL CHECK (ends IN (0, 1)),
        boot_id TEXT NOT NULL,
        began_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX image_op_domain ON image_op (domain);
    CREATE TABLE spent (
        image TEXT PRIMARY KEY,
        path TEXT NOT NULL,
        domain TEXT NOT NULL,
        spent_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// What supervision remembers.
const SCHEMA_3: &str = "ALTER TABLE domain ADD COLUMN supervision TEXT;";

pub(crate) const SPEC: Spec = Spec {
    path: Paths::registry_db,
    synchronous: Synchronous::Full,
    migrations: &[SCHEMA_1, SCHEMA_2, SCHEMA_3],
    next: "move it and its -wal and -shm files away, then put a backup in its place or define the \
           domains again with kxl new",
};

/// What [`light`] reads, in its order.
const LIGHT: &str = "uuid, name, backend, memory_mib, vcpus, wanted, state, reason, detail, \
     boot_id, image, supervision";

/// A line of a list and the boot in which it was live.
pub(crate) struct Light {
    pub(crate) row: ListRow,
    pub(crate) boot_id: Option<String>,
    /// The image that it is, while suspended.
    pub(crate) image: Option<ImageId>,
}

fn light(row: &rusqlite::Row<'_>) -> Result<Light, Fault> {
    let columns = Columns(row);
    let row = ListRow {
        uuid: columns.uuid()?,
        name: columns.name()?,
        domid: None,
        managed: true,
        backend: columns.get(2)?,
        memory_mib: columns.count(3)?,
        vcpus: columns.get(4)?,
        wanted: columns.word(5, Wanted::parse)?,
        state: columns.word(6, State::parse)?,
        reason: columns.maybe(7, Reason::parse)?,
        detail: columns.get(8)?,
        op: None,
        process: None,
        started_ms: None,
        supervision: columns.supervision(11)?.unwrap_or_else(Record::assumed),
    };
    Ok(Light { row, boot_id: columns.get(9)?, image: columns.maybe(10, |text| text.parse().ok())? })
}

/// Every managed domain, in no order.
pub(crate) fn all(db: &Connection) -> Result<Vec<Light>, Fault> {
    let mut statement = db.prepare(&format!("SELECT {LIGHT} FROM domain"))?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(light(row)?);
    }
    Ok(found)
}

fn one(db: &Connection, column: &str, value: &str) -> Result<Option<Light>, Fault> {
    let mut statement = db.prepare(&format!("SELECT {LIGHT} FROM domain WHERE {column} = ?1"))?;
    let mut rows = statement.query([value])?;
    rows.next()?.map(light).transpose()
}

pub(crate) fn by_uuid(db: &Connection, uuid: DomainUuid) -> Result<Option<Light>, Fault> {
    one(db, "uuid", &uuid.to_string())
}

pub(crate) fn by_name(db: &Connection, name: &str) -> Result<Option<Light>, Fault> {
    one(db, "name", name)
}

/// The domain whose runtime directory is the one of this uuid, if that is another domain.
pub(crate) fn neighbour(
    db: &Connection,
    uuid: DomainUuid,
) -> Result<Option<(DomainUuid, DomainName)>, Fault> {
    let (from, to) = same_start(uuid);
    let mut statement = db.prepare(
        "SELECT uuid, name FROM domain WHERE uuid >= ?1 AND uuid < ?2 AND uuid <> ?3 LIMIT 1",
    )?;
    let mut rows = statement.query([from, to, uuid.to_string()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let columns = Columns(row);
    Ok(Some((columns.uuid()?, columns.name()?)))
}

/// The whole record.
pub(crate) fn full(db: &Connection, uuid: DomainUuid) -> Result<Option<ManagedRow>, Fault> {
    let mut statement = db.prepare(&format!(
        "SELECT {LIGHT}, autostart, created_ms, updated_ms,
                (SELECT config FROM config WHERE config.uuid = domain.uuid) AS config
         FROM domain WHERE uuid = ?1"
    ))?;
    let mut rows = statement.query([uuid.to_string()])?;
    let Some(found) = rows.next()? else { return Ok(None) };
    let (Light { row, boot_id, image }, columns) = (light(found)?, Columns(found));
    Ok(Some(ManagedRow {
        uuid: row.uuid,
        name: row.name,
        config: columns.config()?,
        backend: row.backend,
        memory_mib: row.memory_mib,
        vcpus: row.vcpus,
        wanted: row.wanted,
        state: row.state,
        reason: row.reason,
        detail: row.detail,
        boot_id,
        autostart: columns.get("autostart")?,
        image,
        supervision: row.supervision,
        created_ms: columns.get("created_ms")?,
        updated_ms: columns.get("updated_ms")?,
    }))
}

/// Registers a domain, or replaces its configuration and sets it to halted.
pub(crate) fn define(
    db: &Connection,
    config: &DomainConfig,
    uuid: DomainUuid,
) -> Result<Defined, Fault> {
    let before = by_uuid(db, uuid)?;
    // A replaced record keeps why it is halted; one that had failed starts anew.
    let reason = match &before {
        Some(old) if old.row.state == State::Halted => old.row.reason,
        _ => Some(Reason::New),
    };
    db.execute(
        "INSERT INTO domain (uuid, name, backend, memory_mib, vcpus, wanted, state, reason,
                             created_ms, updated_ms, autostart)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, COALESCE(?10, 0))
         ON CONFLICT (uuid) DO UPDATE SET name = ?2, backend = ?3, memory_mib = ?4, vcpus = ?5,
             state = ?7, reason = ?8, detail = '', boot_id = NULL, image = NULL, updated_ms = ?9,
             autostart = COALESCE(?10, autostart),
             supervision = CASE WHEN ?8 = 'new' THEN NULL ELSE supervision END",
        params![
            uuid.to_string(),
            config.name.as_str(),
            config.backend,
            signed(config.memory_mib),
            config.vcpus,
            Wanted::Halted.as_str(),
            State::Halted.as_str(),
            reason.map(Reason::as_str),
            now_ms(),
            config.maintenance.autostart,
        ],
    )?;
    set_config(db, uuid, config)?;
    Ok(if before.is_some() { Defined::Replaced } else { Defined::New })
}

pub(crate) fn set_config(
    db: &Connection,
    uuid: DomainUuid,
    config: &DomainConfig,
) -> Result<(), Fault> {
    db.execute(
        "INSERT OR REPLACE INTO config (uuid, config) VALUES (?1, ?2)",
        [uuid.to_string(), config_text(config, uuid)?],
    )?;
    db.execute(
        "UPDATE domain SET backend = ?2, memory_mib = ?3, vcpus = ?4 WHERE uuid = ?1",
        params![uuid.to_string(), config.backend, signed(config.memory_mib), config.vcpus],
    )?;
    Ok(())
}

pub(crate) fn set_autostart(db: &Connection, uuid: DomainUuid, on: bool) -> Result<(), Fault> {
    db.execute("UPDATE domain SET autostart = ?2 WHERE uuid = ?1", params![uuid.to_string(), on])?;
    Ok(())
}

/// Whether there was such a record.
pub(crate) fn remove(db: &Connection, uuid: DomainUuid) -> Result<bool, Fault> {
    db.execute("DELETE FROM config WHERE uuid = ?1", [uuid.to_string()])?;
    Ok(db.execute("DELETE FROM domain WHERE uuid = ?1", [uuid.to_string()])? > 0)
}

/// Changes to where a domain rests; `None` leaves as it is.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    pub(crate) wanted: Option<Wanted>,
    pub(crate) state: Option<State>,
    pub(crate) reason: Option<Option<Reason>>,
    pub(crate) detail: Option<String>,
    pub(crate) image: Option<Option<ImageId>>,
    pub(crate) supervision: Option<Record>,
}

impl Rest {
    pub(crate) fn is_empty(&self) -> bool {
        self.wanted.is_none()
            && self.state.is_none()
            && self.reason.is_none()
            && self.detail.is_none()
            && self.image.is_none()
            && self.supervision.is_none()
    }
}

/// Writes where a domain rests; gives whether it is registered. Writes nothing, and so waits for
/// no disk, when all of it is so already. `boot_id` is that of now.
pub(crate) fn set_rest(
    db: &Connection,
    uuid: DomainUuid,
    rest: &Rest,
    boot_id: &str,
) -> Result<bool, Fault> {
    let Some(Light { row, boot_id: before, image: was }) = by_uuid(db, uuid)? else {
        return Ok(false);
    };
    let wanted = rest.wanted.unwrap_or(row.wanted);
    let state = rest.state.unwrap_or(row.state);
    let reason = rest.reason.unwrap_or(row.reason);
    let detail = rest.detail.as_ref().unwrap_or(&row.detail);
    let boot = match rest.state {
        Some(state) => state.is_live().then(|| boot_id.to_owned()),
        None => before.clone(),
    };
    let image = rest.image.unwrap_or(was);
    let supervision = rest.supervision.as_ref().unwrap_or(&row.supervision);
    if (wanted, state, reason, detail, &boot, image, supervision)
        == (row.wanted, row.state, row.reason, &row.detail, &before, was, &row.supervision)
    {
        return Ok(true);
    }
    db.execute(
        "UPDATE domain SET wanted = ?2, state = ?3, reason = ?4, detail = ?5, boot_id = ?6,
                           updated_ms = ?7, image = ?8, supervision = ?9
         WHERE uuid = ?1",
        params![
            uuid.to_string(),
            wanted.as_str(),
            state.as_str(),
            reason.map(Reason::as_str),
            detail,
            boot,
            now_ms(),
            image.map(|id| id.to_string()),
            json_text(Some(supervision))?,
        ],
    )?;
    Ok(true)
}

/// Domains recorded as live in a boot other than this one.
pub(crate) fn of_other_boots(db: &Connection, boot_id: &str) -> Result<Vec<Light>, Fault> {
    let mut statement = db.prepare(&format!(
        "SELECT {LIGHT} FROM domain WHERE boot_id IS NOT NULL AND boot_id <> ?1"
    ))?;
    let mut rows = statement.query([boot_id])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(light(row)?);
    }
    Ok(found)
}

/// A value of the database as a whole.
pub(crate) fn meta(db: &Connection, key: &str) -> Result<Option<String>, Fault> {
    let mut statement = db.prepare("SELECT value FROM meta WHERE key = ?1")?;
    Ok(statement.query_row([key], |row| row.get(0)).optional()?)
}

pub(crate) fn set_meta(db: &Connection, key: &str, value: &str) -> Result<(), Fault> {
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", [key, value])?;
    Ok(())
}
