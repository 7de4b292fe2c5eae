//! What is kept of the history when there is too much of it.

use super::{Host, name, uuid};
use crate::{Event, EventQuery, Retention, Severity, Store};

const KEEP: i64 = 2_000;

fn of(domain: u32, what: &str, text: &str) -> Event {
    let name = name(&format!("d{domain}"));
    Event::new(Severity::Info, what).of(uuid(domain), &name, None).text(text)
}

/// Records `count` events of each of these domains, taking turns.
fn many(store: &Store, domains: &[u32], what: &str, count: usize) {
    let texts: Vec<_> = (0..count).map(|number| number.to_string()).collect();
    for some in texts.chunks(200) {
        let turns = some.iter().flat_map(|text| domains.iter().map(|d| of(*d, what, text)));
        store.append_events(&turns.collect::<Vec<_>>()).unwrap();
    }
    store.trim_events().unwrap();
}

/// How many events of this kind there are of a domain, and the text of the newest.
fn kept(store: &Store, domain: u32, what: &str) -> (usize, Option<String>) {
    let uuid = Some(uuid(domain));
    let query = EventQuery { uuid, what: vec![what.into()], ..EventQuery::default() };
    let rows = store.events(&query).unwrap();
    (rows.len(), rows.last().map(|row| row.event.text.clone()))
}

fn all(store: &Store) -> usize {
    store.events(&EventQuery::default()).unwrap().len()
}

fn store(host: &Host) -> Store {
    let store = host.store();
    store.set_retention(Retention { count: KEEP, days: None });
    store
}

#[test]
fn guests_that_talk_all_day_push_nobody_elses_history_out() {
    let host = Host::new();
    let store = store(&host);
    store.event(&Event::new(Severity::Info, "gate-command")).unwrap();
    many(&store, &[1, 2, 3], "started", 100);
    many(&store, &[9], "guest-log", 10);
    let loud = [1, 2, 4];
    many(&store, &loud, "guest-log", 2_500);
    for domain in [1, 2, 3] {
        assert_eq!(kept(&store, domain, "started").0, 100, "{domain}");
    }
    assert_eq!(kept(&store, 9, "guest-log").0, 10, "a guest that says little is heard");
    for domain in loud {
        let (count, newest) = kept(&store, domain, "guest-log");
        assert_eq!(newest.unwrap(), "2499", "their newest are kept");
        assert!((500..=600).contains(&count), "{count}: each has its share");
    }
    let count = all(&store);
    assert!((1_900..=2_000).contains(&count), "{count}");
    // What has to be told of hosts and domains takes the room back, but for half of it.
    many(&store, &[5, 6, 7], "crash", 1_000);
    let guests: usize = [1, 2, 4, 9].map(|domain| kept(&store, domain, "guest-log").0).iter().sum();
    assert!((900..=1_000).contains(&guests), "{guests}");
    assert!(all(&store) <= 2_000);
}

#[test]
fn a_domain_that_crashes_all_night_pushes_no_other_out() {
    let host = Host::new();
    let store = store(&host);
    many(&store, &[1, 2], "started", 200);
    many(&store, &[3], "crash", 5_000);
    assert_eq!([1, 2].map(|domain| kept(&store, domain, "started").0), [200, 200]);
    assert_eq!(kept(&store, 3, "crash"), (1_600, Some("4999".into())));
}

#[test]
fn of_many_that_say_little_the_oldest_go() {
    let host = Host::new();
    let store = store(&host);
    for number in 0..1_000 {
        let uuid = format!("00000000-0000-4000-8000-{number:012}").parse().unwrap();
        let event = |what: &str| Event::new(Severity::Info, what).of(uuid, &name("web"), None);
        store.append_events(&["a", "b", "c"].map(event)).unwrap();
    }
    store.trim_events().unwrap();
    let rows = store.events(&EventQuery::default()).unwrap();
    assert_eq!((rows.len(), rows[0].id), (2_000, 1_001));
}
