//! The same on every backend: machines whose guests end in more ways than a program does.

use nix::sys::signal::Signal;

use super::{comes_to, events, status};
use crate::support::skip::skipped;
use crate::support::{Console, Host, guest, wait};

/// Starts, is killed and started again, and is stopped.
fn is_supervised(config: &str) {
    let host = Host::new();
    host.define("web", &format!("{config}\nstartsecs = 1\nstopwaitsecs = 2\n"));
    assert!(host.ok(["start", "web"]).starts_with("web: started"));
    let before = status(&host, "web");
    assert_eq!(before["state"], "RUNNING", "{before}");
    host.domains();
    host.emulators()[0].signal(Signal::SIGKILL);
    wait::eventually("it is started again", || {
        let now = status(&host, "web");
        now["state"] == "RUNNING" && now["pid"].is_i64() && now["pid"] != before["pid"]
    });
    assert!(host.ok(["stop", "web"]).starts_with("web: stopped"));
    assert_eq!(status(&host, "web")["state"], "STOPPED");
    host.quiet();
}

#[test]
fn a_mock_domain_is_supervised() {
    is_supervised(&guest::mock("web", ""));
}

#[test]
fn a_simulated_machine_is_supervised() {
    let config = guest::simh("pdp11", "web");
    if !skipped("a_simulated_machine_is_supervised", &config) {
        is_supervised(&config.unwrap());
    }
}

#[test]
fn a_machine_of_qemu_is_supervised() {
    let config = guest::qemu("x86_64", "web", "", "");
    if !skipped("a_machine_of_qemu_is_supervised", &config) {
        let _slot = guest::slot();
        is_supervised(&config.unwrap());
    }
}

fn running(lines: &str) -> (Host, Console) {
    let host = Host::new();
    host.define("web", &guest::mock_with("web", "", lines));
    host.ok(["start", "web"]);
    let mut console = Console::attach(&host, "web");
    console.expect("READY");
    (host, console)
}

#[test]
fn a_guest_that_switches_itself_off_has_exited_well() {
    let (host, mut console) = running("startsecs = 0");
    console.send("p");
    let exited = comes_to(&host, "web", "EXITED");
    assert_eq!(exited["supervision"]["last_exit"]["code"], 0, "{exited}");
    host.quiet();
}

#[test]
fn a_guest_that_crashes_is_started_again() {
    for key in ["k", "W"] {
        let (host, mut console) = running("startsecs = 0");
        let before = status(&host, "web");
        console.send(key);
        wait::eventually("it is started again", || {
            let now = status(&host, "web");
            now["pid"].is_i64() && now["pid"] != before["pid"]
        });
        comes_to(&host, "web", "RUNNING");
    }
}

#[test]
fn a_guest_that_switches_itself_off_before_startsecs_has_failed_to_start() {
    let host = Host::new();
    host.define("web", &guest::mock_with("web", "", "startsecs = 600\nstartretries = 0"));
    host.ok(["start", "--no-wait", "web"]);
    let mut console = Console::attach(&host, "web");
    console.expect("READY");
    console.send("p");
    comes_to(&host, "web", "FATAL");
    assert_eq!(events(&host, "web", "fatal").len(), 1);
    host.quiet();
}

#[test]
fn a_reboot_is_no_end_and_on_reboot_decides() {
    let (host, mut console) = running("startsecs = 0\nautorestart = \"never\"");
    let before = status(&host, "web");
    console.send("r");
    wait::eventually("it runs anew", || {
        let now = status(&host, "web");
        now["state"] == "RUNNING" && now["pid"] != before["pid"]
    });
    let (host, mut console) =
        running("startsecs = 0\nautorestart = \"always\"\non_reboot = \"destroy\"");
    console.send("r");
    comes_to(&host, "web", "EXITED");
    host.quiet();
}

#[test]
fn a_domain_that_was_running_is_running_when_it_comes_back() {
    let host = Host::new();
    host.define("web", &guest::mock_with("web", "memory=1M", "startsecs = 1"));
    host.ok(["start", "web"]);
    host.ok(["suspend", "web"]);
    let suspended = status(&host, "web");
    assert_eq!((&suspended["state"], &suspended["told"]), (&"STOPPED".into(), &"suspended".into()));
    host.ok(["resume", "web"]);
    assert_eq!(status(&host, "web")["state"], "RUNNING");
    let file = host.scratch().join("web.kxl");
    host.ok(["save", "web", file.to_str().unwrap()]);
    assert_eq!(status(&host, "web")["state"], "STOPPED");
    host.ok(["restore", file.to_str().unwrap()]);
    assert_eq!(status(&host, "web")["state"], "RUNNING");
}

#[test]
fn a_domain_that_was_starting_goes_on_with_its_start_when_it_comes_back() {
    let host = Host::new();
    host.define("web", &guest::mock_with("web", "memory=1M", "startsecs = 1000"));
    host.ok(["start", "--no-wait", "web"]);
    host.ok(["suspend", "web"]);
    host.ok(["resume", "web"]);
    let now = status(&host, "web");
    assert_eq!(now["state"], "STARTING", "{now}");
    assert!(now["supervision"]["since_ms"].is_i64(), "its time runs: {now}");
}
