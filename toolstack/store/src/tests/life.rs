use std::fs;
use std::path::Path;

use kxl_domain::supervision::{LastExit, Record, Word};
use kxl_domain::{DomId, Op, Reason, State, Wanted};

use super::{Host, claim_of, config, managed, name, transient, uuid};
use crate::rundir::{begin_move, finish_move};
use crate::{Asked, DomainLock, LiveChange, ProcessRow, Settle, Store, StoreError};

fn process(pid: i32) -> ProcessRow {
    ProcessRow { pid, start_time: u64::from(u32::MAX) + 7, boot_id: "a boot".into() }
}

fn running() -> LiveChange {
    LiveChange {
        state: Some(State::Running),
        reason: Some(None),
        op: Some(None),
        process: Some(Some(process(10))),
        ..LiveChange::default()
    }
}

fn halted(reason: Reason) -> Settle {
    Settle {
        state: State::Halted,
        reason: Some(reason),
        detail: "it is over".into(),
        wanted: Some(Wanted::Halted),
        image: None,
        supervision: Record::default(),
    }
}

fn target(host: &Host, link: &str) -> Option<String> {
    let target = fs::read_link(host.run_dir().join(link)).ok()?;
    Some(target.to_str().unwrap().to_owned())
}

#[test]
fn a_claim_records_what_it_is_for_and_where_the_domain_rested() {
    let host = Host::new();
    let store = host.store();
    let row = transient(&store, "t", 1);
    assert_eq!((row.domid, row.state, row.op), (DomId(1), State::Absent, Some(Op::Starting)));
    assert_eq!((row.process.clone(), row.spawn_count, row.started_ms), (None, 0, None));
    assert_eq!(row.config.uuid, Some(uuid(1)));
    let row = managed(&store, "m", 2);
    assert_eq!((row.state, row.reason), (State::Halted, Some(Reason::New)));
    assert_eq!(store.live_by_name(&name("m")).unwrap().as_ref(), Some(&row));
    assert_eq!(store.live_by_domid(DomId(2)).unwrap(), Some(row));
    assert_eq!(target(&host, "by-name/m").as_deref(), Some("../00000002"));
    assert_eq!(target(&host, "by-id/1").as_deref(), Some("../00000001"));
}

#[test]
fn a_claim_of_a_live_domain_tells_its_number() {
    let host = Host::new();
    let store = host.store();
    let row = transient(&store, "t", 1);
    let error = store.claim(&claim_of("t", uuid(1), false)).unwrap_err();
    assert!(
        matches!(error, StoreError::AlreadyLive { domid, .. } if domid == row.domid),
        "{error}"
    );
}

#[test]
fn a_claim_must_agree_with_the_registry_about_being_managed() {
    let host = Host::new();
    let store = host.store();
    let error = store.claim(&claim_of("a", uuid(1), true)).unwrap_err();
    assert!(matches!(error, StoreError::NotManaged { .. }), "{error}");
    store.define(&config("a"), uuid(1)).unwrap();
    let error = store.claim(&claim_of("b", uuid(1), false)).unwrap_err();
    assert!(error.to_string().contains("belongs to domain \"a\""), "{error}");
    assert!(store.live_rows().unwrap().is_empty());
}

#[test]
fn domids_ascend_and_are_not_used_again_after_their_domain_is_gone() {
    let host = Host::new();
    let store = host.store();
    let mut last = 0;
    for number in 1..20 {
        let row = transient(&store, "t", number);
        assert!(row.domid.0 > last);
        last = row.domid.0;
        if number % 3 == 0 {
            last = store.renew_domid(row.uuid).unwrap().0;
            assert!(last > row.domid.0);
        }
        store.remove_live(row.uuid).unwrap();
        store.release();
    }
    assert_eq!(transient(&host.store(), "t", 99).domid.0, last + 1);
}

#[test]
fn a_renewed_domid_replaces_the_old_one_everywhere() {
    let host = Host::new();
    let store = host.store();
    let row = transient(&store, "t", 1);
    let new = store.renew_domid(uuid(1)).unwrap();
    assert!(store.live_by_domid(row.domid).unwrap().is_none());
    assert_eq!(store.find("t").unwrap().unwrap().domid, Some(new));
    assert_eq!(target(&host, &format!("by-id/{new}")).as_deref(), Some("../00000001"));
    assert_eq!(target(&host, "by-id/1"), None);
    assert_eq!(target(&host, "by-name/t").as_deref(), Some("../00000001"));
}

