//! Tables of command lines.

use std::os::fd::RawFd;
use std::path::PathBuf;

use kxl_backend::{LaunchSpec, RunAs};
use kxl_domain::config::model::{Arch, Disk, DiskBus, DiskFormat, GuestKind, Nic};

use super::super::binary::Accel;
use super::*;
use crate::testing::Scratch;

fn spec() -> LaunchSpec {
    Scratch::new("args").spec()
}

fn plan() -> Plan {
    Plan {
        arch: Arch::X86_64,
        accel: Accel::Tcg,
        machine: "pc-i440fx-7.2".into(),
        cpu: "Nehalem-v1".into(),
        control: 3,
        console: Some(4),
        taps: Vec::new(),
        flash: None,
        run_as: None,
        clock: "utc".into(),
        memory: None,
        state: None,
        channel: None,
    }
}

fn arm() -> Plan {
    Plan { arch: Arch::Aarch64, machine: "virt-7.2".into(), cpu: "cortex-a57".into(), ..plan() }
}

/// The options and their values, one a line.
fn lines(spec: &LaunchSpec, plan: &Plan) -> Vec<String> {
    let args = arguments(spec, plan).unwrap();
    let mut lines: Vec<String> = Vec::new();
    for arg in args {
        let arg = arg.into_string().unwrap();
        match lines.last_mut() {
            Some(last) if !arg.starts_with('-') => *last = format!("{last} {arg}"),
            _ => lines.push(arg),
        }
    }
    lines
}

/// Only what a change of the configuration adds.
fn added(plan: &Plan, change: impl FnOnce(&mut LaunchSpec)) -> Vec<String> {
    let plain = lines(&spec(), &Plan { taps: Vec::new(), ..plan.clone() });
    let mut spec = spec();
    change(&mut spec);
    lines(&spec, plan).into_iter().filter(|line| !plain.contains(line)).collect()
}

fn refused(plan: &Plan, change: impl FnOnce(&mut LaunchSpec)) -> String {
    let mut spec = spec();
    change(&mut spec);
    arguments(&spec, plan).unwrap_err().to_string()
}

fn disk(vdev: &str, bus: DiskBus, index: u32, target: Option<&str>) -> Disk {
    Disk {
        target: target.map(PathBuf::from),
        format: if target.is_some() { DiskFormat::Raw } else { DiskFormat::Empty },
        vdev: vdev.into(),
        bus,
        index,
        vdev_number: 0,
        readwrite: true,
        cdrom: false,
        discard: None,
        direct_io_safe: false,
        backendtype: None,
        script: None,
    }
}

fn cdrom(vdev: &str, bus: DiskBus, index: u32, target: Option<&str>) -> Disk {
    Disk { cdrom: true, readwrite: false, ..disk(vdev, bus, index, target) }
}

#[test]
fn the_smallest_domain_has_exactly_these_options() {
    assert_eq!(
        lines(&spec(), &plan()),
        [
            "-name guest=guest,debug-threads=on",
            "-uuid 4f9f8a9c-0c7b-4c3e-8f5e-2d1f6c3b9a01",
            "-nodefaults",
            "-no-user-config",
            "-S",
            "-action shutdown=pause,reboot=shutdown,panic=pause,watchdog=pause",
            "-trace runstate_set",
            "-trace qemu_system_shutdown_request",
            "-machine pc-i440fx-7.2,memory-backend=ram0,accel=tcg",
            "-cpu Nehalem-v1",
            "-m size=32M",
            "-object memory-backend-ram,id=ram0,size=32M",
            "-smp cpus=1,maxcpus=1",
            "-rtc base=utc,clock=host",
            "-chardev socket,id=control,fd=3,server=on,wait=off",
            "-mon chardev=control,mode=control",
            "-chardev socket,id=console,fd=4,server=on,wait=off",
            "-serial chardev:console",
            "-display none",
            "-device pvpanic,id=pvpanic0",
            "-device virtio-balloon-pci,id=balloon0,deflate-on-oom=on",
            "-sandbox on,obsolete=deny,spawn=deny,resourcecontrol=deny",
        ]
    );
}

