//! The death of a monitor costs no domain: the next one takes up what the last one left.

use std::time::Duration;

use kxl_domain::State;
use kxl_store::Paths;
use nix::sys::signal::Signal;

use crate::support::guest::Counter;
use crate::support::process::Proc;
use crate::support::skip::skipped;
use crate::support::{Console, Domain, Host, guest, wait};

use State::{Halted, Paused, Running};

/// Ends the monitor of a domain with `signal` and waits until it is gone.
fn lose_monitor(host: &Host, name: &str, signal: Signal) {
    let monitor = host.monitor_of(&host.domain(name));
    monitor.signal(signal);
    wait::eventually("the monitor ends", || !monitor.alive());
}

/// A domain that lost its monitor is the same domain, and every verb works on it.
fn survives(host: &Host, name: &str, counter: Counter, signal: Signal) {
    let before = host.domain(name);
    let console = Console::attach(host, name);
    let count = counter.begins(&console);
    drop(console);
    lose_monitor(host, name, signal);

    let orphan = host.domain(name);
    assert_eq!((orphan.domid(), orphan.pid()), (before.domid(), before.pid()));
    assert_eq!(orphan.0["answering"], false, "{orphan:?}");
    assert!(host.monitors().is_empty(), "looking brings no monitor back");

    // A command about it does; here the console, on which the guest is heard to go on.
    let console = Console::attach(host, name);
    counter.beyond(&console, count);
    host.ok(["pause", name]);
    assert_eq!(host.domain(name).rests(), Some(Paused));
    lose_monitor(host, name, signal);
    host.ok(["unpause", name]);
    let after = host.domain(name);
    assert_eq!(after.rests(), Some(Running));
    assert_eq!((after.domid(), after.pid()), (before.domid(), before.pid()));
    assert_eq!(host.monitors().len(), 1);
    let count = counter.last(&console.text()).unwrap();
    counter.beyond(&console, count);
}

fn several_times(config: &str, counter: Counter) -> Host {
    let host = Host::deep();
    host.create("web", config);
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGKILL] {
        survives(&host, "web", counter, signal);
    }
    host
}

#[test]
fn a_mock_domain_survives_its_monitors() {
    let host = several_times(&guest::mock("web", ""), Counter::Linux);
    lose_monitor(&host, "web", Signal::SIGKILL);
    host.ok(["shutdown", "-ww", "web"]);
    host.gone("web");
    host.quiet();
}

#[test]
fn a_qemu_domain_survives_its_monitors_and_is_shut_down_by_the_last() {
    let config = guest::qemu("x86_64", "web", "tick=100", "");
    if skipped("adoption on qemu", &config) {
        return;
    }
    let _slot = guest::slot();
    let host = several_times(&config.unwrap(), Counter::Linux);
    lose_monitor(&host, "web", Signal::SIGKILL);
    host.ok(["shutdown", "-ww", "web"]);
    host.gone("web");
    host.quiet();
}

#[test]
fn a_pdp11_survives_its_monitors() {
    let config = guest::simh("pdp11", "web");
    if skipped("adoption on simh", &config) {
        return;
    }
    let host = several_times(&config.unwrap(), Counter::Pdp11);
    lose_monitor(&host, "web", Signal::SIGKILL);
    host.ok(["destroy", "web"]);
    host.quiet();
}

#[test]
fn a_pdp11_that_halts_while_nobody_watches_is_settled_by_the_next_command() {
    let config = guest::simh("pdp11", "pdp");
    if skipped("a halt without a monitor on simh", &config) {
        return;
    }
    let host = Host::new();
    host.define("pdp", &config.unwrap());
    host.ok(["start", "pdp"]);
    let mut console = Console::attach(&host, "pdp");
    Counter::Pdp11.begins(&console);
    // It cannot read the key before its monitor is gone.
    let emulator = host.emulator_of(&host.domain("pdp"));
    emulator.signal(Signal::SIGSTOP);
    console.send("H");
    // The key takes its way to the terminal; nothing tells when it is there.
    std::thread::sleep(Duration::from_secs(3));
    drop(console);
    lose_monitor(&host, "pdp", Signal::SIGKILL);
    emulator.signal(Signal::SIGCONT);
    // Time to halt in.
    std::thread::sleep(Duration::from_secs(2));
    host.kxl(["recover"]).expect(0);
    let domain = host.rests("pdp", Halted);
    assert_eq!(domain.reason(), Some("poweroff"));
    host.quiet();
}

