//! Keys and their rules, under kxl's rules and under xl's.

use std::path::Path;

use super::{Parsed, Rules, parse, parse_by};
use crate::config::error::{ConfigErrors, ErrorKind, WarningKind};
use crate::config::model::{Affinity, Arch, DomainConfig, Firmware, GuestKind};
use crate::policy::Action;

const HEAD: &str = "name = 'web1'\nkernel = '/k'\n";

pub(super) fn good(text: &str) -> DomainConfig {
    parse("f", &format!("{HEAD}{text}"), &[]).unwrap_or_else(|e| panic!("{text}: {e}")).config
}

fn hvm(text: &str) -> DomainConfig {
    good(&format!("type = 'hvm'\n{text}"))
}

pub(super) fn bad(text: &str) -> ConfigErrors {
    parse("f", &format!("{HEAD}{text}"), &[]).map(|_| ()).expect_err(text)
}

fn as_xl(text: &str) -> Result<Parsed, ConfigErrors> {
    parse_by(Rules::Xl, "f", &format!("{HEAD}{text}"), &[])
}

/// The lines xl prints for a text that it accepts.
fn xl_lines(text: &str) -> Vec<String> {
    let parsed = as_xl(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    parsed.warnings.iter().filter_map(|w| w.xl_text()).map(str::to_owned).collect()
}

#[test]
fn the_shortest_configuration_has_every_default() {
    let mut want = DomainConfig::new("web1".parse().unwrap());
    want.boot.kernel = Some("/k".into());
    assert_eq!(good(""), want);
}

#[test]
fn a_domain_needs_a_name_and_something_to_start_from() {
    let errors = parse("f", "memory=64\n", &[]).unwrap_err();
    let kinds: Vec<_> = errors.errors.iter().map(|e| &e.kind).collect();
    assert_eq!(kinds, [&ErrorKind::NoName, &ErrorKind::NoKernel]);
    // xl ends at the first.
    assert_eq!(errors.xl_text(), "Domain name must be specified.\n");
    let errors = parse("f", "name='a'\ntype='pvh'\n", &[]).unwrap_err();
    assert_eq!(errors.xl_text(), "Neither kernel nor bootloader specified\n");
    assert_eq!(errors.xl_exit_code(), 1);
    for text in ["name='a'\ntype='hvm'\n", "name='a'\nbootloader='pygrub'\n"] {
        assert!(parse("f", text, &[]).map_err(|e| panic!("{e}")).is_ok(), "{text}");
    }
}

#[test]
fn backends_that_start_no_kernels_need_none() {
    for backend in ["simh", "mock", "any", "my-charon.2"] {
        let text = format!("name='a'\nbackend='{backend}'\n");
        assert_eq!(parse("f", &text, &[]).unwrap().config.backend, backend);
    }
    for backend in ["auto", "qemu", "kvm"] {
        let text = format!("name='a'\nbackend='{backend}'\n");
        let errors = parse("f", &text, &[]).unwrap_err();
        assert_eq!(errors.errors[0].kind, ErrorKind::NoKernel);
    }
}

#[test]
fn the_kind_is_compared_with_as_many_letters_as_were_given() {
    for (text, kind) in [
        ("type='hvm'", GuestKind::Hvm),
        ("type='h'", GuestKind::Hvm),
        ("type=''", GuestKind::Hvm),
        ("type='p'", GuestKind::Pv),
        ("type='pvh'", GuestKind::Pvh),
        ("builder='hvm'", GuestKind::Hvm),
        ("builder='generic'", GuestKind::Pv),
        ("type='pv'\nbuilder='g'", GuestKind::Pv),
        ("arch='aarch64'", GuestKind::Pvh),
        ("arch='x86_64'", GuestKind::Pv),
    ] {
        assert_eq!(good(&format!("{text}\n")).kind, kind, "{text}");
    }
    assert_eq!(bad("type='xen'\n").xl_text(), "Invalid domain type xen.\n");
    assert_eq!(
        bad("type='hvm'\nbuilder='generic'\n").xl_text(),
        "Contradicting \"builder\" and \"type\" options specified.\n"
    );
}

#[test]
fn memory_and_maxmem_stand_in_for_each_other() {
    for (text, want) in [
        ("", (32, 32)),
        ("memory=64\n", (64, 64)),
        ("maxmem=64\n", (64, 64)),
        ("memory=64\nmaxmem=128\n", (64, 128)),
        ("memory='64'\nmaxmem='0x80'\n", (64, 128)),
        ("memory=0100\n", (64, 64)),
    ] {
        let config = good(text);
        assert_eq!((config.memory_mib, config.maxmem_mib), want, "{text}");
    }
    assert!(matches!(bad("memory=64\nmaxmem=32\n").errors[0].kind, ErrorKind::Contradiction(_)));
    assert!(matches!(bad("memory=0\n").errors[0].kind, ErrorKind::Range { key: "memory", .. }));
    assert!(matches!(bad("memory='-1'\n").errors[0].kind, ErrorKind::Range { .. }));
}

#[test]
fn virtual_processors_are_at_least_one_and_at_most_maxvcpus() {
    for (text, want) in [
        ("", (1, 1)),
        ("vcpus=0\n", (1, 1)),
        ("vcpus='2'\n", (2, 2)),
        ("vcpus=2\nmaxvcpus=4\n", (2, 4)),
        ("maxvcpus=4\n", (1, 4)),
    ] {
        let config = good(text);
        assert_eq!((config.vcpus, config.maxvcpus), want, "{text}");
    }
    assert_eq!(bad("vcpus=4\nmaxvcpus=2\n").xl_text(), "xl: maxvcpus < vcpus\n");
}

#[test]
fn cpu_lists_are_checked_and_kept_as_written() {
    assert_eq!(good("cpus='0-3,^1'\n").cpus, Affinity::All("0-3,^1".into()));
    assert_eq!(good("cpus=[2,'3']\n").cpus, Affinity::Each(vec!["2".into(), "3".into()]));
    assert_eq!(bad("cpus='0-x'\n").xl_text(), "Invalid pcpu range: 0-x.\n");
}

#[test]
fn actions_are_the_seven_words_of_xen() {
    for action in Action::ALL {
        assert_eq!(good(&format!("on_crash='{action}'\n")).on_crash, *action);
    }
    let errors = bad("on_poweroff='halt'\n");
    assert_eq!(errors.xl_text(), "Unknown on_poweroff action \"halt\" specified\n");
    assert!(errors.render().contains("expected: destroy, restart, rename-restart,"));
}

#[test]
fn uuids_are_taken_in_the_usual_notation_only() {
    let text = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
    assert_eq!(good(&format!("uuid='{text}'\n")).uuid.unwrap().to_string(), text);
    for wrong in [
        "6ba7b8109dad41d180b400c04fd430c8",
        "{6ba7b810-9dad-41d1-80b4-00c04fd430c8}",
        "00000000-0000-0000-0000-000000000000",
        "",
    ] {
        let want = format!("Failed to parse UUID: {wrong}\n");
        assert_eq!(bad(&format!("uuid='{wrong}'\n")).xl_text(), want);
    }
}

#[test]
fn the_command_line_is_cmdline_or_root_and_extra() {
    for (text, want) in [
        ("", None),
        ("cmdline='a'\n", Some("a")),
        ("root='/dev/xvda2 ro'\nextra='elevator=noop'\n", Some("root=/dev/xvda2 ro elevator=noop")),
        ("root='/dev/x'\n", Some("root=/dev/x")),
        ("extra='quiet'\n", Some("quiet")),
        ("cmdline='a'\nroot='b'\nextra='c'\n", Some("a")),
    ] {
        assert_eq!(good(text).boot.cmdline.as_deref(), want, "{text}");
    }
    let lines = xl_lines("cmdline='a'\nextra='c'\n");
    assert_eq!(lines, ["Warning: ignoring root= and extra= in favour of cmdline="]);
}

#[test]
fn firmware_of_an_hvm_domain_is_a_word_or_a_file() {
    let file = |path: &str| Some(Firmware::Path(path.into()));
    for (text, want) in [
        ("", None),
        ("bios='seabios'\n", Some(Firmware::Seabios)),
        ("bios='ovmf'\n", Some(Firmware::Ovmf)),
        ("firmware='uefi'\n", Some(Firmware::Ovmf)),
        ("firmware='u'\n", Some(Firmware::Ovmf)),
        ("firmware='bios'\n", None),
        ("firmware='/x.fd'\n", file("/x.fd")),
        ("bios='ovmf'\nbios_path_override='/y.fd'\n", file("/y.fd")),
    ] {
        assert_eq!(hvm(text).boot.firmware, want, "{text}");
    }
    for text in ["bios='rombios'\n", "firmware='rombios'\n"] {
        let errors = bad(&format!("type='hvm'\n{text}"));
        assert!(matches!(errors.errors[0].kind, ErrorKind::Refused { .. }));
        assert_eq!(errors.xl_exit_code(), 3);
    }
    let errors = bad("type='hvm'\nbios='award'\n");
    assert_eq!(errors.xl_text(), "ERROR: invalid value \"award\" for \"bios\"\n");
    let errors = bad("firmware='pvgrub64'\n");
    assert_eq!(errors.xl_text(), "ERROR: both kernel and firmware specified\n");
}

#[test]
fn hvmloader_as_kernel_is_passed_over_for_hvm_domains_only() {
    let text = "name='a'\nkernel='/usr/lib/xen-4.17/boot/hvmloader'\n";
    let parsed = parse_by(Rules::Xl, "f", &format!("{text}builder='hvm'\n"), &[]).unwrap();
    assert_eq!(parsed.config.boot.kernel, None);
    assert!(parsed.warnings[0].xl_text().unwrap().starts_with("WARNING: you seem to be using"));
    assert!(parse("f", text, &[]).unwrap().config.boot.kernel.is_some());
}

#[test]
fn boot_letters_are_a_c_d_n_each_once() {
    assert_eq!(hvm("boot='dc'\n").boot.order.as_deref(), Some("dc"));
    assert_eq!(hvm("").boot.order, None);
    for wrong in ["x", "cc", "c d"] {
        assert!(matches!(
            bad(&format!("type='hvm'\nboot='{wrong}'\n")).errors[0].kind,
            ErrorKind::Word { key: "boot", .. }
        ));
    }
}

#[test]
fn keys_of_hvm_domains_have_no_effect_on_others_and_kxl_says_so() {
    let text = format!("{HEAD}serial='pty'\nusb=1\nvga='none'\nboot='x'\n");
    let parsed = parse("f", &text, &[]).unwrap();
    assert!(parsed.config.serial.is_empty() && !parsed.config.usb.enabled);
    let keys: Vec<_> = parsed
        .warnings
        .iter()
        .map(|w| match w.kind {
            WarningKind::NoEffect { key, .. } if w.xl_text().is_none() => key,
            ref other => panic!("{other}"),
        })
        .collect();
    assert_eq!(keys, ["boot", "vga", "usb", "serial"]);
    assert!(parsed.config.kept.is_empty());
}

#[test]
fn disks_that_share_a_place_get_places_of_their_own() {
    let config = good("disk=['file:/a,xvda2,w','file:/b,xvda1,w','/c,raw,xvdb']\n");
    let places: Vec<_> = config.disks.iter().map(|d| (d.vdev.as_str(), d.index)).collect();
    assert_eq!(places, [("xvda2", 0), ("xvda1", 1), ("xvdb", 2)]);
    let errors = bad("disk=['/a,raw,xvda','/b,raw,51712']\n");
    assert_eq!(errors.errors[0].kind, ErrorKind::SameDisk("51712".into()));
}

#[test]
fn a_bad_disk_ends_xl_with_its_own_words() {
    let errors = as_xl("disk=['/a,zip,xvda']\n").unwrap_err();
    assert_eq!(
        errors.xl_text(),
        "f: config parsing error in disk specification: unknown value for format: near `zip' in `/a,zip,xvda'\n"
    );
    assert_eq!(errors.xl_exit_code(), 1);
    assert_eq!(as_xl("disk=['/a,raw,vdx']\n").unwrap_err().xl_exit_code(), 3);
}

#[test]
fn a_bad_interface_is_passed_over_by_xl_and_refused_by_kxl() {
    let text = "vif=['brigde=x,mtu=1400','']\n";
    let parsed = as_xl(text).unwrap();
    assert_eq!((parsed.config.nics.len(), parsed.config.nics[0].mtu), (2, Some(1400)));
    assert_eq!(xl_lines(text), ["unrecognized argument `brigde=x'"]);
    let errors = bad(text);
    assert!(errors.render().contains("hint: the nearest key is bridge"), "{errors}");
    // A rate that cannot be read ends xl too.
    let errors = as_xl("vif=['rate=fast']\n").unwrap_err();
    assert_eq!(errors.xl_text(), "f: config parsing error in vif: invalid rate in `fast'\n");
}

#[test]
fn what_is_no_number_counts_as_unset_for_xl_and_is_an_error_for_kxl() {
    for (text, line) in [
        ("memory='512MB'\n", "f:3: warning: parameter `memory' is not a valid number"),
        ("memory=[1]\n", "f:3: warning: parameter `memory' is a list but should be a single value"),
        ("\nmemory+=512\n", "f:4: warning: can't use += with numbers for parameter `memory'"),
        (
            "memory='9999999999999999999'\n",
            "f:3: warning: parameter `memory' could not be parsed as a number: Numerical result out of range",
        ),
    ] {
        assert_eq!(xl_lines(text), [line]);
        assert_eq!(as_xl(text).unwrap().config.memory_mib, 32, "{text}");
        assert_eq!(bad(text).errors.len(), 1, "{text}");
    }
    let lines = xl_lines("disk='/a,raw,xvda'\n");
    assert_eq!(lines, ["f:3: warning: parameter `disk' is a single value but should be a list"]);
}

#[test]
fn a_list_of_strings_ends_for_xl_at_an_item_that_is_none() {
    let text = "disk=['/a,raw,xvda',['x'],'/b,raw,xvdb']\n";
    assert_eq!(as_xl(text).unwrap().config.disks.len(), 1);
    assert_eq!(bad(text).errors[0].kind, ErrorKind::NestedItem("disk"));
}

#[test]
fn unknown_keys_are_named_with_the_nearest_one_by_kxl_and_xl_is_silent() {
    let text = format!("{HEAD}memroy=64\ndhcp=1\n");
    let parsed = parse("f", &text, &[]).unwrap();
    let lines: Vec<_> = parsed.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "f:3:1: memroy is not a key and is ignored (the nearest key is memory)",
            "f:4:1: dhcp is not a key and is ignored",
        ]
    );
    assert!(xl_lines("memroy=64\ndhcp=1\n").is_empty());
}

