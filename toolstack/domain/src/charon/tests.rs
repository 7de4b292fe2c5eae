//! Configurations as the manuals write them, mistakes, and whatever bytes there are.

use proptest::prelude::*;

use super::*;

const ALPHA: &str = r#"# AXP, today's dialect
set session hw_model = AlphaServer_ES40   # the model
set session configuration_name="es40 pay" log="/var/log/charon/"
set session license_key_id[0]=123 license_key_id[1]=456

set ace enabled=true cpu_architecture=EV67
set ram size=4096
set COM1 alias=OPA0 communication=ascii
set OPA0 port=10003 stop_on="F6"
set COM2 alias=TTA0
set TTA0 port=10004 application="xterm -title # 1"
load packet_port/chnetwrk EWA0 interface="eth1"
load DE500BA/dec21x4x EWA interface=EWA0
load packet_port/chnetwrk EWB0 interface="(disabled)"
load tap_port TAPX interface=tap3
set EIA interface=tapx
"#;

const VAX: &str = "set session hw_model=\u{201d}VAX_6640\u{201d}\r\n\
set session log = vax.log\r\n\
LOAD virtual_serial_line/chserial OPA0 port = 10010 break_on=\u{201c}Ctrl-P\u{201d}\r\n\
load DHV11/DHV11 TXA\r\n\
set TXA line[5]=TTA1\r\n\
include net.icfg\r\n\
Set RAM Size=\"512\"\r\n";

fn nothing(_: &str) -> Option<String> {
    None
}

fn read(text: &str) -> Configuration {
    parse(text, nothing).unwrap_or_else(|e| panic!("{e}: {}", e.text))
}

fn facts_of(lines: &str) -> Facts {
    facts(&read(&format!("set session hw_model=AlphaServer_DS20\n{lines}")))
}

#[test]
fn a_configuration_of_todays_dialect_says_what_its_machine_is() {
    let facts = facts(&read(ALPHA));
    assert_eq!((facts.model.as_str(), facts.family), ("AlphaServer_ES40", Some(Family::Alpha)));
    assert_eq!((facts.cpus, facts.memory_mib), (Some(4), Some(4096)));
    assert_eq!(facts.name.as_deref(), Some("es40 pay"));
    assert_eq!(facts.log, LogPlace::Named("/var/log/charon/".into()));
    assert_eq!(facts.console, ConsoleLine::Port(10003));
    let nics: Vec<_> = facts
        .nics
        .iter()
        .map(|n| (n.interface.as_str(), n.kind, n.port.as_str(), n.device.as_deref()))
        .collect();
    assert_eq!(
        nics,
        [
            ("eth1", NicKind::Packet, "EWA0", Some("EWA")),
            ("tap3", NicKind::Tap, "TAPX", Some("EIA")),
        ]
    );
}

#[test]
fn quotes_of_a_word_processor_line_ends_of_windows_and_includes_are_understood() {
    let mut asked = Vec::new();
    let configuration = parse(VAX, |name| {
        asked.push(name.to_owned());
        Some(
            "# one\nload packet_port/chnetwrk EZA0 interface=\"eth2\"\nset eza interface=EZA0"
                .into(),
        )
    })
    .unwrap();
    assert_eq!(asked, ["net.icfg"]);
    let facts = facts(&configuration);
    assert_eq!((facts.model.as_str(), facts.cpus), ("VAX_6640", Some(4)));
    assert_eq!((facts.memory_mib, facts.console), (Some(512), ConsoleLine::Port(10010)));
    assert_eq!(facts.nics[0].device.as_deref(), Some("eza"));
    assert!(!configuration.text().contains("include"));
    let line = &configuration.statements().iter().find(|s| s.object == "TXA").unwrap();
    assert_eq!(line.verb, Verb::Load { class: "DHV11".into(), module: Some("DHV11".into()) });
}

