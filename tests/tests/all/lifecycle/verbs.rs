//! The meaning of the verbs, through the commands: what the lifecycle table says is what happens.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kxl_domain::state::Status;
use kxl_domain::{Denied, RULES, State, Verb, Verdict, decide};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::guest::Counter;
use crate::support::skip::{skip, skipped};
use crate::support::{Console, Domain, Host, guest, rest, wait};

use State::{Absent, Asleep, Failed, Halted, Paused, Running, Shutdown, Suspended};

const UUID: &str = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";

/// A domain that is kept when it powers off, so that state shutdown can be reached.
fn kept(script: &str) -> String {
    guest::mock_with("web", script, &format!("uuid = \"{UUID}\"\non_poweroff = \"preserve\""))
}

/// The states that this build can reach.
const STATES: &[State] = &[Absent, Running, Paused, Asleep, Shutdown, Halted, Suspended, Failed];

fn built() -> impl Iterator<Item = Verb> {
    RULES.iter().filter(|rule| rule.built).map(|rule| rule.verb)
}

/// The command of a verb.
fn command(host: &Host, verb: Verb, file: &str) -> Vec<String> {
    let saved = host.scratch().join("saved.kxl").display().to_string();
    let words = match verb {
        Verb::New | Verb::Create => vec![verb.as_str(), file],
        Verb::Shutdown => vec!["shutdown", "-w", "web"],
        Verb::Reboot => vec!["reboot", "-ww", "web"],
        Verb::Save => vec!["save", "--force", "web", &saved],
        Verb::Checkpoint => vec!["image", "checkpoint", "web"],
        Verb::Restore => return vec!["restore".into(), image(host)],
        _ => vec![verb.as_str(), "web"],
    };
    words.into_iter().map(str::to_owned).collect()
}

/// A file with the state of a running domain of the same identity.
fn image(host: &Host) -> String {
    let path = host.scratch().join("web.kxl");
    let text = path.display().to_string();
    if !path.exists() {
        let maker = Host::new();
        let file = maker.file("web.cfg", &kept(""));
        maker.ok(["create", file.to_str().unwrap()]);
        maker.ok(["save", "web", &text]);
    }
    text
}

/// Where a verb leads that was carried out.
fn leads_to(verb: Verb, from: State, paused: bool, managed: bool) -> State {
    let rule = RULES.iter().find(|rule| rule.verb == verb).unwrap();
    match (verb, rule.to) {
        // The guest obeys, and its configuration keeps it.
        (Verb::Shutdown, _) => Shutdown,
        (Verb::Reboot, _) => Running,
        // It comes back as it was.
        (Verb::Resume, _) if paused => Paused,
        (_, None) => from,
        (_, Some(Halted)) if !managed => Absent,
        (_, to) => to.unwrap(),
    }
}

/// What is listed, without what changes by itself. A monitor that a busy host did not let answer in
/// time is no part of it: it is looked at again.
fn picture(host: &Host) -> Vec<Value> {
    let answered = wait::until("every live domain answers", wait::SOON, || {
        let domains = host.domains();
        let silent = |one: &Domain| one.domid().is_some() && one.0["answering"] != true;
        (!domains.iter().any(silent)).then_some(domains)
    });
    let domains = answered.into_iter().map(|Domain(mut value)| {
        value.as_object_mut().unwrap().remove("cpu_seconds");
        value
    });
    domains.collect()
}

fn resting(host: &Host) -> State {
    host.find("web").map_or(Absent, |domain| domain.state())
}

