//! Devices that come while Linux runs.

use std::fs;
use std::process::Command;

use serde_json::json;

use super::machine::{Machine, path};
use super::net;

pub(in crate::lab) fn interfaces_come_as_eth0_and_eth1_and_a_third_is_refused() {
    // Taps that are there already, and belong to nobody: a confined process may attach to them.
    for tap in ["lab1", "lab2", "lab3"] {
        let made = Command::new("tunctl").args(["-t", tap]).status().unwrap();
        assert!(made.success(), "tunctl -t {tap}");
    }
    let mut machine = Machine::ready("nics", "", &["-hotplug", "nics=2,disks=1"]);
    machine.enter();
    let mut qmp = machine.qmp();
    for (index, interface) in ["eth0", "eth1"].into_iter().enumerate() {
        let (id, netdev) = (format!("net-{index}"), format!("host-{index}"));
        let tap = format!("lab{}", index + 1);
        drop(qmp.ok("netdev_add", &json!({"id": netdev, "type": "tap", "ifname": tap})));
        drop(
            qmp.ok("device_add", &json!({"driver": "virtio-net-mmio", "id": id, "netdev": netdev})),
        );
        net::address(&tap, &format!("10.9.{}.1/24", index + 1));
        net::configure(&mut machine, interface, &format!("10.9.{}.2/24", index + 1));
        net::ping(&mut machine, &format!("10.9.{}.1", index + 1));
    }
    drop(qmp.ok("netdev_add", &json!({"id": "host-2", "type": "tap", "ifname": "lab3"})));
    let third = json!({"driver": "virtio-net-mmio", "id": "net-2", "netdev": "host-2"});
    let (class, text) = qmp.refused("device_add", &third);
    assert_eq!(class, "GenericError", "{text}");
    // One goes, and its slot is free for the next.
    drop(qmp.ok("device_del", &json!({"id": "net-0"})));
    assert_eq!(qmp.event("DEVICE_DELETED")["device"], "net-0");
    drop(qmp.ok("device_add", &third));
    net::address("lab3", "10.9.3.1/24");
    net::configure(&mut machine, "eth0", "10.9.3.2/24");
    net::ping(&mut machine, "10.9.3.1");
    net::ping(&mut machine, "10.9.2.1");
}

pub(in crate::lab) fn a_disk_comes_and_goes() {
    let file = path("plugged.img");
    fs::write(&file, vec![0; 4 << 20]).unwrap();
    let mut machine = Machine::ready("disks", "", &["-hotplug", "disks=1"]);
    let mut qmp = machine.qmp();
    let node = json!({"node-name": "node", "driver": "file", "filename": file});
    drop(qmp.ok("blockdev-add", &node));
    let device = json!({"driver": "virtio-blk-mmio", "id": "blk", "drive": "node"});
    drop(qmp.ok("device_add", &device));
    machine.enter();
    drop(
        machine.shell("until [ $(cat /sys/block/vda/size) = 8192 ]; do busybox usleep 50000; done"),
    );
    drop(
        machine
            .shell("echo written later | busybox dd of=/dev/vda bs=512 seek=7 conv=sync && sync"),
    );
    assert!(fs::read(&file).unwrap()[7 * 512..].starts_with(b"written later\n"));
    assert_eq!(qmp.say("query-block").as_array().unwrap().len(), 1);
    drop(qmp.ok("device_del", &json!({"id": "blk"})));
    assert_eq!(qmp.event("DEVICE_DELETED")["device"], "blk");
    assert_eq!(qmp.say("query-block").as_array().unwrap().len(), 0);
    drop(machine.shell("until [ $(cat /sys/block/vda/size) = 0 ]; do busybox usleep 50000; done"));
    // Nothing outside the directories that were named at the start.
    let outside = json!({"node-name": "other", "driver": "file", "filename": "/guest/vmlinuz"});
    let (class, text) = match qmp.ask("blockdev-add", &outside) {
        answer if answer.get("return").is_some() => {
            let device = json!({"driver": "virtio-blk-mmio", "id": "b2", "drive": "other"});
            qmp.refused("device_add", &device)
        }
        answer => {
            let text = |key: &str| answer["error"][key].as_str().unwrap().to_owned();
            (text("class"), text("desc"))
        }
    };
    assert_eq!(class, "GenericError", "{text}");
    assert!(text.contains("/guest/vmlinuz"), "{text}");
}
