//! Linux goes out of one process and comes back in another.

use std::fs;

use super::machine::{Machine, path};

const DISK: &str = "state.img";

fn arguments(disk: &str) -> Vec<String> {
    ["-smp", "2", "-m", "192", "-balloon", "-rng", "-disk", disk].map(str::to_owned).to_vec()
}

/// A machine with a disk, whose guest has filled memory and counts; with what it was started.
fn filled(name: &str) -> (Machine, Vec<String>) {
    fs::write(path(DISK), vec![0; 8 << 20]).unwrap();
    let args = arguments(&format!("path={},id=root", path(DISK).display()));
    let all: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut machine = Machine::ready(name, "touch=40", &all);
    machine.counts_beyond(3);
    (machine, args)
}

/// The same machine in a new process, from a file.
fn back(name: &str, args: &[String], file: &str) -> Machine {
    let mut all: Vec<&str> = args.iter().map(String::as_str).collect();
    let from = format!("file:{file}");
    all.extend(["-incoming", &from]);
    Machine::start(name, &all)
}

/// The guest goes on from `count`, with all its memory, its disk and both processors.
fn is_whole(machine: &mut Machine, count: u64) -> u64 {
    let now = machine.counts_beyond(count);
    let line = machine.ask("c", "CK ");
    assert!(line.starts_with("CK OK "), "{line}");
    assert_eq!(machine.ask("d", "D "), "D OK vda");
    assert!(machine.ask("i", "I cpus=").starts_with("I cpus=2 "));
    now
}

pub(in crate::lab) fn a_saved_guest_goes_on_in_a_new_process() {
    let (machine, args) = filled("first");
    let mut qmp = machine.qmp();
    drop(qmp.say("stop"));
    let mut count = machine.count();
    let state = qmp.migrate("file:/tmp/state");
    assert_eq!(state["status"], "completed", "{state}");
    drop(qmp.say("quit"));
    assert_eq!(machine.ended(), 0);
    // Twice from the same file: what the first does shows in nothing but its disk.
    for name in ["second", "third"] {
        let mut machine = back(name, &args, "/tmp/state");
        let now = is_whole(&mut machine, count);
        // The counter goes on and does not begin anew, nor does it run through the time between.
        assert!(now < count + 600, "{now} after {count}");
        let mut qmp = machine.qmp();
        drop(qmp.say("quit"));
        assert_eq!(machine.ended(), 0);
    }
    // And once more from a machine that came back itself.
    let mut machine = back("fourth", &args, "/tmp/state");
    assert_eq!(machine.ask("w", "W "), "W OK");
    let mut qmp = machine.qmp();
    let state = qmp.migrate("file:/tmp/later");
    assert_eq!(state["status"], "completed", "{state}");
    count = machine.count();
    drop(qmp.say("quit"));
    assert_eq!(machine.ended(), 0);
    let mut machine = back("fifth", &args, "/tmp/later");
    is_whole(&mut machine, count);
    machine.send("p");
    assert_eq!(machine.ended(), 0);
}

pub(in crate::lab) fn a_guest_works_while_it_is_saved() {
    let (mut machine, args) = filled("live");
    let mut qmp = machine.qmp();
    // All its memory changes while the passes go over it.
    machine.send("w");
    let state = qmp.migrate("file:/tmp/live");
    assert_eq!(state["status"], "completed", "{state}");
    eprintln!(
        "FIGURE live save in the lab: stood still for {} ms of {}",
        state["downtime"], state["total-time"]
    );
    let count = machine.count();
    // It stands still, and could go on here.
    assert_eq!(qmp.status(), "postmigrate");
    drop(qmp.say("cont"));
    is_whole(&mut machine, count);
    drop(qmp.say("quit"));
    assert_eq!(machine.ended(), 0);
    let mut machine = back("again", &args, "/tmp/live");
    is_whole(&mut machine, count);
}