#[test]
fn the_console_is_found_in_every_dialect() {
    let port = ConsoleLine::Port(9);
    let tty = ConsoleLine::Physical("/dev/ttyS0".into());
    for (lines, want) in [
        ("set COM1 alias=OPA0 port=9\n", port.clone()),
        ("set COM1 alias=OPA0\nset opa0 port=\"9\"\n", port.clone()),
        ("set COM1 port=9\n", port.clone()),
        ("set COM1 port=8\nset COM1 port=9\n", port.clone()),
        ("set COM1 port=9 line=\"/dev/ttyS0\"\n", port.clone()),
        ("set OPA0 port=9\n", port.clone()),
        ("load virtual_serial_line OPA0 port=9\n", port.clone()),
        ("load virtual_serial_line TTA0 port=9\n", ConsoleLine::None),
        ("set COM1 alias=TTA0 port=9\n", ConsoleLine::None),
        ("load virtual_serial_line OPA0\nset COM1 port=9\n", ConsoleLine::None),
        ("set COM2 port=9\n", ConsoleLine::None),
        ("load operator_console OPA0\n", ConsoleLine::None),
        ("load physical_serial_line OPA0 line=\"/dev/ttyS0\"\n", tty.clone()),
        ("set COM1 alias=OPA0 line=\"/dev/ttyS0\"\n", tty),
        ("", ConsoleLine::None),
    ] {
        assert_eq!(facts_of(lines).console, want, "{lines}");
    }
    for lines in [
        "load virtual_serial_line TTA3 port=9\nset QUART line[3]=TTA3\n",
        "load virtual_serial_line CON port=9\nset UART line=CON\n",
        "set UART alias=OPA0\nset OPA0 port=9\n",
        "set UART port=9\n",
        "set QUART alias[3]=OPA0 port[3]=9 port[2]=8\n",
    ] {
        let text = format!("set session hw_model=MicroVAX_3600\n{lines}");
        assert_eq!(facts(&read(&text)).console, port, "{lines}");
    }
}

#[test]
fn another_port_changes_the_consoles_port_and_not_one_byte_more() {
    let changed = read(ALPHA).with_console_port(40001).unwrap();
    assert_eq!(changed, ALPHA.replace("port=10003", "port=40001"));
    assert_eq!(facts(&read(&changed)).console, ConsoleLine::Port(40001));
    // Both words about it change, or the last would undo the first.
    let twice = "set session hw_model=AlphaServer_DS20\nset COM1 port=7\nset OPA0 port=\"8\" # 8\n";
    let changed = read(twice).with_console_port(65535).unwrap();
    assert!(changed.ends_with("COM1 port=65535\nset OPA0 port=\"65535\" # 8\n"), "{changed}");
    let none = read("set session hw_model=AlphaServer_DS20\nset COM1 line=/dev/ttyS0\n");
    assert_eq!(none.with_console_port(1), None);
}

#[test]
fn processors_are_what_is_said_else_what_the_model_has_else_unknown() {
    for (lines, want) in [
        ("", Some(2)),
        ("set session n_of_cpus=1\n", Some(1)),
        ("set SESSION N_OF_CPUS = 3\n", Some(3)),
        ("set ace n_of_cpus=1\n", Some(1)),
        ("set session n_of_cpus=many\n", Some(2)),
        ("set session n_of_cpus=0\n", Some(2)),
    ] {
        assert_eq!(facts_of(lines).cpus, want, "{lines}");
    }
    // The case of a model's letters counts.
    assert_eq!(facts(&read("set session hw_model=alphaserver_ds20\n")).cpus, None);
    assert_eq!(Model::find("VAX_6660").map(|model| model.cpus), Some(6));
}

#[test]
fn every_model_has_a_family_that_its_name_tells_and_a_name_of_its_own() {
    for model in MODELS {
        assert_eq!(Model::family_of(model.name), Some(model.family), "{}", model.name);
        assert_eq!(MODELS.iter().filter(|other| other.name == model.name).count(), 1);
        assert!((1..=32).contains(&model.cpus));
    }
}

#[test]
fn memory_is_in_megabytes_unless_a_unit_says_more() {
    for (text, want) in [("512", Some(512)), ("2GB", Some(2048)), ("64M", Some(64))] {
        assert_eq!(facts_of(&format!("set ram size={text}\n")).memory_mib, want);
    }
    for text in ["lots", "0", "-1", "99999999999999999999", "18446744073709551615G", "5q"] {
        assert_eq!(facts_of(&format!("set ram size={text}\n")).memory_mib, None, "{text}");
    }
}

#[test]
fn names_of_interfaces_of_windows_are_told_apart() {
    for (name, windows) in [
        ("eth1", false),
        ("eth1.20", false),
        ("connection:Charon", true),
        ("\\Device\\NPF_{1}", true),
        ("Local Area Connection 2", true),
    ] {
        let nic = facts_of(&format!("load packet_port P interface=\"{name}\"\n")).nics.remove(0);
        assert_eq!(nic.is_windows(), windows, "{name}");
    }
}