#[test]
fn recover_gives_every_orphan_a_monitor() {
    let host = Host::new();
    for name in ["one", "two", "three"] {
        host.create(name, &guest::mock(name, ""));
    }
    for monitor in host.monitors() {
        monitor.kill();
    }
    let told = host.ok(["recover"]);
    for name in ["one", "two", "three"] {
        assert!(told.contains(&format!("{name}: adopted")), "{told}");
    }
    assert_eq!(host.monitors().len(), 3);
    assert!(host.ok(["recover"]).contains("has its monitor"));
    assert_eq!(host.ok(["recover", "-q"]), "");
}

#[test]
fn listing_one_domain_by_name_gives_it_a_monitor_again() {
    let host = Host::new();
    let before = host.create("web", &guest::mock("web", ""));
    lose_monitor(&host, "web", Signal::SIGKILL);
    let text = host.ok(["list", "web"]);
    assert!(text.contains("running") && !text.contains("no monitor"), "{text}");
    assert_eq!(host.monitors().len(), 1);
    assert_eq!(host.domain("web").pid(), before.pid());
}

/// A guest that ends while no monitor watches; what its configuration says follows at adoption.
fn ends_unwatched(lines: &str) -> (Host, Domain) {
    let host = Host::new();
    host.define("web", &guest::mock_with("web", "", lines));
    host.ok(["start", "web"]);
    let before = host.domain("web");
    lose_monitor(&host, "web", Signal::SIGKILL);
    (host, before)
}

#[test]
fn an_emulator_that_dies_unwatched_is_a_crash_when_somebody_looks() {
    let (host, before) = ends_unwatched("");
    host.emulator_of(&before).kill();
    host.kxl(["recover"]).expect(0);
    let domain = host.rests("web", Halted);
    assert_eq!(domain.reason(), Some("crash"));
    assert_eq!(domain.text("wanted"), Some("running"));
    host.quiet();
}

#[test]
fn an_emulator_that_dies_unwatched_is_started_again_where_the_policy_says_so() {
    let (host, before) = ends_unwatched("on_crash = \"restart\"");
    host.emulator_of(&before).kill();
    host.kxl(["recover"]).expect(0);
    let after = host.rests("web", Running);
    assert!(after.domid() > before.domid(), "{before:?} {after:?}");
    assert_eq!(after.uuid(), before.uuid());
    assert_eq!((host.emulators().len(), host.monitors().len()), (1, 1));
}

#[test]
fn an_emulator_that_dies_after_its_adoption_is_never_shown_as_answering() {
    let host = Host::new();
    host.define("web", &guest::mock("web", ""));
    host.ok(["start", "web"]);
    lose_monitor(&host, "web", Signal::SIGKILL);
    host.ok(["recover"]);
    let emulator = host.emulator_of(&host.domain("web"));
    // Its monitor learns how it ended when somebody else has reaped it: at once or after seconds.
    emulator.kill();
    wait::eventually("the crash is recorded", || {
        let domain = host.domain("web");
        let answers = domain.rests() == Some(Running) && domain.0["answering"] == true;
        assert!(!answers, "{domain:?}");
        domain.rests() == Some(Halted)
    });
    assert_eq!(host.domain("web").reason(), Some("crash"));
    host.quiet();
}

