//! What is the native monitor's own: how its guests end, and what the host says of it. The rest is
//! in the suite of conformance.

use std::io::Write;
use std::os::unix::net::UnixStream;

use kxl_domain::State;

use crate::support::skip::skipped;
use crate::support::tiny::Tiny;
use crate::support::{Console, Domain, Host, wait};

/// What is typed, the policy that applies and the reason that is recorded.
const ENDS: &[(&str, &str, &str)] = &[
    ("p", "on_poweroff", "poweroff"),
    ("r", "on_reboot", "reboot"),
    ("k", "on_reboot", "reboot"),
    ("f", "on_reboot", "reboot"),
    ("x", "on_crash", "crash"),
];

fn up(host: &Host, tiny: &Tiny, lines: &str) -> Domain {
    host.define("it", &format!("{}{lines}\n", tiny.config("it")));
    host.ok(["start", "it"]);
    host.domain("it")
}

#[test]
fn a_tiny_guests_ends_are_told_apart() {
    let tiny = Tiny::new();
    if skipped("a_tiny_guests_ends_are_told_apart", &tiny) {
        return;
    }
    let tiny = tiny.unwrap();
    for (key, policy, reason) in ENDS {
        let host = Host::new();
        up(&host, &tiny, &format!("{policy} = \"destroy\""));
        let mut console = Console::attach(&host, "it");
        console.expect("READY");
        console.send(key);
        let after = host.rests("it", State::Halted);
        assert_eq!(after.reason(), Some(*reason), "{key}");
    }
}

#[test]
fn how_a_tiny_guest_ended_is_known_also_to_a_monitor_that_comes_later() {
    let tiny = Tiny::new();
    if skipped("how_a_tiny_guest_ended_is_known_also_to_a_monitor_that_comes_later", &tiny) {
        return;
    }
    let tiny = tiny.unwrap();
    for (key, policy, reason) in ENDS {
        let host = Host::new();
        let domain = up(&host, &tiny, &format!("{policy} = \"preserve\""));
        Console::attach(&host, "it").expect("READY");
        let monitor = host.monitor_of(&domain);
        monitor.kill();
        wait::eventually("the monitor ends", || !monitor.alive());
        // The console is free for anybody with the monitor's rights.
        let socket = host.rundir(&domain).join("console.sock");
        let mut console = UnixStream::connect(socket).unwrap();
        console.write_all(key.as_bytes()).unwrap();
        wait::eventually("the guest ends", || {
            host.kxl(["recover"]).expect(0);
            host.domain("it").reason() == Some(*reason)
        });
        drop(console);
        host.ok(["destroy", "it"]);
        host.quiet();
    }
}

#[test]
fn a_guest_that_asks_for_a_reboot_comes_up_in_a_new_process() {
    let tiny = Tiny::new();
    if skipped("a_guest_that_asks_for_a_reboot_comes_up_in_a_new_process", &tiny) {
        return;
    }
    let (host, tiny) = (Host::new(), tiny.unwrap());
    let before = up(&host, &tiny, "");
    let mut console = Console::attach(&host, "it");
    console.expect("READY");
    console.send("r");
    console.expect("READY");
    let after = host.answering("it");
    assert_eq!(after.uuid(), before.uuid());
    assert_ne!((after.domid(), after.pid()), (before.domid(), before.pid()));
}

#[test]
fn the_list_of_backends_tells_why_linux_does_not_belong_on_this_kvm() {
    let host = Host::new();
    let list = host.ok(["info", "--backends", "--json"]);
    let list: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
    let kvm = list.iter().find(|entry| entry["name"] == "kvm").expect("it is in the list");
    assert_eq!(kvm["programs"].as_array().unwrap().len(), 1, "{kvm}");
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let able = flags.split_whitespace().any(|flag| flag == "svm" || flag == "vmx")
        && std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    let missing = kvm["missing"].as_array().unwrap();
    assert_eq!(missing.is_empty(), able, "{kvm}");
}
