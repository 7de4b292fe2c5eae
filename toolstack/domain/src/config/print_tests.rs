//! What is printed reads back as the same configuration.

use proptest::prelude::*;
use proptest::sample::select;

use crate::config::model::{Affinity, Disk, DiskFormat, DomainConfig, Firmware, GuestKind, Nic};
use crate::config::vdev::Vdev;
use crate::config::{Rules, parse, parse_by};
use crate::policy::Action;

#[test]
fn a_configuration_of_every_section_reads_back_the_same() {
    for text in [
        include_str!("testdata/everything.cfg"),
        include_str!("testdata/supervised.cfg"),
        // One key makes it supervised, and what is printed must still say so.
        "name='a'\nbackend='any'\nstartsecs=10\n",
        "name='a'\nbackend='any'\nexitcodes=[]\n",
    ] {
        let config = parse("given", text, &[]).unwrap_or_else(|e| panic!("{e}")).config;
        let printed = config.to_cfg();
        let again = parse("printed", &printed, &[]).unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(again.config, config, "{printed}");
    }
}

/// Any text that a string in a configuration can hold.
fn text() -> impl Strategy<Value = String> {
    "[ -~\t\r\né€]{1,16}"
}

fn word() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9]{0,8}"
}

fn maybe<S: Strategy>(some: S) -> impl Strategy<Value = Option<S::Value>>
where
    S::Value: Clone,
{
    proptest::option::of(some)
}

fn disk(name: &'static str) -> impl Strategy<Value = Disk> {
    let formats = select(vec![DiskFormat::Raw, DiskFormat::Qcow2, DiskFormat::Vhd]);
    let target = "[ -~é]{1,12}[,x]{1,2}";
    (formats, target, any::<[bool; 3]>(), maybe(any::<bool>()), maybe(word())).prop_map(
        move |(format, target, [readwrite, cdrom, flag], discard, script)| {
            let vdev = Vdev::parse(name).unwrap();
            let empty = cdrom && flag;
            Disk {
                target: (!empty).then(|| target.into()),
                format: if empty { DiskFormat::Empty } else { format },
                vdev: name.into(),
                bus: vdev.bus,
                index: vdev.index,
                vdev_number: vdev.number,
                readwrite: readwrite && !cdrom,
                cdrom,
                discard,
                direct_io_safe: flag,
                backendtype: flag.then(|| "qdisk".into()),
                script,
            }
        },
    )
}

fn nic() -> impl Strategy<Value = Nic> {
    let plain = "[!-+\\--~]{1,10}";
    (any::<[u8; 6]>(), maybe(word()), maybe(any::<bool>()), maybe(plain), maybe(68_u32..65_536))
        .prop_map(|(mac, bridge, emulated, ip, mtu)| Nic {
            mac: (mac[5] > 20).then_some([mac[0] & !1, mac[1], mac[2], mac[3], mac[4], mac[5]]),
            user: bridge.is_none() && mac[4] > 128,
            bridge,
            emulated,
            model: ip.clone(),
            ip,
            mtu,
            devid: emulated.map(|_| u32::from(mac[0])),
            ..Nic::default()
        })
}

fn general() -> impl Strategy<Value = DomainConfig> {
    let kinds = select(GuestKind::ALL.to_vec());
    let cpus = prop_oneof![
        Just(Affinity::Any),
        Just(Affinity::All("0-3,^2".into())),
        Just(Affinity::Each(vec!["0".into(), "nodes:1".into()])),
    ];
    let numbers = (1..1_u64 << 20, 0..1_u64 << 20, 1..64_u32, 0..64_u32, any::<i32>());
    let action = select(Action::ALL.to_vec());
    (kinds, cpus, numbers, maybe(text()), action, any::<[bool; 4]>()).prop_map(
        |(kind, cpus, (memory, more, vcpus, further, offset), cmdline, action, flags)| {
            let mut config = DomainConfig::new("n1".parse().unwrap());
            config.kind = kind;
            config.cpus = cpus;
            (config.memory_mib, config.maxmem_mib) = (memory, (memory + more).min(16 << 20));
            (config.vcpus, config.maxvcpus) = (vcpus, vcpus + further);
            config.rtc_timeoffset_s = offset.into();
            config.boot.kernel = Some("k".into());
            config.boot.cmdline = cmdline;
            config.on_watchdog = action;
            config.on_soft_reset = action;
            [config.localtime, config.acpi, ..] = flags;
            config.cap = flags[2].then_some(vcpus);
            config.limits.memory_mib = flags[3].then_some(memory);
            config.console.pace_ms = flags[3].then_some(further);
            config
        },
    )
}

fn config() -> impl Strategy<Value = DomainConfig> {
    let disks =
        (disk("xvda"), disk("hdc"), disk("sdb"), 0..4_usize).prop_map(|(a, b, c, count)| {
            let mut disks = vec![a, b, c];
            disks.truncate(count);
            disks
        });
    let nics = proptest::collection::vec(nic(), 0..3);
    let texts = proptest::collection::vec(text(), 0..3);
    let screen = (maybe(any::<bool>()), maybe(word()), maybe(0_u32..59_000), any::<bool>());
    (general(), disks, nics, texts, screen).prop_map(
        |(mut config, disks, nics, texts, (vnc, keymap, vncdisplay, sdl))| {
            config.disks = disks;
            config.nics = nics;
            config.display.vnc = vnc;
            config.display.vncpasswd = keymap.clone();
            config.display.keymap = keymap;
            config.display.vncdisplay = vncdisplay;
            config.display.sdl = sdl;
            config.emulator_args.clone_from(&texts);
            if config.kind == GuestKind::Hvm {
                config.hpet = sdl;
                config.boot.order = sdl.then(|| "nd".into());
                config.boot.firmware = texts.first().map(|text| Firmware::Path(text.into()));
                config.usb.enabled = !texts.is_empty();
                config.usb.devices.clone_from(&texts);
                config.display.nographic = sdl;
                config.display.vga = sdl.then(|| "qxl".into());
                config.serial = texts;
            } else if vnc.is_none() && config.display != Default::default() {
                // Without vnc these domains have no screen whose details could be told.
                config.display = Default::default();
            }
            config
        },
    )
}

proptest! {
    #[test]
    fn every_configuration_that_is_printed_reads_back_the_same(config in config()) {
        let printed = config.to_cfg();
        for rules in [Rules::Kxl, Rules::Xl] {
            let again = parse_by(rules, "printed", &printed, &[]);
            let again = again.unwrap_or_else(|e| panic!("{e}\n{printed}"));
            prop_assert_eq!(&again.config, &config, "{}", printed);
            let scripts = config.disks.iter().filter(|disk| disk.script.is_some()).count();
            prop_assert_eq!(again.warnings.len(), scripts, "{:?}", again.warnings);
        }
    }
}
