//! Emulators that write and read their state by themselves, on the stand-in for StratoVirt.

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
    std::fs::write(&missing, "").unwrap();
    let other = config.replace(kernel, &format!("kernel = \"{}\"", missing.display()));
    let image = host.scratch().join("it.img");
    host.ok(["resume", "it"]);
    host.ok(["save", "it", image.to_str().unwrap()]);
    // Gone between the look at it and the moment at which it begins.
    let file = host.file("other.cfg", &other);
    host.ok(["restore", "-p", file.to_str().unwrap(), image.to_str().unwrap()]);
    std::fs::remove_file(&missing).unwrap();
    let refused = host.refused(1, &["unpause", "it"]);
    assert!(refused.stderr.contains("Failed to open kernel"), "{refused}");
    wait::eventually("it has ended", || host.domain("it").rests() == Some(State::Halted));
}
