//! The interfaces of a Charon, on a pair of the test's own: their offloads are off while its
//! emulator lives, whoever dies meanwhile, and as before afterwards. ethtool(8) reads them.

use std::process::{Command, Stdio};

use kxl_domain::State;

use super::Guest;
use crate::support::apart::{apart, ip};
use crate::support::guest::program;
use crate::support::skip::skipped;
use crate::support::{Host, wait};

/// Words of ethtool(8) for what is switched off.
const OFFLOADS: [&str; 13] = [
    "rx-checksumming",
    "tx-checksumming",
    "scatter-gather",
    "tcp-segmentation-offload",
    "tx-udp-segmentation",
    "rx-udp-gro-forwarding",
    "rx-gro-list",
    "rx-gro-hw",
    "generic-segmentation-offload",
    "generic-receive-offload",
    "large-receive-offload",
    "rx-vlan-offload",
    "tx-vlan-offload",
];

/// What is on of an interface and can be switched.
fn on(interface: &str) -> Vec<String> {
    let mut command = Command::new("ethtool");
    let output = command.args(["-k", interface]).stderr(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let features = text.lines().filter_map(|line| line.trim().split_once(": "));
    let on = features.filter(|(name, value)| OFFLOADS.contains(name) && *value == "on");
    on.map(|(name, _)| name.to_owned()).collect()
}

/// A host with the interfaces v0 and v1, neither with an address.
fn with_interfaces(name: &'static str, test: impl FnOnce(&Host) + Send + 'static) {
    let needs = program("ethtool").and_then(|_| program("ip"));
    if skipped(name, &needs) {
        return;
    }
    apart(name, || {
        ip(&["link", "add", "v0", "type", "veth", "peer", "name", "v1"]).unwrap();
        for one in ["v0", "v1"] {
            // Else the kernel gives it an address of its own when it is up.
            ip(&["link", "set", one, "addrgenmode", "none"]).unwrap();
            ip(&["link", "set", one, "up"]).unwrap();
        }
        test(&Host::new());
    });
}

fn takes(interface: &str) -> String {
    format!("load packet_port/chnetwrk P interface=\"{interface}\"\n")
}

#[test]
fn offloads_are_off_while_an_emulator_lives_and_come_back_with_its_end() {
    with_interfaces("nics: offloads", |host| {
        // What the administrator had off stays off.
        let off = Command::new("ethtool").args(["-K", "v1", "gro", "off", "tso", "off"]).status();
        assert!(off.unwrap().success());
        let before = [on("v0"), on("v1")];
        assert!(before[0].len() >= 5 && before[1] != before[0], "{before:?}");
        let one = Guest::new(host, "one", &takes("v0"), "");
        let two = Guest::new(host, "two", &takes("v1"), "");
        one.start(host);
        assert_eq!([on("v0"), on("v1")], [vec![], before[1].clone()]);
        two.start(host);
        assert_eq!([on("v0"), on("v1")], [[""; 0], [""; 0]]);
        host.ok(["destroy", "two"]);
        wait::eventually("the second has given its own back", || on("v1") == before[1]);
        assert_eq!(on("v0"), [""; 0]);
        // By its own end as well.
        let mut telnet = one.telnet();
        telnet.expect("P00>>>");
        telnet.send("power off\r\0");
        host.rests("one", State::Halted);
        assert_eq!([on("v0"), on("v1")], before);
    });
}

#[test]
fn offloads_stay_off_over_the_death_of_a_monitor_and_come_back_after_that_of_both() {
    with_interfaces("nics: deaths", |host| {
        let before = on("v0");
        let guest = Guest::new(host, "ds20", &takes("v0"), "");
        guest.start(host);
        host.monitor_of_name("ds20").kill();
        assert_eq!(on("v0"), [""; 0]);
        host.ok(["recover"]);
        host.answering("ds20");
        assert_eq!(on("v0"), [""; 0]);
        host.ok(["destroy", "ds20"]);
        wait::eventually("they come back with its end", || on("v0") == before);

        guest.start(host);
        let emulator = host.emulator_of(&host.domain("ds20"));
        host.monitor_of_name("ds20").kill();
        emulator.kill();
        assert_eq!(on("v0"), [""; 0]);
        host.ok(["recover"]);
        host.rests("ds20", State::Halted);
        assert_eq!(on("v0"), before);
        // What a dead one has left is not what the administrator had.
        guest.start(host);
        assert_eq!(on("v0"), [""; 0]);
        host.ok(["destroy", "ds20"]);
        wait::eventually("they come back", || on("v0") == before);
    });
}

#[test]
fn offloads_are_on_again_when_a_start_is_cut_off_before_there_is_an_emulator() {
    with_interfaces("nics: cut off", |host| {
        let before = on("v0");
        for fault in ["kill@monitor-up", "kill@recorded", "kill-emulator@recorded"] {
            let guest = Guest::new(host, "ds20", &takes("v0"), "");
            let _some_are_killed = host.kxl_with("KXL_FAULT", fault, &["start", "ds20"]);
            host.ok(["recover"]);
            wait::eventually("it rests", || {
                host.find("ds20").is_some_and(|domain| domain.rests() == Some(State::Failed))
            });
            assert_eq!(on("v0"), before, "{fault}");
            guest.start(host);
            assert_eq!(on("v0"), [""; 0], "{fault}");
            host.ok(["destroy", "ds20"]);
            wait::eventually("they come back", || on("v0") == before);
            host.ok(["delete", "ds20"]);
        }
    });
}

#[test]
fn an_interface_that_a_live_domain_has_is_refused_to_another_and_free_after_it() {
    with_interfaces("nics: used", |host| {
        let one = Guest::new(host, "one", &takes("v0"), "");
        let two = Guest::new(host, "two", &takes("v0"), "");
        one.start(host);
        let refused = host.refused(1, &["start", "two"]);
        let said = "v0 is already used by domain \"one\" (3)";
        assert!(refused.stderr.contains(said), "{refused}");
        assert_eq!(on("v0"), [""; 0], "the first still has it");
        let listed = host.ok(["vm", "list", "two"]);
        assert!(listed.contains("v0 (2) (3)"), "{listed}");
        host.ok(["destroy", "one"]);
        two.start(host);
        host.ok(["destroy", "two"]);
        // An address is worth a warning only.
        ip(&["addr", "add", "192.0.2.1/24", "dev", "v0"]).unwrap();
        one.start(host);
        let told = |event: &serde_json::Value| {
            event["text"].as_str().is_some_and(|text| text.contains("v0 has an IP address (4)"))
        };
        assert!(host.events("one").iter().any(told), "{:?}", host.events("one"));
        host.ok(["destroy", "one"]);
    });
}

#[test]
fn an_interface_that_goes_away_meanwhile_keeps_nothing_from_ending() {
    with_interfaces("nics: gone", |host| {
        let guest = Guest::new(host, "ds20", &takes("v0"), "");
        guest.start(host);
        ip(&["link", "del", "v0"]).unwrap();
        host.ok(["destroy", "ds20"]);
        host.rests("ds20", State::Halted);
        let refused = host.refused(1, &["start", "ds20"]);
        assert!(refused.stderr.contains("v0 does not exist (1)"), "{refused}");
    });
}
