use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use rusqlite::Connection;

use super::{Host, config, managed, name, uuid};
use crate::db::{Db, Spec, Synchronous};
use crate::error::Fault;
use crate::paths::Paths;
use crate::{Event, EventQuery, Severity, StoreError};

fn databases(paths: &Paths) -> [PathBuf; 3] {
    [paths.registry_db(), paths.live_db(), paths.events_db()]
}

/// A host on which every database exists.
fn furnished() -> Host {
    let host = Host::new();
    let store = host.store();
    managed(&store, "a", 1);
    store.event(&Event::new(Severity::Info, "tested")).unwrap();
    host
}

#[test]
fn directories_may_be_links_to_another_disk_and_a_database_may_not_be_one() {
    let host = Host::new();
    let links = [host.state_dir(), host.run_dir(), host.log_dir()];
    for (number, dir) in links.iter().enumerate() {
        let elsewhere = host.root().join(format!("disk-{number}"));
        fs::create_dir(&elsewhere).unwrap();
        fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir_all(dir.parent().unwrap()).unwrap();
        symlink(&elsewhere, dir).unwrap();
    }
    let store = host.store();
    managed(&store, "a", 1);
    store.event(&Event::new(Severity::Info, "tested")).unwrap();
    assert_eq!(host.store().list().unwrap().len(), 1);

    let registry = host.registry_db();
    let other = host.root().join("other.db");
    fs::rename(&registry, &other).unwrap();
    symlink(&other, &registry).unwrap();
    let text = host.store().list().unwrap_err().to_string();
    assert!(text.contains(&registry.display().to_string()), "{text}");
}

#[test]
fn reading_before_anything_exists_gives_nothing_and_makes_nothing() {
    let host = Host::new();
    let store = host.store();
    assert!(store.list().unwrap().is_empty());
    assert!(store.live_rows().unwrap().is_empty());
    assert!(store.find("a").unwrap().is_none() && store.find("1").unwrap().is_none());
    assert!(store.managed(uuid(1)).unwrap().is_none());
    assert!(store.managed_by_name(&name("a")).unwrap().is_none());
    assert!(store.live(uuid(1)).unwrap().is_none());
    assert!(store.events(&EventQuery::default()).unwrap().is_empty());
    store.remove_live(uuid(1)).unwrap();
    assert_eq!(fs::read_dir(host.root()).unwrap().count(), 0);
}

#[test]
fn every_file_is_private_and_none_of_the_making_is_left() {
    let host = furnished();
    for dir in [host.state_dir(), host.run_dir()] {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                let mode = entry.metadata().unwrap().mode() & 0o7777;
                assert_eq!(mode, 0o600, "{:?}", entry.path());
                assert!(!entry.path().to_string_lossy().contains(".new"), "{:?}", entry.path());
            }
        }
    }
}

#[test]
fn journal_synchronous_and_cache_are_as_decided() {
    let host = furnished();
    for (spec, wanted) in
        [(&crate::registry::SPEC, 2), (&crate::live::SPEC, 0), (&crate::events::SPEC, 1)]
    {
        let mut db = Db::new(spec, &host.paths);
        let (journal, synchronous, cache) = db
            .read(&host.paths, "test", |db| {
                let get = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
                let journal: String =
                    db.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
                Ok((journal, get("synchronous")?, get("cache_size")?))
            })
            .unwrap()
            .unwrap();
        assert_eq!((journal.as_str(), synchronous, cache), ("wal", wanted, -64));
    }
}

#[test]
fn a_newer_schema_is_refused_by_readers_and_writers_and_not_touched() {
    let host = furnished();
    for path in databases(&host.paths) {
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    }
    let store = host.store();
    let query = EventQuery::default();
    let event = Event::new(Severity::Info, "x");
    let refused = [
        store.list().unwrap_err(),
        store.define(&config("b"), uuid(2)).unwrap_err(),
        store.events(&query).unwrap_err(),
        store.event(&event).unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(error, StoreError::NewerSchema { found: 99, .. }), "{error}");
        assert!(error.to_string().contains("newer kxl"), "{error}");
    }
    let found: i64 = Connection::open(host.registry_db())
        .unwrap()
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    assert_eq!(found, 99);
}