#[test]
fn a_guest_that_ends_unwatched_gets_its_policy_from_the_next_monitor() {
    let ends = [("poweroff", "on_poweroff"), ("crash", "on_crash"), ("watchdog", "on_watchdog")];
    let hosts = ends.map(|(event, key)| {
        let host = Host::new();
        // It ends a while after its start, when its monitor is long gone.
        let script = format!("end={event}:15000");
        host.define("web", &guest::mock_with("web", &script, &format!("{key} = \"preserve\"")));
        host.ok(["start", "web"]);
        lose_monitor(&host, "web", Signal::SIGKILL);
        host
    });
    // Time that has to pass for the guests; nothing can tell of it without a monitor.
    std::thread::sleep(Duration::from_millis(15_500));
    for (host, (event, _)) in hosts.into_iter().zip(ends) {
        assert_eq!(host.domain("web").state(), Running, "nobody has looked yet");
        host.kxl(["recover"]).expect(0);
        let domain = host.rests("web", State::Shutdown);
        assert_eq!(domain.reason(), Some(event));
        assert_eq!(host.emulators().len(), 1);
        // And again: what is kept stays kept, whoever looks after it.
        lose_monitor(&host, "web", Signal::SIGKILL);
        host.kxl(["recover"]).expect(0);
        assert_eq!(host.rests("web", State::Shutdown).reason(), Some(event));
        host.ok(["destroy", "web"]);
        host.quiet();
    }
}

#[test]
fn after_a_boot_of_the_host_every_row_is_true() {
    let host = Host::new();
    host.define("kept", &guest::mock("kept", ""));
    host.define("off", &guest::mock("off", ""));
    host.ok(["start", "kept"]);
    host.create("gone", &guest::mock("gone", ""));
    // What a boot does to processes.
    for monitor in host.monitors() {
        monitor.kill();
    }
    for emulator in host.emulators() {
        emulator.kill();
    }
    let listed = || {
        let text =
            host.kxl_with("KXL_BOOT_ID", "another-boot", &["list", "--json"]).expect(0).stdout;
        serde_json::from_str::<Vec<serde_json::Value>>(&text).unwrap()
    };
    let domains = listed();
    assert_eq!(domains.len(), 2, "{domains:?}");
    for domain in &domains {
        assert_eq!(
            (&domain["state"], &domain["domid"]),
            (&"halted".into(), &serde_json::Value::Null)
        );
    }
    let kept = domains.iter().find(|domain| domain["name"] == "kept").unwrap();
    assert_eq!(
        (&kept["reason"], &kept["wanted"]),
        (&"lost-at-host-reboot".into(), &"running".into())
    );
    let off = domains.iter().find(|domain| domain["name"] == "off").unwrap();
    assert_eq!(off["reason"], "new");
    assert_eq!(listed(), domains, "a second look changes nothing");
    for name in ["kept", "gone"] {
        let events =
            host.kxl_with("KXL_BOOT_ID", "another-boot", &["events", "--json", "--limit", "0"]);
        let lost = events.expect(0).stdout;
        let lost: Vec<_> = lost
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter(|event| event["name"] == name && event["reason"] == "lost-at-host-reboot")
            .collect();
        assert_eq!(lost.len(), 1, "one event for {name}: {lost:?}");
    }
    // And it can be started in the new boot.
    host.kxl_with("KXL_BOOT_ID", "another-boot", &["start", "kept"]).expect(0);
    let again = listed();
    assert!(again.iter().any(|d| d["name"] == "kept" && d["state"] == "running"), "{again:?}");
}

#[test]
fn a_viewer_attaches_again_by_itself_when_the_monitor_dies() {
    let host = Host::new();
    host.create("web", &guest::mock("web", ""));
    let mut console = Console::attach(&host, "web");
    let count = Counter::Linux.begins(&console);
    lose_monitor(&host, "web", Signal::SIGKILL);
    Counter::Linux.beyond(&console, count);
    assert!(console.attached());
    console.skip();
    console.send("say it\r");
    console.expect("say it");
    assert_eq!(console.leave(), Some(0));
}

#[test]
fn a_monitor_that_hangs_keeps_nobody_from_taking_the_power_away() {
    let host = Host::new();
    let domain = host.create("web", &guest::mock("web", ""));
    let monitor = host.monitor_of(&domain);
    monitor.signal(Signal::SIGSTOP);
    let output = host.kxl(["destroy", "web"]).expect(0);
    assert!(output.stderr.contains("its monitor does not answer"), "{output}");
    host.gone("web");
    wait::eventually("the hung monitor is gone", || !monitor.alive());
}