#[test]
fn keys_without_effect_are_kept_and_told_once_unless_they_say_the_default() {
    let text = format!("{HEAD}xen_platform_pci=0\nspice=1\npae=1\nvuart='sbsa_uart'\n");
    let parsed = parse("f", &text, &[]).unwrap();
    let kinds: Vec<_> = parsed.warnings.iter().map(|w| w.kind.clone()).collect();
    assert_eq!(
        kinds,
        [
            WarningKind::XenOnly("xen_platform_pci"),
            WarningKind::NotBuilt("spice"),
            WarningKind::NotBuilt("vuart"),
        ]
    );
    let kept: Vec<_> = parsed.config.kept.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(kept, ["pae=1", "spice=1", "vuart=\"sbsa_uart\"", "xen_platform_pci=0"]);
}

#[test]
fn keys_that_xl_itself_calls_useless_bring_its_remark() {
    for (text, start) in [
        ("vncviewer=1\n", "WARNING: ignoring \"vncviewer\" option."),
        ("vif2=[]\n", "WARNING: vif2: netchannel2 is deprecated"),
        ("altp2mhvm=0\n", "WARNING: Specifying \"altp2mhvm\" is deprecated."),
        ("device_model='qemu-dm'\n", "WARNING: ignoring device_model directive.\nWARNING: Use"),
    ] {
        let lines = xl_lines(text);
        assert!(lines.len() == 1 && lines[0].starts_with(start), "{text}: {lines:?}");
    }
}

