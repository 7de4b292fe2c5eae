//! What a program says right before its end counts: it comes by another way than the end.

use serde_json::Value;

use crate::support::{Host, wait};

const LINES: usize = 3000;

/// A domain whose console is listened to, and which ends at once after it said its last words.
fn program(name: &str, script: &str) -> String {
    format!(
        "name = \"{name}\"\nbackend = \"any\"\nexec = \"/bin/sh\"\nmemory = 8\n\
         device_model_args = [\"-c\", \"{script}\"]\n\
         managed_start = 1\nstartretries = 0\nautorestart = \"never\"\n"
    )
}

fn event(host: &Host, name: &str, what: &str) -> Value {
    wait::until(&format!("{what} of {name}"), wait::BOOT, || {
        host.events(name).into_iter().find(|event| event["what"] == what)
    })
}

#[test]
fn a_failure_that_is_told_right_before_the_end_is_the_reason() {
    let host = Host::new();
    host.define("web", &program("web", "echo '@@kxl-event id=failed text=nodisk'; exit 1"));
    let _it_fails = host.kxl(["start", "web"]);
    let fatal = event(&host, "web", "fatal");
    assert!(fatal["text"].as_str().unwrap().contains("its guest says: nodisk"), "{fatal}");
}

#[test]
fn a_start_that_is_told_right_before_the_end_was_a_start() {
    let host = Host::new();
    host.define("web", &program("web", "echo '@@kxl-event id=started'; exit 3"));
    let _it_may_have_ended = host.kxl(["start", "web"]);
    event(&host, "web", "running");
    event(&host, "web", "crash");
    assert!(host.events("web").iter().all(|event| event["what"] != "fatal"));
}

#[test]
fn the_last_lines_of_a_program_are_in_the_log_of_its_console_and_among_the_events() {
    let host = Host::new();
    let script = format!("seq 1 {LINES}; echo '@@kxl-event id=alert text=dying'; exit 1");
    host.define("web", &program("web", &script));
    let _it_fails = host.kxl(["start", "web"]);
    event(&host, "web", "guest-alert");
    event(&host, "web", "fatal");
    let log = host.ok(["console", "--log", "web"]);
    let last = LINES.to_string();
    assert!(log.lines().any(|line| line.trim_end().ends_with(&last)), "{log}");
}
