//! Profiles, right and wrong.

use kxl_domain::GuestEvent;

use super::*;

const OWN: &str = r#"schema = 1
name = "own"
[start]
exec = "/usr/bin/own"
argv = ["--name", "{name}"]
[control]
kind = "signal"
[pause]
kind = "signal"
"#;

fn error(text: &str) -> String {
    Profile::parse(text, "own", Path::new("/p/own.toml")).unwrap_err().to_string()
}

#[test]
fn the_built_in_profiles_are_in_order() {
    for (name, _) in BUILT_IN {
        let profile = Profile::load(name, Path::new("/nonexistent")).unwrap();
        assert_eq!(&profile.name, name);
        assert!(profile.capabilities().has(Capability::Pause));
    }
    let simh = Profile::load("simh", Path::new("/nonexistent")).unwrap();
    assert_eq!(simh.capabilities().to_string(), "pause save-state console");
    assert_eq!(simh.console.pace_ms, Some(40));
}

#[test]
fn a_users_profile_is_read_from_its_directory() {
    let dir = std::env::temp_dir().join(format!("kxl-profiles-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("own.toml"), OWN).unwrap();
    std::fs::write(dir.join("qemu.toml"), "rubbish").unwrap();
    assert_eq!(Profile::load("own", &dir).unwrap().start.argv.len(), 2);
    assert_eq!(Profile::load("qemu", &dir).unwrap().control.kind, ControlKind::Qmp);
    assert_eq!(
        Profile::names(&dir),
        ["qemu", "kvm", "simh", "any", "charon", "stratovirt", "bochs", "own"]
    );
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn mistakes_are_named_with_file_and_line() {
    let misspelt = OWN.replace("[pause]\nkind", "[pause]\nkynd");
    assert_eq!(
        error(&misspelt),
        "backend: /p/own.toml:9:1: unknown key \"kynd\" in [pause]: it takes kind; did you mean \
         \"kind\"?"
    );
    let variant = OWN.replace("[pause]\nkind = \"signal\"", "[pause]\nkind = \"freezr\"");
    assert!(
        error(&variant).contains("own.toml:9:8: \"freezr\" is no value"),
        "{}",
        error(&variant)
    );
    assert!(error(&variant).ends_with("did you mean \"freezer\"?"), "{}", error(&variant));
    assert!(error(&OWN.replace("schema = 1", "schema = 2")).contains("own.toml:1:1: this build"));
    assert!(error(&OWN.replace("\"own\"", "\"other\"")).contains("own.toml:2:1: the name"));
    let impossible = OWN.replace("[pause]\nkind = \"signal\"", "[pause]\nkind = \"qmp\"");
    assert!(error(&impossible).contains("own.toml:9:1: \"qmp\" needs"), "{}", error(&impossible));
    let signal = format!("{OWN}[shutdown]\nkind = \"signal\"\nsignal = \"HALLO\"\n");
    assert!(error(&signal).contains("own.toml:12:1: no such signal"), "{}", error(&signal));
    let hole = OWN.replace("{name}", "{nam}");
    assert!(error(&hole).contains("own.toml:5:19: there is no value {nam}"), "{}", error(&hole));
    assert!(error("schema = \n").contains("own.toml:1:"));
}

#[test]
fn a_mistake_is_shown_with_its_line_and_a_caret_under_it() {
    let text = OWN.replace("exec =", "\texex =");
    let mistake = Profile::examine(&text, None, Path::new("own.toml")).unwrap_err();
    assert_eq!(
        mistake.shown(),
        "own.toml:4:2: unknown key \"exex\" in [start]: it takes exec, argv, arguments, env, file, \
         configuration, detach, runs; did you mean \"exec\"?\n  4 | \texex = \"/usr/bin/own\"\n    | \t^^^^\n"
    );
    Profile::examine(OWN, None, Path::new("any.toml")).unwrap();
}

/// A part of [`OWN`], what to put in its place, and what is said of it.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "[pause]",
        "[console]\nkind = \"telnet\"\n[pause]",
        "8:2: kind = \"telnet\" needs the key \"port\"",
    ),
    (
        "[pause]",
        "[console]\nkind = \"pty\"\nport = \"1\"\n[pause]",
        "10:1: port goes with kind = \"telnet\"",
    ),
    (
        "[pause]",
        "[console]\nkind = \"unix\"\npath = \"/tmp/x\"\n[pause]",
        "10:1: expected a path that begins with {rundir}/",
    ),
    (
        "[pause]",
        "[console]\nkind = \"socket\"\n[pause]",
        "9:1: \"socket\" goes with start.arguments",
    ),
    (
        "[pause]",
        "[console]\nkind = \"stdio\"\nstreams = [\"stdout\"]\n[pause]",
        "10:1: streams goes with kind = \"pty\"",
    ),
    ("[pause]", "[console]\nkind = \"pty\"\nstreams = []\n[pause]", "has one of its streams there"),
    ("[control]", "detach = \"self\"\n[control]", "a console of another kind"),
    ("[control]", "detatch = \"self\"\n[control]", "6:1: unknown key \"detatch\" in [start]"),
    ("[pause]", "[ready]\nkind = \"tcp\"\n[pause]", "9:1: \"tcp\" needs the key \"port\""),
    ("[pause]", "[ready]\nkind = \"console-match\"\n[pause]", "needs the key \"match\""),
    ("[pause]", "[shutdown]\nkind = \"script\"\n[pause]", "needs the key \"step\""),
    ("[pause]", "[shutdown]\nkind = \"exec\"\n[pause]", "needs the key \"argv\""),
    ("[pause]", "[[destroy.step]]\nwait_ms = 1\n[pause]", "exactly one of qmp, key and signal"),
    ("[pause]", "[[destroy.step]]\nqmp = \"quit\"\n[pause]", "\"qmp\" needs control.kind"),
    ("[pause]", "[destroy]\nsignal = \"TERM\"\nwait_ms = 9000\n[pause]", "at most 2000"),
    ("[pause]", "[events]\nSHUTDOWN = \"poweroff\"\n[pause]", "events come by QMP"),
    ("kind = \"signal\"\n[pause]", "kind = \"qmp\"\n[pause]", "needs the key \"socket\""),
    ("[pause]\nkind = \"signal\"", "[pause]\nkind = 3", "9:8: "),
];

#[test]
fn each_wrong_combination_is_explained_at_its_key() {
    for (part, other, said) in WRONG {
        let text = OWN.replacen(part, other, 1);
        assert_ne!(text, OWN);
        let error = error(&text);
        assert!(error.contains(said), "{other:?}: {error}");
    }
}

proptest::proptest! {
    #[test]
    fn whatever_stands_in_a_profile_is_read_or_explained(at in 0usize..200, noise: String) {
        let mut text: String = OWN.chars().take(at).collect();
        text.push_str(&noise);
        text.extend(OWN.chars().skip(at));
        if let Err(mistake) = Profile::examine(&text, None, Path::new("own.toml")) {
            proptest::prop_assert!(mistake.shown().contains("own.toml:"));
        }
    }
}

const SCRIPTED: &str = r#"schema = 1
name = "own"
[start]
exec = "/usr/bin/own"
[control]
kind = "prompt"
prompt = "> "
go_on = "go"
[identify]
argv = []
version = "who"
between = " version "
leave = "bye"
[save]
kind = "script"
signal = "INT"
file = "{rundir}/state"
step = [{ type = "save {file}" }]
[restore]
kind = "script"
file = "{rundir}/state.in"
step = [{ type = "load {file}", accept = ["loaded"] }]
"#;

#[test]
fn a_script_for_states_must_be_whole() {
    let profile = Profile::parse(SCRIPTED, "own", Path::new("own.toml")).unwrap();
    assert!(profile.capabilities().has(Capability::SaveState));
    for (part, other, said) in [
        ("go_on = \"go\"\n", "", "[save]: needs control.prompt and control.go_on"),
        ("signal = \"INT\"\n", "", "[save]: needs signal, file and at least one step"),
        ("\"INT\"", "\"HALLO\"", "[save]: no such signal"),
        ("step = [{ type = \"save {file}\" }]\n", "", "[save]: needs signal"),
        ("file = \"{rundir}/state.in\"\n", "", "[restore]: needs file"),
        (
            "[restore]\nkind = \"script\"",
            "[restore]\nkind = \"none\"",
            "[restore]: the kind is that of save",
        ),
        ("[save]\n", "[save]\nbuffered = \"x\"\n", "[save]: buffered and flush"),
        ("[save]\n", "[save_live]\nkind = \"qmp\"\n[save]\n", "[save_live]: it takes \"none\""),
    ] {
        let text = SCRIPTED.replacen(part, other, 1);
        assert_ne!(text, SCRIPTED);
        let (section, why) = said.split_once(": ").unwrap();
        let head = text.lines().position(|line| line == section).unwrap() + 1;
        let error = error(&text);
        let (_, rest) = error.split_once("own.toml:").unwrap();
        let line: usize = rest.split(':').next().unwrap().parse().unwrap();
        // At the section's header, or at a key of its own.
        assert!((head..head + 4).contains(&line) && error.contains(why), "{error}");
    }
    let (head, rest) = SCRIPTED.split_once("[identify]").unwrap();
    let (_, tail) = rest.split_once("[save]").unwrap();
    assert!(error(&format!("{head}[save]{tail}")).contains("needs [identify]"));
}

const ENDS: &str = r#"schema = 1
name = "own"
[start]
exec = "/usr/bin/own"
[control]
kind = "signal"
[pause]
kind = "signal"
[save]
kind = "signal-then-exit"
signal = "USR1"
file = "{rundir}/state"
[restore]
kind = "signal-then-exit"
file = "{rundir}/state.in"
argv = ["--from", "{file}"]
"#;

#[test]
fn a_state_that_a_signal_brings_about_must_be_whole() {
    let profile = Profile::parse(ENDS, "own", Path::new("own.toml")).unwrap();
    assert!(profile.capabilities().has(Capability::SaveState));
    for (part, other, said) in [
        ("signal = \"USR1\"\n", "", "needs signal and file"),
        ("\"USR1\"", "\"HALLO\"", "no such signal"),
        ("[pause]\nkind = \"signal\"\n", "", "needs [pause]"),
        ("argv = [\"--from\", \"{file}\"]", "", "argv or start with {file} in it"),
        ("[restore]\nkind = \"signal-then-exit\"", "[restore]\nkind = \"none\"", "that of save"),
        ("[save]\n", "[save]\nuri = \"file:{file}\"\n", "uri goes with"),
    ] {
        let text = ENDS.replacen(part, other, 1);
        assert_ne!(text, ENDS);
        let error = error(&text);
        assert!(error.contains(said), "{other:?}: {error}");
    }
}

#[test]
fn a_state_by_qmp_of_ones_own_must_be_whole() {
    let stratovirt = BUILT_IN.iter().find(|(name, _)| *name == "stratovirt").unwrap().1;
    let own = stratovirt.replace("name = \"stratovirt\"", "name = \"own\"");
    Profile::parse(&own, "own", Path::new("own.toml")).unwrap();
    for (part, other, said) in [
        ("uri = \"file:{file}\"\n", "", "needs file, and uri"),
        ("argv = [\"-incoming\", \"file:{file}\"]", "", "needs file, and argv"),
        ("[pause]\nkind = \"qmp\"", "[pause]\nkind = \"none\"", "pause.kind = \"qmp\""),
    ] {
        let text = own.replacen(part, other, 1);
        assert_ne!(text, own);
        let error = error(&text);
        assert!(error.contains(said), "{other:?}: {error}");
    }
    let (head, rest) = own.split_once("[identify]").unwrap();
    let (_, tail) = rest.split_once("[[destroy.step]]").unwrap();
    assert!(error(&format!("{head}[[destroy.step]]{tail}")).contains("needs [identify]"));
}

#[test]
fn names_that_could_leave_the_directory_are_no_profile_names() {
    for name in ["../x", "", ".hidden", "a/b"] {
        let error = Profile::load(name, Path::new("/p")).unwrap_err().to_string();
        assert!(error.contains("is no profile name"), "{error}");
    }
    let error = Profile::load("vmware", Path::new("/p")).unwrap_err().to_string();
    assert!(error.contains("there is no backend \"vmware\"") && error.contains("/p"), "{error}");
}

#[test]
fn an_exit_means_what_the_table_says_and_nothing_where_nobody_saw_it() {
    let any = Profile::load("any", Path::new("/nonexistent")).unwrap().exit;
    assert_eq!(any.meaning(Some(0), None), Some(GuestEvent::Poweroff));
    assert_eq!(any.meaning(Some(3), None), Some(GuestEvent::Crash));
    assert_eq!(any.meaning(None, Some(9)), Some(GuestEvent::Crash));
    assert_eq!(any.meaning(None, None), None);
}

#[test]
fn the_profile_in_the_manual_is_one() {
    let manual = include_str!("../../../../man/kxl-backends.7");
    let (_, rest) = manual.split_once(".Bd -literal -offset indent\n").unwrap();
    let (example, _) = rest.split_once("\n.Ed").unwrap();
    let profile = Profile::parse(&example.replace("\\e", "\\"), "nova", Path::new("n")).unwrap();
    assert_eq!(profile.shutdown.text.as_deref(), Some("BYE\r"));
    assert_eq!(profile.capabilities().to_string(), "pause powerdown console");
}

/// The example of a page of the manual.
fn example(page: &str) -> String {
    let (_, rest) = page.split_once(".Bd -literal -offset indent\n").unwrap();
    rest.split_once("\n.Ed").unwrap().0.replace("\\e", "\\")
}

#[test]
fn the_example_of_the_format_is_a_profile_of_what_it_tells() {
    let text = example(include_str!("../../../../man/kxl-profile.5"));
    let profile = Profile::parse(&text, "relay", Path::new("relay.toml")).unwrap();
    assert_eq!(profile.capabilities().to_string(), "pause powerdown console");
    assert_eq!(profile.shutdown.step[0].text, "close\r");
}

#[test]
fn every_key_of_the_format_is_in_its_manual() {
    let page = include_str!("../../../../man/kxl-profile.5");
    let words: std::collections::BTreeSet<&str> = page.split_whitespace().collect();
    // What the reader knows, by what it says of a key that there is not.
    for section in
        ["", "start", "control", "ready", "console", "pause", "shutdown", "destroy", "exit", "save"]
    {
        let wrong = match section {
            "" => format!("nosuch = 1\n{OWN}"),
            "start" | "control" | "pause" => {
                OWN.replace(&format!("[{section}]"), &format!("[{section}]\nnosuch = 1"))
            }
            _ => format!("{OWN}[{section}]\nnosuch = 1\n"),
        };
        let said = error(&wrong);
        let keys = said.rsplit_once(": it takes ").or_else(|| said.rsplit_once(": there are "));
        let keys = keys.unwrap_or_else(|| panic!("{said}")).1;
        for key in keys.split([',', ';']).map(str::trim).filter(|key| !key.starts_with("did you")) {
            let told = words.contains(key)
                || words.iter().any(|word| word.contains(&format!("[{key}")))
                || words.iter().any(|word| word.contains(&format!("{section}.{key}]")));
            assert!(told, "kxl-profile(5) does not tell of {key} in [{section}]");
        }
    }
}

#[test]
fn the_manual_tells_what_each_built_in_profile_offers() {
    let manual = include_str!("../../../../man/kxl-backends.7");
    let profiles = ["qemu", "kvm", "simh", "any", "charon", "stratovirt", "bochs"]
        .map(|name| Profile::load(name, Path::new("/nonexistent")).unwrap().capabilities());
    for capability in Capability::ALL {
        let said: Vec<bool> = manual
            .lines()
            .find_map(|line| line.strip_prefix(&format!(".It {capability} Ta ")))
            .map_or_else(
                || vec![false; 7],
                |row| row.split(" Ta ").take(7).map(|cell| cell == "yes").collect(),
            );
        assert_eq!(said, profiles.map(|set| set.has(*capability)), "{capability}");
    }
}
