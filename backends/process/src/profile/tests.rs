//! Profiles, right and wrong.

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
    assert_eq!(Profile::names(&dir), ["qemu", "kvm", "simh", "any", "own"]);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn mistakes_are_named_with_file_and_line() {
    let misspelt = OWN.replace("[pause]\nkind", "[pause]\nkynd");
    assert!(error(&misspelt).starts_with("backend: /p/own.toml:9: unknown field `kynd`"));
    assert!(error(&OWN.replace("schema = 1", "schema = 2")).contains("own.toml:1: this build"));
    assert!(error(&OWN.replace("\"own\"", "\"other\"")).contains("own.toml:2: the name"));
    let impossible = OWN.replace("[pause]\nkind = \"signal\"", "[pause]\nkind = \"qmp\"");
    assert!(error(&impossible).contains("own.toml:8: qmp needs"), "{}", error(&impossible));
    let signal = format!("{OWN}[shutdown]\nkind = \"signal\"\nsignal = \"HALLO\"\n");
    assert!(error(&signal).contains("own.toml:10: no such signal"), "{}", error(&signal));
    assert!(error("schema = \n").contains("own.toml:1:"));
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
            "[restore]: have the same kind",
        ),
        ("[save]\n", "[save]\nbuffered = \"x\"\n", "[save]: buffered and flush"),
        ("[save]\n", "[save_live]\nkind = \"qmp\"\n[save]\n", "[save_live]: it takes none"),
    ] {
        let text = SCRIPTED.replacen(part, other, 1);
        assert_ne!(text, SCRIPTED);
        let (section, why) = said.split_once(": ").unwrap();
        let line = text.lines().position(|line| line == section).unwrap() + 1;
        let error = error(&text);
        assert!(error.contains(&format!("own.toml:{line}: ")) && error.contains(why), "{error}");
    }
    let (head, rest) = SCRIPTED.split_once("[identify]").unwrap();
    let (_, tail) = rest.split_once("[save]").unwrap();
    assert!(error(&format!("{head}[save]{tail}")).contains("needs [identify]"));
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

#[test]
fn the_manual_tells_what_each_built_in_profile_offers() {
    let manual = include_str!("../../../../man/kxl-backends.7");
    let profiles = ["qemu", "kvm", "simh", "any"]
        .map(|name| Profile::load(name, Path::new("/nonexistent")).unwrap().capabilities());
    for capability in Capability::ALL {
        let said: Vec<bool> = manual
            .lines()
            .find_map(|line| line.strip_prefix(&format!(".It {capability} Ta ")))
            .map_or_else(
                || vec![false; 4],
                |row| row.split(" Ta ").take(4).map(|cell| cell == "yes").collect(),
            );
        assert_eq!(said, profiles.map(|set| set.has(*capability)), "{capability}");
    }
}