#[test]
fn a_change_touches_only_what_it_names_and_can_clear() {
    let host = Host::new();
    let store = host.store();
    let before = transient(&store, "t", 1);
    let change = LiveChange {
        asked: Some(Some(Asked::Reboot)),
        attachments: Some(Some("{\"a\":1}".into())),
        ..running()
    };
    store.change_live(uuid(1), &change).unwrap();
    let row = store.live(uuid(1)).unwrap().unwrap();
    assert_eq!((row.state, row.op, row.asked), (State::Running, None, Some(Asked::Reboot)));
    assert_eq!(row.process.as_ref(), Some(&process(10)));
    assert_eq!(row.attachments.as_deref(), Some("{\"a\":1}"));
    assert_eq!((row.wanted, &row.config), (before.wanted, &before.config));
    assert_eq!(row.spawn_count, 1);
    assert!(row.started_ms.is_some());

    let clear = LiveChange {
        asked: Some(None),
        process: Some(None),
        attachments: Some(None),
        ..LiveChange::default()
    };
    store.change_live(uuid(1), &clear).unwrap();
    let row = store.live(uuid(1)).unwrap().unwrap();
    assert_eq!((row.asked, row.process, row.attachments), (None, None, None));
    assert_eq!((row.state, row.spawn_count), (State::Running, 1));
}

#[test]
fn only_a_new_process_counts_as_a_spawn() {
    let host = Host::new();
    let store = host.store();
    transient(&store, "t", 1);
    for (pid, count) in [(10, 1), (10, 1), (11, 2), (10, 3)] {
        let change = LiveChange { process: Some(Some(process(pid))), ..LiveChange::default() };
        store.change_live(uuid(1), &change).unwrap();
        assert_eq!(store.live(uuid(1)).unwrap().unwrap().spawn_count, count);
    }
}

#[test]
fn a_change_to_a_domain_that_has_ended_says_so() {
    let host = Host::new();
    let store = host.store();
    transient(&store, "other", 2);
    let refused = [
        store.change_live(uuid(1), &running()),
        store.renew_domid(uuid(1)).map(drop),
        store.rekey(uuid(1), uuid(3), &name("x")),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert!(matches!(error, StoreError::NotLive { .. }), "{error}");
    }
}

#[test]
fn the_record_of_a_managed_domain_follows_its_live_row() {
    let host = Host::new();
    let store = host.store();
    managed(&store, "m", 1);
    store.change_live(uuid(1), &running()).unwrap();
    let row = store.managed(uuid(1)).unwrap().unwrap();
    assert_eq!((row.state, row.reason), (State::Running, None));
    assert_eq!(row.boot_id.as_deref(), Some(store.boot_id()));
    assert_eq!(row.wanted, Wanted::Halted, "the wish changes only when somebody says so");
    let paused = LiveChange {
        state: Some(State::Paused),
        wanted: Some(Wanted::Paused),
        ..LiveChange::default()
    };
    store.change_live(uuid(1), &paused).unwrap();
    let row = store.managed(uuid(1)).unwrap().unwrap();
    assert_eq!((row.state, row.wanted), (State::Paused, Wanted::Paused));
}

#[test]
fn a_change_that_leaves_the_record_as_it_is_does_not_write_it() {
    let host = Host::new();
    let store = host.store();
    managed(&store, "m", 1);
    store.change_live(uuid(1), &running()).unwrap();
    let updated = |store: &Store| store.managed(uuid(1)).unwrap().unwrap().updated_ms;
    let db = rusqlite::Connection::open(host.registry_db()).unwrap();
    db.execute("UPDATE domain SET updated_ms = 5", []).unwrap();
    store.change_live(uuid(1), &running()).unwrap();
    assert_eq!(updated(&store), 5);
}

#[test]
fn a_settled_managed_domain_rests_with_its_reason_and_a_transient_one_is_gone() {
    let host = Host::new();
    let store = host.store();
    managed(&store, "m", 1);
    transient(&store, "t", 2);
    for number in [1, 2] {
        store.change_live(uuid(number), &running()).unwrap();
        store.settle(uuid(number), &halted(Reason::Poweroff)).unwrap();
        store.settle(uuid(number), &halted(Reason::Poweroff)).unwrap();
    }
    let list = store.list().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].state, list[0].reason), (State::Halted, Some(Reason::Poweroff)));
    assert_eq!((list[0].detail.as_str(), list[0].wanted), ("it is over", Wanted::Halted));
    assert_eq!(store.managed(uuid(1)).unwrap().unwrap().boot_id, None);
    assert_eq!(target(&host, "by-name/m"), None);
    assert_eq!(target(&host, "by-id/2"), None);
}

