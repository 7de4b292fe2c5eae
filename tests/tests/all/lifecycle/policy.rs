//! What follows when a guest ends: every action word for every event, as the policy table says.

use kxl_domain::policy::{Then, policy_of};
use kxl_domain::{Action, GuestEvent, State};
use nix::sys::signal::Signal;

use crate::support::skip::skipped;
use crate::support::{Console, Domain, Host, guest, wait};

use State::{Halted, Running, Shutdown};

/// The key of the configuration that an event's action is read from.
fn key(event: GuestEvent) -> &'static str {
    match event {
        GuestEvent::Poweroff => "on_poweroff",
        GuestEvent::Reboot => "on_reboot",
        GuestEvent::Crash => "on_crash",
        GuestEvent::Watchdog => "on_watchdog",
    }
}

/// What is typed on the mock's console to bring an event about.
fn typed(event: GuestEvent) -> &'static str {
    match event {
        GuestEvent::Poweroff => "p",
        GuestEvent::Reboot => "r",
        GuestEvent::Crash => "k",
        GuestEvent::Watchdog => "W",
    }
}

/// A managed domain that runs, with `action` for `event`.
fn running(event: GuestEvent, action: &str) -> (Host, Domain, Console) {
    let host = Host::new();
    let line = format!("{} = \"{action}\"", key(event));
    host.define("web", &guest::mock_with("web", "", &line));
    host.ok(["start", "web"]);
    let mut console = Console::attach(&host, "web");
    console.expect("READY");
    let domain = host.domain("web");
    (host, domain, console)
}

/// `---s--` and its sisters, by `xl list`.
fn letters(host: &Host, name: &str) -> String {
    let text = host.xl(&["list", name]).expect(0).stdout;
    let row = text.lines().nth(1).unwrap();
    row.split_whitespace().nth(4).unwrap().to_owned()
}

fn every_action_of(event: GuestEvent) {
    for action in Action::ALL {
        let (host, before, mut console) = running(event, action.as_str());
        console.send(typed(event));
        let case = format!("{}={action}", key(event));
        match policy_of(*action).standing {
            Then::Destroy => {
                let after = host.rests("web", Halted);
                assert_eq!(after.reason(), Some(event.reason().as_str()), "{case}");
                host.quiet();
            }
            Then::Restart => {
                let after = restarted(&host, &before, &case);
                assert_eq!(after.uuid(), before.uuid(), "{case}");
                assert_eq!(host.domains().len(), 1, "{case}");
            }
            Then::Preserve => {
                let after = host.rests("web", Shutdown);
                assert_eq!(after.pid(), before.pid(), "{case}");
                assert_eq!(after.reason(), Some(event.reason().as_str()), "{case}");
                let letter = match event {
                    GuestEvent::Poweroff => "---s--",
                    GuestEvent::Reboot => "---sr-",
                    GuestEvent::Crash => "---sc-",
                    GuestEvent::Watchdog => "---sw-",
                };
                assert_eq!(letters(&host, "web"), letter, "{case}");
                host.ok(["destroy", "web"]);
                host.quiet();
            }
            Then::Reset => {
                console.expect("READY");
                let after = host.rests("web", Running);
                assert_eq!((after.domid(), after.pid()), (before.domid(), before.pid()), "{case}");
            }
            Then::RenameRestart => renamed(&host, &before, event, &case),
        }
        let dumps = policy_of(*action).dump;
        let told = host.events("web").iter().any(|event| event["what"] == "no-core-dump");
        assert_eq!(told, dumps, "{case}: says that it makes no core dump");
    }
}

/// Waits until the domain runs again as another one of the same name.
fn restarted(host: &Host, before: &Domain, case: &str) -> Domain {
    let after = wait::until(&format!("{case}: runs again"), wait::SOON, || {
        host.find("web").filter(|now| now.rests() == Some(Running) && now.domid() != before.domid())
    });
    assert_ne!(after.pid(), before.pid(), "{case}");
    wait::eventually("the old emulator goes", || {
        host.emulators().iter().all(|e| Some(e.pid()) != before.pid())
    });
    after
}