#[test]
fn a_file_that_is_no_database_is_named_with_the_next_step_and_kept() {
    let host = Host::new();
    host.prepare().unwrap();
    for (path, next) in databases(&host.paths).into_iter().zip(["kxl new", "ps", "history"]) {
        fs::write(&path, "this is a letter and no database at all ".repeat(99)).unwrap();
        let store = host.store();
        let error = if path == host.events_db() {
            store.event(&Event::new(Severity::Info, "x")).unwrap_err()
        } else {
            store.list().unwrap_err()
        };
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains(next), "{text}");
        assert!(fs::read_to_string(&path).unwrap().starts_with("this is a letter"));
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_damaged_database_is_named_too() {
    let host = Host::new();
    let store = host.store();
    for number in 0..200 {
        store.define(&config(&format!("d{number}")), uuid(number)).unwrap();
    }
    drop(store);
    let mut bytes = fs::read(host.registry_db()).unwrap();
    let middle = bytes.len() / 4096 / 2 * 4096;
    bytes[4096..middle].fill(0x5a);
    fs::write(host.registry_db(), bytes).unwrap();
    let error = host.store().list().unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

#[test]
fn a_record_that_cannot_be_read_is_named_and_not_guessed_at() {
    let host = furnished();
    let spoil = |sql: &str| Connection::open(host.registry_db()).unwrap().execute_batch(sql);
    host.store().remove_live(uuid(1)).unwrap();
    spoil("UPDATE config SET config = '{}'").unwrap();
    let error = host.store().managed(uuid(1)).unwrap_err();
    assert!(matches!(error, StoreError::Record { .. }), "{error:?}");
    assert!(error.to_string().contains(&uuid(1).to_string()), "{error}");
    assert_eq!(host.store().list().unwrap().len(), 1, "a list reads no configuration");
    spoil("UPDATE domain SET state = 'dancing'").unwrap();
    let error = host.store().list().unwrap_err().to_string();
    assert!(error.contains("state is \"dancing\""), "{error}");
}

#[test]
fn what_a_making_that_was_cut_off_has_left_is_cleared_away() {
    let host = Host::new();
    host.prepare().unwrap();
    for suffix in [".new", ".new-wal", "-wal", "-shm"] {
        let mut path = host.registry_db().into_os_string();
        path.push(suffix);
        fs::write(path, "half").unwrap();
    }
    assert!(host.store().list().unwrap().is_empty());
    host.store().define(&config("a"), uuid(1)).unwrap();
    assert_eq!(host.store().list().unwrap().len(), 1);
}

#[test]
fn an_empty_file_is_an_empty_database() {
    let host = Host::new();
    host.prepare().unwrap();
    fs::write(host.registry_db(), "").unwrap();
    assert!(host.store().list().unwrap().is_empty());
    host.store().define(&config("a"), uuid(1)).unwrap();
    assert_eq!(host.store().list().unwrap().len(), 1);
}

const OLD: Spec = Spec {
    path: Paths::events_db,
    synchronous: Synchronous::Normal,
    migrations: &["CREATE TABLE t (a INTEGER); INSERT INTO t VALUES (1);"],
    next: "",
};
const NEW: Spec = Spec {
    migrations: &[OLD.migrations[0], "ALTER TABLE t ADD COLUMN b INTEGER DEFAULT 7;"],
    ..OLD
};

#[test]
fn an_older_schema_is_migrated_once_however_many_open_it() {
    let host = Host::new();
    Db::new(&OLD, &host.paths).write(&host.paths, "test", |_| Ok(())).unwrap();
    let read = |db: &Connection| -> Result<Vec<(i64, i64)>, Fault> {
        let mut statement = db.prepare("SELECT a, b FROM t")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let rows = Db::new(&NEW, &host.paths).read(&host.paths, "test", read).unwrap();
                assert_eq!(rows, Some(vec![(1, 7)]));
            });
        }
    });
    let refused = Db::new(&OLD, &host.paths).read(&host.paths, "test", |_| Ok(()));
    assert!(matches!(refused, Err(StoreError::NewerSchema { found: 2, known: 1, .. })));
}

#[test]
fn a_transaction_that_is_refused_changes_nothing() {
    let host = Host::new();
    let mut db = Db::new(&OLD, &host.paths);
    let refused: Result<(), _> = db.write(&host.paths, "test", |db| {
        db.execute("DELETE FROM t", [])?;
        Err(StoreError::NotLive { uuid: uuid(1) }.into())
    });
    assert!(matches!(refused, Err(StoreError::NotLive { .. })));
    let count = db.read(&host.paths, "test", |db| {
        Ok(db.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))?)
    });
    assert_eq!(count.unwrap(), Some(1));
}

#[test]
fn a_full_disk_is_told_as_one() {
    let host = Host::new();
    let mut db = Db::new(&OLD, &host.paths);
    let full = db.write(&host.paths, "test", |db| {
        db.pragma_update(None, "max_page_count", 2)?;
        db.execute_batch(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9999)
             INSERT INTO t SELECT i FROM n",
        )?;
        Ok(())
    });
    let error = full.unwrap_err();
    assert!(matches!(&error, StoreError::NoSpace { path } if *path == host.events_db()), "{error}");
    assert!(error.to_string().contains("no space left"), "{error}");
}

#[test]
fn a_released_store_goes_on_as_before() {
    let host = furnished();
    let store = host.store();
    assert_eq!(store.list().unwrap().len(), 1);
    store.release();
    assert_eq!(store.list().unwrap().len(), 1);
    store.event(&Event::new(Severity::Info, "again")).unwrap();
}
