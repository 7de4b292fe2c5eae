use std::sync::Arc;
use std::sync::Mutex;

use super::{Host, name, uuid};
use crate::{Ack, Acked, Event, EventQuery, EventRow, HookRow, Retention, Severity, Store};

fn alert(what: &str, number: u32, text: &str) -> Event {
    Event::new(Severity::Alert, what).of(uuid(number), &name("a"), None).text(text)
}

fn acked(by: &str) -> Acked {
    Acked { by: by.into(), time_ms: 1_000 }
}

fn open(store: &Store) -> Vec<EventRow> {
    store.events(&EventQuery { open: true, ..EventQuery::default() }).unwrap()
}

#[test]
fn an_alert_is_open_until_somebody_acknowledges_it() {
    let host = Host::new();
    let store = host.store();
    assert_eq!(store.open_alerts().unwrap(), 0, "nothing was recorded yet");
    let info = Event::new(Severity::Info, "started");
    store.append_events(&[alert("crash", 1, "x"), info, alert("fatal", 1, "y")]).unwrap();
    assert_eq!(store.open_alerts().unwrap(), 2);
    let outcome = store.ack_alerts(Some(&[1, 1, 2, 99]), &acked("eve")).unwrap();
    assert_eq!(
        outcome,
        [Ack::Done(1), Ack::Already(1, acked("eve")), Ack::NoAlert(2), Ack::Unknown(99)]
    );
    let left = open(&store);
    assert_eq!((left.len(), left[0].id), (1, 3));
    let all = store.events(&EventQuery::default()).unwrap();
    assert_eq!(all[0].acked, Some(acked("eve")));
    assert!(!all[0].is_open_alert() && all[2].is_open_alert());
    let told = &all[3].event;
    assert_eq!((told.what.as_str(), told.uuid), ("alert-acked", Some(uuid(1))));
    assert!(told.text.contains("alert 1 (crash)") && told.text.contains("eve"), "{}", told.text);
    assert_eq!(store.ack_alerts(None, &acked("eve")).unwrap(), [Ack::Done(3)]);
    assert_eq!(store.ack_alerts(None, &acked("eve")).unwrap(), []);
    assert_eq!(store.open_alerts().unwrap(), 0);
}

#[test]
fn the_same_alert_again_is_an_event_of_its_own_and_counted_at_the_open_one() {
    let host = Host::new();
    let store = host.store();
    for _ in 0..3 {
        store.event(&alert("crash", 1, "x")).unwrap();
    }
    store.event(&alert("crash", 2, "x")).unwrap();
    store.event(&alert("crash", 1, "y")).unwrap();
    let all = store.events(&EventQuery::default()).unwrap();
    let repeats: Vec<_> = all.iter().map(|row| (row.repeats, row.repeat_of)).collect();
    assert_eq!(repeats, [(2, None), (0, Some(1)), (0, Some(1)), (0, None), (0, None)]);
    assert!(all[0].last_ms.is_some());
    assert_eq!(store.open_alerts().unwrap(), 3);
    // By the number of a repetition, too.
    assert_eq!(store.ack_alerts(Some(&[3]), &acked("eve")).unwrap(), [Ack::Done(1)]);
    store.event(&alert("crash", 1, "x")).unwrap();
    assert_eq!(open(&store).len(), 3, "after that it is a new one");
}

#[test]
fn an_alert_that_is_raised_once_leaves_one_event() {
    let host = Host::new();
    let store = host.store();
    for _ in 0..5 {
        store.alert_once(&alert("flood", 1, "x")).unwrap();
    }
    let all = store.events(&EventQuery::default()).unwrap();
    assert_eq!((all.len(), all[0].repeats), (1, 4));
}