/// Carries out one verb and compares with the table. Returns the state it leads to, and whether
/// the domain is registered then.
fn follow(host: &Host, file: &str, verb: Verb, managed: bool) -> bool {
    let state = resting(host);
    let before = picture(host);
    let paused = host.find("web").is_some_and(|domain| domain.text("wanted") == Some("paused"));
    let output = host.kxl(command(host, verb, file));
    let case = format!("{verb} while {state} (managed: {managed})\n{output}");
    match decide(Status { state, op: None }, verb) {
        // A name that nobody has is not a state to refuse.
        Verdict::Denied(_) | Verdict::Already if state == Absent => {
            assert_eq!(output.code(), Some(3), "{case}");
            assert_eq!(picture(host), before, "{case}");
            managed
        }
        Verdict::Denied(denied) => {
            assert!(matches!(denied, Denied::State { .. }), "{case}");
            assert_eq!(output.code(), Some(4), "{case}");
            assert!(output.stderr.contains("web"), "{case}");
            assert_eq!(picture(host), before, "{case}");
            managed
        }
        Verdict::Already => {
            assert_eq!(output.code(), Some(0), "{case}");
            assert_eq!(picture(host), before, "{case}");
            managed
        }
        // Nothing would remember it.
        Verdict::Go(_) if verb == Verb::Suspend && !managed => {
            assert_eq!(output.code(), Some(4), "{case}");
            assert!(output.stderr.contains("kxl save web"), "{case}");
            assert_eq!(picture(host), before, "{case}");
            managed
        }
        Verdict::Go(_) => {
            assert_eq!(output.code(), Some(0), "{case}");
            let managed = match verb {
                Verb::New => true,
                Verb::Delete => false,
                _ => managed,
            };
            let expected = leads_to(verb, state, paused, managed);
            wait::eventually(&format!("{expected} after {case}"), || {
                let domain = host.find("web");
                domain.map_or(Some(Absent), |domain| domain.rests()) == Some(expected)
            });
            let emulators = usize::from(expected.is_live());
            wait::eventually(&format!("{emulators} emulators after {case}"), || {
                host.emulators().len() == emulators
            });
            managed
        }
    }
}

/// Brings the domain of `file` to `state`.
fn bring(host: &Host, file: &str, state: State, managed: bool) {
    if managed && state != Absent {
        host.ok(["new", file]);
    }
    let up = |more: &[&str]| {
        let args: &[&str] = if managed { &["start", "web"] } else { &["create", file] };
        host.ok([args, more].concat());
    };
    match state {
        Absent | Halted => {}
        Running => up(&[]),
        Paused => up(&["-p"]),
        Asleep => {
            up(&[]);
            host.ok(["sleep", "web"]);
        }
        Shutdown => {
            up(&[]);
            host.ok(["shutdown", "-w", "web"]);
        }
        Suspended => {
            up(&[]);
            host.ok(["suspend", "web"]);
        }
        Failed => drop(host.refused(1, &["start", "web"])),
    }
    assert_eq!(resting(host), state);
}

#[test]
fn every_verb_does_in_every_state_what_the_table_says() {
    for state in STATES.iter().filter(|state| **state != Failed) {
        for managed in [true, false] {
            if !managed && matches!(state, Halted | Suspended) || managed && *state == Absent {
                continue;
            }
            for verb in built() {
                let host = Host::new();
                let file = host.file("web.cfg", &kept(""));
                let file = file.to_str().unwrap();
                bring(&host, file, *state, managed);
                follow(&host, file, verb, managed);
            }
        }
    }
}

#[test]
fn a_domain_whose_start_failed_can_be_defined_anew_deleted_or_started_again() {
    for verb in built() {
        let host = Host::new();
        let bad = host.file("bad.cfg", &kept("die=launch"));
        bring(&host, bad.to_str().unwrap(), Failed, true);
        let good = host.file("web.cfg", &kept(""));
        if verb == Verb::Start {
            // What is stored still fails.
            host.refused(1, &["start", "web"]);
            assert_eq!(host.domain("web").state(), Failed);
            assert_eq!(host.domain("web").reason(), Some("start-failed"));
        } else {
            follow(&host, good.to_str().unwrap(), verb, true);
        }
    }
}

/// Numbers from a seed, the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }
}

#[test]
fn on_random_walks_the_commands_and_the_table_never_part() {
    let verbs: Vec<Verb> = built().collect();
    for seed in [0x5eed_0001, 0x5eed_0002, 0x5eed_0003] {
        let host = Host::deep();
        let file = host.file("web.cfg", &kept(""));
        let mut numbers = Numbers(seed);
        let mut managed = false;
        let mut seen = BTreeSet::new();
        for _ in 0..40 {
            let verb = verbs[numbers.below(verbs.len())];
            managed = follow(&host, file.to_str().unwrap(), verb, managed);
            seen.insert(resting(&host));
        }
        assert!(seen.len() > 2, "seed {seed:x} led nowhere: {seen:?}");
    }
}

#[test]
fn a_verb_that_is_not_built_says_so_and_fails() {
    let host = Host::new();
    host.create("web", &guest::mock("web", ""));
    let before = picture(&host);
    for rule in RULES.iter().filter(|rule| !rule.built) {
        // One command migrates, whatever the direction.
        let word = match rule.verb {
            Verb::MigrateOut | Verb::MigrateIn => "migrate",
            verb => verb.as_str(),
        };
        let output = host.refused(1, &[word, "web", "/nonexistent"]);
        assert!(output.stderr.contains("not built yet"), "{output}");
    }
    assert_eq!(picture(&host), before);
}

