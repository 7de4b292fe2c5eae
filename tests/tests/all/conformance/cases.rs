//! The cases of the suite, each on a host of its own.

use std::time::Duration;

use kxl_backend::process::RunState;
use kxl_domain::{RULES, State, Verb};
use nix::sys::signal::Signal;

use super::Subject;
use crate::support::{Console, Domain, Host, rest, wait};

use State::{Asleep, Halted, Paused, Running};

/// A case.
pub(super) struct Case {
    /// What it shows.
    pub(super) name: &'static str,
    /// Shows it.
    pub(super) run: fn(&Host, &Subject),
}

/// All of them.
pub(super) const ALL: &[Case] = &[
    Case { name: "it starts, is listed and is destroyed", run: starts },
    Case { name: "its console shows and takes bytes", run: talks },
    Case { name: "paused it stands still, unpaused it goes on", run: pauses },
    Case { name: "it can be started paused", run: starts_paused },
    Case { name: "asleep it stands still, whoever looks after it, and wakes", run: sleeps },
    Case { name: "verbs it has no way for are refused and change nothing", run: refuses },
    Case { name: "it survives its monitor", run: is_adopted },
    Case { name: "an emulator that is killed is a crash", run: crashes },
    Case { name: "one that is stopped by a signal is told and destroyed", run: hangs },
];

pub(super) fn up(host: &Host, subject: &Subject) -> Domain {
    host.define("it", &subject.config);
    host.ok(["start", "it"]);
    let domain = host.domain("it");
    assert_eq!(domain.rests(), Some(Running), "{domain:?}");
    domain
}

/// Waits until the guest is heard.
pub(super) fn heard(subject: &Subject, console: &mut Console) {
    if let Some(greeting) = subject.greeting {
        console.expect(greeting);
    }
    if let Some(counter) = subject.counter {
        counter.begins(console);
    }
}

