//! What the death of a monitor costs a supervised domain: nothing that the next command does not
//! find again.

use nix::sys::signal::Signal;

use super::{comes_to, events, number, script, sleeper, status};
use crate::support::{Host, wait};

fn kill_monitor(host: &Host) {
    let monitors = host.monitors();
    assert_eq!(monitors.len(), 1, "{monitors:?}");
    monitors[0].kill();
    wait::eventually("the monitor goes", || host.monitors().is_empty());
}

#[test]
fn a_wait_for_the_next_try_goes_on_under_another_monitor() {
    let host = Host::new();
    host.define("web", &script("web", "exit 1", "startsecs = 9\nstartretries = 4"));
    host.ok(["start", "--no-wait", "web"]);
    let failed =
        |now: &serde_json::Value| now["supervision"]["failed_starts"].as_i64().unwrap_or(0);
    wait::until("two tries have failed", wait::SOON, || {
        let now = status(&host, "web");
        (now["state"] == "BACKOFF" && failed(&now) >= 2).then_some(())
    });
    kill_monitor(&host);
    let left = status(&host, "web");
    assert!(failed(&left) >= 2, "{left}");
    host.ok(["recover"]);
    let fatal = comes_to(&host, "web", "FATAL");
    assert_eq!(failed(&fatal), 5, "no try was counted twice, none was lost: {fatal}");
    assert_eq!(events(&host, "web", "started").len(), 5);
    host.quiet();
}

#[test]
fn a_stop_of_a_domain_that_waits_holds_after_its_monitor_died() {
    let host = Host::new();
    host.define("web", &script("web", "exit 1", "startsecs = 9\nstartretries = 100"));
    host.ok(["start", "--no-wait", "web"]);
    wait::until("three tries have failed", wait::SOON, || {
        let now = status(&host, "web");
        let failed = now["supervision"]["failed_starts"].as_i64().unwrap_or(0);
        (now["state"] == "BACKOFF" && failed >= 3).then_some(())
    });
    kill_monitor(&host);
    host.ok(["stop", "web"]);
    host.ok(["recover"]);
    assert_eq!(status(&host, "web")["state"], "STOPPED");
    host.quiet();
}

#[test]
fn a_start_goes_on_with_the_rest_of_its_time_under_another_monitor() {
    let host = Host::new();
    host.define("web", &sleeper("web", "startsecs = 3"));
    host.ok(["start", "--no-wait", "web"]);
    let before = status(&host, "web");
    assert_eq!(before["state"], "STARTING");
    kill_monitor(&host);
    host.ok(["recover"]);
    let up = comes_to(&host, "web", "RUNNING");
    assert_eq!(up["pid"], before["pid"], "the program was left alone");
    assert!(number(&up, "uptime_seconds") >= 3, "{up}");
}

#[test]
fn an_end_that_nobody_saw_is_followed_by_the_rules() {
    let host = Host::new();
    host.define("web", &sleeper("web", "startsecs = 1"));
    host.ok(["start", "web"]);
    let before = status(&host, "web");
    kill_monitor(&host);
    host.domains();
    host.emulators()[0].kill();
    host.ok(["recover"]);
    let up = comes_to(&host, "web", "RUNNING");
    assert_ne!(up["pid"], before["pid"], "it was started again");

    host.ok(["stop", "web"]);
    host.define("idle", &sleeper("idle", "startsecs = 1\nautorestart = \"never\""));
    host.ok(["start", "idle"]);
    kill_monitor(&host);
    host.domains();
    host.emulators()[0].kill();
    host.ok(["recover"]);
    assert_eq!(status(&host, "idle")["state"], "EXITED");
    host.quiet();
}

#[test]
fn a_shutdown_is_not_undone_when_the_monitor_dies_before_its_guest_obeys() {
    let host = Host::new();
    host.define(
        "web",
        &script(
            "web",
            "trap '' TERM; echo up; while :; do sleep 0.05; done",
            "startsecs = 0\nautorestart = \"always\"",
        ),
    );
    host.ok(["start", "web"]);
    let mut console = crate::support::Console::attach(&host, "web");
    console.expect("up");
    drop(console);
    host.ok(["shutdown", "web"]);
    assert_eq!(status(&host, "web")["state"], "STOPPING");
    kill_monitor(&host);
    host.domains();
    host.emulators()[0].kill();
    host.ok(["recover"]);
    assert_eq!(status(&host, "web")["state"], "STOPPED");
    host.quiet();
}

#[test]
fn a_restart_that_is_cut_off_at_any_step_goes_on() {
    for step in ["end-seen", "renewed", "recorded", "launched", "started"] {
        let host = Host::new();
        host.define("web", &sleeper("web", "startsecs = 1"));
        host.kxl_with("KXL_FAULT", &format!("kill@{step}"), &["start", "--no-wait", "web"]);
        // The first start was cut off by the same fault, or the first restart is.
        host.ok(["recover"]);
        let before = comes_to(&host, "web", "RUNNING");
        host.domains();
        host.emulators()[0].kill();
        wait::until(&format!("{step}: it runs again"), wait::SOON, || {
            host.ok(["recover"]);
            let now = status(&host, "web");
            (now["state"] == "RUNNING" && now["pid"] != before["pid"]).then_some(())
        });
        host.domains();
        assert_eq!(host.emulators().len(), 1, "{step}");
        host.ok(["stop", "web"]);
        host.quiet();
    }
}

#[test]
fn monitors_that_are_told_to_leave_leave_the_domain_and_what_is_known_of_it() {
    let host = Host::new();
    host.define("web", &sleeper("web", "startsecs = 1"));
    host.ok(["start", "web"]);
    let before = status(&host, "web");
    host.monitors()[0].signal(Signal::SIGTERM);
    wait::eventually("the monitor goes", || host.monitors().is_empty());
    host.domains();
    assert_eq!(host.emulators().len(), 1);
    host.ok(["recover"]);
    let after = status(&host, "web");
    assert_eq!((&after["state"], &after["pid"]), (&"RUNNING".into(), &before["pid"]));
}
