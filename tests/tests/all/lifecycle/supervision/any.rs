//! The rows of the table, on a program of the host.

use nix::sys::signal::Signal;

use super::{comes_to, events, number, script, sleeper, status};
use crate::support::{Host, wait};

/// Sends a signal to the one emulator of the host.
fn signal(host: &Host, which: Signal) -> i64 {
    host.domains();
    let emulators = host.emulators();
    assert_eq!(emulators.len(), 1, "{emulators:?}");
    emulators[0].signal(which);
    i64::from(emulators[0].pid())
}

#[test]
fn a_program_that_ends_before_startsecs_is_tried_again_and_is_fatal_in_the_end() {
    let host = Host::new();
    // Ending well is no excuse.
    host.define("web", &script("web", "exit 0", "startsecs = 60\nstartretries = 1"));
    let start = host.kxl(["start", "web"]).expect(1);
    assert!(start.stderr.contains("it is FATAL"), "{start}");
    assert!(start.stderr.contains("exit status 0 before the 60 s were over"), "{start}");
    let fatal = status(&host, "web");
    assert_eq!(
        (&fatal["state"], &fatal["supervision"]["failed_starts"]),
        (&"FATAL".into(), &2.into())
    );
    assert_eq!(events(&host, "web", "started").len(), 2, "two tries and no more");
    let alert = events(&host, "web", "fatal").pop().unwrap();
    assert!(alert["text"].as_str().unwrap().contains("2 tries"), "{alert}");
    assert!(host.ok(["status"]).contains("1 open alert"));
    host.quiet();
    // Started again, it has all its tries again.
    host.kxl(["start", "web"]).expect(1);
    assert_eq!(events(&host, "web", "started").len(), 4);
}

#[test]
fn startsecs_0_is_running_at_once_and_an_expected_end_is_exited() {
    let host = Host::new();
    host.define(
        "web",
        &script(
            "web",
            "trap 'exit 7' USR1; echo up; while :; do sleep 0.05; done",
            "startsecs = 0\nexitcodes = [0, 7]",
        ),
    );
    assert!(host.ok(["start", "web"]).starts_with("web: started, domid "));
    assert_eq!(status(&host, "web")["state"], "RUNNING");
    let mut console = crate::support::Console::attach(&host, "web");
    console.expect("up");
    signal(&host, Signal::SIGUSR1);
    let exited = comes_to(&host, "web", "EXITED");
    assert_eq!(exited["supervision"]["last_exit"]["code"], 7, "{exited}");
    assert_eq!(exited["supervision"]["last_exit"]["expected"], true, "{exited}");
    assert!(exited["told"].as_str().unwrap().ends_with("exit status 7 (expected)"), "{exited}");
    host.quiet();
    assert_eq!(host.kxl(["status", "web"]).code(), Some(4), "it is not RUNNING");
}

#[test]
fn after_running_an_unexpected_end_is_followed_by_a_start_each_time() {
    let host = Host::new();
    host.define("web", &sleeper("web", "startsecs = 1\nstartretries = 0"));
    host.ok(["start", "web"]);
    for _ in 0..3 {
        comes_to(&host, "web", "RUNNING");
        let killed = signal(&host, Signal::SIGKILL);
        wait::eventually("it is started again", || {
            status(&host, "web")["pid"].as_i64().is_some_and(|pid| pid != killed)
        });
    }
    comes_to(&host, "web", "RUNNING");
    assert_eq!(events(&host, "web", "started").len(), 4);
    let crashes = events(&host, "web", "crash");
    assert!(crashes.iter().all(|event| event["action"] == "restart"), "{crashes:?}");
    assert_eq!(host.kxl(["status", "web"]).code(), Some(0));
}