#[test]
fn a_mistake_is_told_with_its_line_and_column() {
    for (text, want) in [
        ("", "line 1, column 1: the configuration says nothing"),
        ("# x\nset ram size=1\n", "line 2, column 1: the first statement has to be set session"),
        ("name = \"web\"\n", "line 1, column 1: \"name\" is no statement"),
        ("set\n", "line 1, column 4: the object to set is missing"),
        ("set session\n", "line 1, column 12: what to set is missing"),
        ("set session hw_model\n", "line 1, column 13: \"hw_model\" needs \"=\" and a value"),
        ("set session hw_model=\n", "line 1, column 13: \"hw_model\" needs \"=\" and a value"),
        ("set session hw_model=\"X\n", "line 1, column 22: the quotes are not closed"),
        ("set é hw_model=\u{201c}X\u{201d}y\n", "line 1, column 19: a space is needed behind"),
        ("set a b[x]=1\n", "line 1, column 7: the index of \"b\" is no number"),
        ("set a b[1=1\n", "line 1, column 7: the index of \"b\" is no number"),
        ("set a =1\n", "line 1, column 7: \"=1\" does not belong here"),
        ("load packet_port\n", "line 1, column 17: a name for the loaded device is missing"),
        ("include\n", "line 1, column 8: the file to include is missing"),
        ("include a b\n", "line 1, column 11: \"b\" does not belong here"),
        ("include a\n", "line 1, column 1: cannot read the included file \"a\""),
        (
            "set session hw_model=AlphaServer_DS20\nset COM1 port=70000\n",
            "line 2, column 15: the console's port is \"70000\"",
        ),
    ] {
        let told = parse(text, nothing).unwrap_err().to_string();
        assert!(told.starts_with(want), "{text:?}\n{told}\n{want}");
    }
}

#[test]
fn a_mistake_in_an_included_file_names_that_file_and_its_line() {
    let text = "set session hw_model=AlphaServer_DS20\ninclude a\n";
    let error = parse(text, |name| match name {
        "a" => Some("# a\ninclude b".into()),
        _ => Some("\n\n oops\n".into()),
    })
    .unwrap_err();
    assert_eq!(error.located(Some("x.cfg")).split_once(": ").unwrap().0, "b:3:2");
    let error = parse("oops", nothing).unwrap_err();
    assert!(error.located(Some("x.cfg")).starts_with("x.cfg:1:1: "));
}

#[test]
fn files_that_include_each_other_or_grow_without_end_are_an_error() {
    let text = "set session hw_model=AlphaServer_DS20\ninclude a\n";
    let error = parse(text, |_| Some("include a\ninclude a\n".into())).unwrap_err();
    assert!(matches!(error.mistake, Mistake::TooManyIncludes(_)));
    let error = parse(text, |_| Some("#".repeat(5 << 20))).unwrap_err();
    assert!(matches!(error.mistake, Mistake::TooLong(_)));
}

#[test]
fn a_charon_configuration_is_told_from_one_of_xl_by_its_first_statement() {
    assert!(is_charon(ALPHA) && is_charon(VAX));
    assert!(is_charon("\u{feff}# x\n\n  SET session hw_model = x\nrubbish"));
    for text in ["", "name = 'web'\n", "set ram size=1\nset session hw_model=x\n", "include a\n"] {
        assert!(!is_charon(text), "{text}");
    }
}

/// Lines that are nearly statements.
fn line() -> impl Strategy<Value = String> {
    let parts = proptest::sample::select(vec![
        "set",
        "load",
        "include",
        "session",
        "hw_model",
        "OPA0",
        "COM1",
        "QUART",
        "alias",
        "port",
        "line",
        "interface",
        "packet_port",
        "=",
        "[",
        "]",
        "3",
        "\"",
        "\u{201d}",
        "#",
        " ",
        "a/b",
        "\t",
        "\r",
        "é",
        "\0",
        "10003",
    ]);
    proptest::collection::vec(parts, 0..14).prop_map(|parts| parts.join(" "))
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_fall_over(text in "\\PC{0,200}|[ -~\n\r\t\"#=\\[\\]]{0,200}") {
        drop(parse(&text, nothing));
        let _charon = is_charon(&text);
        let _release = version(&text);
        let _word = licence_word(&text);
    }

    #[test]
    fn what_is_understood_reads_back_the_same_with_another_port(
        lines in proptest::collection::vec(line(), 0..12),
        port in 1..=u16::MAX,
    ) {
        let text = format!("set session hw_model=VAX_6620\n{}\n", lines.join("\n"));
        if let Ok(configuration) = parse(&text, |_| Some("set ram size=1".into())) {
            let told = facts(&configuration);
            for member in configuration.statements().iter().flat_map(|s| &s.members) {
                prop_assert_eq!(&configuration.text()[member.span.clone()], &member.value);
            }
            match configuration.with_console_port(port) {
                Some(changed) => {
                    let again = facts(&parse(&changed, nothing).unwrap());
                    prop_assert_eq!(again.console, ConsoleLine::Port(port));
                    prop_assert_eq!(again.nics.len(), told.nics.len());
                }
                None => prop_assert!(!matches!(told.console, ConsoleLine::Port(_))),
            }
        }
    }
}