/// The corpse under a name with a time stamp, and the new one under the old name and uuid.
fn renamed(host: &Host, before: &Domain, event: GuestEvent, case: &str) {
    let after = restarted_beside(host, before, case);
    assert_eq!(after.uuid(), before.uuid(), "{case}");
    assert_eq!(after.0["managed"], true, "{case}");
    let corpse = corpse(host);
    let name = corpse.text("name").unwrap().to_owned();
    let stamp = name.strip_prefix("web-").unwrap();
    let shape: String = stamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "00000000T0000Z", "{case}");
    assert_eq!((corpse.pid(), corpse.domid()), (before.pid(), before.domid()), "{case}");
    assert_ne!(corpse.uuid(), before.uuid(), "{case}");
    assert_eq!(corpse.reason(), Some(event.reason().as_str()), "{case}");
    assert_eq!(corpse.0["managed"], false, "{case}");
    assert_eq!(host.emulators().len(), 2, "{case}");
    // Whoever looks after it next leaves it as it is.
    host.monitor_of_name(&name).kill();
    host.kxl(["recover"]).expect(0);
    assert_eq!(host.rests(&name, Shutdown).pid(), before.pid(), "{case}");
    assert_eq!(host.domains().len(), 2, "{case}");
    host.ok(["destroy", &name]);
    host.gone(&name);
    assert_eq!(host.domain("web").rests(), Some(Running), "{case}");
}

fn restarted_beside(host: &Host, before: &Domain, case: &str) -> Domain {
    wait::until(&format!("{case}: runs again"), wait::SOON, || {
        host.find("web").filter(|now| now.rests() == Some(Running) && now.domid() != before.domid())
    })
}

fn corpse(host: &Host) -> Domain {
    let all = host.domains();
    let mut corpses = all.iter().filter(|domain| domain.text("name") != Some("web"));
    let found = corpses.next().unwrap_or_else(|| panic!("{all:?}")).clone();
    assert!(corpses.next().is_none(), "{all:?}");
    found
}

#[test]
fn every_action_follows_a_poweroff_as_the_table_says() {
    every_action_of(GuestEvent::Poweroff);
}

#[test]
fn every_action_follows_a_reboot_as_the_table_says() {
    every_action_of(GuestEvent::Reboot);
}

#[test]
fn every_action_follows_a_crash_as_the_table_says() {
    every_action_of(GuestEvent::Crash);
}

#[test]
fn every_action_follows_a_watchdog_as_the_table_says() {
    every_action_of(GuestEvent::Watchdog);
}

#[test]
fn without_a_word_a_reboot_restarts_and_every_other_end_is_the_end() {
    for event in GuestEvent::ALL {
        let host = Host::new();
        host.define("web", &guest::mock("web", ""));
        host.ok(["start", "web"]);
        let before = host.domain("web");
        let mut console = Console::attach(&host, "web");
        console.expect("READY");
        console.send(typed(*event));
        if *event == GuestEvent::Reboot {
            restarted(&host, &before, "default");
        } else {
            let after = host.rests("web", Halted);
            assert_eq!(after.reason(), Some(event.reason().as_str()));
        }
    }
}

#[test]
fn an_emulator_that_is_killed_is_a_crash_whatever_its_guest_was_at() {
    for action in Action::ALL {
        let (host, before, _console) = running(GuestEvent::Crash, action.as_str());
        host.emulator_of(&before).signal(Signal::SIGKILL);
        match policy_of(*action).gone {
            Then::Restart => {
                let after = restarted(&host, &before, action.as_str());
                assert_eq!(after.uuid(), before.uuid());
            }
            _ => {
                let after = host.rests("web", Halted);
                assert_eq!(after.reason(), Some("crash"), "{action}");
                // Nobody wished for it.
                assert_eq!(after.text("wanted"), Some("running"), "{action}");
                host.quiet();
            }
        }
        assert!(host.events("web").iter().any(|event| event["reason"] == "crash"), "{action}");
    }
}

