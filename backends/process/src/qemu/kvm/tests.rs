use kxl_domain::config::model::{Arch, Firmware};

use super::*;
use crate::testing::Scratch;

/// A domain as `name="guest"` and a kernel make it.
fn spec() -> LaunchSpec {
    let mut spec = Scratch::new("kvm").spec();
    spec.config.boot.kernel = Some("/boot/vmlinuz".into());
    spec
}

fn plan() -> Plan {
    Plan {
        arch: Arch::X86_64,
        accel: Accel::Kvm,
        machine: "kxl-vmm-1".into(),
        cpu: "host".into(),
        control: 3,
        console: Some(4),
        taps: Vec::new(),
        flash: None,
        run_as: None,
        clock: String::new(),
        memory: None,
        state: None,
        channel: None,
    }
}

fn raw(vdev: &str, path: &str) -> Disk {
    Disk {
        target: Some(path.into()),
        format: DiskFormat::Raw,
        vdev: vdev.into(),
        bus: DiskBus::Virtio,
        index: 0,
        vdev_number: 0,
        readwrite: true,
        cdrom: false,
        discard: None,
        direct_io_safe: false,
        backendtype: None,
        script: None,
    }
}

fn line(spec: &LaunchSpec, plan: &Plan) -> String {
    let args = Kvm.arguments(spec, plan).unwrap();
    args.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_domain_becomes_a_command_line() {
    let mut spec = spec();
    let mut plan = plan();
    spec.config.maxmem_mib = 256;
    spec.config.vcpus = 2;
    spec.config.boot.ramdisk = Some("/boot/initrd".into());
    spec.config.boot.cmdline = Some("console=ttyS0 -S".into());
    let readonly = Disk { readwrite: false, ..raw("xvdb", "/d/b,c") };
    spec.config.disks = vec![raw("xvda", "/d/a"), readonly];
    spec.config.nics = vec![Nic { mac: Some([0, 0x16, 0x3e, 1, 2, 3]), ..Nic::default() }];
    plan.taps = vec![Some(5)];
    plan.run_as = Some(RunAs { uid: 107, gid: 108 });
    spec.config.emulator_args = vec!["-no-sandbox".into()];
    assert_eq!(
        line(&spec, &plan),
        "-name guest -uuid 4f9f8a9c-0c7b-4c3e-8f5e-2d1f6c3b9a01 -S \
         -action shutdown=pause,reboot=shutdown,panic=pause -m 256M -smp 2 -cpu host -qmp fd:3 \
         -kernel /boot/vmlinuz -initrd /boot/initrd -append=console=ttyS0 -S \
         -disk path=/d/a,id=xvda,readonly=off -disk path=/d/b,,c,id=xvdb,readonly=on \
         -net fd=5,id=net0,mac=00:16:3e:01:02:03 -serial fd:4 -balloon -rng -runas 107:108 \
         -no-sandbox"
    );
}

#[test]
fn a_state_comes_back_and_has_its_kernel_for_a_reset() {
    let mut plan = plan();
    plan.memory = Some(Memory { number: 5, own: false });
    plan.state = Some(6);
    let spec = spec();
    let line = |plan: &Plan| self::line(&spec, plan);
    assert!(line(&plan).ends_with("-rng -mem-file fd:5 -incoming fd:6"));
    assert!(line(&plan).contains("-kernel /boot/vmlinuz "));
    plan.memory = Some(Memory { number: 5, own: true });
    assert!(line(&plan).contains("-mem-file fd:5,shared=on"));
}

#[test]
fn a_domain_without_a_console_has_a_port_all_the_same() {
    let mut spec = spec();
    let plan = Plan { console: None, ..plan() };
    spec.config.serial = vec!["none".into()];
    assert!(line(&spec, &plan).contains("-serial null"));
    spec.config.serial = vec!["/dev/ttyS5".into()];
    let error = Kvm.arguments(&spec, &plan).unwrap_err().to_string();
    assert!(error.contains("\"/dev/ttyS5\" cannot be the console"), "{error}");
}

#[test]
fn what_only_qemu_has_is_named_with_its_key() {
    type Change = fn(&mut DomainConfig);
    let cases: &[(&str, &str, Change)] = &[
        ("arch", "x86_64", |c| c.arch = Some(Arch::Aarch64)),
        ("machine", "one machine", |c| c.machine = Some("q35".into())),
        ("cpu_model", "or baseline", |c| c.processor.model = Some("Haswell".into())),
        ("firmware", "no firmware", |c| c.boot.firmware = Some(Firmware::Ovmf)),
        ("kernel", "starts a kernel", |c| c.boot.kernel = None),
        ("cmdline", "2047 bytes", |c| c.boot.cmdline = Some("x".repeat(2048))),
        ("vcpus", "at most 64", |c| (c.vcpus, c.maxvcpus) = (65, 65)),
        ("vcpus", "from the start", |c| c.maxvcpus = 2),
        ("acpi", "has ACPI", |c| c.acpi = false),
        ("localtime", "in UTC", |c| c.localtime = true),
        ("vnc", "no screen", |c| c.display.vnc = Some(true)),
        ("usb", "no USB", |c| c.usb.enabled = true),
        ("serial", "one serial port", |c| c.serial = vec!["pty".into(), "null".into()]),
        ("disk", "xvda: kxl-vmm reads raw disks, not qcow2: convert it", |c| {
            c.disks = vec![Disk { format: DiskFormat::Qcow2, ..raw("xvda", "/a") }];
        }),
        ("disk", "hda: kxl-vmm has virtio disks only: call it xvdX", |c| {
            c.disks = vec![Disk { bus: DiskBus::Ide, ..raw("hda", "/a") }];
        }),
        ("disk", "CD-ROM", |c| c.disks = vec![Disk { cdrom: true, ..raw("xvda", "/a") }]),
        ("disk", "8 disks, not 9", |c| c.disks = vec![raw("xvda", "/a"); 9]),
        ("vif", "4 interfaces, not 5", |c| c.nics = vec![Nic::default(); 5]),
        ("vif", "no user networking", |c| c.nics = vec![Nic { user: true, ..Nic::default() }]),
        ("vif", "virtio interfaces", |c| {
            c.nics = vec![Nic { model: Some("e1000".into()), ..Nic::default() }];
        }),
        ("vif", "its mtu", |c| c.nics = vec![Nic { mtu: Some(9000), ..Nic::default() }]),
    ];
    for (key, text, change) in cases {
        let mut config = spec().config;
        assert!(lack(&config).is_none());
        change(&mut config);
        let found = lack(&config).unwrap_or_else(|| panic!("{key} {text}"));
        assert_eq!(found.key, *key, "{}", found.why);
        assert!(found.why.contains(text), "{}", found.why);
    }
}

#[test]
fn its_state_fits_a_machine_of_the_same_parts_whatever_they_are_made_of() {
    let mut one = spec();
    one.config.disks = vec![raw("xvda", "/a")];
    one.config.nics = vec![Nic::default()];
    let parts = Kvm.parts(&one, &plan()).unwrap();
    assert_eq!(parts, ["machine kxl-vmm-1", "smp 1", "serial fd", "disk xvda", "net 0"]);
    let mut other = one.clone();
    other.config.disks[0].target = Some("/b".into());
    other.config.boot.kernel = Some("/k".into());
    assert_eq!(Kvm.parts(&other, &plan()).unwrap(), parts);
    other.config.disks.push(raw("xvdb", "/c"));
    assert_ne!(Kvm.parts(&other, &plan()).unwrap(), parts);
}

#[test]
fn the_program_says_what_it_is() {
    let (version, machines) = told("kxl-vmm 0.1.0\nmachine kxl-vmm-1\n");
    assert_eq!(version, "0.1.0");
    assert_eq!(machines.into_iter().collect::<Vec<_>>(), [("kxl-vmm-1".to_owned(), None)]);
    assert!(told("QEMU emulator version 7.2").1.is_empty());
}

#[test]
fn the_program_is_looked_for_beside_kxls_own() {
    let dirs = neighbours(Some("/opt/x".into()), Some(Path::new("/usr/libexec/kxl/kxl-monitor")));
    let expected = ["/opt/x", "/usr/libexec/kxl", "/usr/libexec/libexec/kxl", "/usr/bin"];
    assert_eq!(dirs, expected.map(PathBuf::from));
    let dirs = neighbours(None, Some(Path::new("/t/debug/deps/all-0f")));
    assert!(dirs.contains(&PathBuf::from("/t/debug")));
}

#[test]
fn its_version_is_the_one_that_was_started_not_that_of_its_greeting() {
    let attachments =
        Attachments { emulator: "kxl-vmm /usr/bin/kxl-vmm 0.1.0".into(), ..Attachments::default() };
    assert_eq!(Kvm.version([4, 0, 1], &attachments), "0.1.0");
}

#[test]
fn the_guests_port_is_there_only_where_it_is_asked_for_and_is_part_of_the_machine() {
    let (spec, plain) = (spec(), plan());
    let with = Plan { channel: Some(8), ..plain.clone() };
    assert!(!line(&spec, &plain).contains("-channel"));
    assert!(line(&spec, &with).contains("-channel name=org.kxl.event.0,fd:8"));
    let (before, after) = (Kvm.parts(&spec, &plain).unwrap(), Kvm.parts(&spec, &with).unwrap());
    let more: Vec<_> = after.iter().filter(|part| !before.contains(part)).collect();
    assert_eq!(more, ["channel org.kxl.event.0"]);
}
