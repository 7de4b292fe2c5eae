use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::{Host, config, managed, uuid};
use crate::db::queue_path;
use crate::{DomainLock, Event, LiveChange, NamesLock, Severity, Store, StoreError};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60);

/// Long enough to be waited for, and no longer.
const SOON: Duration = Duration::from_millis(10);

fn taken(host: &Host) -> DomainLock {
    DomainLock::try_acquire(&host.paths, uuid(1)).unwrap().expect("the lock is free")
}

/// Waits until the lock is free: what another test of this process has forked may hold a copy of
/// the descriptor until it comes to its exec.
fn gets_free(host: &Host) {
    DomainLock::acquire(&host.paths, uuid(1), LONG).unwrap();
}

fn is_free(host: &Host) -> bool {
    DomainLock::try_acquire(&host.paths, uuid(1)).unwrap().is_some()
}

#[test]
fn a_domain_has_one_holder_and_others_do_not_mind() {
    let host = Host::new();
    let lock = taken(&host);
    assert!(!is_free(&host));
    assert!(DomainLock::try_acquire(&host.paths, uuid(2)).unwrap().is_some());
    drop(lock);
    gets_free(&host);
}

#[test]
fn the_lock_lasts_as_long_as_any_copy_of_its_descriptor() {
    let host = Host::new();
    let lock = taken(&host);
    let copy = lock.as_fd().try_clone_to_owned().unwrap();
    drop(lock);
    assert!(!is_free(&host));
    let heir = DomainLock::inherit(&host.paths, uuid(1), copy).unwrap();
    assert!(!is_free(&host));
    drop(OwnedFd::from(heir));
    gets_free(&host);
}

#[test]
fn a_descriptor_that_is_not_the_lock_is_not_taken_for_it() {
    let host = Host::new();
    let other: OwnedFd = fs::File::open("/dev/null").unwrap().into();
    let error = DomainLock::inherit(&host.paths, uuid(1), other).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    let of_another = DomainLock::try_acquire(&host.paths, uuid(2)).unwrap().unwrap();
    DomainLock::inherit(&host.paths, uuid(1), of_another.into()).unwrap_err();
}

#[test]
fn a_lock_that_is_not_free_in_time_is_named() {
    let host = Host::new();
    let _lock = taken(&host);
    let error = DomainLock::acquire(&host.paths, uuid(1), Duration::from_millis(3)).unwrap_err();
    assert!(matches!(error, StoreError::LockTimeout { .. }), "{error}");
    assert!(error.to_string().contains("00000001/lock"), "{error}");
    assert_eq!(error.kind(), kxl_domain::Kind::TimedOut);
}

#[test]
fn who_waits_gets_the_lock_when_it_is_let_go() {
    let host = Host::new();
    let lock = taken(&host);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| DomainLock::acquire(&host.paths, uuid(1), LONG));
        drop(lock);
        waiter.join().unwrap().unwrap();
    });
}

#[test]
fn a_lock_file_that_was_removed_meanwhile_guards_nothing() {
    let host = Host::new();
    let old = taken(&host);
    fs::remove_file(host.lock_file(uuid(1))).unwrap();
    let new = taken(&host);
    assert!(!is_free(&host));
    // The old holder must not remove what belongs to the new one.
    assert!(old.remove_rundir(&host.paths, uuid(1)).is_err());
    assert!(host.lock_file(uuid(1)).exists());
    new.remove_rundir(&host.paths, uuid(1)).unwrap();
    assert!(!host.rundir(uuid(1)).exists());
    assert!(is_free(&host));
}

#[test]
fn holders_that_remove_the_directory_never_hold_it_together() {
    let host = Host::new();
    let inside = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                use std::sync::atomic::Ordering::SeqCst;
                for _ in 0..50 {
                    let lock = DomainLock::acquire(&host.paths, uuid(1), LONG).unwrap();
                    assert_eq!(inside.fetch_add(1, SeqCst), 0, "two at once");
                    inside.fetch_sub(1, SeqCst);
                    lock.remove_rundir(&host.paths, uuid(1)).unwrap();
                }
            });
        }
    });
}

#[test]
fn the_names_lock_lets_one_in_at_a_time() {
    let host = Host::new();
    let file = host.root().join("count");
    fs::write(&file, "0").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let _names = NamesLock::acquire(&host.paths, LONG).unwrap();
                    let count: u32 = fs::read_to_string(&file).unwrap().parse().unwrap();
                    fs::write(&file, (count + 1).to_string()).unwrap();
                }
            });
        }
    });
    assert_eq!(fs::read_to_string(&file).unwrap(), "200");
}

#[test]
fn the_names_lock_ends_with_its_scope_even_where_a_copy_lives_on() {
    let host = Host::new();
    let names = NamesLock::acquire(&host.paths, LONG).unwrap();
    let _copy = names.as_fd().try_clone_to_owned().unwrap();
    drop(names);
    // Would wait in vain.
    drop(NamesLock::acquire(&host.paths, LONG).unwrap());
}

#[test]
fn a_names_lock_that_is_not_free_in_time_is_named_with_the_next_step() {
    let host = Host::new();
    let names = NamesLock::acquire(&host.paths, LONG).unwrap();
    for _ in 0..3 {
        let error = NamesLock::acquire(&host.paths, SOON).unwrap_err();
        assert!(matches!(&error, StoreError::Busy { path } if *path == host.names_lock()));
        assert!(error.to_string().contains("lslocks"), "{error}");
        assert_eq!(error.kind(), kxl_domain::Kind::TimedOut);
    }
    drop(names);
    drop(NamesLock::acquire(&host.paths, LONG).unwrap());
}

#[test]
fn patience_holds_for_names_for_each_writer_queue_and_for_sqlite() {
    let host = Host::new();
    let store = host.store();
    managed(&store, "a", 1);
    let event = Event::new(Severity::Info, "test");
    store.event(&event).unwrap();
    let busy = |result: crate::Result<()>, lock: &Path| {
        let error = result.unwrap_err();
        assert!(matches!(&error, StoreError::Busy { path } if path == lock), "{error}");
    };
    // Open already, and opened later.
    for store in [store, host.store()] {
        store.set_patience(SOON).unwrap();
        let names = NamesLock::acquire(&host.paths, LONG).unwrap();
        busy(store.define(&config("b"), uuid(2)).map(drop), &host.names_lock());
        drop(names);
        for db in [host.registry_db(), host.live_db(), host.events_db()] {
            let write = |store: &Store| {
                if db == host.registry_db() {
                    return store.define(&config("c"), uuid(3)).map(drop);
                }
                if db == host.live_db() {
                    return store.change_live(uuid(1), &LiveChange::default()).map(drop);
                }
                store.event(&event)
            };
            let queue = queue_path(&db);
            let holder = fs::File::open(&queue).unwrap();
            holder.lock().unwrap();
            busy(write(&store), &queue);
            holder.unlock().unwrap();
            // Around the queue, as a program that is not kxl would do it.
            let stranger = rusqlite::Connection::open(&db).unwrap();
            stranger.execute_batch("BEGIN IMMEDIATE").unwrap();
            busy(write(&store), &db);
            drop(stranger);
            store.set_patience(LONG).unwrap();
            write(&store).unwrap();
            store.set_patience(SOON).unwrap();
        }
    }
}
