use kxl_domain::{DomId, Reason, State, Wanted};

use super::{Host, config, managed, transient, uuid};
use crate::{Event, EventQuery, EventRow, LiveChange, ProcessRow, Severity, Store};

/// In boot "one": a running managed domain, a paused one, a resting one, a transient one with a
/// process and one that was claimed only.
fn left_behind() -> Host {
    let host = Host::new();
    let store = host.store_in("one");
    for (text, number, state) in [("run", 1, State::Running), ("wait", 2, State::Paused)] {
        managed(&store, text, number);
        enliven(&store, number, state, Wanted::Running);
    }
    store.define(&config("rest"), uuid(3)).unwrap();
    transient(&store, "t", 4);
    enliven(&store, 4, State::Running, Wanted::Running);
    transient(&store, "unborn", 5);
    host
}

fn enliven(store: &Store, number: u32, state: State, wanted: Wanted) {
    let process = ProcessRow { pid: 7, start_time: 7, boot_id: store.boot_id().into() };
    let change = LiveChange {
        state: Some(state),
        wanted: Some(wanted),
        op: Some(None),
        process: Some(Some(process)),
        ..LiveChange::default()
    };
    store.change_live(uuid(number), &change).unwrap();
}

fn lost(store: &Store) -> Vec<EventRow> {
    let mut events = store.events(&EventQuery::default()).unwrap();
    events.retain(|row| row.event.what == "lost at host reboot");
    events.sort_by_key(|row| row.event.uuid);
    events
}

fn assert_true(store: &Store) {
    let rows: Vec<_> = store
        .list()
        .unwrap()
        .into_iter()
        .map(|row| (row.name.to_string(), row.domid, row.state, row.reason, row.wanted))
        .collect();
    let halted = |name: &str, reason, wanted| (name.into(), None, State::Halted, reason, wanted);
    assert_eq!(
        rows,
        [
            halted("rest", Some(Reason::New), Wanted::Halted),
            halted("run", Some(Reason::LostAtHostReboot), Wanted::Running),
            halted("wait", Some(Reason::LostAtHostReboot), Wanted::Running),
        ]
    );
    assert!(store.live_rows().unwrap().is_empty());
    assert!(store.find("t").unwrap().is_none() && store.find("1").unwrap().is_none());
}

#[test]
fn nothing_changes_within_a_boot() {
    let host = left_behind();
    let store = host.store_in("one");
    assert_eq!(store.list().unwrap().iter().filter(|row| row.is_live()).count(), 4);
    assert!(lost(&store).is_empty());
}

#[test]
fn after_another_boot_every_row_is_true_and_each_lost_domain_has_one_event() {
    let host = left_behind();
    for _ in 0..3 {
        let store = host.store_in("two");
        assert_true(&store);
        let events = lost(&store);
        let names: Vec<_> = events.iter().map(|row| row.event.name.as_str()).collect();
        assert_eq!(names, ["run", "wait", "t"], "one that had no process lost nothing");
        assert_eq!(events[0].event.reason, Some(Reason::LostAtHostReboot));
    }
}

#[test]
fn the_first_call_may_be_any() {
    for call in [
        (|store| drop(store.find("run").unwrap())) as fn(&Store),
        |store| drop(store.events(&EventQuery::default()).unwrap()),
        |store| drop(store.managed(uuid(1)).unwrap()),
        |store| store.remove_live(uuid(9)).unwrap(),
        |store| assert!(!store.undefine(uuid(9)).unwrap()),
    ] {
        let host = left_behind();
        call(&host.store_in("two"));
        let records = rusqlite::Connection::open(host.registry_db()).unwrap();
        let stale: u32 = records
            .query_row("SELECT count(*) FROM domain WHERE boot_id IS NOT NULL", [], |r| r.get(0))
            .unwrap();
        assert_eq!(stale, 0);
    }
}

