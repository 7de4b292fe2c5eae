//! Many processes at once. A test starts itself again as a child with a role in its environment;
//! the child's answer is a file, because the harness writes to its output.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kxl_domain::supervision::Record;
use kxl_domain::{Reason, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Host, claim_of, config, name, transient, uuid};
use crate::{
    DomainLock, Event, EventQuery, LiveChange, Paths, ProcessRow, Settle, Severity, Store,
    StoreError,
};

const ROOT: &str = "KXL_TEST_ROOT";
const NUMBER: &str = "KXL_TEST_NUMBER";

/// In a child: where it works and which one it is.
fn role() -> Option<(PathBuf, u32)> {
    let root = std::env::var_os(ROOT)?;
    Some((root.into(), std::env::var(NUMBER).ok()?.parse().ok()?))
}

fn child(host: &Host, test: &str, number: u32) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("tests::processes::{test}"), "--nocapture"])
        .env(ROOT, host.root())
        .env(NUMBER, number.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

fn answer(root: &Path, number: u32, text: &str) {
    let new = root.join(format!("{number}.new"));
    fs::write(&new, text).unwrap();
    fs::rename(new, root.join(format!("{number}.answer"))).unwrap();
}

fn store_at(root: &Path) -> Store {
    Store::open(&Paths::under(root)).unwrap()
}

/// Starts `count` children, waits for all, gives their answers.
fn run(host: &Host, test: &str, count: u32) -> Vec<String> {
    let children: Vec<Child> =
        (1..=count).map(|number| child(host, test, number).spawn().unwrap()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    (1..=count)
        .map(|number| fs::read_to_string(host.root().join(format!("{number}.answer"))).unwrap())
        .collect()
}

/// What a claim came to, as text.
fn told(result: Result<crate::LiveRow, StoreError>) -> String {
    match result {
        Ok(row) => format!("won {}", row.uuid),
        Err(StoreError::NameTaken { owner, domid: Some(_), .. }) => format!("lost to {owner}"),
        Err(error) => format!("odd: {error}"),
    }
}

fn assert_one_winner(answers: &[String]) {
    let winners: Vec<_> = answers.iter().filter_map(|text| text.strip_prefix("won ")).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    let lost = format!("lost to {}", winners[0]);
    assert_eq!(answers.iter().filter(|text| **text == lost).count(), answers.len() - 1);
}

#[test]
fn of_fifty_threads_that_claim_one_name_one_wins_and_the_others_learn_who() {
    let host = Host::new();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let host = &host;
        let claim = |number| move || told(host.store().claim(&claim_of("a", uuid(number), false)));
        let threads: Vec<_> = (1..=50).map(|number| scope.spawn(claim(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_one_winner(&answers);
    assert_eq!(host.store().live_rows().unwrap().len(), 1);
}

#[test]
fn of_fifty_processes_that_claim_one_name_one_wins_and_the_others_learn_who() {
    if let Some((root, number)) = role() {
        let claimed = store_at(&root).claim(&claim_of("a", uuid(number), false));
        return answer(&root, number, &told(claimed));
    }
    let host = Host::new();
    assert_one_winner(&run(
        &host,
        "of_fifty_processes_that_claim_one_name_one_wins_and_the_others_learn_who",
        50,
    ));
    assert_eq!(host.store().live_rows().unwrap().len(), 1);
}

#[test]
fn a_name_that_is_defined_and_claimed_at_once_goes_to_one_of_them() {
    for _ in 0..20 {
        let host = Host::new();
        let wins: u32 = std::thread::scope(|scope| {
            let host = &host;
            let claim =
                |number| move || host.store().claim(&claim_of("a", uuid(number), false)).is_ok();
            let define = |number| move || host.store().define(&config("a"), uuid(number)).is_ok();
            let mut threads: Vec<_> = (1..=4).map(|number| scope.spawn(claim(number))).collect();
            threads.extend((5..=8).map(|number| scope.spawn(define(number))));
            threads.into_iter().map(|thread| u32::from(thread.join().unwrap())).sum()
        });
        assert_eq!(wins, 1);
        assert_eq!(host.store().list().unwrap().len(), 1);
    }
}

/// The life of one managed domain, as a command and a monitor write it.
fn live_and_end(store: &Store, number: u32) {
    let (id, text) = (uuid(number), format!("d{number}"));
    store.define(&config(&text), id).unwrap();
    let row = store.claim(&claim_of(&text, id, true)).unwrap();
    let process = ProcessRow { pid: 7, start_time: 7, boot_id: store.boot_id().into() };
    let running = LiveChange {
        state: Some(State::Running),
        op: Some(None),
        process: Some(Some(process)),
        ..LiveChange::default()
    };
    store.change_live(id, &running).unwrap();
    store.event(&Event::new(Severity::Info, "started").of(id, &row.name, Some(row.domid))).unwrap();
    store.renew_domid(id).unwrap();
    let end = Settle {
        state: State::Halted,
        reason: Some(Reason::Poweroff),
        detail: String::new(),
        wanted: None,
        image: None,
        supervision: Record::default(),
    };
    store.settle(id, &end).unwrap();
    store.event(&Event::new(Severity::Info, "ended").of(id, &row.name, None)).unwrap();
}

#[test]
fn fifty_processes_write_whole_lives_at_once_and_none_is_lost() {
    if let Some((root, number)) = role() {
        live_and_end(&store_at(&root), number);
        return answer(&root, number, "done");
    }
    let host = Host::new();
    run(&host, "fifty_processes_write_whole_lives_at_once_and_none_is_lost", 50);
    let store = host.store();
    let list = store.list().unwrap();
    assert_eq!(list.len(), 50);
    for row in list {
        assert_eq!((row.state, row.reason), (State::Halted, Some(Reason::Poweroff)));
    }
    assert!(store.live_rows().unwrap().is_empty());
    assert_eq!(store.events(&EventQuery::default()).unwrap().len(), 100);
    assert_eq!(transient(&store, "next", 99).domid.0, 101, "each took two numbers of its own");
}

#[test]
fn readers_see_whole_lives_while_others_write() {
    let host = Host::new();
    host.store().define(&config("d0"), uuid(0)).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (1..60).for_each(|number| live_and_end(&host.store(), number)));
        let reader = host.store();
        let mut seen = 0;
        while !writer.is_finished() {
            let list = reader.list().unwrap();
            assert!(list.len() >= seen, "a domain vanished from the list");
            seen = list.len();
            for row in &list {
                assert_ne!(row.reason, Some(Reason::Unknown), "{} has no end", row.name);
            }
            assert!(reader.find("d0").unwrap().is_some());
        }
        writer.join().unwrap();
    });
    assert_eq!(host.store().list().unwrap().len(), 60);
}

#[test]
fn a_writer_killed_at_any_moment_leaves_true_records_and_a_free_queue() {
    let test = "a_writer_killed_at_any_moment_leaves_true_records_and_a_free_queue";
    if let Some((root, number)) = role() {
        let store = store_at(&root);
        for round in 0.. {
            live_and_end(&store, number * 1000 + round);
            answer(&root, number, "alive");
        }
    }
    let host = Host::new();
    for number in 1..=12 {
        let mut writer = child(&host, test, number).spawn().unwrap();
        let started = host.root().join(format!("{number}.answer"));
        while !started.exists() {
            // The child is at work; there is no other sign of it to wait for.
            std::thread::sleep(Duration::from_millis(1));
            assert!(writer.try_wait().unwrap().is_none(), "the writer has failed");
        }
        // Somewhere else in its round each time.
        std::thread::sleep(Duration::from_micros(u64::from(number) * 700));
        writer.kill().unwrap();
        writer.wait().unwrap();
        let store = host.store();
        for row in store.live_rows().unwrap() {
            assert!(row.managed && store.managed(row.uuid).unwrap().is_some());
            store.remove_live(row.uuid).unwrap();
        }
        assert!(store.list().unwrap().iter().all(|row| row.state == State::Halted));
        live_and_end(&store, 900_000 + number);
    }
    for db in [host.registry_db(), host.live_db(), host.events_db()] {
        let db = rusqlite::Connection::open(db).unwrap();
        let sound: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
    }
}

#[test]
fn a_writer_stopped_in_the_middle_holds_nobody_up_for_longer_than_their_patience() {
    let test = "a_writer_stopped_in_the_middle_holds_nobody_up_for_longer_than_their_patience";
    if let Some((root, number)) = role() {
        let (store, event) = (store_at(&root), Event::new(Severity::Info, "written"));
        let turn = |db: &rusqlite::Transaction<'_>| {
            answer(&root, number, "inside");
            nix::sys::signal::raise(Signal::SIGSTOP).unwrap();
            crate::events::append(db, crate::Retention::default(), std::iter::once((&event, None)))
        };
        store.events_db().write(&store.paths, "test", turn).unwrap();
        return;
    }
    let host = Host::new();
    let store = host.store();
    store.event(&Event::new(Severity::Info, "before")).unwrap();
    let mut writer = child(&host, test, 1).spawn().unwrap();
    while !host.root().join("1.answer").exists() {
        std::thread::sleep(Duration::from_millis(1));
        assert!(writer.try_wait().unwrap().is_none(), "the writer has failed");
    }
    store.set_patience(Duration::from_millis(20)).unwrap();
    let late = store.event(&Event::new(Severity::Info, "late"));
    let seen = store.events(&EventQuery::default());
    store.set_patience(Duration::from_secs(60)).unwrap();
    // It may be about to stop: until it has ended, it is told again.
    let pid = Pid::from_raw(i32::try_from(writer.id()).unwrap());
    while writer.try_wait().unwrap().is_none() {
        kill(pid, Signal::SIGCONT).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(writer.wait().unwrap().success());
    assert!(matches!(late, Err(StoreError::Busy { .. })), "{late:?}");
    assert_eq!(seen.unwrap().len(), 1, "readers go on");
    store.event(&Event::new(Severity::Info, "after")).unwrap();
    let events = store.events(&EventQuery::default()).unwrap();
    let kinds: Vec<_> = events.iter().map(|row| row.event.what.as_str()).collect();
    assert_eq!(kinds, ["before", "written", "after"]);
}

#[test]
fn a_domain_lock_is_inherited_by_a_process_and_ends_with_it() {
    if let Some((root, number)) = role() {
        let fd: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        let _lock = DomainLock::inherit(&Paths::under(&root), uuid(1), fd).unwrap();
        answer(&root, number, "mine");
        loop {
            std::thread::park();
        }
    }
    let host = Host::new();
    let lock = DomainLock::try_acquire(&host.paths, uuid(1)).unwrap().unwrap();
    let mut heir = child(&host, "a_domain_lock_is_inherited_by_a_process_and_ends_with_it", 1)
        .stdin(Stdio::from(OwnedFd::from(lock)))
        .spawn()
        .unwrap();
    while !host.root().join("1.answer").exists() {
        std::thread::sleep(Duration::from_millis(1));
        assert!(heir.try_wait().unwrap().is_none(), "the heir has failed");
    }
    assert!(DomainLock::try_acquire(&host.paths, uuid(1)).unwrap().is_none());
    heir.kill().unwrap();
    heir.wait().unwrap();
    assert!(DomainLock::try_acquire(&host.paths, uuid(1)).unwrap().is_some());
}

#[test]
fn fifty_processes_that_settle_the_last_boot_at_once_report_each_loss_once() {
    if let Some((root, number)) = role() {
        let rows = store_at(&root).list().unwrap();
        return answer(&root, number, &format!("{} {}", rows[0].name, rows[0].state));
    }
    let host = Host::new();
    let store = host.store_in("another boot");
    store.define(&config("a"), uuid(1)).unwrap();
    store.claim(&claim_of("a", uuid(1), true)).unwrap();
    let running = LiveChange { state: Some(State::Running), ..LiveChange::default() };
    store.change_live(uuid(1), &running).unwrap();
    let answers =
        run(&host, "fifty_processes_that_settle_the_last_boot_at_once_report_each_loss_once", 50);
    assert!(answers.iter().all(|text| text == "a halted"), "{answers:?}");
    let events = host.store().events(&EventQuery::default()).unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event.name, name("a").as_str());
}
