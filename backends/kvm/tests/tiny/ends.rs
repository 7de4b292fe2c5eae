//! The ends of a guest, told apart.

use serde_json::json;

use crate::vmm::Place;
use crate::{guest, no_kvm};

#[test]
fn a_guest_that_switches_itself_off_ends_the_process() {
    if no_kvm("a_guest_that_switches_itself_off_ends_the_process") {
        return;
    }
    let place = Place::new();
    let mut vmm = guest(&place, "off", &[]);
    let mut qmp = vmm.qmp();
    vmm.send('p');
    let data = qmp.event("SHUTDOWN");
    assert_eq!((&data["guest"], &data["reason"]), (&true.into(), &"guest-shutdown".into()));
    assert_eq!(vmm.ended(), 0);
}

#[test]
fn a_guest_that_asks_for_a_reset_starts_anew() {
    if no_kvm("a_guest_that_asks_for_a_reset_starts_anew") {
        return;
    }
    let place = Place::new();
    let mut vmm = guest(&place, "reset", &[]);
    let mut qmp = vmm.qmp();
    // ACPI's register, the keyboard controller, three faults in one another.
    for byte in ['r', 'k', 'f'] {
        assert_eq!(vmm.ask('t'), "T");
        vmm.send(byte);
        let data = qmp.event("RESET");
        assert_eq!(data["guest"], true, "{byte}: {data}");
        vmm.expect("READY");
        // A machine that starts anew has nothing of the old one in memory.
        let bad = vmm.ask('c');
        assert!(bad.starts_with("BAD "), "{byte}: {bad}");
    }
    assert_eq!(qmp.status(), "running");
}

#[test]
fn a_reset_counts_as_an_end_where_that_is_wished() {
    if no_kvm("a_reset_counts_as_an_end_where_that_is_wished") {
        return;
    }
    let place = Place::new();
    let mut vmm = guest(&place, "reboot", &["-action", "shutdown=pause,reboot=shutdown"]);
    let mut qmp = vmm.qmp();
    vmm.send('r');
    let data = qmp.event("SHUTDOWN");
    assert_eq!((&data["guest"], &data["reason"]), (&true.into(), &"guest-reset".into()));
    assert_eq!(qmp.status(), "shutdown");
    // A reset is an end for everybody until that is changed.
    qmp.ok("set-action", &json!({"reboot": "reset"}));
    qmp.say("system_reset");
    qmp.say("cont");
    vmm.expect("READY");
}

#[test]
fn a_panic_is_no_poweroff() {
    if no_kvm("a_panic_is_no_poweroff") {
        return;
    }
    let place = Place::new();
    let mut vmm = guest(&place, "panic", &["-action", "panic=pause"]);
    let mut qmp = vmm.qmp();
    vmm.send('x');
    assert_eq!(qmp.event("GUEST_PANICKED")["action"], "pause");
    assert_eq!(qmp.status(), "guest-panicked");
    let mut vmm = guest(&place, "dies", &[]);
    let mut qmp = vmm.qmp();
    vmm.send('x');
    assert_eq!(qmp.event("GUEST_PANICKED")["action"], "poweroff");
    assert_eq!(qmp.event("SHUTDOWN")["reason"], "guest-panic");
    vmm.ended();
}

#[test]
fn quit_is_the_hosts_end() {
    if no_kvm("quit_is_the_hosts_end") {
        return;
    }
    let place = Place::new();
    let vmm = guest(&place, "quit", &[]);
    let mut qmp = vmm.qmp();
    qmp.say("quit");
    let data = qmp.event("SHUTDOWN");
    assert_eq!((&data["guest"], &data["reason"]), (&false.into(), &"host-qmp-quit".into()));
    assert_eq!(vmm.ended(), 0);
    assert!(!place.0.join("quit.qmp").exists(), "its socket stays behind");
}