#[test]
fn arm_has_its_own_machine_and_no_isa_devices() {
    let lines = lines(&spec(), &arm());
    assert!(
        lines.contains(&"-machine virt-7.2,memory-backend=ram0,gic-version=3,accel=tcg".to_owned())
    );
    assert!(lines.contains(&"-cpu cortex-a57".to_owned()));
    assert!(!lines.iter().any(|line| line.contains("pvpanic")));
    let kvm = Plan { accel: Accel::Kvm, cpu: "host".into(), ..arm() };
    assert!(super::tests::lines(&spec(), &kvm).iter().any(|l| l.contains("gic-version=host")));
}

#[test]
fn a_kernel_is_started_directly() {
    let added = added(&plan(), |spec| {
        spec.config.boot.kernel = Some("/boot/vmlinuz".into());
        spec.config.boot.ramdisk = Some("/boot/initrd,1".into());
        spec.config.boot.cmdline = Some("console=ttyS0 a,b".into());
    });
    assert_eq!(
        added,
        ["-kernel /boot/vmlinuz", "-initrd /boot/initrd,1", "-append console=ttyS0 a,b"]
    );
}

#[test]
fn machine_switches_follow_their_keys() {
    let with = added(&plan(), |spec| {
        let config = &mut spec.config;
        (config.acpi, config.hpet, config.vcpus, config.maxvcpus) = (false, false, 2, 4);
        config.maxmem_mib = 64;
    });
    assert_eq!(
        with,
        [
            "-machine pc-i440fx-7.2,memory-backend=ram0,acpi=off,hpet=off,accel=tcg",
            "-m size=64M",
            "-object memory-backend-ram,id=ram0,size=64M",
            "-smp cpus=2,maxcpus=4",
        ]
    );
    let user = Plan { run_as: Some(RunAs { uid: 106, gid: 112 }), ..plan() };
    assert_eq!(lines(&spec(), &user).last().unwrap(), "-runas 106:112");
    let uefi = Plan { flash: Some(("/o/CODE.fd".into(), "/r/vars.fd".into())), ..plan() };
    assert_eq!(
        lines(&spec(), &uefi)[8..11],
        [
            "-blockdev driver=raw,node-name=flash-code,read-only=on,file.driver=file,\
             file.filename=/o/CODE.fd",
            "-blockdev driver=raw,node-name=flash-vars,read-only=off,file.driver=file,\
             file.filename=/r/vars.fd",
            "-machine pc-i440fx-7.2,memory-backend=ram0,pflash0=flash-code,pflash1=flash-vars,\
             accel=tcg",
        ]
    );
}

#[test]
fn disks_go_to_the_bus_of_their_name() {
    let added = added(&plan(), |spec| {
        spec.config.disks = vec![
            Disk { format: DiskFormat::Qcow2, ..disk("xvda", DiskBus::Virtio, 0, Some("/d/a,b")) },
            Disk { readwrite: false, ..disk("hdb", DiskBus::Ide, 1, Some("/d/b")) },
            Disk { direct_io_safe: true, ..disk("sdc", DiskBus::Scsi, 2, Some("/d/c")) },
            cdrom("hdc", DiskBus::Ide, 2, None),
            cdrom("xvdd", DiskBus::Virtio, 3, Some("/d/cd.iso")),
        ];
        spec.config.disks[2].discard = Some(false);
    });
    assert_eq!(
        added,
        [
            "-device virtio-scsi-pci,id=scsi0",
            "-blockdev driver=qcow2,node-name=disk-xvda,read-only=off,discard=unmap,\
             file.driver=file,file.filename=/d/a,,b",
            "-device virtio-blk-pci,id=dev-xvda,drive=disk-xvda,bootindex=1",
            "-blockdev driver=raw,node-name=disk-hdb,read-only=on,file.driver=file,\
             file.filename=/d/b",
            "-device ide-hd,bus=ide.0,unit=1,id=dev-hdb,drive=disk-hdb,bootindex=2",
            "-blockdev driver=raw,node-name=disk-sdc,read-only=off,cache.direct=on,\
             file.driver=file,file.cache.direct=on,file.filename=/d/c",
            "-device scsi-hd,bus=scsi0.0,scsi-id=2,id=dev-sdc,drive=disk-sdc,bootindex=3",
            "-device ide-cd,bus=ide.1,unit=0,id=dev-hdc,bootindex=101",
            "-blockdev driver=raw,node-name=disk-xvdd,read-only=on,file.driver=file,\
             file.filename=/d/cd.iso",
            "-device scsi-cd,bus=scsi0.0,scsi-id=252,id=dev-xvdd,drive=disk-xvdd,bootindex=102",
        ]
    );
}