#[test]
fn autorestart_never_leaves_any_end_and_always_none() {
    let host = Host::new();
    host.define("never", &sleeper("never", "startsecs = 0\nautorestart = \"never\""));
    host.ok(["start", "never"]);
    signal(&host, Signal::SIGKILL);
    let exited = comes_to(&host, "never", "EXITED");
    assert_eq!(exited["supervision"]["last_exit"]["signal"], 9, "{exited}");
    assert_eq!(exited["supervision"]["last_exit"]["expected"], false, "{exited}");
    host.quiet();

    host.define(
        "always",
        &script("always", "sleep 0.2; exit 0", "startsecs = 0\nautorestart = \"always\""),
    );
    host.ok(["start", "always"]);
    wait::eventually("it is started again after a good end", || {
        events(&host, "always", "started").len() > 2
    });
    host.ok(["stop", "always"]);
    assert_eq!(status(&host, "always")["state"], "STOPPED");
}

#[test]
fn a_stop_ends_the_wait_for_the_next_try() {
    let host = Host::new();
    host.define("web", &script("web", "exit 1", "startsecs = 9\nstartretries = 100"));
    host.ok(["start", "--no-wait", "web"]);
    let waiting = comes_to(&host, "web", "BACKOFF");
    assert!(waiting["told"].as_str().unwrap().contains("exit status 1"), "{waiting}");
    // Whichever of the two it is at this moment, it ends and stays off.
    assert!(host.ok(["stop", "web"]).starts_with("web: stopped"));
    assert_eq!(status(&host, "web")["state"], "STOPPED");
    host.quiet();
}

#[test]
fn a_shutdown_ends_the_wait_for_the_next_try_as_well() {
    let host = Host::new();
    // The wait after the third try leaves time for this.
    host.define("web", &script("web", "exit 1", "startsecs = 9\nstartretries = 100"));
    host.ok(["start", "--no-wait", "web"]);
    wait::until("three tries have failed", wait::SOON, || {
        let now = status(&host, "web");
        let failed = now["supervision"]["failed_starts"].as_i64().unwrap_or(0);
        (now["state"] == "BACKOFF" && failed >= 3).then_some(())
    });
    host.ok(["shutdown", "--wait", "web"]);
    assert_eq!(status(&host, "web")["state"], "STOPPED");
    host.quiet();
}

#[test]
fn a_stop_while_it_starts_ends_in_stopped_and_no_rule_undoes_it() {
    let host = Host::new();
    host.define("web", &sleeper("web", "startsecs = 1000\nautorestart = \"always\""));
    host.ok(["start", "--no-wait", "web"]);
    assert_eq!(status(&host, "web")["state"], "STARTING");
    assert_eq!(host.ok(["stop", "web"]), "web: stopped\n");
    let stopped = status(&host, "web");
    assert_eq!((&stopped["state"], &stopped["reason"]), (&"STOPPED".into(), &"poweroff".into()));
    host.quiet();
    assert_eq!(events(&host, "web", "started").len(), 1);
}

#[test]
fn what_does_not_obey_within_stopwaitsecs_is_destroyed() {
    let host = Host::new();
    host.define(
        "web",
        &script(
            "web",
            "trap '' TERM; echo up; while :; do sleep 0.05; done",
            "startsecs = 0\nstopwaitsecs = 1",
        ),
    );
    host.ok(["start", "web"]);
    let mut console = crate::support::Console::attach(&host, "web");
    console.expect("up");
    assert_eq!(host.ok(["stop", "web"]), "web: stopped (destroyed: it had not ended within 1 s)\n");
    assert_eq!(events(&host, "web", "stop-forced").len(), 1);
    assert_eq!(status(&host, "web")["state"], "STOPPED");
    host.quiet();
}

#[test]
fn a_program_that_is_missing_is_fatal_at_once() {
    let host = Host::new();
    let config = "name = \"web\"\nbackend = \"any\"\nexec = \"/nowhere/at/all\"\nmemory = 8\nstartretries = 9\n";
    host.define("web", config);
    let start = host.kxl(["start", "web"]).expect(1);
    assert!(start.stderr.contains("/nowhere/at/all"), "{start}");
    let fatal = status(&host, "web");
    assert_eq!(
        (&fatal["state"], &fatal["supervision"]["failed_starts"]),
        (&"FATAL".into(), &1.into())
    );
    host.quiet();
}