#[test]
fn a_runtime_directory_that_went_with_the_boot_makes_no_difference_to_the_records() {
    let host = left_behind();
    std::fs::remove_dir_all(host.run_dir()).unwrap();
    let store = host.store_in("two");
    assert_true(&store);
    assert_eq!(lost(&store).len(), 2, "nothing is known of the transient one any more");
}

#[test]
fn many_at_once_settle_the_last_boot_once() {
    let host = left_behind();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| assert_true(&host.store_in("two")));
        }
    });
    assert_eq!(lost(&host.store_in("two")).len(), 3);
}

#[test]
fn cut_off_after_the_events_they_are_not_told_twice() {
    let host = left_behind();
    let store = host.store_in("two");
    let fail = |_: &rusqlite::Connection| -> Result<(), crate::error::Fault> {
        Err(crate::StoreError::NotLive { uuid: uuid(1) }.into())
    };
    // The events of the first half, then a transaction that never commits.
    let rows = host.store_in("one").list().unwrap();
    let live = rows.iter().filter(|row| row.process.is_some());
    store.report_lost(live.map(|row| (row, Some("one"))));
    assert!(store.registry().write(&host.paths, "test", |db| fail(db)).is_err());
    assert_eq!(lost(&host.store_in("two")).len(), 3);
    assert_true(&host.store_in("two"));
}

#[test]
fn what_cannot_be_settled_yet_is_shown_as_it_is_all_the_same() {
    let host = left_behind();
    let store = host.store_in("two");
    // As if settling had failed: the rows of boot "one" are all there.
    store.booted.store(true, std::sync::atomic::Ordering::Release);
    assert_true(&store);
    let row = store.managed(uuid(1)).unwrap().unwrap();
    assert_eq!((row.state, row.boot_id), (State::Halted, None));
}

#[test]
fn a_database_of_events_that_cannot_be_written_does_not_keep_rows_untrue() {
    let host = left_behind();
    std::fs::write(host.events_db(), "no database ".repeat(999)).unwrap();
    let store = host.store_in("two");
    assert_true(&store);
    assert!(store.event(&Event::new(Severity::Info, "x")).is_err());
}

#[test]
fn domids_go_on_ascending_where_the_database_outlives_the_boot() {
    let host = left_behind();
    let row = transient(&host.store_in("two"), "new", 9);
    assert_eq!(row.domid, DomId(5));
}

#[test]
fn a_boot_after_that_finds_the_domains_of_this_one() {
    let host = left_behind();
    let two = host.store_in("two");
    two.claim(&super::claim_of("run", uuid(1), true)).unwrap();
    enliven(&two, 1, State::Running, Wanted::Running);
    drop(two);
    let three = host.store_in("three");
    assert_true(&three);
    let of_run = |row: &&EventRow| row.event.uuid == Some(uuid(1));
    assert_eq!(lost(&three).iter().filter(of_run).count(), 2, "once for each boot");
}

fn damage(host: &Host) {
    std::fs::write(host.live_db(), "torn ".repeat(5000)).unwrap();
}

#[test]
fn live_rows_that_a_power_cut_has_damaged_are_dropped_in_the_next_boot_once() {
    let host = left_behind();
    damage(&host);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_true(&host.store_in("two")));
        }
    });
    let store = host.store_in("two");
    let events = store.events(&EventQuery::default()).unwrap();
    let alerts = events.iter().filter(|row| row.event.severity == Severity::Alert).count();
    assert_eq!(alerts, 1);
    transient(&store, "t", 9);
    assert_eq!(host.store_in("two").live_rows().unwrap().len(), 1);
}

#[test]
fn live_rows_damaged_in_this_boot_are_kept_because_their_processes_are_alive() {
    for boot in ["one", "two"] {
        let host = left_behind();
        if boot == "two" {
            transient(&host.store_in("two"), "new", 9);
        }
        damage(&host);
        let error = host.store_in(boot).list().unwrap_err();
        assert!(matches!(error, crate::StoreError::Corrupt { .. }), "{error}");
        assert!(std::fs::read_to_string(host.live_db()).unwrap().starts_with("torn"));
    }
}