#[test]
fn new_and_start_launch_what_create_of_the_same_file_launches() {
    let config =
        match guest::qemu("x86_64", "web", "", &format!("uuid = \"{UUID}\"\nvif = [ 'user' ]")) {
            Ok(config) => config,
            Err(reason) => return skip("new and start against create on qemu", &reason),
        };
    let _slot = guest::slot();
    let arguments = |managed: bool| {
        let host = Host::new();
        let domain = if managed {
            host.define("web", &config);
            host.ok(["start", "-p", "web"]);
            host.domain("web")
        } else {
            let file = host.file("web.cfg", &config);
            host.ok(["create", "-p", file.to_str().unwrap()]);
            host.domain("web")
        };
        let args = host.emulator_of(&domain).args;
        // Only the place differs.
        let root = host.root.display().to_string();
        args.into_iter().map(|arg| arg.replace(&root, "ROOT")).collect::<Vec<_>>()
    };
    assert_eq!(arguments(true), arguments(false));
}

/// Brings a managed mock domain to its end by `end` and returns it as it is listed then.
fn ended(end: impl Fn(&Host)) -> Domain {
    let host = Host::new();
    host.define("web", &guest::mock("web", ""));
    host.ok(["start", "web"]);
    end(&host);
    let domain = host.rests("web", Halted);
    host.quiet();
    domain
}

fn by_itself(host: &Host, key: &str) {
    let mut console = Console::attach(host, "web");
    console.expect("READY");
    console.send(key);
    console.ended();
}

#[test]
fn a_managed_domain_that_has_ended_stays_listed_with_its_reason() {
    let shut = ended(|host| drop(host.ok(["shutdown", "-ww", "web"])));
    assert_eq!((shut.reason(), shut.text("wanted")), (Some("poweroff"), Some("halted")));
    let destroyed = ended(|host| drop(host.ok(["destroy", "web"])));
    assert_eq!((destroyed.reason(), destroyed.text("wanted")), (Some("destroyed"), Some("halted")));
    let off = ended(|host| by_itself(host, "p"));
    assert_eq!(off.reason(), Some("poweroff"));
    let crashed = ended(|host| by_itself(host, "k"));
    // A crash changes nobody's wish.
    assert_eq!((crashed.reason(), crashed.text("wanted")), (Some("crash"), Some("running")));
}

#[test]
fn a_transient_domain_that_has_ended_is_gone() {
    let ends: [fn(&Host); 3] = [
        |host| drop(host.ok(["shutdown", "-ww", "web"])),
        |host| drop(host.ok(["destroy", "web"])),
        |host| by_itself(host, "p"),
    ];
    for end in ends {
        let host = Host::new();
        host.create("web", &guest::mock("web", ""));
        end(&host);
        host.gone("web");
        host.quiet();
        assert_eq!(host.leftovers(), [""; 0]);
    }
}

/// A pause and what it must leave alone, on any backend with a counter.
fn pauses(host: &Host, name: &str, counter: Counter) {
    let before = host.domain(name);
    let console = Console::attach(host, name);
    counter.begins(&console);
    host.ok(["pause", name]);
    assert_eq!(host.domain(name).state(), Paused);
    let emulator = host.emulator_of(&before);
    // The issue asks for five seconds without a tick of CPU time.
    let count = rest::stands_still(&emulator, Duration::from_secs(5), || {
        counter.last(&console.text()).unwrap()
    });
    let paused = host.domain(name);
    assert_eq!((paused.domid(), paused.pid()), (before.domid(), before.pid()));
    host.ok(["unpause", name]);
    assert_eq!(host.domain(name).state(), Running);
    counter.beyond(&console, count);
}

#[test]
fn a_paused_mock_domain_keeps_its_process_and_number_and_uses_no_cpu() {
    let host = Host::new();
    host.create("web", &guest::mock("web", ""));
    pauses(&host, "web", Counter::Linux);
}

#[test]
fn a_paused_qemu_domain_keeps_its_process_and_number_uses_no_cpu_and_leaves_its_disk_alone() {
    let host = Host::new();
    let disk = host.scratch().join("disk.raw");
    std::fs::File::create(&disk).unwrap().set_len(8 << 20).unwrap();
    let lines = format!("disk = [ '{},raw,xvda,w' ]", disk.display());
    let config = guest::qemu("x86_64", "web", "tick=100 stamp=1", &lines);
    if skipped("pause on qemu", &config) {
        return;
    }
    let _slot = guest::slot();
    host.create("web", &config.unwrap());
    let console = Console::attach(&host, "web");
    Counter::Linux.begins(&console);
    drop(console);
    pauses(&host, "web", Counter::Linux);
    host.ok(["pause", "web"]);
    let stamp = || std::fs::read(&disk).unwrap();
    let before = stamp();
    std::thread::sleep(Duration::from_secs(1));
    assert!(stamp() == before, "the disk changed while the domain was paused");
}