#[test]
fn killed_between_the_halves_of_settling_the_record_is_true_and_it_can_be_repeated() {
    let host = Host::new();
    let store = host.store();
    managed(&store, "m", 1);
    store.change_live(uuid(1), &running()).unwrap();
    store.settle_record(uuid(1), &halted(Reason::Destroyed)).unwrap();
    drop(store);
    let store = host.store();
    assert_eq!(store.managed(uuid(1)).unwrap().unwrap().state, State::Halted);
    assert!(store.find("m").unwrap().unwrap().is_live(), "its process is still to be looked at");
    let other_boot = host.store_in("next");
    let row = other_boot.find("m").unwrap().unwrap();
    assert_eq!((row.state, row.reason), (State::Halted, Some(Reason::Destroyed)));
    store.settle(uuid(1), &halted(Reason::Destroyed)).unwrap();
    assert!(store.live_rows().unwrap().is_empty());
}

#[test]
fn a_record_without_its_live_row_is_shown_as_ended_for_an_unknown_reason() {
    let host = Host::new();
    let store = host.store();
    managed(&store, "m", 1);
    store.change_live(uuid(1), &running()).unwrap();
    store.remove_live(uuid(1)).unwrap();
    for row in [store.find("m").unwrap().unwrap(), store.list().unwrap().remove(0)] {
        assert_eq!((row.state, row.reason), (State::Halted, Some(Reason::Unknown)));
    }
    let row = store.claim(&claim_of("m", uuid(1), true)).unwrap();
    assert_eq!((row.state, row.reason), (State::Halted, Some(Reason::Unknown)));
}

#[test]
fn a_rekeyed_domain_keeps_number_process_directory_and_lock() {
    let host = Host::new();
    let store = host.store();
    let lock = DomainLock::try_acquire(&host.paths, uuid(1)).unwrap().unwrap();
    fs::write(host.rundir(uuid(1)).join("mark"), "").unwrap();
    let old = managed(&store, "m", 1);
    store.change_live(uuid(1), &running()).unwrap();
    store.rekey(uuid(1), uuid(2), &name("m-1")).unwrap();

    let row = store.live(uuid(2)).unwrap().unwrap();
    assert_eq!((row.domid, row.process.clone()), (old.domid, Some(process(10))));
    assert_eq!((row.name.as_str(), row.managed), ("m-1", false));
    assert_eq!((row.config.name.as_str(), row.config.uuid), ("m-1", Some(uuid(2))));
    assert!(store.live(uuid(1)).unwrap().is_none());
    assert!(host.rundir(uuid(2)).join("mark").exists() && !host.rundir(uuid(2)).is_symlink());
    assert!(!host.rundir(uuid(1)).exists() && !host.rundir(uuid(1)).is_symlink());
    assert_eq!(target(&host, "by-name/m-1").as_deref(), Some("../00000002"));
    assert_eq!(target(&host, "by-id/1").as_deref(), Some("../00000002"));
    assert_eq!(target(&host, "by-name/m"), None);
    assert!(DomainLock::try_acquire(&host.paths, uuid(2)).unwrap().is_none(), "the lock moved");

    let kept = store.find("m").unwrap().unwrap();
    assert_eq!((kept.uuid, kept.state), (uuid(1), State::Halted));
    let again = DomainLock::try_acquire(&host.paths, uuid(1)).unwrap();
    assert!(again.is_some(), "the old identity has a lock of its own");
    store.claim(&claim_of("m", uuid(1), true)).unwrap();
    drop(lock);
}

#[test]
fn a_new_identity_that_somebody_has_is_refused() {
    let host = Host::new();
    let store = host.store();
    transient(&store, "t", 1);
    transient(&store, "u", 2);
    store.define(&config("m"), uuid(3)).unwrap();
    for (number, text) in [(4, "u"), (4, "m"), (2, "x"), (3, "x")] {
        let error = store.rekey(uuid(1), uuid(number), &name(text)).unwrap_err();
        let taken = matches!(error, StoreError::NameTaken { .. } | StoreError::UuidTaken { .. });
        assert!(taken, "{number} {text}: {error}");
    }
    assert_eq!(store.live(uuid(1)).unwrap().unwrap().name.as_str(), "t");
    assert!(!host.rundir(uuid(4)).is_symlink());
}

