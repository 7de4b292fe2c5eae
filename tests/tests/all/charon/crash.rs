//! Deaths of the monitor and of the emulator, at each step of a start and of a stop.

use kxl_domain::State;

use super::Guest;
use crate::support::Host;
use crate::support::wait;

#[test]
fn a_killed_monitor_leaves_the_emulator_and_the_next_one_offers_the_console_again() {
    let host = Host::new();
    let guest = Guest::new(&host, "ds20", "", "");
    guest.start(&host);
    let domain = host.domain("ds20");
    let emulator = host.emulator_of(&domain);
    host.monitor_of(&domain).kill();
    host.ok(["recover"]);
    let now = host.answering("ds20");
    assert_eq!(host.emulator_of(&now).pid(), emulator.pid());
    assert_eq!(now.state(), State::Running);
    let mut telnet = guest.telnet();
    telnet.expect("P00>>>");
    telnet.send("hello\r\0");
    telnet.expect("?hello: not a command");
    host.ok(["destroy", "ds20"]);
    host.rests("ds20", State::Halted);
}

#[test]
fn an_emulator_that_dies_with_its_monitor_is_a_crash_and_its_port_is_free() {
    let host = Host::new();
    let guest = Guest::new(&host, "ds20", "", "");
    guest.start(&host);
    let domain = host.domain("ds20");
    let emulator = host.emulator_of(&domain);
    host.monitor_of(&domain).kill();
    emulator.kill();
    host.ok(["recover"]);
    let after = wait::until("it has come to rest", wait::SOON, || {
        host.find("ds20").filter(|domain| domain.rests().is_some_and(|state| !state.is_live()))
    });
    assert_eq!(after.reason(), Some("crash"), "{after:?}");
    guest.start(&host);
    guest.telnet().expect("P00>>>");
    host.ok(["destroy", "ds20"]);
}

/// Whatever dies at whichever step of a start: afterwards the domain can be started, there is one
/// emulator, and its console is at its port.
#[test]
fn a_death_at_any_step_of_a_start_leaves_one_emulator_at_most_and_a_domain_that_starts() {
    for fault in [
        "kill@locked",
        "kill@claimed",
        "kill@monitor-up",
        "kill@recorded",
        "kill-emulator@recorded",
        "kill@launched",
        "kill-emulator@launched",
        "kill@started",
        "kill-emulator@started",
        "kill-client@recorded",
    ] {
        let host = Host::new();
        let guest = Guest::new(&host, "ds20", "", "");
        let _some_are_killed = host.kxl_with("KXL_FAULT", fault, &["start", "ds20"]);
        host.ok(["recover"]);
        // Its monitor learns of an emulator's end a moment later.
        let dead = fault.starts_with("kill-emulator");
        wait::until("nothing is in flight", wait::SOON, || {
            let rests = |state: State| !(dead && state.is_live());
            host.find("ds20").filter(|domain| domain.rests().is_some_and(rests))
        });
        if !host.domain("ds20").rests().is_some_and(State::is_live) {
            assert_eq!(host.emulators().len(), 0, "{fault}: {:?}", host.emulators());
            guest.start(&host);
        }
        assert_eq!(host.emulators().len(), 1, "{fault}: {:?}", host.emulators());
        guest.telnet().expect("P00>>>");
        host.ok(["destroy", "ds20"]);
        assert_eq!(host.emulators().len(), 0, "{fault}");
    }
}

#[test]
fn a_death_at_any_step_of_a_stop_ends_in_a_domain_that_is_off() {
    for fault in ["kill@stopping", "kill@killed", "kill-emulator@stopping", "kill@resting"] {
        let host = Host::new();
        let guest = Guest::new(&host, "ds20", "", "");
        host.kxl_with("KXL_FAULT", fault, &["start", "ds20"]).expect(0);
        let _the_monitor_may_die = host.kxl(["destroy", "ds20"]);
        host.ok(["recover"]);
        host.rests("ds20", State::Halted);
        assert_eq!(host.emulators().len(), 0, "{fault}");
        guest.start(&host);
        host.ok(["destroy", "ds20"]);
    }
}

#[test]
fn an_emulator_that_was_never_made_is_not_found_in_the_place_of_another_domain() {
    let host = Host::new();
    let _guest = Guest::new(&host, "ds20", "", "");
    let killed = host.kxl_with("KXL_FAULT", "kill@recorded", &["start", "ds20"]);
    assert_ne!(killed.code(), Some(0), "{killed}");
    // It gets the number of the terminal that has just become free.
    let sleeper = "name='other'\nbackend='any'\nexec='/bin/sleep'\ndevice_model_args=['1000']\n";
    let other = host.create("other", sleeper);
    host.kxl(["recover"]);
    assert_ne!(host.domain("ds20").pid(), other.pid());
    host.kxl(["destroy", "ds20"]);
    assert!(host.emulator_of(&host.domain("other")).alive());
    host.ok(["destroy", "other"]);
}
