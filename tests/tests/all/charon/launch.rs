//! Starting, the console, and stopping.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use kxl_domain::State;

use super::{Guest, free_port};
use crate::support::Host;
use crate::support::console::Console;
use crate::support::host::programs;
use crate::support::wait;

#[test]
fn telnet_and_kxl_console_are_connected_together_at_the_configured_port() {
    let host = Host::new();
    let guest = Guest::new(&host, "ds20", "", "");
    guest.start(&host);
    let domain = host.domain("ds20");
    assert_eq!(domain.state(), State::Running);
    // What runs is the one in the background, on a copy with another port.
    let emulator = host.emulator_of(&domain);
    assert!(emulator.args.iter().any(|arg| arg == "--in-the-background"), "{emulator:?}");
    let copy = fs::read_to_string(host.rundir(&domain).join("ds20.charon")).unwrap();
    assert!(!copy.contains(&format!("port={}", guest.port)), "{copy}");
    assert!(copy.contains("stop_on=\"F6\""), "{copy}");

    let mut telnet = guest.telnet();
    telnet.expect("P00>>>");
    let mut console = Console::attach(&host, "ds20");
    console.expect("P00>>>");
    telnet.send("show config\r\0");
    telnet.expect("?show config: not a command");
    console.expect("?show config: not a command");
    drop(telnet);
    // The keyboard passes on when the monitor has seen the other one hang up; until then what is
    // typed goes nowhere.
    wait::eventually("the other viewer may write", || {
        console.send("help\r");
        console.text().contains("?help: not a command")
    });
    let mut late = guest.telnet();
    late.expect("?help: not a command");
    // The key that ends the emulator, typed by an operator.
    console.send("\u{1b}[17~");
    host.rests("ds20", State::Halted);
    late.expect("[kxl: ");
}

#[test]
fn a_port_that_is_taken_is_refused_with_its_owner_and_free_again_after_a_stop() {
    let host = Host::new();
    let first = Guest::new(&host, "one", "", "");
    let second = Guest::at(&host, "two", first.port, "", "");
    first.start(&host);
    let refused = host.refused(1, &["start", "two"]);
    let said = format!("port {} of 127.0.0.1: it is taken by", first.port);
    assert!(refused.stderr.contains(&said), "{refused}");
    assert!(refused.stderr.contains("of domain \"one\""), "{refused}");
    host.ok(["destroy", "one"]);
    second.start(&host);
    second.telnet().expect("P00>>>");
    host.ok(["destroy", "two"]);
    // Its monitor lets go of the port at its end, a moment behind the answer to the command.
    let stranger = wait::until("the port is free", wait::SOON, || {
        std::net::TcpListener::bind(("127.0.0.1", first.port)).ok()
    });
    let refused = host.refused(1, &["start", "one"]);
    assert!(refused.stderr.contains(&format!("(pid {})", std::process::id())), "{refused}");
    drop(stranger);
    assert!(host.emulators().is_empty());
}

#[test]
fn what_an_emulator_in_the_background_cannot_have_is_refused() {
    let host = Host::new();
    let text = "set session hw_model = AlphaServer_DS20\n\
                load physical_serial_line OPA0 line=\"/dev/ttyS0\"\n";
    let file = host.file("serial.charon", text);
    Guest::of(&host, "serial", 1, file, "");
    let refused = host.refused(1, &["start", "serial"]);
    assert!(refused.stderr.contains("its console is the serial line /dev/ttyS0"), "{refused}");

    Guest::new(&host, "nic", "load packet_port/chnetwrk P interface=\"nosuchnic0\"\n", "");
    let refused = host.refused(1, &["start", "nic"]);
    assert!(refused.stderr.contains("nosuchnic0 does not exist (1)"), "{refused}");

    let broken = host.file("broken.charon", "load DHV11 TXA\n");
    Guest::of(&host, "broken", 1, broken, "");
    let refused = host.refused(1, &["start", "broken"]);
    assert!(refused.stderr.contains("broken.charon"), "{refused}");
    assert!(host.emulators().is_empty());
}