/// A reboot, on any backend whose guest obeys: `READY` is what it says when it is up.
fn reboots(host: &Host, name: &str) {
    let mut console = Console::attach(host, name);
    console.expect("READY");
    let before = host.domain(name);
    let monitor = host.monitor_of(&before);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                host.ok(["list", name]);
                host.xl(&["list", name]).expect(0);
                looks += 1;
            }
            looks
        });
        // Whatever fails, the watcher has to be let go.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            host.ok(["reboot", "-ww", name]);
            console.expect("READY");
        }));
        over.store(true, Ordering::Relaxed);
        assert!(watcher.join().unwrap() > 0);
        result.unwrap();
    });
    let after = host.rests(name, Running);
    assert!(after.domid() > before.domid(), "{before:?} {after:?}");
    assert_eq!(after.uuid(), before.uuid());
    assert_ne!(after.pid(), before.pid());
    assert_eq!(host.monitor_of(&after).pid(), monitor.pid());
    assert!(console.attached());
}

#[test]
fn a_rebooted_mock_domain_has_a_new_number_and_keeps_all_else_and_is_listed_all_the_time() {
    for managed in [true, false] {
        let host = Host::deep();
        let config = guest::mock("web", "");
        if managed {
            host.define("web", &config);
            host.ok(["start", "web"]);
        } else {
            host.create("web", &config);
        }
        for _ in 0..3 {
            reboots(&host, "web");
        }
    }
}

#[test]
fn a_rebooted_qemu_domain_keeps_its_addresses_its_monitor_and_its_console() {
    let config = guest::qemu("x86_64", "web", "tick=200 button=reboot", "vif = [ 'user' ]");
    if skipped("reboot on qemu", &config) {
        return;
    }
    let _slot = guest::slot();
    let host = Host::new();
    host.create("web", &config.unwrap());
    let macs = |host: &Host| {
        let args = host.emulator_of(&host.domain("web")).args;
        let mac = |arg: &String| Some(arg.split_once("mac=")?.1.get(..17)?.to_owned());
        args.iter().filter_map(mac).collect::<Vec<_>>()
    };
    let before = macs(&host);
    assert_eq!(before.len(), 1, "{:?}", host.emulators());
    reboots(&host, "web");
    assert_eq!(macs(&host), before);
}

/// How long the monitor took over a destroy, by its own events.
fn destroyed_within(host: &Host, name: &str) -> Duration {
    let events = host.events(name);
    let at = |what: &str| {
        let event = events.iter().rev().find(|event| event["what"] == what);
        event.and_then(|event| event["time_ms"].as_u64()).unwrap_or_else(|| panic!("{events:?}"))
    };
    Duration::from_millis(at("destroyed") - at("destroying"))
}

/// Destroys a domain that `hinder` has brought into some bad way.
fn is_destroyed(config: &str, hinder: impl FnOnce(&Host, &Domain)) {
    let host = Host::new();
    let domain = host.create("web", config);
    hinder(&host, &domain);
    host.ok(["destroy", "web"]);
    assert!(host.find("web").is_none());
    host.quiet();
    // Nobody was asked for an answer: the shortest of those deadlines is longer.
    assert!(destroyed_within(&host, "web") < Duration::from_secs(5));
}

#[test]
fn destroy_ends_an_emulator_that_runs_is_paused_or_stopped_by_a_signal() {
    let mut configs = vec![guest::mock("web", "")];
    let qemu = guest::qemu("x86_64", "web", "", "");
    if !skipped("destroy on qemu", &qemu) {
        configs.push(qemu.unwrap());
    }
    let pdp11 = guest::simh("pdp11", "web");
    if !skipped("destroy on simh", &pdp11) {
        configs.push(pdp11.unwrap());
    }
    let _slot = guest::slot();
    for config in configs {
        is_destroyed(&config, |_, _| {});
        is_destroyed(&config, |host, _| drop(host.ok(["pause", "web"])));
        is_destroyed(&config, |host, domain| host.emulator_of(domain).signal(Signal::SIGSTOP));
    }
}

