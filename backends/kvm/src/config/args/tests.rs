use super::*;
use crate::config::*;

fn run(line: &[&str]) -> Result<Parsed, String> {
    let file = |_: &Path| -> io::Result<String> { panic!("no file is named") };
    match parse(line.iter().map(OsString::from), file).map_err(|error| error.to_string())? {
        Command::Run(parsed) => Ok(*parsed),
        other => panic!("{other:?}"),
    }
}

fn config(line: &[&str]) -> Config {
    let line = [&["-kernel", "k"], line].concat();
    run(&line).unwrap_or_else(|why| panic!("{line:?}: {why}")).config
}

fn refusal(line: &[&str]) -> String {
    let line = [&["-kernel", "k"], line].concat();
    run(&line).expect_err("a mistake")
}

fn path(text: &str) -> Source {
    Source::Path(text.into())
}

#[test]
fn a_line_with_a_kernel_alone_is_the_default_machine() {
    let boot = Boot { kernel: path("k"), initrd: None, cmdline: String::new() };
    assert_eq!(config(&[]), Config { boot: Some(boot), ..Config::default() });
}

#[test]
fn each_option_sets_its_part_of_the_machine() {
    type Check = fn(&Config) -> bool;
    let cases: &[(&[&str], Check)] = &[
        (&["-name", "a b"], |c| c.name.as_deref() == Some("a b")),
        (&["-uuid", "5e1f0c3a-9f3b-4a53-8A0E-0d3c1c8d7a11"], |c| {
            c.uuid.as_deref() == Some("5e1f0c3a-9f3b-4a53-8A0E-0d3c1c8d7a11")
        }),
        (&["-initrd", "fd:7"], |c| c.boot.as_ref().unwrap().initrd == Some(Source::Fd(7))),
        (&["-append", "-quiet a=b"], |c| c.boot.as_ref().unwrap().cmdline == "-quiet a=b"),
        (&["-m", "512"], |c| c.memory_mib == 512),
        (&["-m", "size=3G"], |c| c.memory_mib == 3072),
        (&["-m=64MiB"], |c| c.memory_mib == 64),
        (&["-smp", "64"], |c| c.vcpus == 64),
        (&["-smp", "cpus=2"], |c| c.vcpus == 2),
        (&["-cpu", "baseline"], |c| c.cpu.template == Template::Baseline),
        (&["-console", "null"], |c| c.console == Endpoint::Null),
        (&["-serial", "file:/l,o"], |c| c.serial == Endpoint::File("/l,o".into())),
        (&["-serial", "stdio"], |c| c.serial == Endpoint::Stdio),
        (&["-serial", "fd:4"], |c| c.serial == Endpoint::Fd(4)),
        (&["-serial", "none"], |c| c.serial == Endpoint::None),
        (&["-channel", "name=org.kxl,unix:/c"], |c| {
            c.channel
                == Some(Channel { name: "org.kxl".into(), endpoint: Endpoint::Unix("/c".into()) })
        }),
        (&["-rng"], |c| c.rng),
        (&["-balloon"], |c| c.balloon),
        (&["-S"], |c| c.paused),
        (&["-qmp", "unix:/q,server=on,wait=off", "--api-channel", "fd:3"], |c| {
            c.qmp == [Endpoint::Unix("/q".into()), Endpoint::Fd(3)]
        }),
        (&["-action", "shutdown=pause,reboot=shutdown,panic=pause"], |c| {
            let (shutdown, panic) = (AfterEnd::Pause, AfterEnd::Pause);
            c.actions == Actions { shutdown, reboot: AfterReboot::Shutdown, panic }
        }),
        (&["-action", "panic=shutdown"], |c| c.actions == Actions::default()),
        (&["-mem-file", "/m,shared=on"], |c| {
            c.memory_file == Some(MemoryFile { source: path("/m"), shared: true })
        }),
        (&["-mem-file", "fd:8"], |c| {
            c.memory_file == Some(MemoryFile { source: Source::Fd(8), shared: false })
        }),
        (&["-hotplug", "nics=2,disks=3", "--hotplug-dir", "/a", "-hotplug-dir", "/b"], |c| {
            let dirs = vec!["/a".into(), "/b".into()];
            c.hotplug == Hotplug { nics: 2, disks: 3, dirs }
        }),
        (&["-runas", "107:108"], |c| c.run_as == Some(RunAs { uid: 107, gid: 108 })),
        (&["-no-sandbox"], |c| !c.sandbox),
    ];
    for (line, check) in cases {
        let config = config(line);
        assert!(check(&config), "{line:?}: {config:?}");
    }
}

