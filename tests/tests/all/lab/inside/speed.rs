//! The same guest with the same disk on `kxl-vmm` and on QEMU, both on the lab's KVM.

use std::fs;
use std::process::Command;

use super::machine::{Machine, path};
use crate::support::guest::built;

const DISK: &str = "speed.img";

/// What the guest measures, in the order of its line: MiB/s and requests a second, read and
/// written.
fn measured(mut machine: Machine) -> Vec<f64> {
    machine.expect("READY");
    let line = machine.ask("b", "B ");
    let numbers = line.split([' ', '/']).filter_map(|word| word.parse().ok());
    let numbers: Vec<f64> = numbers.collect();
    assert_eq!(numbers.len(), 4, "{line}");
    assert!(numbers.iter().all(|number| *number > 0.0), "{line}");
    numbers
}

fn own() -> Vec<f64> {
    let disk = format!("path={},id=disk", path(DISK).display());
    measured(Machine::boot("own", "tick=0", &["-disk", &disk]))
}

/// QEMU's own machine for small guests, whose disk hangs on virtio-mmio like ours.
fn qemu() -> Vec<f64> {
    let mut command = Command::new("/lab/bin/qemu-system-x86_64");
    command
        .args(["-L", "/lab/qemu", "-M", "microvm,acpi=on", "-accel", "kvm", "-cpu", "host"])
        .args(["-m", "128", "-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-append", "console=ttyS0 quiet panic=-1 tick=0", "-serial", "stdio"])
        .arg("-kernel")
        .arg(built("vmlinuz").unwrap())
        .arg("-initrd")
        .arg(built("initramfs.cpio.gz").unwrap())
        .arg("-drive")
        .arg(format!("id=disk,if=none,format=raw,file={}", path(DISK).display()))
        .args(["-device", "virtio-blk-device,drive=disk"]);
    measured(Machine::of("qemu", &mut command))
}

pub(in crate::lab) fn a_disk_is_as_fast_as_qemus() {
    fs::write(path(DISK), vec![1; 64 << 20]).unwrap();
    // Twice and in turns: the lab's own host has other things to do.
    let runs = [own(), qemu(), own(), qemu()];
    for (at, what) in
        ["read MiB/s", "read 4 KiB/s", "write MiB/s", "write 4 KiB/s"].into_iter().enumerate()
    {
        let [a, b, c, d] = [0, 1, 2, 3].map(|run| runs[run][at]);
        let ratio = (a + c) / (b + d);
        eprintln!("FIGURE {what}: kxl-vmm {a} {c}, qemu {b} {d}, ratio {ratio:.2}");
    }
}
