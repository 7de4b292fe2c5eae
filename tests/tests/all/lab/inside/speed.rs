//! The same guest with disks alike on `kxl-vmm` and on QEMU, both on the lab's KVM.

use std::fs;
use std::process::Command;

use super::machine::{Machine, path};
use crate::support::guest::built;

/// How often each of them measures: the lab's own host has other things to do, and single values
/// vary threefold.
const TURNS: usize = 3;

fn disk(name: &str) -> String {
    let path = path(&format!("{name}.img"));
    fs::write(&path, vec![1; 64 << 20]).unwrap();
    path.display().to_string()
}

/// What the guest measures, in the order of its line: MiB/s and requests a second, read and
/// written.
fn measured(machine: &mut Machine) -> Vec<f64> {
    let line = machine.ask("b", "B ");
    let numbers = line.split([' ', '/']).filter_map(|word| word.parse().ok());
    let numbers: Vec<f64> = numbers.collect();
    assert_eq!(numbers.len(), 4, "{line}");
    assert!(numbers.iter().all(|number| *number > 0.0), "{line}");
    numbers
}

fn own() -> Machine {
    let disk = format!("path={},id=disk", disk("own"));
    Machine::ready("own", "tick=0", &["-disk", &disk])
}

/// QEMU's own machine for small guests, whose disk hangs on virtio-mmio like ours.
fn qemu() -> Machine {
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
        .arg(format!("id=disk,if=none,format=raw,file={}", disk("qemu")))
        .args(["-device", "virtio-blk-device,drive=disk"]);
    let mut machine = Machine::of("qemu", &mut command);
    machine.expect("READY");
    machine
}

pub(in crate::lab) fn a_disk_is_as_fast_as_qemus() {
    // In turns, and the best of each: one that waits for its turn does nothing.
    let (mut own, mut qemu) = (own(), qemu());
    let turns: Vec<[Vec<f64>; 2]> =
        (0..TURNS).map(|_| [&mut own, &mut qemu].map(measured)).collect();
    for (at, what) in
        ["read MiB/s", "read 4 KiB/s", "write MiB/s", "write 4 KiB/s"].into_iter().enumerate()
    {
        let best = |which: usize| turns.iter().map(|turn| turn[which][at]).fold(0.0, f64::max);
        let (own, qemu) = (best(0), best(1));
        eprintln!("FIGURE {what}: kxl-vmm {own}, qemu {qemu}, ratio {:.2}", own / qemu);
    }
}
