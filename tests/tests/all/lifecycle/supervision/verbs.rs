//! The verbs for any number of domains, and the start of a host.

use std::fs;

use super::{events, script, sleeper, status};
use crate::support::{Host, guest};

/// The names in the order in which they were started first.
fn started(host: &Host) -> Vec<String> {
    let text = host.ok(["events", "--json", "--limit", "0"]);
    let all = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut names = Vec::new();
    for event in all.filter(|event| event["what"] == "started") {
        let name = event["name"].as_str().unwrap().to_owned();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[test]
fn all_are_started_in_their_order_and_stopped_the_other_way_round() {
    let host = Host::new();
    host.define("web", &sleeper("web", "startsecs = 0\nafter = [\"db\"]"));
    host.define("db", &sleeper("db", "startsecs = 1"));
    host.define("log", &sleeper("log", "startsecs = 0\npriority = 10"));
    host.define("plain", &guest::mock("plain", ""));
    let told = host.ok(["start", "all"]);
    assert_eq!(told.lines().count(), 4, "{told}");
    assert_eq!(host.kxl(["status", "all"]).code(), Some(0));
    for name in ["web", "db", "log", "plain"] {
        assert_eq!(status(&host, name)["state"], "RUNNING", "{name}");
    }
    let order = started(&host);
    let place = |name: &str| order.iter().position(|one| one == name).unwrap();
    assert!(place("log") < place("db") && place("db") < place("web"), "{order:?}");
    let up = events(&host, "db", "running").pop().unwrap();
    let web = events(&host, "web", "started").pop().unwrap();
    assert!(up["id"].as_i64() < web["id"].as_i64(), "web waits until db is RUNNING");

    let told = host.ok(["stop", "all"]);
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 4, "{told}");
    assert!(lines[3].starts_with("log: stopped"), "{told}");
    let place = |name: &str| lines.iter().position(|line| line.starts_with(name)).unwrap();
    assert!(place("web") < place("db"), "{told}");
    host.quiet();
    assert_eq!(host.ok(["stop", "web"]), "web: not running\n");
}

#[test]
fn a_restart_is_a_stop_and_a_start() {
    let host = Host::new();
    for (name, config) in
        [("web", sleeper("web", "startsecs = 1")), ("plain", guest::mock("plain", ""))]
    {
        host.define(name, &config);
        host.ok(["start", name]);
        let before = status(&host, name);
        let told = host.ok(["restart", name]);
        assert_eq!(told.lines().count(), 2, "{told}");
        assert!(told.starts_with(&format!("{name}: stopped")), "{told}");
        let after = status(&host, name);
        assert_eq!(after["state"], "RUNNING");
        assert_ne!(after["pid"], before["pid"]);
    }
}

#[test]
fn what_requires_a_domain_that_does_not_come_up_is_not_started() {
    let host = Host::new();
    host.define("db", &script("db", "exit 1", "startsecs = 9\nstartretries = 0"));
    host.define("web", &sleeper("web", "startsecs = 0\nrequires = [\"db\"]"));
    host.define("log", &sleeper("log", "startsecs = 0\nafter = [\"db\"]"));
    let start = host.kxl(["start", "all"]);
    assert_ne!(start.code(), Some(0));
    assert!(start.stderr.contains("it requires \"db\", which is not up"), "{start}");
    assert_eq!(status(&host, "web")["state"], "STOPPED");
    assert_eq!(status(&host, "log")["state"], "RUNNING", "coming after is no requirement");
    assert_eq!(events(&host, "web", "not-started").len(), 1);
}

#[test]
fn a_slow_start_holds_up_nobody_but_what_comes_after_it() {
    let host = Host::new();
    let sign = host.scratch().join("sign");
    let text = format!(
        "until [ -e {} ]; do sleep 0.05; done; echo '@@kxl-event id=started'; exec sleep 100000",
        sign.display()
    );
    host.define("db", &script("db", &text, "managed_start = 1\npriority = 1"));
    host.define("web", &sleeper("web", "startsecs = 0\nrequires = [\"db\"]\npriority = 2"));
    host.define("late", &sleeper("late", "startsecs = 0\npriority = 900"));
    let start = host.begin(&["start", "all"]);
    super::comes_to(&host, "late", "RUNNING");
    assert_eq!(status(&host, "db")["state"], "STARTING");
    assert_eq!(status(&host, "web")["state"], "STOPPED");
    fs::write(&sign, "").unwrap();
    let start = start.end(crate::support::wait::SOON).expect(0);
    assert!(start.stderr.contains("web: waits for what it comes after"), "{start}");
    assert_eq!(status(&host, "web")["state"], "RUNNING");
}

#[test]
fn names_that_nobody_has_fail_and_stop_no_others() {
    let host = Host::new();
    host.define("web", &sleeper("web", "startsecs = 0"));
    assert_eq!(host.kxl(["start", "web", "nobody"]).code(), Some(3));
    assert_eq!(host.kxl(["status", "web", "nobody"]).code(), Some(3));
    assert_eq!(host.kxl(["start", "web"]).code(), Some(4), "it runs already");
    assert_eq!(host.kxl(["stop", "web", "nobody"]).code(), Some(3));
    assert_eq!(status(&host, "web")["state"], "STOPPED");
}

#[test]
fn a_host_that_comes_up_starts_its_services_when_what_they_need_is_up() {
    let host = Host::new();
    host.define("db", &sleeper("db", "startsecs = 1\nautostart = 1"));
    host.define("web", &sleeper("web", "startsecs = 0\nautostart = 1\nrequires = [\"db\"]"));
    host.define("ill", &script("ill", "exit 1", "startsecs = 9\nstartretries = 0\nautostart = 1"));
    host.define("needs", &sleeper("needs", "autostart = 1\nrequires = [\"ill\"]"));
    host.define("by-hand", &sleeper("by-hand", "startsecs = 0"));
    host.ok(["start", "web", "db", "by-hand"]);
    for process in host.monitors().into_iter().chain(host.emulators()) {
        process.kill();
    }
    host.quiet();
    fs::remove_dir_all(host.root.join("run/kxl")).unwrap();
    host.next_boot();
    host.kxl(["host", "start"]).expect(1);
    for (name, state) in [
        ("db", "RUNNING"),
        ("web", "RUNNING"),
        ("ill", "FATAL"),
        ("needs", "STOPPED"),
        ("by-hand", "STOPPED"),
    ] {
        assert_eq!(status(&host, name)["state"], state, "{name}");
    }
    assert_eq!(events(&host, "needs", "not-started").len(), 1);
}

#[test]
fn a_host_that_is_saved_does_not_wait_for_what_waits_for_its_next_try() {
    let host = Host::new();
    host.define("ill", &script("ill", "exit 1", "startsecs = 9\nstartretries = 100"));
    host.ok(["start", "--no-wait", "ill"]);
    crate::support::wait::until("three tries have failed", crate::support::wait::SOON, || {
        let now = status(&host, "ill");
        let failed = now["supervision"]["failed_starts"].as_i64().unwrap_or(0);
        (now["state"] == "BACKOFF" && failed >= 3).then_some(())
    });
    host.kxl(["host", "save"]).expect(0);
    host.quiet();
    // It was to run, so it is tried again when the host comes back.
    host.kxl(["host", "restore"]).expect(0);
    assert_eq!(host.kxl(["stop", "ill"]).code(), Some(0));
}