#[test]
fn disks_and_interfaces_come_in_the_order_of_the_line_and_get_names() {
    let config = config(&[
        "-disk",
        "path=/a,,b,readonly=on,serial=S1",
        "-disk",
        "/c",
        "-disk",
        "fd=9,id=data,format=raw,readonly=off",
        "-net",
        "tap=tap0,mac=52:54:00:aa:bb:cc,vhost=off",
        "-net",
        "fd=5,id=lan,vhost=on",
        "-net",
        "ifname=t1",
    ]);
    let disk = |id: &str, source, readonly, serial: Option<&str>| Disk {
        id: id.into(),
        source,
        readonly,
        serial: serial.map(Into::into),
    };
    assert_eq!(
        config.disks,
        [
            disk("disk0", path("/a,b"), true, Some("S1")),
            disk("disk1", path("/c"), false, None),
            disk("data", Source::Fd(9), false, None),
        ]
    );
    let mac = Some([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc]);
    let nic = |id: &str, tap, mac, vhost| Nic { id: id.into(), tap, mac, vhost };
    assert_eq!(
        config.nics,
        [
            nic("net0", Tap::Name("tap0".into()), mac, Vhost::Off),
            nic("lan", Tap::Fd(5), None, Vhost::On),
            nic("net2", Tap::Name("t1".into()), None, Vhost::Auto),
        ]
    );
}

#[test]
fn masks_of_one_register_are_put_together_and_the_last_word_counts() {
    let cpu = config(&["-cpu", "host,-7.0:ebx.16,+7.0:ebx.3,-0x1:ecx.31,-7.0:ebx.3"]).cpu;
    let mut keep = [u32::MAX; 4];
    keep[1] = !(1 << 16 | 1 << 3);
    let first = CpuidMask { leaf: 7, subleaf: Some(0), keep, set: [0; 4] };
    let keep = [u32::MAX, u32::MAX, u32::MAX >> 1, u32::MAX];
    let second = CpuidMask { leaf: 1, subleaf: None, keep, set: [0; 4] };
    assert_eq!(cpu, Cpu { template: Template::Host, masks: vec![first, second] });
}

#[test]
fn a_state_needs_no_kernel_and_one_beside_it_is_kept_for_a_reset() {
    let state = ["-incoming", "fd:3", "-mem-file", "fd:4"];
    let config = run(&state).unwrap().config;
    assert_eq!(config.incoming, Some(Incoming::From(Source::Fd(3))));
    assert_eq!(config.boot, None);
    let config = run(&[&state[..], &["-kernel", "k", "-append", "x"]].concat()).unwrap().config;
    assert_eq!(config.boot.unwrap().kernel, path("k"));
    let config = run(&["-incoming", "file:/s"]).unwrap().config;
    assert_eq!(config.incoming, Some(Incoming::From(path("/s"))));
    assert_eq!(run(&["-incoming", "defer"]).unwrap().config.incoming, Some(Incoming::Defer));
}

#[test]
fn help_and_version_are_answered_whatever_else_is_said() {
    let read = |_: &Path| -> io::Result<String> { panic!("no file is named") };
    let parse = |line: &[&str]| parse(line.iter().map(OsString::from), read).unwrap();
    assert_eq!(parse(&["--help"]), Command::Help);
    assert_eq!(parse(&["-kernel", "k", "-version"]), Command::Version);
    let help = help();
    for option in OPTIONS {
        assert!(help.contains(&format!("\n  -{}", option.name)), "{}", option.name);
        assert!(help.contains(option.help), "{}", option.name);
    }
    let long = help.lines().find(|line| line.len() > 120);
    assert_eq!(long, None);
}

