//! A machine from its start to a stop and a cont.

use std::fs;

use crate::vmm::{Place, Vmm};
use crate::{guest, no_kvm, standing};

#[test]
fn a_guest_runs_and_is_heard() {
    if no_kvm("a_guest_runs_and_is_heard") {
        return;
    }
    let place = Place::new();
    let mut vmm = guest(&place, "one", &[]);
    let first = vmm.ticks();
    while vmm.ticks() <= first {}
    assert_eq!(vmm.ask('t'), "T");
    assert_eq!(vmm.ask('c'), "GOOD");
}

#[test]
fn the_shortest_guest_switches_itself_off() {
    if no_kvm("the_shortest_guest_switches_itself_off") {
        return;
    }
    let place = Place::new();
    let kernel = place.file("guest", &crate::guest::shortest());
    let vmm = Vmm::start(&place, "short", &["-kernel", &kernel]);
    vmm.expect("!");
    assert_eq!(vmm.ended(), 0);
}

#[test]
fn a_machine_that_starts_paused_says_nothing_before_cont() {
    if no_kvm("a_machine_that_starts_paused_says_nothing_before_cont") {
        return;
    }
    let place = Place::new();
    let vmm = standing(&place, "paused", &["-S"]);
    let mut qmp = vmm.qmp();
    assert_eq!(qmp.status(), "prelaunch");
    assert!(vmm.silent());
    qmp.say("cont");
    vmm.expect("READY");
    assert_eq!(qmp.status(), "running");
}

#[test]
fn a_stopped_guest_does_nothing_and_goes_on_at_cont() {
    if no_kvm("a_stopped_guest_does_nothing_and_goes_on_at_cont") {
        return;
    }
    let place = Place::new();
    let mut vmm = guest(&place, "stop", &[]);
    let mut qmp = vmm.qmp();
    for _ in 0..20 {
        let before = vmm.ticks();
        qmp.say("stop");
        assert_eq!(qmp.status(), "paused");
        vmm.send('n');
        // Its answer would be there long before that of the second question.
        for _ in 0..20 {
            qmp.status();
        }
        assert!(vmm.silent(), "a stopped guest answers");
        qmp.say("cont");
        assert!(u32::from_str_radix(&vmm.line(), 16).unwrap() >= before);
        drop(qmp.event("STOP"));
        drop(qmp.event("RESUME"));
    }
}

#[test]
fn a_guest_that_never_sleeps_stops_too() {
    if no_kvm("a_guest_that_never_sleeps_stops_too") {
        return;
    }
    let place = Place::new();
    let mut vmm = guest(&place, "busy", &[]);
    let mut qmp = vmm.qmp();
    assert_eq!(vmm.ask('b'), "B");
    qmp.say("stop");
    assert_eq!(qmp.status(), "paused");
    qmp.say("cont");
    qmp.say("quit");
    assert_eq!(vmm.ended(), 0);
}

#[test]
fn processors_that_nobody_starts_wait() {
    if no_kvm("processors_that_nobody_starts_wait") {
        return;
    }
    let place = Place::new();
    let mut vmm = guest(&place, "four", &["-smp", "4", "-m", "64"]);
    let mut qmp = vmm.qmp();
    let cpus = qmp.say("query-cpus-fast");
    assert_eq!(cpus.as_array().unwrap().len(), 4, "{cpus}");
    qmp.say("stop");
    qmp.say("cont");
    assert_eq!(vmm.ask('t'), "T");
}

#[test]
fn every_thread_of_a_running_machine_is_confined() {
    if no_kvm("every_thread_of_a_running_machine_is_confined") {
        return;
    }
    let place = Place::new();
    let vmm = guest(&place, "closed", &[]);
    let tasks = fs::read_dir(format!("/proc/{}/task", vmm.pid())).unwrap();
    let mut seen = Vec::new();
    for task in tasks.flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.trim().to_owned()
        };
        // A thread of the kernel's, which counts as one of the process, has no memory of its own
        // and makes no system calls.
        if !value("Name:").starts_with("kvm-") {
            assert_eq!(value("Seccomp:"), "2", "{status}");
            assert_eq!(value("CapEff:"), "0000000000000000", "{status}");
        }
        seen.push(value("Name:"));
    }
    assert!(seen.iter().any(|name| name == "vcpu0"), "{seen:?}");
}

#[test]
fn a_machine_of_another_user_runs_is_saved_and_comes_back() {
    const NOBODY: u32 = 65534;
    let test = "a_machine_of_another_user_runs_is_saved_and_comes_back";
    if no_kvm(test) {
        return;
    }
    let place = Place::new();
    if std::os::unix::fs::chown(&place.0, Some(NOBODY), Some(NOBODY)).is_err() {
        return crate::skip::skip(test, "only root can become another user");
    }
    let user = ["-runas", "65534:65534"];
    let mut vmm = guest(&place, "nobody", &user);
    let status = fs::read_to_string(format!("/proc/{}/status", vmm.pid())).unwrap();
    assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
    assert_eq!(vmm.ask('t'), "T");
    let mut qmp = vmm.qmp();
    let file = place.path("state");
    let state = qmp.migrate(&format!("file:{file}"));
    assert_eq!(state["status"], "completed", "{state}");
    drop(qmp.say("quit"));
    assert_eq!(vmm.ended(), 0);
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&file).unwrap()), NOBODY);
    let incoming = format!("file:{file}");
    let mut vmm = Vmm::start(&place, "back", &[user[0], user[1], "-incoming", &incoming]);
    assert_eq!(vmm.ask('c'), "GOOD");
}
