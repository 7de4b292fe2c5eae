//! `kxl alerts`, and what `kxl events` narrows to.

use serde_json::Value;

use crate::support::{Host, guest, wait};

fn crash(host: &Host, name: &str) {
    host.crashing(name);
}

fn open(host: &Host) -> Vec<Value> {
    serde_json::from_str(&host.ok(["alerts", "--json"])).unwrap()
}

#[test]
fn a_crash_is_an_alert_until_somebody_acknowledges_it() {
    let host = Host::new();
    assert_eq!(host.ok(["alerts"]), "");
    crash(&host, "web");
    crash(&host, "db");
    let alerts = open(&host);
    assert_eq!(alerts.len(), 2, "{alerts:?}");
    let id = alerts[0]["id"].to_string();
    let of_db = host.ok(["alerts", "db"]);
    assert!(of_db.contains("crash") && !of_db.contains("web"), "{of_db}");
    host.ok(["alerts", "ack", &id]);
    assert_eq!(open(&host).len(), 1);
    // Once more is no mistake, and says who it was.
    let again = host.kxl(["alerts", "ack", &id]).expect(0);
    assert!(again.stderr.contains("was acknowledged by"), "{again}");
    let all = host.ok(["alerts", "--all"]);
    assert!(all.contains("acknowledged by") && all.lines().count() == 3, "{all}");
    assert!(all.contains("kxl why db"), "what to do about the open one: {all}");
    let told = host.events("web");
    assert_eq!(told.last().unwrap()["what"], "alert-acked");
    host.ok(["alerts", "ack", "all"]);
    assert!(open(&host).is_empty());
    assert!(host.kxl(["alerts", "ack", "all"]).expect(0).stderr.contains("0 alerts"));
}

#[test]
fn what_is_no_alert_is_not_acknowledged_and_the_rest_is() {
    let host = Host::new();
    crash(&host, "web");
    let id = open(&host)[0]["id"].to_string();
    host.refused(2, &["alerts", "ack", "first"]);
    let output = host.kxl(["alerts", "ack", "999", "1", &id]).expect(1);
    assert!(
        output.stderr.contains("no event 999") && output.stderr.contains("event 1 is no alert")
    );
    assert!(open(&host).is_empty());
    host.refused(3, &["alerts", "nobody"]);
}

#[test]
fn a_domain_that_crashes_again_and_again_has_one_alert_that_counts() {
    let host = Host::new();
    host.create("loop", &guest::mock_with("loop", "exit=3:50", "on_crash = \"restart\""));
    let crashes = || host.events("loop").iter().filter(|event| event["what"] == "crash").count();
    wait::eventually("it crashes three times", || crashes() >= 3);
    host.ok(["destroy", "loop"]);
    let alerts = open(&host);
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert_eq!(alerts[0]["repeats"].as_u64().unwrap(), u64::try_from(crashes()).unwrap() - 1);
    assert!(host.ok(["alerts"]).contains(" times, last "));
}

#[test]
fn events_are_narrowed_by_number_severity_and_word_and_the_log_is_the_same() {
    let host = Host::new();
    crash(&host, "web");
    host.ok(["alerts", "ack", "all"]);
    let words = |args: &[&str]| -> Vec<String> {
        let text = host.ok([&["events", "--json"], args].concat());
        let row = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        text.lines().map(|line| row(line)["what"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(words(&[]), ["started", "crash", "alert-acked"]);
    assert_eq!(words(&["--since", "2"]), ["crash", "alert-acked"]);
    assert_eq!(words(&["--until", "2"]), ["started", "crash"]);
    assert_eq!(words(&["--since", "1h", "--until", "2"]), ["started", "crash"]);
    assert_eq!(words(&["--until", "1h"]), [""; 0]);
    assert_eq!(words(&["--severity", "warning"]), ["crash"]);
    assert_eq!(words(&["--what", "started", "--what", "crash"]), ["started", "crash"]);
    assert_eq!(words(&["--limit", "1"]), ["alert-acked"]);
    host.refused(2, &["events", "--since", "soon"]);
    host.refused(2, &["events", "--severity", "loud"]);
    assert_eq!(host.ok(["log", "list", "web"]), host.ok(["events", "web"]));
}