#[test]
fn destroy_ends_an_emulator_in_a_frozen_control_group() {
    let Some(freezer) = Freezer::make() else {
        return skip("destroy of a frozen emulator", "no control group may be frozen here");
    };
    is_destroyed(&guest::mock("web", ""), |host, domain| {
        freezer.freeze(host.emulator_of(domain).pid());
    });
}

/// A control group of the test's own, version 1 or 2, whichever the host lets us use.
struct Freezer {
    dir: std::path::PathBuf,
    switch: &'static str,
    word: &'static str,
}

impl Freezer {
    fn make() -> Option<Self> {
        let name = format!("kxl-test-freezer-{}", std::process::id());
        let root = std::path::Path::new("/sys/fs/cgroup");
        let places = [
            (root.join("unified"), "cgroup.freeze", "1"),
            (root.to_owned(), "cgroup.freeze", "1"),
            (root.join("freezer"), "freezer.state", "FROZEN"),
        ];
        places.into_iter().find_map(|(base, switch, word)| {
            let dir = base.join(&name);
            let usable = base.join("cgroup.procs").exists()
                && std::fs::create_dir(&dir).is_ok()
                && dir.join(switch).exists();
            usable.then_some(Self { dir, switch, word })
        })
    }

    fn freeze(&self, pid: i32) {
        std::fs::write(self.dir.join("cgroup.procs"), pid.to_string()).unwrap();
        std::fs::write(self.dir.join(self.switch), self.word).unwrap();
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        drop(std::fs::remove_dir(&self.dir));
    }
}

#[test]
fn a_shutdown_that_the_guest_ignores_leaves_it_running() {
    let host = Host::new();
    host.create("web", &guest::mock("web", "ignore=powerdown"));
    for verb in ["shutdown", "reboot"] {
        let output = host.kxl([verb, "-w", "--timeout", "1", "web"]).expect(6);
        assert!(output.stderr.contains("destroy"), "it has to say what would help: {output}");
        host.ok([verb, "web"]);
    }
    let domain = host.domain("web");
    assert_eq!(domain.rests(), Some(Running));
    let console = Console::attach(&host, "web");
    let count = Counter::Linux.begins(&console);
    Counter::Linux.beyond(&console, count);
}

#[test]
fn on_qemu_a_guest_that_ignores_its_button_runs_on() {
    let config = guest::qemu("x86_64", "web", "tick=200 button=ignore", "");
    if skipped("an ignored button on qemu", &config) {
        return;
    }
    let _slot = guest::slot();
    let host = Host::new();
    let before = host.create("web", &config.unwrap());
    let mut console = Console::attach(&host, "web");
    console.expect("READY");
    for verb in ["shutdown", "reboot"] {
        host.ok([verb, "web"]);
        console.expect("BUTTON IGNORED");
    }
    let count = Counter::Linux.begins(&console);
    Counter::Linux.beyond(&console, count);
    let after = host.domain("web");
    assert_eq!((after.pid(), after.rests()), (before.pid(), Some(Running)));
}

#[test]
fn on_qemu_a_guest_that_is_asked_switches_itself_off() {
    let config = guest::qemu("x86_64", "web", "tick=200", "");
    if skipped("a shutdown on qemu", &config) {
        return;
    }
    let _slot = guest::slot();
    let host = Host::new();
    host.define("web", &config.unwrap());
    host.ok(["start", "web"]);
    let mut console = Console::attach(&host, "web");
    console.expect("READY");
    host.ok(["shutdown", "-ww", "web"]);
    console.expect("BUTTON");
    let domain = host.rests("web", Halted);
    assert_eq!(domain.reason(), Some("poweroff"));
    host.quiet();
}

#[test]
fn where_the_backend_has_no_way_to_ask_shutdown_and_reboot_are_refused_and_change_nothing() {
    let config = guest::simh("pdp11", "pdp");
    if skipped("shutdown on simh", &config) {
        return;
    }
    let host = Host::new();
    host.create("pdp", &config.unwrap());
    let before = picture(&host);
    for verb in ["shutdown", "reboot"] {
        let output = host.refused(5, &[verb, "pdp"]);
        assert!(output.stderr.contains("powerdown") && output.stderr.contains("pdp"), "{output}");
    }
    assert_eq!(picture(&host), before);
}

#[test]
fn a_reset_restarts_in_place() {
    let host = Host::new();
    let before = host.create("web", &guest::mock("web", ""));
    let mut console = Console::attach(&host, "web");
    console.expect("READY");
    host.ok(["reset", "web"]);
    console.expect("READY");
    let after = host.domain("web");
    assert_eq!((after.domid(), after.pid()), (before.domid(), before.pid()));
    assert_eq!(after.rests(), Some(Running));
}