#[test]
fn the_time_of_a_start_stands_still_with_its_domain() {
    let host = Host::new();
    host.define("web", &sleeper("web", "startsecs = 1"));
    host.ok(["start", "--paused", "web"]);
    let began = number(&status(&host, "web"), "uptime_seconds");
    wait::eventually("more than startsecs pass", || {
        number(&status(&host, "web"), "uptime_seconds") > began + 2
    });
    assert_eq!(status(&host, "web")["state"], "STARTING");
    host.ok(["unpause", "web"]);
    comes_to(&host, "web", "RUNNING");
    host.ok(["pause", "web"]);
    let paused = status(&host, "web");
    assert_eq!(paused["state"], "RUNNING", "{paused}");
    assert!(paused["told"].as_str().unwrap().ends_with(", paused"), "{paused}");
}

#[test]
fn a_managed_start_that_its_guest_does_not_confirm_is_hung() {
    let host = Host::new();
    host.define("web", &sleeper("web", "managed_start = 1\nstart_timeout = 1\nstartretries = 0"));
    let start = host.kxl(["start", "web"]).expect(1);
    assert!(start.stderr.contains("it has not started within 1 s"), "{start}");
    assert_eq!(events(&host, "web", "start-hung").len(), 1);
    assert_eq!(status(&host, "web")["state"], "FATAL");
    host.quiet();
}

#[test]
fn a_guest_says_that_it_has_started_or_cannot() {
    let host = Host::new();
    host.define(
        "well",
        &script(
            "well",
            "sleep 0.3; echo '@@kxl-event id=started'; exec sleep 100000",
            "managed_start = 1",
        ),
    );
    assert!(host.ok(["start", "well"]).starts_with("well: started"));
    host.define(
        "ill",
        &script(
            "ill",
            "sleep 0.3; echo '@@kxl-event id=failed text=no-disk'; exec sleep 100000",
            "managed_start = 1\nstartretries = 0",
        ),
    );
    let start = host.kxl(["start", "ill"]).expect(1);
    assert!(start.stderr.contains("no-disk"), "{start}");
    host.domains();
    assert_eq!(host.emulators().len(), 1, "the one that could not start was ended");
}

#[test]
fn progress_lifts_the_limit_of_a_start_until_it_stops_coming() {
    let host = Host::new();
    let text = "for i in 1 2 3 4 5 6; do echo \\\"@@kxl-event id=progress percent=${i}0 text=fsck\\\"; sleep 0.5; done; echo '@@kxl-event id=started'; exec sleep 100000";
    let lines = "managed_start = 1\nstart_timeout = 2\nprogress_interval = 2\nstartretries = 0";
    host.define("web", &script("web", text, lines));
    let start = host.begin(&["start", "web"]);
    let seen = wait::until("its progress is shown", wait::SOON, || {
        let told = status(&host, "web")["told"].as_str().unwrap_or_default().to_owned();
        told.starts_with("(maintenance ").then_some(told)
    });
    assert!(seen.ends_with("0 %: fsck)"), "{seen}");
    start.end(wait::SOON).expect(0);
    assert_eq!(status(&host, "web")["state"], "RUNNING");

    let text = "echo '@@kxl-event id=progress percent=42'; exec sleep 100000";
    host.define(
        "hung",
        &script("hung", text, &lines.replace("progress_interval = 2", "progress_interval = 1")),
    );
    let start = host.kxl(["start", "hung"]).expect(1);
    assert!(start.stderr.contains("hung at 42 %"), "{start}");
}

#[test]
fn a_reboot_that_a_person_asks_for_is_no_end_whatever_autorestart_says() {
    let host = Host::new();
    host.define("web", &sleeper("web", "startsecs = 0\nautorestart = \"never\""));
    host.ok(["start", "web"]);
    let before = status(&host, "web");
    host.ok(["reboot", "--wait", "web"]);
    let after = comes_to(&host, "web", "RUNNING");
    assert_ne!(after["pid"], before["pid"], "{after}");
}