#[test]
fn a_move_that_was_cut_off_anywhere_is_finished_by_who_takes_the_lock() {
    let host = Host::new();
    for step in 0..3 {
        let (old, new) = (uuid(0x10 + step), uuid(0x20 + step));
        let lock = DomainLock::try_acquire(&host.paths, old).unwrap().unwrap();
        fs::write(host.rundir(old).join("mark"), "").unwrap();
        begin_move(&host.paths, old, new).unwrap();
        assert!(host.rundir(new).join("mark").exists() && host.rundir(old).join("mark").exists());
        begin_move(&host.paths, old, new).unwrap();
        if step > 0 {
            finish_move(&host.paths, new).unwrap();
        }
        if step > 1 {
            // As if the last removal had not happened: the old name leads to itself.
            std::os::unix::fs::symlink(old.short(), host.rundir(old)).unwrap();
        }
        assert!(DomainLock::try_acquire(&host.paths, new).unwrap().is_none());
        assert!(host.rundir(new).join("mark").exists() && !host.rundir(new).is_symlink());
        assert!(DomainLock::try_acquire(&host.paths, old).unwrap().is_some());
        assert!(!host.rundir(old).join("mark").exists() && !host.rundir(old).is_symlink());
        drop(lock);
    }
}

#[test]
fn links_lead_to_the_runtime_directory() {
    let host = Host::new();
    let store = host.store();
    let _lock = DomainLock::try_acquire(&host.paths, uuid(1)).unwrap().unwrap();
    transient(&store, "t", 1);
    let by_name = host.by_name().join("t").join("lock");
    assert!(Path::new(&by_name).exists());
}

#[test]
fn what_supervision_remembers_is_kept_while_it_lives_and_when_it_rests() {
    let host = Host::new();
    let store = host.store();
    let row = managed(&store, "web", 1);
    assert_eq!(row.supervision, Record::default());
    let record = Record { failed_starts: 2, retry_at_ms: Some(7), ..Record::default() };
    let waiting = LiveChange { supervision: Some(record.clone()), ..LiveChange::default() };
    store.change_live(uuid(1), &waiting).unwrap();
    store.change_live(uuid(1), &LiveChange::default()).unwrap();
    assert_eq!(store.live(uuid(1)).unwrap().unwrap().supervision, record);
    let listed = store.find("web").unwrap().unwrap();
    assert_eq!((listed.word(), &listed.supervision), (Word::Backoff, &record));

    let last_exit = Some(LastExit { code: Some(3), signal: None, expected: false });
    let end = Record { last_exit, ..Record::default() };
    store.settle(uuid(1), &Settle { supervision: end.clone(), ..halted(Reason::Crash) }).unwrap();
    let listed = store.find("web").unwrap().unwrap();
    assert_eq!((listed.word(), &listed.supervision), (Word::Exited, &end));
    assert_eq!(store.managed(uuid(1)).unwrap().unwrap().supervision, end);
}

#[test]
fn what_passes_in_a_moment_leaves_the_record_of_the_disk_alone() {
    let host = Host::new();
    let store = host.store();
    managed(&store, "web", 1);
    store.change_live(uuid(1), &running()).unwrap();
    let between = LiveChange {
        state: Some(State::Halted),
        op: Some(Some(Op::Starting)),
        process: Some(None),
        passing: true,
        ..LiveChange::default()
    };
    store.change_live(uuid(1), &between).unwrap();
    assert_eq!(store.live(uuid(1)).unwrap().unwrap().state, State::Halted);
    assert_eq!(store.managed(uuid(1)).unwrap().unwrap().state, State::Running);
}

#[test]
fn a_live_row_from_before_there_was_supervision_is_one_that_runs() {
    let host = Host::new();
    let store = host.store();
    transient(&store, "web", 1);
    store.change_live(uuid(1), &running()).unwrap();
    let db = rusqlite::Connection::open(host.paths.live_db()).unwrap();
    assert_eq!(db.execute("UPDATE live SET supervision = NULL", []).unwrap(), 1);
    let row = store.find("web").unwrap().unwrap();
    assert_eq!((row.word(), row.supervision), (Word::Running, Record::assumed()));
}
