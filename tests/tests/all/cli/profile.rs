//! `kxl profile`, and the example of the manual as its reader would try it.

use std::fs;

use kxl_domain::State;

use crate::support::Host;
use crate::support::console::Console;
use crate::support::guest::top;
use crate::support::wait;

/// The example of kxl-backends(7) for an arbitrary program.
fn example() -> String {
    let page = fs::read_to_string(top().join("man/kxl-backends.7")).unwrap();
    let blocks = page.split(".Bd -literal -offset indent\n").skip(1);
    let mut blocks =
        blocks.filter_map(|rest| Some(rest.split_once("\n.Ed")?.0.replace("\\e", "\\")));
    blocks.find(|block| block.contains("name = \"echo\"")).unwrap()
}

#[test]
fn the_profile_that_the_manual_shows_runs_a_program_of_ones_own() {
    let host = Host::new();
    let profiles = host.root.join("etc/kxl/profiles");
    fs::create_dir_all(&profiles).unwrap();
    let file = profiles.join("echo.toml");
    fs::write(&file, example()).unwrap();
    let said = host.ok(["profile", "check", file.to_str().unwrap()]);
    assert_eq!(said, "echo: in order; it offers pause powerdown console\n");
    assert!(host.ok(["profile", "list"]).contains("Repeats what it is told"));
    host.ok(["create", "name=\"parrot\"", "backend=\"echo\""]);
    let mut console = Console::attach(&host, "parrot");
    console.send("pretty\r");
    console.expect("pretty");
    console.expect("pretty");
    host.ok(["pause", "parrot"]);
    assert_eq!(host.domain("parrot").state(), State::Paused);
    host.ok(["unpause", "parrot"]);
    host.ok(["shutdown", "--wait", "parrot"]);
    host.gone("parrot");
}

#[test]
fn a_mistake_in_a_profile_is_shown_where_it_is() {
    let host = Host::new();
    let file = host.file("echo.toml", &example().replace("after_ms", "aftr_ms"));
    let refused = host.refused(2, &["profile", "check", file.to_str().unwrap()]);
    for part in [
        "echo.toml:13:1: unknown key \"aftr_ms\" in [ready]",
        "did you mean \"after_ms\"?",
        "13 | aftr_ms = 100",
        "| ^^^^^^^",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {refused}");
    }
    let other = host.file("other.toml", &example());
    let refused = host.refused(2, &["profile", "check", other.to_str().unwrap()]);
    assert!(refused.stderr.contains("the name must be that of the file"), "{refused}");
    let taken = host.file("any.toml", &example().replace("\"echo\"", "\"any\""));
    let refused = host.refused(2, &["profile", "check", taken.to_str().unwrap()]);
    assert!(refused.stderr.contains("the built-in profile cannot be replaced"), "{refused}");
    host.refused(1, &["profile", "check", "/nonexistent/x.toml"]);
}

/// A program that goes into the background, with `env` before it there, and there has a child of
/// its own if `helped`.
fn background(host: &Host, env: &str, helped: bool) {
    let helper = if helped { "/bin/sh \"$0\" helper \"$2\" &" } else { "" };
    let script = host.file(
        "background.sh",
        &format!(
            "case \"$1\" in\nemulator) {helper}\nwhile :; do sleep 0.1; done;;\n\
             helper) while :; do sleep 0.1; done;;\n\
             *) setsid {env} /bin/sh \"$0\" emulator \"$1\" < /dev/null > /dev/null 2>&1 &\n\
             while test -e \"$0.wait\"; do sleep 0.05; done\nexit 0;;\nesac\n"
        ),
    );
    let profiles = host.root.join("etc/kxl/profiles");
    fs::create_dir_all(&profiles).unwrap();
    let profile = format!(
        "schema = 1\nname = \"det\"\n[start]\nexec = \"/bin/sh\"\n\
         argv = [\"{}\", \"{{rundir}}\"]\ndetach = \"self\"\n[control]\nkind = \"signal\"\n\
         [console]\nkind = \"none\"\n[exit]\nsignal = \"crash\"\n",
        script.display()
    );
    fs::write(profiles.join("det.toml"), profile).unwrap();
    host.define("det", "name = \"det\"\nbackend = \"det\"\n");
}

#[test]
fn an_emulator_in_the_background_is_the_domains_also_without_its_environment() {
    let host = Host::new();
    background(&host, "env -i", false);
    host.ok(["start", "det"]);
    let emulator = host.emulator_of(&host.domain("det"));
    assert!(emulator.args.iter().any(|arg| arg == "emulator"), "{emulator:?}");
    host.ok(["destroy", "det"]);
    host.rests("det", State::Halted);
    assert!(!emulator.alive());
}

#[test]
fn one_without_its_environment_is_the_domains_also_when_its_monitor_dies_in_the_middle_of_the_start()
 {
    let host = Host::new();
    background(&host, "env -i", false);
    // What is executed stays for a while.
    let stays = host.file("background.sh.wait", "");
    let start = host.begin(&["start", "det"]);
    let emulator = wait::until("it is in the background", wait::SOON, || {
        let mut all = host.emulators().into_iter();
        all.find(|process| process.args.iter().any(|arg| arg == "emulator"))
    });
    host.monitor_of_name("det").kill();
    fs::remove_file(stays).unwrap();
    drop(start);
    host.ok(["recover"]);
    let domain = wait::until("it has its emulator", wait::SOON, || {
        host.find("det").filter(|domain| domain.rests() == Some(State::Running))
    });
    assert_eq!(domain.pid(), Some(emulator.pid()));
    host.ok(["destroy", "det"]);
    host.rests("det", State::Halted);
    assert!(!emulator.alive());
}

#[test]
fn a_helper_of_a_dead_emulator_is_not_adopted_as_the_emulator() {
    let host = Host::new();
    background(&host, "", true);
    host.ok(["start", "det"]);
    let domain = host.domain("det");
    let emulator = host.emulator_of(&domain);
    let helpers = || {
        let all = host.emulators().into_iter();
        all.filter(|process| process.args.iter().any(|arg| arg == "helper")).count()
    };
    wait::eventually("it has its helper", || helpers() == 1);
    host.monitor_of(&domain).kill();
    emulator.kill();
    host.ok(["recover"]);
    let after = wait::until("it has come to rest", wait::SOON, || {
        host.find("det").filter(|domain| domain.rests().is_some_and(|state| !state.is_live()))
    });
    assert_eq!(after.reason(), Some("crash"), "{after:?}");
    wait::eventually("nothing of it is left", || helpers() == 0);
}