#[test]
fn what_must_not_be_ignored_is_refused_under_either_rules() {
    for text in ["driver_domain=1\n", "pvcalls=['backend=x']\n"] {
        assert!(matches!(bad(text).errors[0].kind, ErrorKind::Refused { .. }), "{text}");
        assert_eq!(as_xl(text).unwrap_err().xl_exit_code(), 3);
    }
    assert!(good("driver_domain=0\npvcalls=[]\n").kept.is_empty());
}

#[test]
fn a_screen_comes_from_the_keys_or_for_pv_from_vfb() {
    let config = good("vfb=['vnc=1,vnclisten=0.0.0.0,vncdisplay=3,foo=1']\nvncdisplay=9\n");
    assert_eq!(config.display.vncdisplay, Some(3));
    assert_eq!(good("vfb=['']\n").display.vnc, Some(true));
    assert_eq!(good("vncdisplay=9\n").display.vncdisplay, None);
    assert_eq!(good("vnc=1\nvncdisplay=9\n").display.vncdisplay, Some(9));
    assert_eq!(hvm("vncdisplay=9\n").display.vncdisplay, Some(9));
    assert_eq!(hvm("stdvga=1\n").display.vga.as_deref(), Some("stdvga"));
    assert_eq!(hvm("stdvga=1\nvga='qxl'\n").display.vga.as_deref(), Some("qxl"));
    assert_eq!(bad("type='hvm'\nvga='ega'\n").xl_text(), "Unknown vga \"ega\" specified\n");
    assert_eq!(
        bad("type='hvm'\nvnclisten='0.0.0.0:1'\nvncdisplay=2\n").xl_text(),
        "ERROR: Display specified both in vnclisten and vncdisplay!\n"
    );
    assert!(matches!(
        bad("type='hvm'\nvga='stdvga'\nvideoram=8\n").errors[0].kind,
        ErrorKind::Range { key: "videoram", .. }
    ));
}