fn script(host: &Host, name: &str, text: &str) -> String {
    let file = host.file(name, &format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    file.display().to_string()
}

#[test]
fn a_script_before_the_start_is_run_and_its_failure_refuses_the_start() {
    let host = Host::new();
    let flag = host.scratch().join("flag");
    let text = format!(
        "echo \"$KXL_DOMAIN $1\" > {0}; test -e {0}.allow || {{ echo one >&2; echo no \
                        backup disk >&2; exit 5; }}",
        flag.display()
    );
    let script = script(&host, "pre", &text);
    let guest = Guest::new(&host, "ds20", "", &format!("prestart = \"{script}\"\n"));
    let refused = host.refused(1, &["start", "ds20"]);
    assert!(refused.stderr.contains("exit status 5: no backup disk"), "{refused}");
    let said = fs::read_to_string(&flag).unwrap();
    assert_eq!(said, format!("ds20 {}\n", guest.file.display()));
    assert!(host.emulators().is_empty());
    fs::write(flag.with_extension("allow"), "").unwrap();
    guest.start(&host);
    host.ok(["destroy", "ds20"]);
}

#[test]
fn a_stop_script_shuts_the_guest_down_by_its_console() {
    let host = Host::new();
    let kxl = programs().join("kxl");
    let text = format!(
        "{{ printf 'power off\\r'; sleep 1; }} | {} console --steal \"$KXL_DOMAIN\" > /dev/null",
        kxl.display()
    );
    let script = script(&host, "stop", &text);
    let guest = Guest::new(&host, "ds20", "", &format!("stop_script = \"{script}\"\n"));
    guest.start(&host);
    guest.telnet().expect("P00>>>");
    host.ok(["shutdown", "--wait", "ds20"]);
    let domain = host.rests("ds20", State::Halted);
    assert_eq!(domain.reason(), Some("poweroff"));
}

#[test]
fn without_a_stop_script_there_is_no_shutdown_and_one_that_fails_is_told() {
    let host = Host::new();
    let guest = Guest::new(&host, "ds20", "", "");
    guest.start(&host);
    host.refused(5, &["shutdown", "ds20"]);
    host.ok(["destroy", "ds20"]);
    let script = script(&host, "stop", "echo no route to host >&2; exit 1");
    let guest = Guest::new(&host, "es40", "", &format!("stop_script = \"{script}\"\n"));
    guest.start(&host);
    host.ok(["shutdown", "es40"]);
    wait::eventually("the failure is an event", || {
        let told = |event: &serde_json::Value| {
            event["what"] == "shutdown-failed"
                && event["text"].as_str().is_some_and(|text| text.contains("no route to host"))
        };
        host.events("es40").iter().any(told)
    });
    assert_eq!(host.domain("es40").state(), State::Running);
    host.ok(["destroy", "es40"]);
}

#[test]
fn a_log_is_where_the_configuration_says_and_relative_to_it() {
    let host = Host::new();
    fs::create_dir(host.scratch().join("logs")).unwrap();
    let guest = Guest::new(&host, "ds20", "set session log=\"logs\"\n", "");
    guest.start(&host);
    let beside = guest.file.parent().unwrap();
    let log = fs::read_to_string(beside.join("logs/ds20.log")).unwrap();
    assert!(log.contains("STAND-IN"), "{log}");
    host.ok(["destroy", "ds20"]);
    let port = free_port();
    let file = Guest::at(&host, "es40", port, "set session log=\"es40.txt\"\n", "");
    file.start(&host);
    assert!(beside.join("es40.txt").is_file());
    host.ok(["destroy", "es40"]);
}

#[test]
fn a_charon_is_paused_by_freezing_it_and_reboots_at_its_own_port() {
    let host = Host::new();
    let guest = Guest::new(&host, "ds20", "", "on_crash = \"restart\"\n");
    guest.start(&host);
    host.ok(["pause", "ds20"]);
    assert_eq!(host.domain("ds20").state(), State::Paused);
    host.ok(["unpause", "ds20"]);
    let mut console = Console::attach(&host, "ds20");
    console.expect("P00>>>");
    let before = host.domain("ds20").domid();
    console.send("crash\r");
    // The next emulator has the port again, and the viewer is still there.
    console.expect("STAND-IN console");
    wait::eventually("it is another one", || {
        host.domain("ds20").domid().is_some_and(|domid| Some(domid) != before)
    });
    guest.telnet().expect("P00>>>");
    host.ok(["destroy", "ds20"]);
}
