use std::path::Path;

use super::text::{Node, Value};
use super::*;
use crate::config::*;

fn read(text: &str) -> Result<(Config, Vec<String>), String> {
    let mut draft = Draft::default();
    add(&mut draft, text, Path::new("vm.json")).map_err(|error| error.to_string())?;
    draft.finish().map_err(|why| why.0)
}

/// A machine with a kernel and this beside it.
fn config(keys: &str) -> Config {
    let text = format!(r#"{{"kernel": "/k"{}{keys}}}"#, if keys.is_empty() { "" } else { "," });
    read(&text).unwrap_or_else(|why| panic!("{text}: {why}")).0
}

fn path(text: &str) -> Source {
    Source::Path(text.into())
}

/// The file of StratoVirt's quick start, with every section of its guide.
const WHOLE: &str = r#"{
  "boot-source": {
    "kernel_image_path": "/path/to/kernel",
    "boot_args": "console=ttyS0 reboot=k panic=1 pci=off tsc=reliable ipv6.disable=1 root=/dev/vda",
    "initrd_fs_path": "/path/to/initrd"
  },
  "machine-config": {
    "type": "MicroVm",
    "vcpu_count": 4,
    "mem_size": 805306368,
    "dump_guest_core": false,
    "mem-share": false,
    "mem_path": "/path/to/file"
  },
  "drive": [
    {
      "drive_id": "rootfs",
      "path_on_host": "/path/to/block",
      "serial_num": "11111111",
      "direct": false,
      "read_only": true,
      "iothread": "iothread1"
    }
  ],
  "net": [
    {
      "iface_id": "tap0",
      "host_dev_name": "tap0",
      "mac": "12:34:56:78:9A:BC",
      "vhost_type": "vhost-kernel"
    }
  ],
  "console": [{"console_id": "charconsole0", "socket_path": "/path/to/socket"}],
  "serial": {"stdio": true},
  "iothread": [{"id": "iothread1"}],
  "balloon": {"deflate_on_oom": true},
  "rng": {"random_file": "/dev/urandom"}
}
"#;

#[test]
fn a_file_with_every_section_of_stratovirts_guide_is_a_machine() {
    let (config, notes) = read(WHOLE).unwrap();
    let expected = Config {
        boot: Some(Boot {
            kernel: path("/path/to/kernel"),
            initrd: Some(path("/path/to/initrd")),
            cmdline: "console=ttyS0 reboot=k panic=1 pci=off tsc=reliable ipv6.disable=1 \
                      root=/dev/vda"
                .into(),
        }),
        vcpus: 4,
        memory_mib: 768,
        memory_file: Some(MemoryFile { source: path("/path/to/file"), shared: false }),
        disks: vec![Disk {
            id: "rootfs".into(),
            source: path("/path/to/block"),
            readonly: true,
            serial: Some("11111111".into()),
        }],
        nics: vec![Nic {
            id: "tap0".into(),
            tap: Tap::Name("tap0".into()),
            mac: Some([0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]),
            vhost: Vhost::On,
        }],
        console: Endpoint::Unix("/path/to/socket".into()),
        serial: Endpoint::Stdio,
        balloon: true,
        rng: true,
        ..Config::default()
    };
    assert_eq!(config, expected);
    assert_eq!(notes, Vec::<String>::new());
}