#[test]
fn disks_that_the_machine_cannot_hold_are_refused_by_name() {
    let with = |disk: Disk| move |spec: &mut LaunchSpec| spec.config.disks = vec![disk];
    let fifth = disk("hde", DiskBus::Ide, 4, Some("/d"));
    assert_eq!(
        refused(&plan(), with(fifth.clone())),
        "disk: hde: the IDE bus of pc-i440fx-7.2 has 4 places"
    );
    let q35 = Plan { machine: "pc-q35-7.2".into(), ..plan() };
    assert!(added(&q35, with(fifth.clone()))[1].contains("ide-hd,bus=ide.4,unit=0"));
    assert!(refused(&arm(), with(fifth)).starts_with("disk: hde: virt-7.2 has no IDE bus; call"));
    let empty = disk("xvda", DiskBus::Virtio, 0, None);
    assert!(refused(&plan(), with(empty)).contains("only a CD-ROM drive can be empty"));
    let one = disk("xvda", DiskBus::Virtio, 0, Some("/d"));
    let twice = refused(&plan(), |spec| spec.config.disks = vec![one.clone(), one]);
    assert_eq!(twice, "disk: two disks are called xvda");
}

#[test]
fn the_boot_order_gives_each_device_its_turn() {
    let added = added(&Plan { taps: vec![Some(5)], ..plan() }, |spec| {
        spec.config.boot.order = Some("dn".into());
        spec.config.disks = vec![
            disk("xvda", DiskBus::Virtio, 0, Some("/d/a")),
            cdrom("hdc", DiskBus::Ide, 2, None),
        ];
        spec.config.nics = vec![Nic::default()];
    });
    assert_eq!(added[0], "-boot strict=on");
    assert!(added.contains(&"-device virtio-blk-pci,id=dev-xvda,drive=disk-xvda".to_owned()));
    assert!(added.contains(&"-device ide-cd,bus=ide.1,unit=0,id=dev-hdc,bootindex=1".to_owned()));
    assert!(added.last().unwrap().ends_with("mac=00:16:3e:4f:e4:8a,bootindex=101"), "{added:?}");
}

#[test]
fn interfaces_have_a_tap_or_user_networking_never_both() {
    let taps: Vec<Option<RawFd>> = vec![Some(5), None, Some(6)];
    let added = added(&Plan { taps, ..plan() }, |spec| {
        spec.config.nics = vec![
            Nic { mtu: Some(1400), ..Nic::default() },
            Nic { user: true, mac: Some([2, 0, 0, 0, 0, 1]), ..Nic::default() },
            Nic { emulated: Some(true), ..Nic::default() },
        ];
    });
    assert_eq!(
        added,
        [
            "-netdev tap,id=net0,fd=5",
            "-device virtio-net-pci,netdev=net0,id=nic0,mac=00:16:3e:4f:e4:8a,host_mtu=1400,romfile=",
            "-netdev user,id=net1",
            "-device virtio-net-pci,netdev=net1,id=nic1,mac=02:00:00:00:00:01,romfile=",
            "-netdev tap,id=net2,fd=6",
            "-device rtl8139,netdev=net2,id=nic2,mac=00:16:3e:4f:e4:88,romfile=",
        ]
    );
    let odd = refused(&Plan { taps: vec![Some(5)], ..plan() }, |spec| {
        spec.config.nics = vec![Nic { model: Some("e1000,netdev=x".into()), ..Nic::default() }];
    });
    assert!(odd.starts_with("vif: no model \"e1000,netdev=x\"; expected one of virtio,"), "{odd}");
}