#[test]
fn usb_devices_bring_their_controller_along() {
    assert!(hvm("usbdevice='tablet'\n").usb.enabled);
    assert_eq!(hvm("usb=1\nusbdevice=['a','b']\n").usb.devices, ["a", "b"]);
    let errors = bad("type='hvm'\nusb=1\nusbversion=2\n");
    assert!(matches!(errors.errors[0].kind, ErrorKind::Contradiction(_)));
}

#[test]
fn the_emulator_has_two_names_and_arguments_by_kind() {
    assert_eq!(good("exec='/q'\n").emulator.as_deref(), Some(Path::new("/q")));
    assert_eq!(good("device_model_override='/q'\n").emulator.as_deref(), Some(Path::new("/q")));
    assert!(matches!(
        bad("exec='/q'\ndevice_model_override='/r'\n").errors[0].kind,
        ErrorKind::Contradiction(_)
    ));
    let lists =
        "device_model_args=['a']\ndevice_model_args_hvm=['h']\ndevice_model_args_pv=['p']\n";
    assert_eq!(hvm(lists).emulator_args, ["a", "h"]);
    assert_eq!(good(lists).emulator_args, ["a", "p"]);
    let text = "device_model_version='qemu-xen-traditional'\n";
    let want = "Unknown device_model_version \"qemu-xen-traditional\" specified\n";
    assert_eq!(bad(text).xl_text(), want);
    let lines = xl_lines("device_model_override='/q'\n");
    assert_eq!(lines, ["WARNING: device model override given without specific DM version"]);
    let quiet = parse("f", &format!("{HEAD}exec='/q'\ndevice_model_override='/q'\n"), &[]);
    assert!(quiet.unwrap().warnings.is_empty());
}

