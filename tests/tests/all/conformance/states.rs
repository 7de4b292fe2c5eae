//! States saved and brought back, on every backend that can.

use kxl_domain::State;

use super::Subject;
use super::cases::{Case, answers, heard, stands_still, up};
use crate::support::{Console, Host};

use State::{Halted, Paused, Running, Suspended};

/// The cases.
pub(super) const ALL: &[Case] = &[
    Case { name: "its state is saved, comes back and is saved again", run: comes_back },
    Case { name: "it is suspended and resumed, running or paused", run: is_suspended },
    Case { name: "a state of another machine is refused and comes back all the same", run: fits },
];

/// Lets the guest count for a while; the last count seen.
fn counts(subject: &Subject, console: &mut Console) -> Option<u64> {
    heard(subject, console);
    subject.counter.map(|counter| counter.beyond(console, 3))
}

/// Asserts that the guest goes on from where it was, by what a new console shows of it.
fn goes_on(host: &Host, subject: &Subject, before: Option<u64>) -> Console {
    let mut console = Console::attach(host, "it");
    if let (Some(counter), Some(before)) = (subject.counter, before) {
        counter.begins(&console);
        let text = console.text();
        let first = text.lines().find_map(|line| counter.last(&format!("{line}\n"))).unwrap();
        assert!(first >= before, "it counts from {first}, and had come to {before}: {text}");
        assert!(subject.greeting.is_none_or(|word| !text.contains(word)), "it has booted: {text}");
    }
    answers(subject, &mut console);
    console
}

fn file(host: &Host, name: &str) -> String {
    host.scratch().join(name).display().to_string()
}

fn comes_back(host: &Host, subject: &Subject) {
    let domain = up(host, subject);
    let mut console = Console::attach(host, "it");
    let mut count = counts(subject, &mut console);
    // It goes on, and nobody sees anything of it.
    let checkpoint = file(host, "checkpoint.img");
    for more in [&[][..], &["--force"]] {
        host.ok([&["save", "-c"], more, &["it", &checkpoint]].concat());
        let after = host.domain("it");
        assert_eq!((after.rests(), after.pid()), (Some(Running), domain.pid()));
        count = subject.counter.map(|counter| counter.beyond(&console, count.unwrap_or(0)));
        answers(subject, &mut console);
    }
    drop(console);
    for round in 0..2 {
        let image = file(host, &format!("{round}.img"));
        let emulator = host.emulator_of(&host.domain("it"));
        host.ok(["save", "it", &image]);
        host.rests("it", Halted);
        assert!(!emulator.alive());
        host.quiet();
        host.ok(["restore", &image]);
        assert_eq!(host.domain("it").rests(), Some(Running));
        let console = goes_on(host, subject, count);
        count = subject.counter.and_then(|counter| counter.last(&console.text()));
    }
    host.ok(["destroy", "it"]);
    // The last of the saves is still where it was, and can wait for somebody to let it go.
    host.ok(["restore", "-p", &file(host, "1.img")]);
    assert_eq!(host.domain("it").rests(), Some(Paused));
    let console = Console::attach(host, "it");
    stands_still(host, subject, &console);
    drop(console);
    goes_on(host, subject, None);
}

fn is_suspended(host: &Host, subject: &Subject) {
    up(host, subject);
    let mut console = Console::attach(host, "it");
    let mut count = counts(subject, &mut console);
    drop(console);
    for _ in 0..2 {
        host.ok(["suspend", "it"]);
        host.rests("it", Suspended);
        host.quiet();
        host.ok(["resume", "it"]);
        assert_eq!(host.domain("it").rests(), Some(Running));
        let console = goes_on(host, subject, count);
        count = subject.counter.and_then(|counter| counter.last(&console.text()));
    }
    host.ok(["pause", "it"]);
    host.ok(["suspend", "it"]);
    host.rests("it", Suspended);
    host.ok(["resume", "it"]);
    assert_eq!(host.domain("it").rests(), Some(Paused), "it was paused before");
    host.ok(["unpause", "it"]);
    goes_on(host, subject, count);
}

fn fits(host: &Host, subject: &Subject) {
    up(host, subject);
    let mut console = Console::attach(host, "it");
    let count = counts(subject, &mut console);
    drop(console);
    let image = file(host, "it.img");
    host.ok(["save", "it", &image]);
    host.rests("it", Halted);
    let (part, other) = subject.other;
    assert!(subject.config.contains(part));
    let config = host.file("other.cfg", &subject.config.replacen(part, other, 1));
    let output = host.kxl(["restore", config.to_str().unwrap(), &image]);
    assert!(output.code() != Some(0) && output.stderr.contains("does not fit"), "{output}");
    assert_eq!(host.domain("it").domid(), None, "it is not live");
    host.quiet();
    host.ok(["restore", &image]);
    goes_on(host, subject, count);
}