#[test]
fn the_other_spellings_mean_the_same() {
    let disk = r#"{"drive_id": "a", "path_on_host": "/a", "is_read_only": true}"#;
    for key in ["drive", "drives", "block"] {
        let one = config(&format!(r#""{key}": [{disk}]"#));
        assert_eq!(one.disks[0].id, "a", "{key}");
        assert!(one.disks[0].readonly, "{key}");
        assert_eq!(config(&format!(r#""{key}": {disk}"#)).disks, one.disks, "{key}");
    }
    for key in ["net", "netif", "nets", "network_interfaces"] {
        let nics = config(&format!(r#""{key}": [{{"id": "n", "tap_fd": 5}}]"#)).nics;
        assert_eq!(nics[0].tap, Tap::Fd(5), "{key}");
    }
    for size in [r#""mem_size": "256M""#, r#""mem-size": "268435456""#, r#""mem_size_mib": 256"#] {
        let text = format!(r#""machine": {{"vcpu_count": "3", {size}}}"#);
        let config = config(&text);
        assert_eq!((config.memory_mib, config.vcpus), (256, 3), "{size}");
    }
    let whole = r#"{"kernel": {"path": "/k", "append": "a", "initrd": "/i"}}"#;
    let parts = r#"{"kernel": "/k", "initrd": "/i", "boot_args": "a"}"#;
    assert_eq!(read(whole), read(parts));
}

#[test]
fn own_keys_are_those_of_the_command_line() {
    let config = config(
        r#""name": "web", "uuid": "5e1f0c3a-9f3b-4a53-8a0e-0d3c1c8d7a11", "cpu": "baseline",
           "channel": {"name": "org.kxl", "socket_path": "/c"}, "serial": "file:/log",
           "hotplug": {"nics": 2, "disks": 4, "dirs": ["/images"]}, "rng": true, "balloon": false"#,
    );
    assert_eq!(config.name.as_deref(), Some("web"));
    assert!(config.uuid.is_some() && config.rng && !config.balloon);
    assert_eq!(config.cpu.template, Template::Baseline);
    assert_eq!(config.serial, Endpoint::File("/log".into()));
    assert_eq!(config.channel.unwrap().endpoint, Endpoint::Unix("/c".into()));
    assert_eq!(config.hotplug, Hotplug { nics: 2, disks: 4, dirs: vec!["/images".into()] });
}

#[test]
fn what_is_read_and_not_done_is_noted() {
    let text = r#"{"kernel": "/k", "drive": [{"drive_id": "a", "path_on_host": "/a",
                   "direct": true}], "serial": {"stdio": false}}"#;
    let (config, notes) = read(text).unwrap();
    assert_eq!(notes, ["drive \"a\": direct is not done, the host caches it"]);
    assert_eq!(config.serial, Endpoint::Null);
}

/// Files and what is said of them.
const MISTAKES: &[(&str, &str)] = &[
    (
        "{\n  \"kernel\": \"/k\",\n  \"drvie\": []\n}",
        r#"3:3: no key "drvie" belongs here: did you mean "drive"?"#,
    ),
    (
        "{\"boot-source\": {\n\t\"kernel\": \"/k\"}}",
        r#"2:2: no key "kernel" belongs here: expected one of kernel_image_path, boot_args, initrd_fs_path"#,
    ),
    (
        r#"{"machine-config": {"vcpu_cuont": 1}}"#,
        r#"1:21: no key "vcpu_cuont" belongs here: did you mean "vcpu_count"?"#,
    ),
    (
        r#"{"machine-config": {"vcpu_count": 65}}"#,
        r#"1:35: "65" is no number of processors: expected 1 to 64"#,
    ),
    (r#"{"machine-config": {"mem_size": 1000}}"#, r#"1:33: "1000" is no memory size"#),
    (
        r#"{"machine-config": {"mem_size": true}}"#,
        "1:33: a switch stands here: expected a text or a number",
    ),
    (
        r#"{"machine-config": {"type": "q35"}}"#,
        r#"1:29: "q35" is no machine type that is built here: expected MicroVm"#,
    ),
    (
        r#"{"machine-config": {"mem_share": true}}"#,
        "1:34: memory is shared through a file: name it, mem_path",
    ),
    (
        r#"{"machine-config": {"mem_size": 1048576, "mem_size_mib": 1}}"#,
        "1:58: this is said a second time",
    ),
    (
        r#"{"kernel": "/k", "boot-source": {"kernel_image_path": "/j"}}"#,
        "1:55: this is said a second time in the file",
    ),
    (
        r#"{"drive": [{}], "block": []}"#,
        r#"1:17: "block" is another spelling of drive, which is here already"#,
    ),
    (r#"{"drive": [{"drive_id": "a"}]}"#, "1:12: a drive without path_on_host"),
    (r#"{"drive": [{"path_on_host": "/a", "iops": 200}]}"#, "1:43: nothing limits a disk here"),
    (r#"{"drive": [{"path_on_host": "/a", "format": "qcow2"}]}"#, r#"1:45: "qcow2" is no format"#),
    (r#"{"drive": [{"path_on_host": "/a", "serial_num": "123456789012345678901"}]}"#, "1:49: "),
    (r#"{"drive": "/a"}"#, "1:11: a text stands here: expected a list in brackets"),
    (
        r#"{"drive": [{"id": "a", "path": "/a"}, {"id": "a", "path": "/b"}]}"#,
        r#"1:39: there are two devices "a""#,
    ),
    (r#"{"net": [{"iface_id": "a"}]}"#, "1:10: a network interface without host_dev_name"),
    (r#"{"net": [{"tap": "t", "mac": "1:2:3:4:5:6"}]}"#, "1:30: "),
    (r#"{"net": [{"tap": "t", "vhost_type": "vhost-user"}]}"#, r#"1:37: "vhost-user" is no vhost"#),
    (r#"{"net": [{"tap": "t", "vhost_fd": 3}]}"#, "1:35: kxl-vmm opens /dev/vhost-net itself"),
    (r#"{"net": [{"tap": "t", "tap_fd": 3}]}"#, "1:33: this is said a second time"),
    (
        r#"{"console": [{"socket_path": "/a"}, {"socket_path": "/b"}]}"#,
        "1:37: a machine has one console",
    ),
    (r#"{"serial": {"stdio": 1}}"#, "1:22: a number stands here: expected true or false"),
    (r#"{"vsock": {"guest_cid": 3}}"#, "1:11: there is no vsock device"),
    (r#"{"balloon": {"deflate_on_oom": false}}"#, "1:32: a balloon always gives way"),
    (r#"{"rng": {"random_file": "/etc/passwd"}}"#, r#"1:25: "/etc/passwd" is no source of"#),
    (r#"{"rng": {"bytes_per_sec": 1000}}"#, "1:27: nothing limits the random numbers"),
    (r#"{"hotplug": {"disks": 9}}"#, r#"1:23: "9" is no number of disks: expected 0 to 8"#),
    (r#"[]"#, "1:1: a list stands here: expected an object in braces"),
    ("{\"a\": 1,\n \"a\": 2}", r#"2:2: "a" is here a second time, first at 1:2"#),
    ("{\"kernel\": /k}", "1:12: found '/': expected a value"),
    ("{\"rng\": yes}", "1:9: found 'y': expected a value: text stands in double quotes"),
    ("{'kernel': 1}", "1:2: found ''': expected a key in double quotes"),
    ("{\"kernel\": \"/k\",}", "1:17: found '}': expected a key in double quotes"),
    ("{\"kernel\": \"/k\n\"}", "1:12: a text that has no end on its line"),
    ("{\"kernel\" \"/k\"}", "1:11: found '\"': expected ':' behind the key"),
    ("{} {}", "1:4: found '{': expected the end of the file"),
    ("", "1:1: the file ends: expected a value"),
    ("{", "1:2: the file ends: expected a key in double quotes"),
    ("[1", "1:3: the file ends: expected ',' or ']'"),
];

#[test]
fn a_mistake_is_pointed_at() {
    for (text, expected) in MISTAKES {
        let said = read(text).expect_err(text);
        let said = said.strip_prefix("vm.json:").unwrap_or_else(|| panic!("{text}: {said}"));
        assert!(said.starts_with(expected), "{text}\n said {said}\n not  {expected}");
    }
    let said = read(&"[".repeat(1 << 20)).unwrap_err();
    assert!(said.ends_with("more than 16 levels within each other"), "{said}");
}

#[test]
fn null_is_the_same_as_a_key_left_away() {
    assert_eq!(config(r#""initrd": null, "rng": null"#), config(""));
}

#[test]
fn every_spelling_of_the_table_is_read_somewhere() {
    // What a key may hold differs; a key that nothing reads would be "no key".
    let all = KEYS.iter().flat_map(|(section, entries)| {
        entries.iter().flat_map(move |(spellings, _)| spellings.iter().map(move |s| (section, s)))
    });
    for (section, spelling) in all {
        let text = match *section {
            "" => format!(r#"{{"{spelling}": [[]]}}"#),
            "drive" | "net" | "console" | "iothread" => {
                format!(r#"{{"{section}": [{{"{spelling}": [[]]}}]}}"#)
            }
            _ => format!(r#"{{"{section}": {{"{spelling}": [[]]}}}}"#),
        };
        let said = read(&text).expect_err(spelling);
        assert!(
            said.contains("stands here")
                || said.contains("leave it away")
                || said.contains("leave iops away")
                || said.contains("no vsock"),
            "{text}: {said}"
        );
    }
}

/// The same value as the reader of the protocol sees it.
fn plain(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(on) => (*on).into(),
        Value::Number(number) => serde_json::from_str(number).unwrap(),
        Value::Text(text) => text.as_str().into(),
        Value::List(nodes) => nodes.iter().map(plain).collect(),
        Value::Object(pairs) => pairs.iter().map(|(key, n)| (key.name.clone(), plain(n))).collect(),
    }
}

fn any_json() -> impl proptest::strategy::Strategy<Value = serde_json::Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "\\PC{0,8}|[\u{0}-\u{1f}\"\\\\😀]{0,4}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            proptest::collection::hash_map("\\PC{0,6}", inner, 0..6)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest::proptest! {
    #[test]
    fn any_json_is_read_as_what_it_is(value in any_json(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else {
            serde_json::to_string(&value)
        };
        let node = text::read(&text.unwrap()).unwrap();
        proptest::prop_assert_eq!(plain(&node), value);
    }

    #[test]
    fn any_text_is_json_for_both_readers_or_for_neither(text in r#"[\[\]{}:,"0-9.eE+\- a\\nut]{0,12}"#) {
        let ours = text::read(&text);
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        match (ours, theirs) {
            (Ok(node), Ok(value)) => proptest::prop_assert_eq!(plain(&node), value),
            (Err(_), Err(_)) => {}
            // A key that is there twice and a number beyond all bounds are seen by one of them.
            (Err((_, why)), Ok(_)) => proptest::prop_assert!(why.contains("a second time"), "{}", why),
            (Ok(_), Err(why)) => proptest::prop_assert!(why.to_string().contains("out of range"), "{}", why),
        }
    }

    #[test]
    fn a_file_with_any_byte_changed_is_a_machine_or_a_refusal_with_its_place(
        at in 0..WHOLE.len(), byte in 0x20_u8..0x7f,
    ) {
        let mut bytes = WHOLE.as_bytes().to_vec();
        bytes[at] = byte;
        let text = String::from_utf8(bytes).unwrap();
        if let Err(why) = read(&text) {
            let mut parts = why.splitn(4, ':');
            let place = (parts.next(), parts.next().and_then(|line| line.parse::<usize>().ok()));
            let whole = why.contains("there is nothing to run") || why.contains("for a kernel");
            let lines = WHOLE.lines().count() + 1;
            let inside = place.0 == Some("vm.json") && place.1.is_some_and(|line| line <= lines);
            proptest::prop_assert!(inside || whole, "{}", why);
        }
    }
}
