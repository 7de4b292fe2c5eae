//! What a program says right before its end counts: it comes by another way than the end.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;

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

#[test]
fn last_words_do_not_act_on_the_terminal_of_whoever_is_told_them() {
    let host = Host::new();
    let words = r"ok \\342\\200\\256evil \\302\\233 31m \\033[31mred \\033]0;title\\007 end\\n";
    host.define("web", &program("web", &format!("printf '{words}'; exit 1")));
    let start = host.kxl(["start", "web"]).expect(1);
    let told = [
        start.stderr,
        host.ok(["why", "web"]),
        host.kxl(["status", "web"]).stdout,
        host.ok(["events", "web"]),
        host.ok(["list", "-l", "web"]),
        event(&host, "web", "fatal")["text"].as_str().unwrap().to_owned(),
    ];
    for text in told {
        assert!(text.contains("evil") || text.contains("\"name\""), "{text}");
        let acts =
            |c: char| (c.is_control() && c != '\n') || ('\u{200e}'..='\u{202e}').contains(&c);
        assert!(!text.contains(acts), "{text:?}");
    }
}

#[test]
fn a_console_whose_output_nobody_reads_ends_without_a_word_of_its_guest() {
    let host = Host::new();
    host.create("web", &program("web", "echo '@@kxl-event id=started'; exec sleep 1000"));
    let mut command = host.command("kxl", ["console", "web"]);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
    let mut console = command.spawn().unwrap();
    // What was said before is read, so that only the end of the reader is left to be noticed.
    let mut shown = Vec::new();
    let mut reader = console.stdout.take().unwrap();
    while !String::from_utf8_lossy(&shown).contains("@@kxl-event") {
        let mut some = [0; 256];
        let count = reader.read(&mut some).unwrap();
        assert!(count > 0, "{shown:?}");
        shown.extend(&some[..count]);
    }
    drop(reader);
    let ended = wait::until("the console ends", wait::SOON, || console.try_wait().unwrap());
    assert_eq!(ended.signal(), Some(nix::sys::signal::Signal::SIGPIPE as i32));
    host.ok(["destroy", "web"]);
}