#[test]
fn own_keys_are_checked_for_what_they_are() {
    let config = good("arch='aarch64'\nmachine='virt-7.2'\nlimit_pids=5\nconsole_pace=0\n");
    assert_eq!(config.arch, Some(Arch::Aarch64));
    assert_eq!(config.machine.as_deref(), Some("virt-7.2"));
    assert_eq!((config.limits.pids, config.console.pace_ms), (Some(5), Some(0)));
    for text in [
        "backend='../x'\n",
        "backend=''\n",
        "machine='-x'\n",
        "machine='virt,dumpdtb=x'\n",
        "start='1000; do x'\n",
        "arch='vax'\n",
    ] {
        assert!(matches!(bad(text).errors[0].kind, ErrorKind::Word { .. }), "{text}");
    }
    for text in ["limit_pids=0\n", "console_log='-1'\n", "limit_nofile=1\n", "ramdisk=''\n"] {
        assert_eq!(bad(text).errors.len(), 1, "{text}");
    }
}

#[test]
fn what_host_maintenance_needs_is_read_and_checked() {
    let read = |text: &str| good(text).maintenance;
    let plain = read("");
    assert_eq!((plain.autostart, plain.priority, plain.after.len()), (None, 500, 0));
    let all = read(
        "autostart=1\npriority=10\nafter=['db', 'ldap', 'db']\nstop_command=['/bin/x', '-y']\n",
    );
    assert_eq!((all.autostart, all.priority), (Some(true), 10));
    assert_eq!(all.after.iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["db", "ldap"]);
    assert_eq!(all.stop_command, ["/bin/x", "-y"]);
    assert_eq!(read("after='db'\n").after.len(), 1);
    assert_eq!(read("autostart=0\n").autostart, Some(false));
    for text in ["priority=1001\n", "after='a b'\n", "after=['web1']\n", "stop_command=['x']\n"] {
        assert_eq!(bad(text).errors.len(), 1, "{text}");
    }
}