#[test]
fn a_screen_is_there_when_asked_for_or_usual() {
    let hvm = added(&plan(), |spec| spec.config.kind = GuestKind::Hvm);
    assert_eq!(hvm, ["-device VGA,id=video0", "-vnc 127.0.0.1:0,to=99"]);
    let chosen = added(&plan(), |spec| {
        let display = &mut spec.config.display;
        display.vnc = Some(true);
        display.vnclisten = Some("::1".into());
        (display.vncdisplay, display.vncunused) = (Some(5), Some(false));
        display.vncpasswd = Some("secret".into());
        display.keymap = Some("de-ch".into());
        display.vga = Some("cirrus".into());
    });
    assert_eq!(
        chosen,
        ["-device cirrus-vga,id=video0", "-vnc [::1]:5,password=on", "-k de-ch"],
        "the password itself is never an argument"
    );
    let none = added(&plan(), |spec| {
        spec.config.kind = GuestKind::Hvm;
        spec.config.display.vnc = Some(false);
    });
    assert_eq!(none, [""; 0]);
    let arm = added(&arm(), |spec| spec.config.display.vnc = Some(true));
    assert_eq!(
        arm,
        [
            "-device virtio-gpu-pci,id=video0",
            "-vnc 127.0.0.1:0,to=99",
            "-device qemu-xhci,id=usb",
            "-device usb-kbd,bus=usb.0,id=usb-0",
            "-device usb-tablet,bus=usb.0,id=usb-1",
        ]
    );
}

#[test]
fn usb_devices_are_named_or_by_number() {
    let added = added(&plan(), |spec| {
        spec.config.usb.devices = vec!["tablet".into(), "host:046d:C52B".into()];
    });
    assert_eq!(
        added,
        [
            "-device qemu-xhci,id=usb",
            "-device usb-tablet,bus=usb.0,id=usb-0",
            "-device usb-host,vendorid=0x046d,productid=0xc52b,bus=usb.0,id=usb-1",
        ]
    );
}

/// Each value tries to become another option or key.
#[test]
fn nothing_a_configuration_controls_becomes_another_option() {
    type Change = fn(&mut LaunchSpec);
    let attempts: &[(&str, Change)] = &[
        ("vnclisten", |spec| {
            spec.config.display.vnc = Some(true);
            spec.config.display.vnclisten = Some("0.0.0.0:0,password=off".into());
        }),
        ("keymap", |spec| {
            spec.config.display.vnc = Some(true);
            spec.config.display.keymap = Some("-monitor".into());
        }),
        ("vga", |spec| spec.config.display.vga = Some("VGA,x=y".into())),
        ("usbdevice", |spec| spec.config.usb.devices = vec!["disk:/etc/shadow".into()]),
        ("serial", |spec| spec.config.serial = vec!["pty".into(), "file:/etc/passwd".into()]),
        ("sdl", |spec| spec.config.display.sdl = true),
    ];
    for (key, change) in attempts {
        let error = refused(&plan(), change);
        assert!(error.starts_with(&format!("{key}: ")), "{key}: {error}");
    }
    // What cannot be refused stays one argument, and the one after its option.
    let mut spec = spec();
    spec.config.boot.kernel = Some("/boot/vmlinuz".into());
    spec.config.boot.cmdline = Some("-monitor stdio".into());
    let args = arguments(&spec, &plan()).unwrap();
    let at = args.iter().position(|arg| arg == "-append").unwrap();
    assert_eq!(args[at + 1], "-monitor stdio");
}

#[test]
fn arguments_of_ones_own_come_last_and_as_they_are() {
    let mut spec = spec();
    spec.config.emulator_args = vec!["-global".into(), "a.b=c,d".into()];
    let args = arguments(&spec, &plan()).unwrap();
    assert_eq!(args[args.len() - 2..], ["-global", "a.b=c,d"]);
}

#[test]
fn the_guests_port_comes_last_and_only_where_it_is_asked_for() {
    for plan in [plan(), arm()] {
        let with = Plan { channel: Some(9), ..plan.clone() };
        let port = [
            "-chardev socket,id=guest,fd=9,server=on,wait=off",
            "-device virtio-serial-pci,id=serial0,max_ports=2",
            "-device virtserialport,bus=serial0.0,nr=1,chardev=guest,name=org.kxl.event.0,id=guest0",
        ];
        let (before, after) = (lines(&spec(), &plan), lines(&spec(), &with));
        let more: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
        assert_eq!(more, port);
        let devices = after.iter().filter(|line| line.starts_with("-device"));
        assert_eq!(devices.rev().take(2).collect::<Vec<_>>(), [port[2], port[1]]);
    }
}