#[test]
fn a_domain_whose_record_nobody_can_read_is_recovered_by_none_hinders_none_and_can_be_destroyed() {
    for (verb, column) in [("destroy", "config"), ("stop", "config"), ("destroy", "attachments")] {
        let host = Host::new();
        for name in ["web", "odd"] {
            host.define(name, &guest::mock(name, ""));
            host.ok(["start", name]);
        }
        let uuid = host.domain("odd").uuid();
        let emulator = host.emulator_of(&host.domain("odd"));
        for name in ["web", "odd"] {
            lose_monitor(&host, name, Signal::SIGKILL);
        }
        let live = rusqlite::Connection::open(Paths::under(&host.root).live_db()).unwrap();
        let damage = format!("UPDATE body SET {column} = '{{\"newer' WHERE uuid = ?1");
        live.execute(&damage, [uuid]).unwrap();
        let told = host.kxl(["recover"]).expect(1);
        assert!(told.stdout.contains("web: adopted"), "{told}");
        assert!(told.stderr.contains("is odd") && told.stderr.contains("kxl destroy odd"));
        assert!(host.refused(1, &["pause", "odd"]).stderr.contains("is odd"));
        assert!(emulator.alive());
        host.ok([verb, "odd"]);
        assert!(!emulator.alive());
        let rests = host.domain("odd");
        assert_eq!((rests.state(), rests.reason()), (Halted, Some("destroyed")));
        host.ok(["start", "odd"]);
        host.ok(["destroy", "odd"]);
        host.ok(["destroy", "web"]);
        host.quiet();
    }
}

#[test]
fn a_destroy_interrupts_a_second_try_to_take_a_hung_emulator_up() {
    let host = Host::new();
    host.define("web", &guest::mock("web", ""));
    host.ok(["start", "web"]);
    host.emulator_of(&host.domain("web")).signal(Signal::SIGSTOP);
    lose_monitor(&host, "web", Signal::SIGKILL);
    host.kxl(["recover"]).expect(6);
    let pause = host.begin(&["pause", "web"]);
    // Nothing tells when the request has come to the monitor, which tries for some seconds.
    std::thread::sleep(Duration::from_millis(500));
    host.ok(["destroy", "web"]);
    let told = pause.end(wait::SOON);
    assert!(told.stderr.contains("it was destroyed meanwhile"), "{told}");
    host.quiet();
}

/// A host whose monitors cannot take a domain off the live ones, as those of an older version that
/// does not know what the record has become; once a command has written there that it ends they can.
fn outdated(until: &str) -> (Host, Proc) {
    let host = Host::new();
    host.define("web", &guest::mock("web", ""));
    host.ok(["start", "web"]);
    let live = rusqlite::Connection::open(Paths::under(&host.root).live_db()).unwrap();
    let refuse = format!(
        "CREATE TRIGGER newer BEFORE DELETE ON live WHEN NOT ({until}) \
         BEGIN SELECT RAISE(ABORT, 'of a newer version'); END"
    );
    live.execute(&refuse, []).unwrap();
    let monitor = host.monitor_of(&host.domain("web"));
    (host, monitor)
}

#[test]
fn the_end_that_a_monitor_of_an_older_version_cannot_record_is_recorded_by_the_command() {
    let (host, monitor) = outdated("OLD.state = 'shutdown'");
    let told = host.kxl(["destroy", "web"]).expect(0);
    assert!(told.stderr.contains("its monitor cannot write the record"), "{told}");
    wait::eventually("the old monitor ends", || !monitor.alive());
    let rests = host.rests("web", Halted);
    assert_eq!(rests.reason(), Some("destroyed"));
    host.quiet();
}

#[test]
fn an_end_that_a_monitor_of_an_older_version_could_not_record_is_found_by_recover() {
    let (host, monitor) = outdated("EXISTS (SELECT 1 FROM meta WHERE key = 'newer')");
    host.emulator_of(&host.domain("web")).kill();
    // Its monitor knows of the end; the record does not.
    wait::eventually("the end is seen", || host.emulators().is_empty());
    assert!(monitor.alive());
    let recover = host.begin(&["recover"]);
    wait::eventually("the old monitor ends", || !monitor.alive());
    let live = rusqlite::Connection::open(Paths::under(&host.root).live_db()).unwrap();
    live.execute("INSERT INTO meta VALUES ('newer', '')", []).unwrap();
    recover.end(wait::SOON).expect(0);
    let rests = host.rests("web", Halted);
    assert_eq!(rests.reason(), Some("crash"));
    host.quiet();
}
