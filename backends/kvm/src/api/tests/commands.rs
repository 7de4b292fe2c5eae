//! Commands, one by one.

#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};

use super::fake::{Client, Fake, Served};
use crate::api::control::RunState;
use crate::api::notices::Cause;

fn plain(command: &str) -> Value {
    json!({"execute": command})
}

fn with(command: &str, arguments: Value) -> Value {
    json!({"execute": command, "arguments": arguments})
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

/// Runs a command that comes with a descriptor of this file.
fn run_with_fd(client: &mut Client, request: &Value, file: &File) -> Value {
    let fds = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let text = request.to_string();
    let pieces = [IoSlice::new(text.as_bytes())];
    rustix::net::sendmsg(&client.socket, &pieces, &mut control, SendFlags::empty()).unwrap();
    client.next()
}

/// A file with these contents, opened for reading and writing.
fn file(served: &Served, contents: &str) -> File {
    let path = served.dir.path().join(contents);
    std::fs::write(&path, contents).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn questions_are_answered_as_qemu_answers_them() {
    let served = Served::new("questions");
    let mut client = served.greeted();
    let mut ask = |command| client.returned(&plain(command));
    let status = json!({"running": true, "singlestep": false, "status": "running"});
    assert_eq!(ask("query-status"), status);
    let version = json!({"qemu": {"major": 4, "minor": 0, "micro": 1},
        "package": concat!("kxl-vmm ", env!("CARGO_PKG_VERSION"))});
    assert_eq!(ask("query-version"), version);
    assert_eq!(ask("query-name"), json!({"name": "fake"}));
    assert_eq!(ask("query-uuid"), json!({"UUID": "f3a8ba1d-28a1-4f2c-8b52-7a1e2a3a4c5d"}));
    assert_eq!(ask("query-kvm"), json!({"enabled": true, "present": true}));
    assert_eq!(ask("query-target"), json!({"arch": "x86_64"}));
    let cpus = ask("query-cpus-fast");
    assert_eq!((&cpus[1]["cpu-index"], &cpus[1]["thread-id"]), (&json!(1), &json!(72)));
    assert_eq!(ask("query-hotpluggable-cpus").as_array().unwrap().len(), 2);
    let memory = json!({"base-memory": 256 << 20, "plugged-memory": 0});
    assert_eq!(ask("query-memory-size-summary"), memory);
    assert_eq!(ask("query-balloon"), json!({"actual": 128 << 20}));
    let blocks = ask("query-block");
    assert_eq!(blocks[0]["device"], "vda");
    assert_eq!(blocks[1]["inserted"]["ro"], true);
    assert_eq!(blocks[1]["inserted"]["image"]["virtual-size"], 512);
    let nodes = ask("query-named-block-nodes");
    assert_eq!(nodes[0]["file"], "/a");
    assert!(nodes[1].get("file").is_none());
    assert_eq!(ask("query-migrate"), json!({"status": "none"}));
    assert_eq!(ask("query-fdsets"), json!([]));
    assert!(ask("query-events").as_array().unwrap().contains(&json!({"name": "STOP"})));
    let commands = ask("query-commands");
    for name in ["stop", "qmp_capabilities", "query-commands"] {
        assert!(commands.as_array().unwrap().contains(&json!({"name": name})), "{name}");
    }
    assert_eq!(served.end(), 9);
}

#[test]
fn every_command_refuses_arguments_that_it_does_not_have() {
    let served = Served::new("arguments");
    let mut client = served.greeted();
    let all = client.returned(&plain("query-commands"));
    assert!(all.as_array().unwrap().len() > 30);
    for command in all.as_array().unwrap() {
        let name = command["name"].as_str().unwrap();
        let (class, text) = client.refused(&with(name, json!({"no-such-thing": 1})));
        assert_eq!(class, "GenericError");
        assert!(text.contains("no-such-thing"), "{text}");
    }
    let (class, text) = client.refused(&plain("human-monitor-command"));
    assert_eq!(class, "CommandNotFound");
    assert!(text.contains("query-commands"), "{text}");
    assert_eq!(served.end(), 9);
}

#[test]
fn an_ended_guest_says_how_it_ended() {
    let fake = Fake::new().ended(RunState::Shutdown, Cause::GuestReset).without_balloon();
    let served = Served::of("ended", fake);
    let mut client = served.greeted();
    let status = client.returned(&plain("query-status"));
    assert_eq!(status["status"], "shutdown");
    assert_eq!(status["reason"], "guest-reset");
    assert_eq!(status["running"], false);
    assert!(client.refused(&plain("cont")).1.contains("system_reset"));
    assert_eq!(client.refused(&plain("query-balloon")).0, "DeviceNotActive");
    assert_eq!(client.refused(&with("balloon", json!({"value": 1}))).0, "DeviceNotActive");
    assert_eq!(served.end(), 9);
}

#[test]
fn events_come_before_the_answer_of_what_brought_them_about() {
    let served = Served::new("events");
    let mut client = served.greeted();
    let mut events = |request: &Value| client.run(request).0;
    assert_eq!(names(&events(&plain("system_powerdown"))), ["POWERDOWN"]);
    let reset = events(&plain("system_reset"));
    let cause = json!({"guest": false, "reason": "host-qmp-system-reset"});
    assert_eq!((names(&reset), &reset[0]["data"]), (vec!["RESET"], &cause));
    let change = events(&with("balloon", json!({"value": 5 << 20})));
    assert_eq!(change[0]["data"], json!({"actual": 5 << 20}));
    assert_eq!(served.end(), 9);
}

#[test]
fn what_follows_an_end_can_be_changed_in_parts() {
    let served = Served::new("actions");
    let mut client = served.greeted();
    let all = json!({"reboot": "shutdown", "shutdown": "pause", "panic": "pause",
        "watchdog": "none"});
    client.returned(&with("set-action", all));
    client.returned(&with("set-action", json!({"reboot": "reset"})));
    client.refused(&with("set-action", json!({"panic": "dance"})));
    let told = served.told();
    assert_eq!(told.len(), 2);
    assert!(told[0].contains("Shutdown") && told[1].contains("reboot: Reset"), "{told:?}");
    assert!(told[1].contains("shutdown: Pause, ") && told[1].contains("panic: Pause"), "{told:?}");
    assert_eq!(served.end(), 9);
}

#[test]
fn devices_come_and_go_as_the_stratovirt_documents_show_it() {
    let served = Served::new("devices");
    let mut client = served.greeted();
    let node = json!({"node-name": "drive-0", "file": {"driver": "file", "filename": "/disk"},
        "cache": {"direct": true}, "read-only": false});
    client.returned(&with("blockdev-add", node.clone()));
    assert!(client.refused(&with("blockdev-add", node)).1.contains("already"));
    let disk = json!({"id": "drive-0", "driver": "virtio-blk-mmio", "addr": "0x1"});
    client.returned(&with("device_add", disk));
    client.returned(&with("netdev_add", json!({"id": "net-0", "ifname": "tap0"})));
    let nic = json!({"id": "eth0", "driver": "virtio-net-mmio", "netdev": "net-0",
        "mac": "00:16:3e:01:02:03"});
    client.returned(&with("device_add", nic.clone()));
    assert_eq!(
        served.told(),
        ["disk drive-0 Some(1) /disk false", "nic eth0 None tap0 Some([0, 22, 62, 1, 2, 3]) Auto"]
    );
    // One beyond the limit, and a part in use.
    client.returned(&with("netdev_add", json!({"id": "net-1", "ifname": "tap1"})));
    let third = json!({"id": "eth1", "driver": "virtio-net-mmio", "netdev": "net-1"});
    let (class, text) = client.refused(&with("device_add", third));
    assert_eq!((class.as_str(), text.contains("no slot is free")), ("GenericError", true));
    let (_, text) = client.refused(&with("netdev_del", json!({"id": "net-0"})));
    assert!(text.contains("'eth0' uses it"), "{text}");

    let (events, answer) = client.run(&with("device_del", json!({"id": "eth0"})));
    assert_eq!((names(&events), answer), (vec!["DEVICE_DELETED"], json!({"return": {}})));
    assert_eq!(events[0]["data"], json!({"device": "eth0", "path": "eth0"}));
    let (class, _) = client.refused(&with("device_del", json!({"id": "eth0"})));
    assert_eq!(class, "DeviceNotFound");
    // Its part is free again, for the same device or for nothing.
    client.returned(&with("device_add", nic));
    client.returned(&with("device_del", json!({"id": "eth0"})));
    client.returned(&with("netdev_del", json!({"id": "net-0"})));
    assert_eq!(client.refused(&with("netdev_del", json!({"id": "net-0"}))).0, "DeviceNotFound");
    client.returned(&with("device_del", json!({"id": "drive-0"})));
    client.returned(&with("blockdev-del", json!({"node-name": "drive-0"})));
    assert_eq!(served.end(), 9);
}

#[test]
fn devices_that_cannot_be_are_refused_with_a_reason() {
    let served = Served::new("refused");
    let mut client = served.greeted();
    let file = json!({"driver": "file", "filename": "/disk"});
    let cases = [
        ("blockdev-add", json!({"node-name": "a", "driver": "qcow2", "file": file}), "qemu-img"),
        ("blockdev-add", json!({"node-name": "a"}), "needs"),
        ("blockdev-add", json!({"node-name": "1", "file": file}), "letter"),
        (
            "blockdev-add",
            json!({"node-name": "a", "file": file, "cache": {"no-flush": true}}),
            "never ignored",
        ),
        ("blockdev-add", json!({"node-name": "a", "file": {"filename": "/dev/fdset/7"}}), "no set"),
        ("netdev_add", json!({"id": "n", "type": "user"}), "taps"),
        ("netdev_add", json!({"id": "n"}), "needs"),
        ("netdev_add", json!({"id": "n", "ifname": "../x"}), "no name"),
        ("netdev_add", json!({"id": "n", "ifname": "t", "script": "/bin/x"}), "no scripts"),
        ("netdev_add", json!({"id": "n", "fd": "nobody"}), "getfd"),
        ("device_add", json!({"id": "d", "driver": "e1000"}), "no driver"),
        ("device_add", json!({"id": "d", "driver": "virtio-net-mmio", "drive": "x"}), "means"),
        ("device_add", json!({"id": "d", "driver": "virtio-blk-mmio", "addr": "x"}), "slot"),
    ];
    for (command, arguments, word) in cases {
        let (class, text) = client.refused(&with(command, arguments));
        assert_eq!(class, "GenericError", "{text}");
        assert!(text.contains(word), "{text} has no {word}");
    }
    let missing = json!({"id": "d", "driver": "virtio-blk-mmio"});
    assert_eq!(client.refused(&with("device_add", missing)).0, "DeviceNotFound");
    assert!(served.told().is_empty());
    assert_eq!(served.end(), 9);
}

#[test]
fn descriptors_are_passed_by_name_and_used_once() {
    let served = Served::new("getfd");
    let mut client = served.greeted();
    let (one, two) = (file(&served, "one"), file(&served, "two"));
    let named = |name: &str| with("getfd", json!({"fdname": name}));
    assert!(client.refused(&named("a")).1.contains("SCM_RIGHTS"));
    assert_eq!(run_with_fd(&mut client, &named("a"), &one), json!({"return": {}}));
    // A second one of the name takes its place.
    assert_eq!(run_with_fd(&mut client, &named("a"), &two), json!({"return": {}}));
    client.returned(&with("netdev_add", json!({"id": "n", "fd": "a", "vhost": false})));
    client.refused(&with("closefd", json!({"fdname": "a"})));
    client.returned(&with("device_add", json!({"id": "n", "driver": "virtio-net-mmio"})));
    assert_eq!(served.told(), ["nic n None a descriptor of two None Off"]);
    assert_eq!(run_with_fd(&mut client, &named("b"), &one), json!({"return": {}}));
    client.returned(&with("closefd", json!({"fdname": "b"})));
    let digit = run_with_fd(&mut client, &named("1"), &one);
    assert_eq!(digit["error"]["class"], "GenericError");
    // One that came with another command belongs to no later one.
    let status = run_with_fd(&mut client, &plain("query-status"), &one);
    assert_eq!(status["return"]["status"], "running");
    assert_eq!(run_with_fd(&mut client, &named("c"), &two), json!({"return": {}}));
    client.returned(&with("migrate", json!({"uri": "fd:c"})));
    assert_eq!(served.told()[1], "migrate a descriptor of two 0");
    assert_eq!(served.end(), 9);
}

#[test]
fn sets_of_descriptors_are_opened_by_name_the_way_they_can_be() {
    let served = Served::new("fdset");
    let mut client = served.greeted();
    file(&served, "data");
    let read = File::open(served.dir.path().join("data")).unwrap();
    let added = run_with_fd(&mut client, &with("add-fd", json!({"opaque": "x"})), &read);
    assert_eq!(added["return"]["fdset-id"], 0);
    let open = |name: &str, readonly: bool| {
        with(
            "blockdev-add",
            json!({"node-name": name, "read-only": readonly,
            "file": {"filename": "/dev/fdset/0"}}),
        )
    };
    assert!(client.refused(&open("a", false)).1.contains("for writing"));
    client.returned(&open("a", true));
    client.returned(&with("device_add", json!({"id": "a", "driver": "virtio-blk-mmio"})));
    assert_eq!(served.told(), ["disk a None a descriptor of data true"]);

    let write = file(&served, "data");
    let again = with("add-fd", json!({"fdset-id": 0}));
    let second = run_with_fd(&mut client, &again, &write)["return"]["fd"].clone();
    client.returned(&open("b", false));
    let sets = client.returned(&plain("query-fdsets"));
    assert_eq!(sets[0]["fds"].as_array().unwrap().len(), 2);
    client.returned(&with("remove-fd", json!({"fdset-id": 0, "fd": second})));
    assert!(client.refused(&open("c", false)).1.contains("for writing"));
    client.returned(&with("remove-fd", json!({"fdset-id": 0})));
    client.refused(&with("remove-fd", json!({"fdset-id": 0})));
    assert_eq!(client.returned(&plain("query-fdsets")), json!([]));
    assert_eq!(served.end(), 9);
}

#[test]
fn a_client_can_make_us_hold_only_so_many_descriptors() {
    let served = Served::new("many");
    let mut client = served.greeted();
    let file = file(&served, "x");
    let mut refused = 0;
    for number in 0..70 {
        let request = with("getfd", json!({"fdname": format!("f{number}")}));
        refused += u32::from(run_with_fd(&mut client, &request, &file).get("error").is_some());
    }
    assert_eq!(refused, 6);
    assert_eq!(served.end(), 9);
}

#[test]
fn a_save_goes_its_way_as_the_driver_of_qemu_expects_it() {
    let served = Served::new("migrate");
    let mut client = served.greeted();
    let capable = |list: &[(&str, bool)]| {
        let list: Vec<_> =
            list.iter().map(|(name, on)| json!({"capability": name, "state": on})).collect();
        with("migrate-set-capabilities", json!({"capabilities": list}))
    };
    client.refused(&capable(&[("events", true), ("xbzrle", true)]));
    client.refused(&capable(&[("background-snapshot", true)]));
    let quiet = client.run(&with("migrate", json!({"uri": "file:/x,offset=0x10"})));
    assert_eq!((quiet.0.len(), quiet.1), (0, json!({"return": {}})));
    assert_eq!(served.told(), ["migrate /x 16"]);
    assert!(client.refused(&with("migrate", json!({"uri": "file:/y"}))).1.contains("in flight"));
    assert!(client.refused(&capable(&[("events", true)])).1.contains("in flight"));
    client.returned(&plain("migrate_cancel"));
    assert_eq!(client.returned(&plain("query-migrate"))["status"], "cancelled");

    let wanted =
        [("events", true), ("pause-before-switchover", true), ("background-snapshot", false)];
    client.returned(&capable(&wanted));
    let limits = json!({"max-bandwidth": 1_u64 << 62, "downtime-limit": 30});
    client.returned(&with("migrate-set-parameters", limits.clone()));
    assert_eq!(client.returned(&plain("query-migrate-parameters")), limits);
    client.refused(&with("migrate-set-parameters", json!({"downtime-limit": 2_000_001})));
    client.refused(&with("migrate-continue", json!({"state": "pre-switchover"})));
    let (events, _) = client.run(&with("migrate", json!({"uri": "file:/z"})));
    assert_eq!(names(&events), ["MIGRATION", "MIGRATION", "STOP", "MIGRATION"]);
    assert_eq!(events[3]["data"], json!({"status": "pre-switchover"}));
    client.refused(&with("migrate-continue", json!({"state": "device"})));
    let go = with("migrate-continue", json!({"state": "pre-switchover"}));
    assert_eq!(client.run(&go).0[0]["data"], json!({"status": "completed"}));
    let answer = client.returned(&plain("query-migrate"));
    assert_eq!((&answer["status"], &answer["downtime"]), (&json!("completed"), &json!(3)));
    assert_eq!(answer["ram"]["page-size"], 4096);
    assert_eq!(client.returned(&plain("query-status"))["status"], "postmigrate");
    for bad in ["exec:cat", "tcp:h:1", "file:", "fd:nobody", "file:/x,offset=q"] {
        client.refused(&with("migrate", json!({"uri": bad})));
    }
    client.returned(&with("migrate-incoming", json!({"uri": "file:/state,offset=7"})));
    assert_eq!(served.told().last().unwrap(), "incoming /state 7");
    assert_eq!(served.end(), 9);
}
