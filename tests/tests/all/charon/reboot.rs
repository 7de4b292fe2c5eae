//! The host goes down and comes up again under a Charon: in order, with the stop script, and by the
//! loss of its power.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use kxl_domain::State;

use super::Guest;
use crate::support::{Host, run, wait};

/// A stop script that switches the machine off at its console.
fn stop_script(host: &Host) -> String {
    let text = format!(
        "#!/bin/sh\nPATH={}:$PATH\necho \"$1 $KXL_DOMAIN\" >> {}\n\
         {{ printf 'power off\\r'; sleep 1; }} | kxl console --steal $KXL_DOMAIN > /dev/null\n",
        host.bin().display(),
        host.scratch().join("told").display()
    );
    let file = host.file("stop", &text);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
    format!("stop_script = \"{}\"\n", file.display())
}

/// What the stop script was called with, by now.
fn told(host: &Host) -> String {
    fs::read_to_string(host.scratch().join("told")).unwrap_or_default()
}

#[test]
fn a_host_shutdown_runs_the_stop_script_and_the_next_boot_starts_what_starts_with_it() {
    let host = Host::new();
    let script = stop_script(&host);
    let auto = Guest::new(&host, "auto", "", &format!("{script}autostart = 1\n"));
    let other = Guest::new(&host, "other", "", &script);
    for guest in [&auto, &other] {
        guest.start(&host);
        guest.telnet().expect("P00>>>");
    }
    let plan = host.ok(["host", "shutdown", "--dry-run"]);
    assert!(plan.contains("auto") && plan.contains("other"), "{plan}");
    assert_eq!(told(&host), "");
    host.ok(["host", "shutdown"]);
    for guest in [&auto, &other] {
        let domain = host.rests(guest.name, State::Halted);
        assert_eq!(domain.reason(), Some("poweroff"), "{domain:?}");
        let line = format!("{} {}\n", guest.file.display(), guest.name);
        assert!(told(&host).contains(&line), "{}", told(&host));
    }
    host.reboot();
    host.ok(["host", "start"]);
    auto.telnet().expect("P00>>>");
    assert_eq!(host.domain("auto").rests(), Some(State::Running));
    // What the shutdown of the host has stopped comes back with it.
    other.telnet().expect("P00>>>");
    host.ok(["host", "start"]);
    assert_eq!(host.emulators().len(), 2, "{:?}", host.emulators());
}

/// A stop script of these lines, as a key.
fn script(host: &Host, name: &str, lines: &str) -> String {
    let file =
        host.file(name, &format!("#!/bin/sh\nPATH={}:$PATH\n{lines}\n", host.bin().display()));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
    format!("stop_script = \"{}\"\n", file.display())
}

#[test]
fn a_host_shutdown_tells_why_a_stop_script_has_failed_and_gives_a_slow_one_its_time() {
    let host = Host::new();
    let fails = script(&host, "fails", "echo no route to vms >&2\nexit 3");
    let bad = Guest::new(&host, "bad", "", &format!("{fails}stopwaitsecs = 600\n"));
    let off = "sleep 3\n{ printf 'power off\\r'; sleep 1; } | kxl console --steal $KXL_DOMAIN";
    let slow = script(&host, "slow", &format!("{off} > /dev/null"));
    let slow = Guest::new(&host, "slow", "", &format!("{slow}stopwaitsecs = 600\n"));
    for guest in [&bad, &slow] {
        guest.start(&host);
        guest.telnet().expect("P00>>>");
    }
    let path = host.scratch().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let mut command = host.command("kxl", ["host", "shutdown", "--patience", "1s"]);
    let ended = run::run(command.env("NOTIFY_SOCKET", &path), wait::BOOT).expect(1);
    let mut first = [0; 128];
    let length = manager.recv(&mut first).unwrap();
    let first = String::from_utf8_lossy(&first[..length]).into_owned();
    // The service manager waits for that long, too.
    assert!(first.starts_with("EXTEND_TIMEOUT_USEC=630000000\n"), "{first}");
    assert!(ended.stderr.contains("ended with status 3: no route to vms"), "{ended}");
    assert_eq!(host.domain("bad").rests(), Some(State::Running));
    assert_eq!(host.rests("slow", State::Halted).reason(), Some("poweroff"));
    host.ok(["destroy", "bad"]);
}

#[test]
fn a_charon_that_cannot_be_saved_is_shut_down_by_a_host_save() {
    let host = Host::new();
    let guest = Guest::new(&host, "ds20", "", &stop_script(&host));
    guest.start(&host);
    guest.telnet().expect("P00>>>");
    host.refused(5, &["save", "ds20", host.scratch().join("image").to_str().unwrap()]);
    host.ok(["host", "save"]);
    assert_eq!(host.rests("ds20", State::Halted).reason(), Some("poweroff"));
    assert!(told(&host).ends_with(" ds20\n"));
    host.reboot();
    host.ok(["host", "restore"]);
    guest.telnet().expect("P00>>>");
    assert_eq!(host.domain("ds20").rests(), Some(State::Running));
}

#[test]
fn a_lost_power_is_told_and_what_starts_with_the_host_starts_again() {
    let host = Host::new();
    let auto = Guest::new(&host, "auto", "", "autostart = 1\n");
    let other = Guest::new(&host, "other", "", "");
    auto.start(&host);
    other.start(&host);
    host.reboot();
    let state = |name: &str| {
        let listed = run::run(&mut host.command("vmlist", ["--json"]), wait::SOON).expect(0);
        let screen: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
        let all = screen["domains"].as_array().unwrap().clone();
        all.into_iter().find(|one| one["name"] == name).unwrap()["state"].clone()
    };
    assert_eq!((state("auto"), state("other")), ("INACTIVE".into(), "INACTIVE".into()));
    host.ok(["host", "start"]);
    auto.telnet().expect("P00>>>");
    let lost = host.domain("other");
    assert_eq!((lost.rests(), lost.reason()), (Some(State::Halted), Some("lost-at-host-reboot")));
    assert!(host.events("other").iter().any(|event| event["reason"] == "lost-at-host-reboot"));
    assert_eq!((state("auto"), state("other")), ("ACTIVE".into(), "INACTIVE".into()));
}
