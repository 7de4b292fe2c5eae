//! Linux on `kxl-vmm`: from its boot to each of its ends.

use std::fs;

use serde_json::json;

use super::machine::{Machine, path};

pub(in crate::lab) fn linux_boots_to_its_shell() {
    let mut machine = Machine::boot_kernel("vmlinuz", "shell", "", &[]);
    machine.expect("READY");
    machine.enter();
    assert_eq!(machine.shell("echo $((6 * 7))"), "42\n");
    assert!(machine.shell("cat /proc/cmdline").contains("tick=100"));
    machine.send("exit\n");
    machine.expect("SHELL ENDED");
    let mut qmp = machine.qmp();
    machine.send("p");
    let data = qmp.event("SHUTDOWN");
    assert_eq!((&data["guest"], &data["reason"]), (&true.into(), &"guest-shutdown".into()));
    assert_eq!(machine.ended(), 0);
}

pub(in crate::lab) fn two_processors_come_up() {
    let mut machine = Machine::ready("smp", "", &["-smp", "2", "-m", "160"]);
    let line = machine.ask("i", "I cpus=");
    assert!(line.starts_with("I cpus=2 "), "{line}");
    // Both still work after they were stopped.
    let mut qmp = machine.qmp();
    drop(qmp.say("stop"));
    let count = machine.count();
    drop(qmp.say("cont"));
    machine.counts_beyond(count);
    machine.enter();
    let shown =
        machine.shell("for cpu in 0 1; do busybox taskset -c $cpu busybox true; done; echo done");
    assert_eq!(shown, "done\n");
}

pub(in crate::lab) fn a_disk_is_written_and_read_back() {
    let (first, second) = (path("first.img"), path("second.img"));
    fs::write(&first, vec![0; 16 << 20]).unwrap();
    fs::write(&second, b"read only".repeat(1 << 16)).unwrap();
    let disks = [
        format!("path={},id=root", first.display()),
        format!("path={},id=data,readonly=on", second.display()),
    ];
    let mut machine = Machine::ready("disk", "", &["-disk", &disks[0], "-disk", &disks[1]]);
    assert!(machine.ask("i", "I cpus=").contains("disks=vda,vdb "));
    assert_eq!(machine.ask("d", "D "), "D OK vda");
    machine.enter();
    drop(
        machine
            .shell("echo written by the guest | busybox dd of=/dev/vda bs=512 seek=2048 conv=sync"),
    );
    drop(machine.shell("sync"));
    assert!(machine.shell("busybox head -c 9 /dev/vdb; echo").starts_with("read only"));
    assert_eq!(machine.shell("cat /sys/block/vdb/ro"), "1\n");
    let text = fs::read(&first).unwrap();
    assert!(text[2048 * 512..].starts_with(b"written by the guest\n"));
    let blocks = machine.qmp().say("query-block");
    assert_eq!(blocks.as_array().unwrap().len(), 2, "{blocks}");
}

pub(in crate::lab) fn ends_are_told_apart() {
    let mut machine = Machine::ready("ends", "", &["-action", "panic=pause"]);
    let mut qmp = machine.qmp();
    machine.send("r");
    assert_eq!(qmp.event("RESET")["reason"], "guest-reset");
    machine.expect("READY");
    machine.send("k");
    assert_eq!(qmp.event("GUEST_PANICKED")["action"], "pause");
    assert_eq!(qmp.status(), "guest-panicked");
    drop(qmp.say("system_reset"));
    drop(qmp.say("cont"));
    machine.expect("READY");
    machine.send("p");
    assert_eq!(qmp.event("SHUTDOWN")["reason"], "guest-shutdown");
    assert_eq!(machine.ended(), 0);
    let other = ["-action", "shutdown=pause,reboot=shutdown"];
    let mut machine = Machine::ready("reboot", "reboot=k", &other);
    let mut qmp = machine.qmp();
    machine.send("r");
    let data = qmp.event("SHUTDOWN");
    assert_eq!((&data["guest"], &data["reason"]), (&true.into(), &"guest-reset".into()));
    assert_eq!(qmp.status(), "shutdown");
    drop(qmp.say("quit"));
    assert_eq!(machine.ended(), 0);
}

pub(in crate::lab) fn the_power_button_is_pressed() {
    let mut machine = Machine::ready("button", "button=off", &[]);
    let mut qmp = machine.qmp();
    drop(qmp.ok("system_powerdown", &json!({})));
    machine.expect("BUTTON");
    assert_eq!(qmp.event("SHUTDOWN")["reason"], "guest-shutdown");
    assert_eq!(machine.ended(), 0);
}