pub(super) fn answers(subject: &Subject, console: &mut Console) {
    let (typed, answer) = subject.echo;
    // A guest that polls its keyboard may have lost the first ones while it came up.
    for _ in 0..20 {
        console.skip();
        console.send(typed);
        let end = std::time::Instant::now() + Duration::from_secs(3);
        let before = console.text().matches(answer).count();
        while std::time::Instant::now() < end {
            if console.text().matches(answer).count() > before {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    panic!("{typed:?} is not answered by {answer:?}: {:?}", console.text());
}

fn starts(host: &Host, subject: &Subject) {
    let domain = up(host, subject);
    let emulator = host.emulator_of(&domain);
    assert!(emulator.alive());
    host.answering("it");
    assert!(host.ok(["list", "it"]).contains("running"));
    let domid = domain.domid().unwrap();
    assert_eq!(host.ok(["domid", "it"]).trim(), domid.to_string());
    assert_eq!(host.ok(["domname", &domid.to_string()]).trim(), "it");
    host.ok(["destroy", "it"]);
    let after = host.rests("it", Halted);
    assert_eq!((after.reason(), after.domid()), (Some("destroyed"), None));
    assert!(!emulator.alive());
    host.quiet();
    host.ok(["start", "it"]);
    assert_eq!(host.domain("it").rests(), Some(Running), "it starts again");
}

fn talks(host: &Host, subject: &Subject) {
    up(host, subject);
    let mut console = Console::attach(host, "it");
    heard(subject, &mut console);
    answers(subject, &mut console);
    assert_eq!(console.leave(), Some(0));
    // What was said before is shown to the next viewer.
    let mut again = Console::attach(host, "it");
    again.expect(subject.echo.1);
    let log = host.ok(["console", "--log", "it"]);
    assert!(log.contains(subject.echo.1), "{log}");
}

/// Asserts that the guest stands still, and then that it goes on when it is let.
pub(super) fn stands_still(host: &Host, subject: &Subject, console: &Console) {
    stands_until(host, subject, console, "unpause");
}

/// The same, let go by `verb`.
fn stands_until(host: &Host, subject: &Subject, console: &Console, verb: &str) {
    let domain = host.domain("it");
    let emulator = host.emulator_of(&domain);
    // Long enough for every counter of the suite to move several times.
    rest::stands_still(&emulator, Duration::from_secs(2), || {
        subject.counter.map(|counter| counter.last(&console.text()))
    });
    host.ok([verb, "it"]);
    let after = host.domain("it");
    assert_eq!(after.rests(), Some(Running));
    assert_eq!((after.domid(), after.pid()), (domain.domid(), domain.pid()));
}

fn pauses(host: &Host, subject: &Subject) {
    up(host, subject);
    let mut console = Console::attach(host, "it");
    heard(subject, &mut console);
    host.ok(["pause", "it"]);
    assert_eq!(host.domain("it").rests(), Some(Paused));
    assert!(host.ok(["list", "it"]).contains("paused"));
    host.ok(["pause", "it"]);
    let count = subject.counter.and_then(|counter| counter.last(&console.text()));
    stands_still(host, subject, &console);
    if let Some(counter) = subject.counter {
        counter.beyond(&console, count.unwrap());
    }
    answers(subject, &mut console);
}

fn starts_paused(host: &Host, subject: &Subject) {
    host.define("it", &subject.config);
    host.ok(["start", "-p", "it"]);
    assert_eq!(host.domain("it").rests(), Some(Paused));
    let mut console = Console::attach(host, "it");
    stands_still(host, subject, &console);
    heard(subject, &mut console);
    answers(subject, &mut console);
}

fn sleeps(host: &Host, subject: &Subject) {
    if !subject.offers.contains(&"sleep") {
        return;
    }
    up(host, subject);
    let mut console = Console::attach(host, "it");
    heard(subject, &mut console);
    host.ok(["sleep", "it"]);
    assert_eq!(host.answering("it").rests(), Some(Asleep));
    host.ok(["sleep", "it"]);
    let output = host.refused(4, &["unpause", "it"]);
    assert!(output.stderr.contains("kxl wake it"), "{output}");
    let monitor = host.monitor_of(&host.domain("it"));
    monitor.kill();
    host.kxl(["recover"]).expect(0);
    let asleep = host.answering("it");
    assert_eq!((asleep.rests(), asleep.text("wanted")), (Some(Asleep), Some("running")));
    let count = subject.counter.and_then(|counter| counter.last(&console.text()));
    stands_until(host, subject, &console, "wake");
    host.ok(["wake", "it"]);
    if let Some(counter) = subject.counter {
        counter.beyond(&console, count.unwrap());
    }
    answers(subject, &mut console);
}

fn refuses(host: &Host, subject: &Subject) {
    up(host, subject);
    let before = host.answering("it");
    let picture = |domain: &Domain| {
        let mut value = domain.0.clone();
        value.as_object_mut().unwrap().remove("cpu_seconds");
        value
    };
    for rule in RULES.iter().filter(|rule| rule.built && rule.from.contains(&Running)) {
        let Some(need) = rule.needs.filter(|need| !subject.offers.contains(&need.as_str())) else {
            continue;
        };
        let file = host.scratch().join("it.img").display().to_string();
        let args = match rule.verb {
            Verb::Save => vec!["save", "it", &file],
            Verb::Checkpoint => vec!["image", "checkpoint", "it"],
            verb => vec![verb.as_str(), "it"],
        };
        let output = host.refused(5, &args);
        assert!(output.stderr.contains(need.as_str()), "{output}");
        assert_eq!(picture(&host.answering("it")), picture(&before), "{}", rule.verb);
    }
    declares(host, subject, before.text("backend").unwrap());
}

/// What `kxl info --backends` tells is what the verbs find. The mock is not shown there.
fn declares(host: &Host, subject: &Subject, name: &str) {
    let declared = host.ok(["info", "--backends", "--json"]);
    let backends: Vec<serde_json::Value> = serde_json::from_str(&declared).unwrap();
    let Some(entry) = backends.iter().find(|one| one["name"] == name) else {
        assert_eq!(name, "mock", "it is not among the backends: {declared}");
        return;
    };
    for verb in [Verb::Pause, Verb::Shutdown, Verb::Reset, Verb::Sleep, Verb::Save] {
        let need = RULES.iter().find(|rule| rule.verb == verb).unwrap().needs.unwrap();
        let list = entry["capabilities"].as_array().unwrap();
        let offers = list.iter().any(|one| one == need.as_str());
        assert_eq!(offers, subject.offers.contains(&need.as_str()), "{need}: {entry}");
    }
}

fn is_adopted(host: &Host, subject: &Subject) {
    let before = up(host, subject);
    let mut console = Console::attach(host, "it");
    heard(subject, &mut console);
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let monitor = host.monitor_of(&host.domain("it"));
        monitor.signal(signal);
        wait::eventually("the monitor ends", || !monitor.alive());
        host.ok(["list", "it"]);
        host.kxl(["recover"]).expect(0);
        let after = host.answering("it");
        assert_eq!((after.domid(), after.pid()), (before.domid(), before.pid()));
        answers(subject, &mut console);
    }
    host.ok(["pause", "it"]);
    host.ok(["unpause", "it"]);
    host.ok(["destroy", "it"]);
    assert_eq!(host.rests("it", Halted).reason(), Some("destroyed"));
    host.quiet();
}

fn crashes(host: &Host, subject: &Subject) {
    let domain = up(host, subject);
    host.emulator_of(&domain).signal(Signal::SIGKILL);
    let after = host.rests("it", Halted);
    assert_eq!((after.reason(), after.text("wanted")), (Some("crash"), Some("running")));
    assert!(host.ok(["why", "it"]).contains("crash"));
    host.quiet();
}

fn hangs(host: &Host, subject: &Subject) {
    let domain = up(host, subject);
    let emulator = host.emulator_of(&domain);
    emulator.signal(Signal::SIGSTOP);
    wait::eventually("it is stopped", || emulator.stat().state == RunState::Stopped);
    let text = host.ok(["list", "it"]);
    // Where pausing is such a signal, that is what it looks like.
    assert!(text.contains("not answering") || text.contains("paused"), "{text}");
    host.ok(["destroy", "it"]);
    host.rests("it", Halted);
    assert!(!emulator.alive());
    host.quiet();
}