#[test]
fn a_mistake_is_named_with_its_option_and_what_is_expected() {
    let cases: &[(&[&str], &str)] = &[
        (&["-kernl", "x"], "there is no option -kernl: did you mean -kernel?"),
        (&["--apichannel=x"], "there is no option -apichannel: did you mean -api-channel?"),
        (&["-nographic"], "there is no option -nographic: see kxl-vmm -help"),
        (&["disk.img"], r#""disk.img" belongs to no option: see kxl-vmm -help"#),
        (&["-initrd"], "-initrd wants a value: -initrd FILE|fd:N"),
        (&["-initrd", "-append", "x"], "-initrd wants a value: -initrd FILE|fd:N"),
        (&["-S=on"], r#"-S takes no value, and "on" was given"#),
        (&["-kernel", "j"], "-kernel is given twice: leave one of them away"),
        (&["-name", "a\nb"], r#"-name: "a\nb" is no name: expected 1 to 255 bytes of"#),
        (&["-uuid", "5e1f"], r#"-uuid: "5e1f" is no uuid: expected one such as "#),
        (&["-m", "0"], r#"-m: "0" is no memory size: expected a size such as 512M or 4G"#),
        (&["-m", "512X"], r#""512X" is no memory size"#),
        (&["-m", "1025k"], "whole MiB"),
        (&["-m", "99999999999999999999G"], "is no memory size"),
        (&["-m", "18446744073709551615G"], "is no memory size"),
        (&["-smp", "0"], r#"-smp: "0" is no number of processors: expected 1 to 64"#),
        (&["-smp", "+2"], r#""+2" is no number of processors"#),
        (&["-smp", "256"], r#""256" is no number of processors: expected 1 to 64"#),
        (&["-cpu", "max"], r#"-cpu: "max" is no processor: expected host or baseline"#),
        (&["-cpu", "host,-7:efx.1"], r#""-7:efx.1" is no mask: expected +LEAF"#),
        (&["-cpu", "host,+7:ebx.32"], "is no mask"),
        (&["-cpu", "host,"], r#""" is no mask"#),
        (&["-disk", "id=a"], "-disk: no image: say path=FILE or fd=N"),
        (&["-disk", "path=/a,fd=3"], "-disk: the image is said twice"),
        (&["-disk", "path="], r#""" is no path"#),
        (
            &["-disk", "/a,readnoly=on"],
            r#""readnoly" is no key: expected one of path, fd, id, readonly, serial, format, perhaps readonly"#,
        ),
        (&["-disk", "/a,readonly=maybe"], r#""maybe" is no switch: expected on or off"#),
        (
            &["-disk", "/a,format=qcow2"],
            r#""qcow2" is no format that is read here: expected raw; convert"#,
        ),
        (&["-disk", "/a,serial=123456789012345678901"], "1 to 20 visible ASCII characters"),
        (&["-disk", "/a,id=x", "-disk", "/b,id=x"], r#"-disk: there are two devices "x""#),
        (&["-disk", "/a,id=x/y"], r#""x/y" is no name of a device"#),
        (&["-net", "tap0"], r#"-net: "tap0" is no word: expected one of tap, fd"#),
        (&["-net", "id=a"], "-net: no tap: say tap=NAME or fd=N"),
        (&["-net", "tap=a-name-that-is-too-long"], "is no name of a tap: expected 1 to 15 bytes"),
        (&["-net", "tap=t,mac=52:54:00:12:34"], "is no hardware address: expected six bytes"),
        (&["-net", "tap=t,mac=01:00:00:00:00:01"], "no group address"),
        (&["-net", "tap=t,vhost=yes"], r#""yes" is no choice for vhost"#),
        (
            &["-net", "tap=t,mac=52:54:00:00:00:01", "-net", "tap=u,mac=52:54:00:00:00:01"],
            "-net: two interfaces have this mac",
        ),
        (&["-serial", "pty"], r#"-serial: "pty" is no end: expected none, null, stdio, file:PATH"#),
        (&["-serial", "fd:-1"], r#""-1" is no descriptor"#),
        (&["-channel", "unix:/c"], "is no channel: expected name=NAME and unix:PATH"),
        (&["-channel", "name=a,stdio"], r#""stdio" is no socket: expected unix:PATH or fd:N"#),
        (&["-qmp", "tcp:localhost:1"], r#"-qmp: "tcp:localhost:1" is no socket"#),
        (&["-qmp", "unix:/q,wait=on"], "is no socket"),
        (&["-action", "shutdown=halt"], r#"-action: "halt" is no action: expected poweroff"#),
        (&["-action", "watchdog=pause"], r#""watchdog" is no key"#),
        (&["-incoming", "tcp:0:1"], "-incoming: \"tcp:0:1\" is no state: expected fd:N, file:PATH"),
        (&["-mem-file", "/m,shard=on"], "is no memory file"),
        (&["-hotplug", "nics=5"], r#""5" is no number of network interfaces: expected 0 to 4"#),
        (&["-runas", "0:0"], r#""0:0" is no user: expected UID:GID in digits, and not root"#),
        (&["-runas", "kxl"], r#""kxl" is no user"#),
        (&["-append", &"x".repeat(2048)], "is no command line: expected at most 2047 bytes"),
    ];
    for (line, expected) in cases {
        let said = refusal(line);
        assert!(said.contains(expected), "{line:?}\n said {said}\n not  {expected}");
    }
    let long = format!("unix:/{}", "s".repeat(107));
    let said = refusal(&["-qmp", &long]);
    assert!(said.contains("at most 107 bytes (this one has 108)"), "{said}");
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    let cases: &[(&[&str], &str)] = &[
        (&[], "there is nothing to run: name a kernel with -kernel"),
        (&["-append", "x"], "an initrd and a command line are for a kernel"),
        (&["-kernel", "k", "-serial", "stdio", "-console", "stdio"], "stdio is used twice"),
        (&["-kernel", "k", "-qmp", "unix:/s", "-serial", "unix:/s"], "/s is used twice"),
        (&["-kernel", "fd:3", "-disk", "fd=3"], "descriptor 3 is used twice"),
        (&["-incoming", "fd:3", "-qmp", "fd:3"], "descriptor 3 is used twice"),
        (
            &["-kernel", "k", "-net", "tap=a", "-net", "tap=b", "-hotplug", "nics=1"],
            "-hotplug counts all network interfaces, and 2 are configured: 1 is too few",
        ),
    ];
    for (line, expected) in cases {
        let said = run(line).expect_err("a mistake");
        assert!(said.contains(expected), "{line:?}\n said {said}\n not  {expected}");
    }
    let disks: Vec<&str> = (0..9).flat_map(|_| ["-disk", "/d"]).collect();
    assert_eq!(refusal(&disks), "-disk: a machine has at most 8 disks");
    let nics: Vec<&str> = (0..5).flat_map(|_| ["-net", "tap=t"]).collect();
    assert_eq!(refusal(&nics), "-net: a machine has at most 4 network interfaces");
}

#[test]
fn options_replace_what_the_file_says_and_add_to_its_devices() {
    let text = r#"{
        "boot-source": {"kernel_image_path": "/k", "boot_args": "a", "initrd_fs_path": "/i"},
        "machine-config": {"vcpu_count": 2, "mem_size": 268435456},
        "drive": [{"drive_id": "rootfs", "path_on_host": "/r"}],
        "net": [{"iface_id": "lan", "host_dev_name": "tap0"}]
    }"#;
    let line = "-api-channel unix:/s -append b -smp 4 -disk path=/s,id=rootfs,readonly=on -disk /d \
                -config /c.json -net tap=tap1";
    let read = |asked: &Path| {
        assert_eq!(asked, Path::new("/c.json"));
        Ok(text.to_owned())
    };
    let Command::Run(parsed) = parse(line.split_whitespace().map(OsString::from), read).unwrap()
    else {
        panic!("no machine");
    };
    let config = parsed.config;
    let boot = Boot { kernel: path("/k"), initrd: Some(path("/i")), cmdline: "b".into() };
    assert_eq!((config.boot, config.vcpus, config.memory_mib), (Some(boot), 4, 256));
    let disks: Vec<_> = config.disks.iter().map(|d| (d.id.as_str(), d.readonly)).collect();
    assert_eq!(disks, [("rootfs", true), ("disk1", false)]);
    assert_eq!(config.nics.len(), 2);
    // The file's disk is replaced once; a second of its name is a mistake.
    let line = "-config /c.json -disk /s,id=rootfs -disk /t,id=rootfs";
    let error = parse(line.split_whitespace().map(OsString::from), read).unwrap_err();
    assert!(error.to_string().contains("two devices \"rootfs\""), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_reason() {
    let read = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    let error = parse(["-config", "/c"].map(OsString::from), read).unwrap_err();
    assert_eq!(error.to_string(), "-config: cannot read /c");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_word_that_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let word = OsString::from_vec(vec![b'-', b'm', 0xff]);
    let error = parse([word], |_| Ok(String::new())).unwrap_err();
    assert!(error.to_string().contains("is not UTF-8"), "{error}");
}

proptest::proptest! {
    #[test]
    fn any_words_are_a_machine_or_a_refusal(
        words in proptest::collection::vec(
            proptest::prop_oneof![
                proptest::sample::select(
                    OPTIONS.iter().map(|option| format!("-{}", option.name)).collect::<Vec<_>>(),
                ),
                "[a-z0-9=,:/.+-]{0,24}",
                "\\PC{0,8}",
            ],
            0..12,
        ),
        file in "\\PC{0,64}",
    ) {
        let parsed = parse(words.iter().map(OsString::from), |_| Ok(file));
        if let Ok(Command::Run(parsed)) = parsed {
            let config = parsed.config;
            proptest::prop_assert!(config.boot.is_some() || config.incoming.is_some());
            proptest::prop_assert!((1..=MAX_VCPUS).contains(&config.vcpus));
            proptest::prop_assert!(config.disks.len() <= MAX_DISKS && config.nics.len() <= MAX_NICS);
        }
    }

    #[test]
    fn any_path_can_be_written_as_a_disk(name in "[^\0]{1,40}") {
        let option = format!("path={}", name.replace(',', ",,"));
        let config = config(&["-disk", &option]);
        proptest::prop_assert_eq!(&config.disks[0].source, &path(&name));
    }
}

/// The corpus of the fuzz target `vmm_config`, whole and cut off anywhere.
#[test]
fn the_corpus_of_the_fuzz_target_is_read_or_refused() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let parse = |text: &str| {
        let (words, file) = text.split_once("\n\n").unwrap_or((text, ""));
        parse(words.lines().map(OsString::from), |_| Ok(file.to_owned()))
    };
    let mut seen = 0;
    for entry in std::fs::read_dir(top.join("tests/fuzz/corpus/vmm_config")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(matches!(parse(&text), Ok(Command::Run(_))), "{text}");
        for end in 0..text.len() {
            drop(parse(&text[..end]));
        }
        seen += 1;
    }
    assert!(seen >= 3, "{seen} inputs");
}

#[test]
fn the_example_for_stratovirt_is_a_machine() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../domain-configs/stratovirt.json");
    let line = ["-config", path.to_str().unwrap(), "-api-channel", "unix:/tmp/s"];
    let parsed = parse(line.map(OsString::from), |path| std::fs::read_to_string(path)).unwrap();
    let Command::Run(parsed) = parsed else { panic!("no machine") };
    assert_eq!(parsed.notes, Vec::<String>::new());
    let config = parsed.config;
    assert_eq!((config.memory_mib, config.disks.len()), (256, 1));
    assert_eq!(config.serial, Endpoint::Stdio);
}