#[test]
fn bytes_that_are_no_text_are_an_error_in_strings_only() {
    assert_eq!(bad("extra='a\u{fffd}'\n").errors[0].kind, ErrorKind::NotUtf8);
    assert_eq!(good("# \u{fffd}\n"), good(""));
}

#[test]
fn files_of_xen_tools_and_ganeti_are_accepted() {
    let tools = include_str!("../testdata/xen-tools.cfg");
    let parsed = parse_by(Rules::Xl, "xen-tools.cfg", tools, &[]).unwrap();
    let config = parsed.config;
    assert_eq!((config.memory_mib, config.vcpus, config.kind), (512, 2, GuestKind::Pv));
    let cmdline = Some("root=/dev/xvda2 ro elevator=noop");
    assert_eq!(config.boot.cmdline.as_deref(), cmdline);
    assert_eq!(config.nics[0].ip.as_deref(), Some("192.168.1.10 192.168.1.11"));
    assert!(parsed.warnings.iter().all(|w| w.xl_text().is_none()));

    let ganeti = include_str!("../testdata/ganeti-hvm.cfg");
    let parsed = parse("ganeti-hvm.cfg", ganeti, &[]).unwrap();
    let config = parsed.config;
    assert_eq!((config.kind, config.on_poweroff), (GuestKind::Hvm, Action::Preserve));
    assert_eq!((config.boot.kernel, config.nics.len(), config.disks.len()), (None, 1, 2));
    let said: Vec<_> = parsed.warnings.iter().filter(|w| w.said_by_kxl()).collect();
    assert_eq!(said.len(), 2, "{said:?}");
}

#[test]
fn features_of_the_processor_are_shown_and_hidden_by_libxls_names() {
    let features = |text: &str| {
        let config = good(text);
        let features = config.processor.features.into_iter();
        features.map(|feature| (feature.name, feature.shown)).collect::<Vec<_>>()
    };
    assert_eq!(features("cpuid='host'\n"), []);
    let text = "cpuid='host,avx2=0,sse4.2=1, nx=k ,avx2=1'\n";
    assert_eq!(features(text), [("sse4_2".to_owned(), true), ("avx2".to_owned(), true)]);
    for text in [
        "cpuid='avx2=0'\n",
        "cpuid='host,avx2'\n",
        "cpuid='host,avx2=2'\n",
        "cpuid='host,avx3=0'\n",
        "cpu_model='a,b=on'\n",
    ] {
        assert!(matches!(bad(text).errors[0].kind, ErrorKind::Word { .. }), "{text}");
        // xl says so and starts the domain.
        if text.starts_with("cpuid") {
            let text = format!("name='a'\nkernel='/k'\n{text}");
            assert!(parse_by(Rules::Xl, "f", &text, &[]).is_ok(), "{text}");
        }
    }
    let hint = bad("cpuid='host,avx3=0'\n").errors.remove(0).hint;
    assert_eq!(hint.as_deref(), Some("the nearest feature is avx"));
    let other = bad("arch='aarch64'\ncpuid='host,avx2=0'\n");
    assert!(matches!(other.errors[0].kind, ErrorKind::Contradiction(_)));
    let text = "name='a'\nkernel='/k'\ncpuid='host,stepping=3'\n";
    let parsed = parse("f", text, &[]).unwrap();
    assert!(matches!(parsed.warnings[0].kind, WarningKind::NoEffect { key: "cpuid", .. }));
    let xend = good("cpuid=['1:ecx=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx0']\n");
    assert!(xend.kept.contains_key("cpuid") && xend.processor.is_default());
}