#[test]
fn of_one_domain_a_hundred_alerts_of_a_kind_are_open_at_most() {
    let host = Host::new();
    let store = host.store();
    for number in 0..150 {
        store.event(&alert("guest-alert", 1, &number.to_string())).unwrap();
    }
    store.event(&alert("guest-alert", 2, "other")).unwrap();
    let open = open(&store);
    assert_eq!(open.len(), 101);
    assert_eq!((open[99].event.text.as_str(), open[99].repeats), ("99", 50));
    assert_eq!(open[100].event.uuid, Some(uuid(2)));
    // A guest that has said all it may takes no place of its host's.
    store.event(&alert("fatal", 1, "not started")).unwrap();
    assert_eq!(self::open(&store).last().unwrap().event.what, "fatal");
}

#[test]
fn retention_goes_by_count_and_by_age_and_spares_open_alerts() {
    let host = Host::new();
    let store = host.store();
    let at = |what: &str, days: i64| Event {
        time_ms: crate::now_ms() - days * 86_400_000,
        ..Event::new(Severity::Info, what)
    };
    let old_alert = Event { time_ms: 0, ..alert("crash", 1, "x") };
    store.append_events(&[at("old", 9), old_alert, at("older", 8), at("new", 1)]).unwrap();
    let what = || -> Vec<String> {
        let all = store.events(&EventQuery::default()).unwrap();
        all.into_iter().map(|row| row.event.what).collect()
    };
    assert_eq!(store.trim_events().unwrap(), 0, "nobody has asked for it");
    store.set_retention(Retention { days: Some(5), ..Retention::default() });
    assert_eq!(store.trim_events().unwrap(), 2);
    assert_eq!(what(), ["crash", "new"]);
    store.set_retention(Retention { count: 0, days: None });
    store.trim_events().unwrap();
    assert_eq!(what(), ["crash"]);
    store.ack_alerts(None, &acked("eve")).unwrap();
    store.trim_events().unwrap();
    assert!(what().is_empty());
}

#[test]
fn queries_narrow_by_time_severity_and_word() {
    let host = Host::new();
    let store = host.store();
    let at = |time_ms, severity, what: &str| Event { time_ms, ..Event::new(severity, what) };
    store
        .append_events(&[
            at(10, Severity::Info, "a"),
            at(20, Severity::Warning, "b"),
            at(30, Severity::Alert, "c"),
        ])
        .unwrap();
    let what = |query: EventQuery| -> String {
        store.events(&query).unwrap().into_iter().map(|row| row.event.what).collect()
    };
    let all = EventQuery::default;
    assert_eq!(what(EventQuery { since_ms: Some(20), ..all() }), "bc");
    assert_eq!(what(EventQuery { until_ms: Some(20), ..all() }), "ab");
    assert_eq!(what(EventQuery { until_id: Some(1), ..all() }), "a");
    assert_eq!(what(EventQuery { severity: Some(Severity::Info), ..all() }), "abc");
    assert_eq!(what(EventQuery { severity: Some(Severity::Warning), ..all() }), "bc");
    assert_eq!(what(EventQuery { severity: Some(Severity::Alert), ..all() }), "c");
    assert_eq!(what(EventQuery { what: vec!["a".into(), "c".into()], ..all() }), "ac");
    assert_eq!(what(EventQuery { what: vec!["'".into()], ..all() }), "");
}

#[test]
fn the_listener_hears_of_every_transaction_with_events_and_of_no_other() {
    let host = Host::new();
    let store = host.store();
    let heard: Arc<Mutex<Vec<Severity>>> = Arc::default();
    let ear = Arc::clone(&heard);
    store.on_events(move |severity| ear.lock().unwrap().push(severity));
    store.append_events(&[]).unwrap();
    store.append_events(&[alert("x", 1, ""), Event::new(Severity::Info, "y")]).unwrap();
    store.event(&Event::new(Severity::Info, "z")).unwrap();
    store.ack_alerts(None, &acked("eve")).unwrap();
    store.ack_alerts(None, &acked("eve")).unwrap();
    assert_eq!(*heard.lock().unwrap(), [Severity::Alert, Severity::Info, Severity::Info]);
}