#[test]
fn a_stop_that_a_person_asked_for_is_not_undone_by_policy() {
    for action in ["restart", "rename-restart", "coredump-restart"] {
        let (host, _before, _console) = running(GuestEvent::Poweroff, action);
        host.ok(["shutdown", "-ww", "web"]);
        let after = host.rests("web", Halted);
        assert_eq!((after.reason(), after.text("wanted")), (Some("poweroff"), Some("halted")));
        host.quiet();
        assert_eq!(host.domains().len(), 1);
    }
    let (host, _before, _console) = running(GuestEvent::Crash, "restart");
    host.ok(["destroy", "web"]);
    assert_eq!(host.rests("web", Halted).reason(), Some("destroyed"));
    host.quiet();
}

#[test]
fn a_destroy_ends_a_domain_that_waits_for_its_restart() {
    let (host, _before, mut console) = running(GuestEvent::Crash, "restart");
    console.send("k");
    // A guest that ends right after its start is restarted only after a pause.
    wait::eventually("the restart has begun", || {
        host.find("web").is_some_and(|domain| domain.text("operation") == Some("starting"))
    });
    host.ok(["destroy", "web"]);
    host.rests("web", Halted);
    host.quiet();
}

#[test]
fn create_with_e_keeps_a_domain_however_it_ends() {
    for event in GuestEvent::ALL {
        let host = Host::new();
        let file = host.file("web.cfg", &guest::mock("web", ""));
        host.ok(["create", "-e", file.to_str().unwrap()]);
        let mut console = Console::attach(&host, "web");
        console.expect("READY");
        console.send(typed(*event));
        let after = host.rests("web", Shutdown);
        assert_eq!(after.reason(), Some(event.reason().as_str()));
        assert_eq!(host.emulators().len(), 1);
    }
}

#[test]
fn why_tells_how_a_domain_ended() {
    let (host, _before, mut console) = running(GuestEvent::Crash, "destroy");
    console.send("k");
    host.rests("web", Halted);
    let text = host.ok(["why", "web"]);
    assert!(text.contains("web") && text.contains("crash"), "{text}");
    let host = Host::new();
    host.define("bad", &guest::mock("bad", "die=launch"));
    host.refused(1, &["start", "bad"]);
    let text = host.ok(["why", "bad"]);
    // The emulator's own last words are the cause.
    assert!(text.contains("dying at launch"), "{text}");
}

fn on_qemu(name: &str, lines: &str) -> Option<(Host, guest::Slot, Console)> {
    let config = guest::qemu("x86_64", "web", "tick=200", lines);
    if skipped(name, &config) {
        return None;
    }
    let slot = guest::slot();
    let host = Host::new();
    host.define("web", &config.unwrap());
    host.ok(["start", "web"]);
    let mut console = Console::attach(&host, "web");
    console.expect("READY");
    Some((host, slot, console))
}

#[test]
fn on_qemu_a_panic_is_a_crash_and_is_kept_where_the_policy_says_so() {
    let Some((host, _slot, mut console)) = on_qemu("a panic on qemu", "on_crash = \"preserve\"")
    else {
        return;
    };
    console.send("k");
    let after = host.rests("web", Shutdown);
    assert_eq!(after.reason(), Some("crash"));
    assert_eq!(letters(&host, "web"), "---sc-");
    host.ok(["destroy", "web"]);
    host.quiet();
}

#[test]
fn on_qemu_a_poweroff_and_a_reboot_by_the_guest_are_told_apart() {
    let Some((host, _slot, mut console)) = on_qemu("ends by the guest on qemu", "") else { return };
    let before = host.domain("web");
    console.send("r");
    console.expect("READY");
    let after = host.rests("web", Running);
    assert_eq!(after.uuid(), before.uuid());
    assert!(after.domid() > before.domid());
    console.send("p");
    assert_eq!(host.rests("web", Halted).reason(), Some("poweroff"));
    host.quiet();
}

#[test]
fn on_qemu_an_emulator_that_is_killed_is_a_crash() {
    let Some((host, _slot, _console)) = on_qemu("a killed qemu", "") else { return };
    host.emulator_of(&host.domain("web")).signal(Signal::SIGKILL);
    assert_eq!(host.rests("web", Halted).reason(), Some("crash"));
    host.quiet();
}
