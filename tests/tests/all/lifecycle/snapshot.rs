//! Emulators that write and read their state by themselves: told so by QMP, on the stand-in for
//! StratoVirt, or by a signal, on a script.

use std::fs;

use kxl_domain::State;

use crate::support::guest::{Counter, stratovirt};
use crate::support::{Console, Host, wait};

const NUMBERS: Counter = Counter::Vax;

fn up(cmdline: &str) -> Host {
    let host = Host::new();
    host.define("it", &stratovirt("it", cmdline));
    host.ok(["start", "it"]);
    host
}

#[test]
fn a_state_that_could_not_be_written_leaves_the_guest_running_and_no_image() {
    let host = up("nosave");
    let console = Console::attach(&host, "it");
    let count = NUMBERS.begins(&console);
    let image = host.scratch().join("it.img");
    let refused = host.refused(1, &["save", "it", image.to_str().unwrap()]);
    assert!(refused.stderr.contains("migrate"), "{refused}");
    assert!(!image.exists());
    assert_eq!(host.answering("it").rests(), Some(State::Running));
    NUMBERS.beyond(&console, count);
    // One that stood still does so afterwards.
    host.ok(["pause", "it"]);
    host.refused(1, &["save", "it", image.to_str().unwrap()]);
    assert_eq!(host.answering("it").rests(), Some(State::Paused));
    host.ok(["destroy", "it"]);
    host.rests("it", State::Halted);
}

#[test]
fn one_that_came_back_paused_begins_with_its_state_also_under_another_monitor() {
    let host = up("");
    let count = NUMBERS.beyond(&Console::attach(&host, "it"), 3);
    let image = host.scratch().join("it.img");
    let image = image.to_str().unwrap();
    host.ok(["save", "it", image]);
    host.ok(["restore", "-p", image]);
    let domain = host.domain("it");
    assert_eq!(domain.rests(), Some(State::Paused));
    assert!(host.rundir(&domain).join("state.restore").is_dir());
    host.monitor_of(&domain).kill();
    host.ok(["recover"]);
    assert_eq!(host.answering("it").rests(), Some(State::Paused));
    host.ok(["unpause", "it"]);
    let console = Console::attach(&host, "it");
    assert!(NUMBERS.begins(&console) >= count);
    let text = console.text();
    assert_eq!(text.matches("READY").count(), 1, "it has booted again: {text}");
    assert!(!host.rundir(&domain).join("state.restore").exists(), "what was read takes no room");
}

#[test]
fn one_that_refuses_its_state_says_why_and_the_image_can_be_tried_again() {
    let host = up("");
    NUMBERS.beyond(&Console::attach(&host, "it"), 3);
    host.ok(["suspend", "it"]);
    let missing = host.scratch().join("kernel");
    let config = stratovirt("it", "");
    let kernel = config.lines().find(|line| line.starts_with("kernel")).unwrap();
    fs::write(&missing, "").unwrap();
    let other = config.replace(kernel, &format!("kernel = \"{}\"", missing.display()));
    let image = host.scratch().join("it.img");
    host.ok(["resume", "it"]);
    host.ok(["save", "it", image.to_str().unwrap()]);
    // Gone between the look at it and the moment at which it begins.
    let file = host.file("other.cfg", &other);
    host.ok(["restore", "-p", file.to_str().unwrap(), image.to_str().unwrap()]);
    fs::remove_file(&missing).unwrap();
    let refused = host.refused(1, &["unpause", "it"]);
    assert!(refused.stderr.contains("Failed to open kernel"), "{refused}");
    wait::eventually("it has ended", || host.domain("it").rests() == Some(State::Halted));
}

/// Counts in lines of eight digits; at USR1 it writes how far it has come, and ends.
const COUNTER: &str = "n=0; test -z \"$2\" || n=$(cat \"$2\")\n\
    trap 'echo $n > \"$1/state\"; exit 0' USR1\n\
    while :; do n=$((n + 1)); printf '%08x\\n' $n; sleep 0.05; done\n";

const PROFILE: &str = "[control]\nkind = \"signal\"\n[pause]\nkind = \"signal\"\n\
    [save]\nkind = \"signal-then-exit\"\nsignal = \"USR1\"\nfile = \"{rundir}/state\"\n\
    [restore]\nkind = \"signal-then-exit\"\nfile = \"{rundir}/state.in\"\nargv = [\"{file}\"]\n\
    [exit]\ncode = { \"*\" = \"crash\" }\nsignal = \"crash\"\n";

#[test]
fn a_program_that_ends_when_it_is_saved_is_suspended_saved_and_comes_back() {
    let host = Host::new();
    let script = host.file("counter.sh", COUNTER);
    let profiles = host.root.join("etc/kxl/profiles");
    fs::create_dir_all(&profiles).unwrap();
    let start = format!(
        "schema = 1\nname = \"ends\"\n[start]\nexec = \"/bin/sh\"\nargv = [\"{}\", \"{{rundir}}\"]\n",
        script.display()
    );
    fs::write(profiles.join("ends.toml"), start + PROFILE).unwrap();
    host.define("it", "name = \"it\"\nbackend = \"ends\"\nmemory = 8\n");
    host.ok(["start", "it"]);
    let mut count = NUMBERS.beyond(&Console::attach(&host, "it"), 5);
    let image = host.scratch().join("it.img").display().to_string();
    // It could not go on, so it is not ended for that.
    host.refused(1, &["save", "-c", "it", &image]);
    assert_eq!(host.answering("it").rests(), Some(State::Running));
    for (away, back) in [
        (["suspend", "it"].to_vec(), ["resume", "it"]),
        (["save", "it", &image].to_vec(), ["restore", &image]),
    ] {
        host.ok(away);
        assert!(!host.domain("it").rests().is_some_and(State::is_live));
        host.quiet();
        host.ok(back);
        assert_eq!(host.answering("it").rests(), Some(State::Running));
        let console = Console::attach(&host, "it");
        assert!(NUMBERS.begins(&console) >= count, "{}", console.text());
        count = NUMBERS.beyond(&console, count);
    }
    host.ok(["destroy", "it"]);
    host.rests("it", State::Halted);
}
