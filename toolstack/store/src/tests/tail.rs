use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Host, config, name, uuid};
use crate::events::{BATCH, TEXT_MAX};
use crate::retention::KEPT;
use crate::{Event, EventQuery, EventTail, Severity};

const NOW: Option<Duration> = Some(Duration::ZERO);
/// Long enough for any machine; only a follower that is never woken waits so long.
const LONG: Option<Duration> = Some(Duration::from_secs(60));

fn event(what: &str) -> Event {
    Event::new(Severity::Info, what)
}

fn words(tail: &mut EventTail, timeout: Option<Duration>) -> Vec<String> {
    tail.next(timeout).unwrap().into_iter().map(|row| row.event.what).collect()
}

#[test]
fn an_event_is_read_back_as_it_was_written() {
    let host = Host::new();
    let store = host.store();
    let event = Event::new(Severity::Alert, "guest crashed")
        .of(uuid(1), &name("a"), Some(kxl_domain::DomId(3)))
        .reason(Some(kxl_domain::Reason::Crash))
        .action("restart")
        .text("kernel panic");
    store.event(&event).unwrap();
    let rows = store.events(&EventQuery::default()).unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].id, &rows[0].event), (1, &event));
    let json = serde_json::to_string(&rows[0]).unwrap();
    assert_eq!(serde_json::from_str::<crate::EventRow>(&json).unwrap(), rows[0]);
}

#[test]
fn queries_narrow_by_domain_number_and_count() {
    let host = Host::new();
    let store = host.store();
    let of = |what: &str, number, text: &str| event(what).of(uuid(number), &name(text), None);
    store.append_events(&[of("1", 1, "a"), of("2", 2, "b"), of("3", 1, "c"), event("4")]).unwrap();
    let what = |query: EventQuery| -> String {
        store.events(&query).unwrap().into_iter().map(|row| row.event.what).collect()
    };
    let all = EventQuery::default;
    assert_eq!(what(all()), "1234");
    assert_eq!(what(EventQuery { uuid: Some(uuid(1)), ..all() }), "13");
    assert_eq!(what(EventQuery { name: Some("a".into()), ..all() }), "1");
    assert_eq!(what(EventQuery { since_id: Some(2), ..all() }), "34");
    assert_eq!(what(EventQuery { limit: Some(2), ..all() }), "34", "the newest, oldest first");
    let both = EventQuery { uuid: Some(uuid(1)), limit: Some(1), ..all() };
    assert_eq!(what(both), "3");
}

#[test]
fn a_follower_sleeps_until_there_is_something_and_starts_from_now() {
    let host = Host::new();
    let store = host.store();
    store.event(&event("before")).unwrap();
    let mut tail = host.store().follow_events(EventQuery::default()).unwrap();
    assert!(words(&mut tail, NOW).is_empty());
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..3 {
                send.send(words(&mut tail, LONG)).unwrap();
            }
        });
        for round in ["1", "2", "3"] {
            store.event(&event(round)).unwrap();
            assert_eq!(receive.recv().unwrap(), [round]);
        }
    });
}

#[test]
fn a_follower_may_come_before_the_first_event() {
    let host = Host::new();
    let mut tail = host.store().follow_events(EventQuery::default()).unwrap();
    assert!(words(&mut tail, NOW).is_empty());
    let store = host.store();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || words(&mut tail, LONG));
        store.append_events(&[event("a"), event("b")]).unwrap();
        assert_eq!(reader.join().unwrap(), ["a", "b"], "recorded together, told together");
    });
}

#[test]
fn a_follower_of_one_domain_is_not_woken_by_another_or_by_the_registry() {
    let host = Host::new();
    let store = host.store();
    let query = EventQuery { name: Some("a".into()), since_id: Some(0), ..EventQuery::default() };
    let mut tail = store.follow_events(query).unwrap();
    store.event(&event("x").of(uuid(2), &name("b"), None)).unwrap();
    store.define(&config("c"), uuid(3)).unwrap();
    assert!(words(&mut tail, Some(Duration::from_millis(20))).is_empty());
    store.event(&event("y").of(uuid(1), &name("a"), None)).unwrap();
    assert_eq!(words(&mut tail, LONG), ["y"]);
}

#[test]
fn the_descriptor_of_a_follower_is_readable_after_an_event() {
    let host = Host::new();
    let store = host.store();
    store.event(&event("first")).unwrap();
    let mut tail = store.follow_events(EventQuery::default()).unwrap();
    let ready = |tail: &EventTail, timeout| {
        let mut fds = [PollFd::new(tail.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout).unwrap() == 1
    };
    assert!(words(&mut tail, NOW).is_empty());
    assert!(!ready(&tail, PollTimeout::ZERO));
    store.event(&event("second")).unwrap();
    assert!(ready(&tail, PollTimeout::from(60_000u16)));
    assert_eq!(words(&mut tail, NOW), ["second"]);
    assert!(!ready(&tail, PollTimeout::ZERO), "what was told is no longer announced");
}

#[test]
fn the_oldest_events_go_when_there_are_too_many() {
    let host = Host::new();
    let store = host.store();
    let many = vec![event("x"); usize::try_from(BATCH).unwrap() * 2 - 300];
    for _ in 0..KEPT / BATCH {
        store.append_events(&many).unwrap();
    }
    let db = rusqlite::Connection::open(host.events_db()).unwrap();
    let (count, newest): (i64, i64) = db
        .query_row("SELECT count(*), max(id) FROM event", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!(newest, 170_000, "all were taken");
    assert!((KEPT..KEPT + 2 * BATCH).contains(&count), "{count} are kept");
    let oldest: i64 = db.query_row("SELECT min(id) FROM event", [], |row| row.get(0)).unwrap();
    assert_eq!(oldest, newest - count + 1, "the oldest went");
}

#[test]
fn a_long_text_is_cut_between_characters() {
    let host = Host::new();
    let store = host.store();
    store.event(&event("x").text(format!("a{}", "é".repeat(TEXT_MAX)))).unwrap();
    let text = &store.events(&EventQuery::default()).unwrap()[0].event.text;
    assert_eq!(text.len(), TEXT_MAX - 1);
}
