//! A stop ends with the domain off, whatever is wrong with its guest, its emulator, its monitor or the
//! command itself.

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{comes_to, events, script, sleeper, status};
use crate::support::skip::skipped;
use crate::support::{Host, guest};

/// A program that does not hear when it is asked to end.
fn deaf(name: &str, lines: &str) -> String {
    script(name, "trap '' TERM; echo up; while :; do sleep 0.05; done", lines)
}

/// The text of the one event that tells of a forced stop.
fn forced(host: &Host, name: &str) -> String {
    let forced = events(host, name, "stop-forced");
    assert_eq!(forced.len(), 1, "{forced:?}");
    assert_eq!(forced[0]["severity"], "warning");
    forced[0]["text"].as_str().unwrap().to_owned()
}

#[test]
fn an_emulator_that_does_not_answer_is_destroyed_after_stopwaitsecs() {
    let host = Host::new();
    let config = guest::mock_with("web", "hang=powerdown", "stopwaitsecs = 1");
    host.define("web", &config);
    host.ok(["start", "web"]);
    let told = host.ok(["stop", "web"]);
    let text = "it had not ended within 1 s, and could not be asked: ";
    assert!(told.starts_with(&format!("web: stopped (destroyed: {text}")), "{told}");
    assert!(forced(&host, "web").starts_with(text));
    let stopped = status(&host, "web");
    assert_eq!((&stopped["state"], &stopped["reason"]), (&"STOPPED".into(), &"destroyed".into()));
    host.quiet();
}

#[test]
fn a_refusal_of_the_power_button_does_not_defeat_a_stop() {
    let host = Host::new();
    let config = guest::mock_with("web", "refuse=powerdown", "stopwaitsecs = 1");
    host.define("web", &config);
    host.ok(["start", "web"]);
    assert!(host.ok(["stop", "all"]).contains("and could not be asked: "));
    forced(&host, "web");
    host.quiet();
}

#[test]
fn a_guest_that_crashes_while_it_is_stopped_is_kept_where_its_policy_keeps_it() {
    let host = Host::new();
    let lines = "stopwaitsecs = 30\non_crash = \"preserve\"";
    host.define("web", &guest::mock_with("web", "ignore=powerdown", lines));
    host.ok(["start", "web"]);
    let mut console = crate::support::Console::attach(&host, "web");
    console.expect("READY");
    let stopping = host.begin(&["stop", "web"]);
    crate::support::wait::eventually("it is asked", || !events(&host, "web", "asked").is_empty());
    console.send("k");
    assert_eq!(stopping.end(crate::support::host::COMMAND).expect(0).stdout, "web: stopped\n");
    assert_eq!(host.domain("web").state(), kxl_domain::State::Shutdown);
    assert!(events(&host, "web", "stop-forced").is_empty());
    host.ok(["destroy", "web"]);
    host.quiet();
}

#[test]
fn a_stopped_machine_of_qemu_is_destroyed_after_stopwaitsecs() {
    let config = guest::qemu("x86_64", "web", "", "");
    if skipped("a_stopped_machine_of_qemu_is_destroyed_after_stopwaitsecs", &config) {
        return;
    }
    let _slot = guest::slot();
    let host = Host::new();
    host.define("web", &format!("{}\nstopwaitsecs = 2\n", config.unwrap()));
    host.ok(["start", "web"]);
    host.domains();
    host.emulators()[0].signal(Signal::SIGSTOP);
    assert!(host.ok(["stop", "web"]).contains("and could not be asked: "));
    host.quiet();
    // The same under a monitor that cannot take it up.
    host.ok(["start", "web"]);
    host.domains();
    host.emulators()[0].signal(Signal::SIGSTOP);
    host.monitors()[0].kill();
    assert!(host.ok(["stop", "web"]).contains("and could not be asked: "));
    host.quiet();
}

#[test]
fn a_monitor_that_hangs_does_not_defeat_a_stop() {
    let host = Host::new();
    host.define("web", &sleeper("web", "startsecs = 0\nstopwaitsecs = 1"));
    host.ok(["start", "web"]);
    host.monitors()[0].signal(Signal::SIGSTOP);
    let told = host.ok(["stop", "web"]);
    assert!(told.contains("the domain's monitor did not answer in time"), "{told}");
    assert_eq!(status(&host, "web")["state"], "STOPPED");
    host.quiet();
}