#[test]
fn cursors_are_kept_until_they_are_forgotten() {
    let host = Host::new();
    let store = host.store();
    assert!(store.hooks().unwrap().is_empty());
    store.event(&Event::new(Severity::Info, "x")).unwrap();
    let mut hook =
        HookRow { name: "10-x".into(), told: 0, tries: 3, next_ms: 99, problem: Some("p".into()) };
    store.set_hook(&hook).unwrap();
    assert_eq!(store.hooks().unwrap(), [hook.clone()]);
    hook.told = 1;
    store.set_hook(&hook).unwrap();
    assert_eq!(store.hooks().unwrap(), [hook]);
    store.forget_hook("10-x").unwrap();
    assert!(store.hooks().unwrap().is_empty());
}

#[test]
fn events_are_read_on_from_a_number_and_from_a_moment() {
    let host = Host::new();
    let store = host.store();
    assert_eq!(store.event_before(5).unwrap(), 0);
    let at = |time_ms| Event { time_ms, ..Event::new(Severity::Info, "x") };
    store.append_events(&[at(10), at(20), at(30)]).unwrap();
    assert_eq!(store.event_before(20).unwrap(), 1);
    assert_eq!(store.event_before(31).unwrap(), 3, "none since: after the newest");
    let ids = |after, most| -> Vec<i64> {
        store.events_after(after, most).unwrap().iter().map(|row| row.id).collect()
    };
    assert_eq!(ids(1, 9), [2, 3]);
    assert_eq!(ids(0, 2), [1, 2]);
}

#[test]
fn events_are_counted_by_domain_by_who_raised_them_and_by_minute_of_the_clock() {
    let host = Host::new();
    let store = host.store();
    let at = |time_ms, number| Event { time_ms, ..alert("x", number, &time_ms.to_string()) };
    store.append_events(&[at(59_999, 1), at(60_000, 1), at(60_001, 2), at(60_002, 1)]).unwrap();
    let info = Event { time_ms: 60_003, severity: Severity::Info, ..at(0, 1) };
    store.append_events(&[info, at(119_999, 1)]).unwrap();
    let rows = store.events(&EventQuery::default()).unwrap();
    let earlier = |at: usize, alerts| store.earlier_in_minute(&rows[at], alerts, 9).unwrap();
    assert_eq!([earlier(1, false), earlier(3, false), earlier(5, false)], [0, 1, 3]);
    assert_eq!(earlier(5, true), 2);
    assert_eq!(store.earlier_in_minute(&rows[5], false, 1).unwrap(), 1, "no further than asked");
    let late = |what| Event { time_ms: 119_999, ..alert(what, 1, "y") };
    store.append_events(&[late("guest-alert"), late("guest-log"), late("fatal")]).unwrap();
    let rows = store.events(&EventQuery::default()).unwrap();
    let earlier = |at: usize| store.earlier_in_minute(&rows[at], true, 9).unwrap();
    assert_eq!([earlier(6), earlier(7), earlier(8)], [0, 1, 3], "a guest's count by themselves");
}

#[test]
fn a_database_of_the_first_schema_is_taken_up_with_its_alerts_open() {
    let host = Host::new();
    host.prepare().unwrap();
    let db = rusqlite::Connection::open(host.events_db()).unwrap();
    db.execute_batch(
        "CREATE TABLE event (id INTEGER PRIMARY KEY AUTOINCREMENT, time_ms INTEGER NOT NULL,
             uuid TEXT, name TEXT NOT NULL, domid INTEGER, severity TEXT NOT NULL,
             what TEXT NOT NULL, reason TEXT, action TEXT, text TEXT NOT NULL, key TEXT) STRICT;
         INSERT INTO event (time_ms, name, severity, what, text)
             VALUES (5, 'a', 'alert', 'crash', 'x'), (6, 'a', 'info', 'started', '');
         PRAGMA journal_mode = wal;
         PRAGMA user_version = 1;",
    )
    .unwrap();
    drop(db);
    let store = host.store();
    assert_eq!(store.open_alerts().unwrap(), 1);
    assert_eq!(store.ack_alerts(None, &acked("eve")).unwrap(), [Ack::Done(1)]);
    assert_eq!(store.events(&EventQuery::default()).unwrap().len(), 3);
}