#[test]
fn the_monitor_carries_a_stop_through_whose_command_has_died() {
    let host = Host::new();
    host.define("web", &deaf("web", "startsecs = 0\nstopwaitsecs = 2\nautorestart = \"always\""));
    host.ok(["start", "web"]);
    let mut console = crate::support::Console::attach(&host, "web");
    console.expect("up");
    let stop = host.begin(&["stop", "web"]);
    comes_to(&host, "web", "STOPPING");
    stop.signal(Signal::SIGKILL);
    let stopped = comes_to(&host, "web", "STOPPED");
    assert_eq!(stopped["reason"], "destroyed");
    assert_eq!(stopped["supervision"]["last_exit"]["signal"], 9, "{stopped}");
    assert_eq!(forced(&host, "web"), "it had not ended within 2 s");
    host.quiet();
}

#[test]
fn the_deadline_of_a_stop_outlives_command_and_monitor() {
    let host = Host::new();
    host.define("web", &deaf("web", "stopwaitsecs = 2"));
    host.ok(["start", "--no-wait", "web"]);
    let mut console = crate::support::Console::attach(&host, "web");
    console.expect("up");
    let stop = host.begin(&["stop", "web"]);
    comes_to(&host, "web", "STOPPING");
    stop.signal(Signal::SIGKILL);
    host.monitors()[0].kill();
    crate::support::wait::eventually("the monitor goes", || host.monitors().is_empty());
    host.ok(["recover"]);
    comes_to(&host, "web", "STOPPED");
    forced(&host, "web");
    host.quiet();
}

#[test]
fn a_process_that_cannot_be_ended_is_an_alert_and_the_stop_fails() {
    let host = Host::new();
    let config = guest::mock_with("web", "", "stopwaitsecs = 1\nstartsecs = 0");
    host.define("web", &config);
    host.ok(["start", "web"]);
    host.script("web", "ignore=powerdown refuse=destroy");
    let stop = host.kxl(["stop", "web"]).expect(1);
    assert!(stop.stderr.contains("cannot destroy domain \"web\""), "{stop}");
    let alerts: Vec<Value> = events(&host, "web", "stop-failed");
    assert!(!alerts.is_empty() && alerts.iter().all(|alert| alert["severity"] == "alert"));
    assert!(host.ok(["alerts"]).contains("stop-failed"));
    assert_eq!(status(&host, "web")["state"], "STOPPING", "a person wants it off");
    host.script("web", "ok=destroy");
    assert!(host.ok(["stop", "web"]).starts_with("web: stopped"));
    assert_eq!(status(&host, "web")["state"], "STOPPED");
    host.quiet();
}

#[test]
fn a_circle_of_after_keeps_nobody_from_being_stopped() {
    let host = Host::new();
    host.define("a", &sleeper("a", "startsecs = 0\nafter = [\"b\"]"));
    host.define("b", &sleeper("b", "startsecs = 0\nafter = [\"a\"]"));
    for name in ["a", "b"] {
        host.ok(["start", name]);
    }
    let stop = host.kxl(["stop", "all"]).expect(0);
    assert_eq!(stop.stdout.lines().count(), 2, "{stop}");
    assert!(stop.stderr.contains("after= runs in a circle"), "{stop}");
    host.quiet();
}

#[test]
fn no_action_of_xen_undoes_a_shutdown_that_is_obeyed_in_an_odd_way() {
    let host = Host::new();
    let text = "trap 'exit 1' TERM; echo up; while :; do sleep 0.05; done";
    host.define("web", &script("web", text, "on_crash = \"restart\""));
    host.ok(["start", "web"]);
    let mut console = crate::support::Console::attach(&host, "web");
    console.expect("up");
    host.ok(["shutdown", "--wait", "web"]);
    assert_eq!(status(&host, "web")["state"], "STOPPED");
    host.quiet();
    assert!(host.ok(["alerts"]).trim().is_empty(), "nobody has to look after it");
}

#[test]
fn a_shutdown_between_two_runs_keeps_the_next_one_from_coming() {
    let host = Host::new();
    let lines = "startsecs = 0\nautorestart = \"always\"";
    host.define("web", &script("web", "exit 0", lines));
    host.ok(["start", "web"]);
    // Whatever it is at this moment: on its way up, there, or between the two.
    for _ in 0..5 {
        host.kxl(["shutdown", "--wait", "web"]).expect(0);
        assert_eq!(status(&host, "web")["state"], "STOPPED");
        host.kxl(["start", "web"]);
    }
    host.ok(["stop", "web"]);
    host.quiet();
}
