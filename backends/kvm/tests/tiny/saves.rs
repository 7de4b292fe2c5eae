//! Machines that are saved and come back.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::json;

use crate::vmm::{Place, Vmm};
use crate::{guest, no_kvm};

/// A machine that comes back from a file.
fn back(place: &Place, name: &str, file: &str) -> Vmm {
    Vmm::start(place, name, &["-incoming", &format!("file:{file}")])
}

/// Saves a guest that has written to its pages, and ends it; its ticks before.
fn saved(place: &Place, file: &str) -> u32 {
    let mut vmm = guest(place, "first", &[]);
    assert_eq!(vmm.ask('t'), "T");
    assert_eq!(vmm.ask('d'), "D");
    let ticks = vmm.ticks();
    let mut qmp = vmm.qmp();
    qmp.say("stop");
    let state = qmp.migrate(&format!("file:{file}"));
    assert_eq!(state["status"], "completed", "{state}");
    assert_eq!(qmp.status(), "postmigrate");
    qmp.say("quit");
    assert_eq!(vmm.ended(), 0);
    ticks
}

#[test]
fn a_saved_guest_goes_on_in_a_new_process() {
    if no_kvm("a_saved_guest_goes_on_in_a_new_process") {
        return;
    }
    let place = Place::new();
    let file = place.path("state");
    let ticks = saved(&place, &file);
    let mut vmm = back(&place, "second", &file);
    let now = vmm.ticks();
    assert!(now >= ticks, "{now} after {ticks}");
    assert_eq!(vmm.ask('c'), "GOOD");
    // It writes and reads like any other.
    assert_eq!(vmm.ask('t'), "T");
    assert_eq!(vmm.ask('c'), "GOOD");
    vmm.send('p');
    assert_eq!(vmm.ended(), 0);
}

#[test]
fn a_guest_that_came_back_is_saved_again() {
    if no_kvm("a_guest_that_came_back_is_saved_again") {
        return;
    }
    let place = Place::new();
    let mut file = place.path("state");
    saved(&place, &file);
    for turn in 0..3 {
        let mut vmm = back(&place, &format!("turn{turn}"), &file);
        assert_eq!(vmm.ask('c'), "GOOD", "turn {turn}");
        // Some pages are written in this process, the others are still those of the file.
        assert_eq!(vmm.ask('d'), "D");
        let mut qmp = vmm.qmp();
        file = place.path(&format!("state{turn}"));
        let state = qmp.migrate(&format!("file:{file}"));
        assert_eq!(state["status"], "completed", "{state}");
        vmm.kill();
    }
    let mut vmm = back(&place, "last", &file);
    assert_eq!(vmm.ask('c'), "GOOD");
}

#[test]
fn a_guest_works_while_it_is_saved() {
    if no_kvm("a_guest_works_while_it_is_saved") {
        return;
    }
    let place = Place::new();
    let mut vmm = guest(&place, "live", &[]);
    assert_eq!(vmm.ask('t'), "T");
    let mut qmp = vmm.qmp();
    let file = place.path("state");
    // Pages are written before, during and after the passes over them.
    for _ in 0..50 {
        vmm.send('d');
    }
    let state = qmp.migrate(&format!("file:{file}"));
    assert_eq!(state["status"], "completed", "{state}");
    assert_eq!(qmp.status(), "postmigrate");
    // And it goes on where it was saved.
    qmp.say("cont");
    for _ in 0..50 {
        vmm.expect("D");
    }
    assert_eq!(vmm.ask('c'), "GOOD");
    vmm.kill();
    let mut vmm = back(&place, "again", &file);
    // What it had been told before and had not done yet is done now. It may have been saved in the
    // middle of a line.
    vmm.send('c');
    let mut line = vmm.line();
    if line.is_empty() {
        line = vmm.line();
    }
    while line == "D" {
        line = vmm.line();
    }
    assert_eq!(line, "GOOD");
}

#[test]
fn many_come_back_from_one_file_which_does_not_change() {
    if no_kvm("many_come_back_from_one_file_which_does_not_change") {
        return;
    }
    let place = Place::new();
    let file = place.path("state");
    saved(&place, &file);
    let before = fs::read(&file).unwrap();
    let mut clones: Vec<Vmm> =
        (0..3).map(|number| back(&place, &format!("clone{number}"), &file)).collect();
    // Each writes all its pages a different number of times, and none sees another's.
    for (times, clone) in clones.iter_mut().enumerate() {
        for _ in 0..times {
            assert_eq!(clone.ask('t'), "T");
        }
    }
    for clone in &mut clones {
        assert_eq!(clone.ask('c'), "GOOD");
    }
    assert!(fs::read(&file).unwrap() == before, "the file has changed");
}

#[test]
fn a_file_holds_no_pages_that_were_never_written() {
    if no_kvm("a_file_holds_no_pages_that_were_never_written") {
        return;
    }
    let place = Place::new();
    let file = place.path("state");
    saved(&place, &file);
    let blocks = fs::metadata(&file).unwrap().blocks() * 512;
    // 2000 pages and what the machine itself is, of 128 MiB.
    assert!(blocks < 24 << 20, "{blocks} bytes are taken");
}

#[test]
fn half_a_state_is_refused_and_told() {
    if no_kvm("half_a_state_is_refused_and_told") {
        return;
    }
    let place = Place::new();
    let file = place.path("state");
    saved(&place, &file);
    let whole = fs::read(&file).unwrap();
    for length in [0, 1, 100, whole.len() / 2] {
        let half = place.file("half", &whole[..length]);
        let vmm = back(&place, "half", &half);
        let errors = place.0.join("half.err");
        assert_eq!(vmm.ended(), 1, "{length} bytes");
        let said = fs::read_to_string(errors).unwrap();
        assert!(said.starts_with("kxl-vmm: "), "{length} bytes: {said}");
        assert!(!said.contains("panicked"), "{length} bytes: {said}");
    }
}

#[test]
fn a_process_killed_in_the_middle_of_a_save_leaves_nothing_that_comes_back() {
    if no_kvm("a_process_killed_in_the_middle_of_a_save_leaves_nothing_that_comes_back") {
        return;
    }
    let place = Place::new();
    let mut vmm = guest(&place, "killed", &["-m", "512"]);
    assert_eq!(vmm.ask('t'), "T");
    let mut qmp = vmm.qmp();
    let file = place.path("state");
    qmp.ok("migrate", &json!({"uri": format!("file:{file}")}));
    vmm.kill();
    // Either the save had ended already, or the file is refused; a machine in between is none.
    let mut vmm = back(&place, "back", &file);
    if let Some(line) = vmm.ask_or_end('c') {
        assert_eq!(line, "GOOD");
    } else {
        assert_ne!(vmm.said(), "");
        assert_eq!(vmm.ended(), 1);
    }
}

#[test]
fn a_guest_that_came_back_boots_its_kernel_at_a_reset_where_it_has_one() {
    if no_kvm("a_guest_that_came_back_boots_its_kernel_at_a_reset_where_it_has_one") {
        return;
    }
    let place = Place::new();
    let file = place.path("state");
    saved(&place, &file);
    let mut without = back(&place, "without", &file);
    let refused = without.qmp().ask("system_reset", &json!({}));
    let text = refused["error"]["desc"].as_str().unwrap_or_default();
    assert!(text.contains("no kernel"), "{refused}");
    assert_eq!(without.ask('c'), "GOOD", "it goes on");
    drop(without);

    let kernel = place.path("guest");
    let incoming = format!("file:{file}");
    let mut with = Vmm::start(&place, "with", &["-kernel", &kernel, "-incoming", &incoming]);
    assert_eq!(with.ask('c'), "GOOD");
    with.qmp().ok("system_reset", &json!({}));
    with.expect("READY");
    assert_eq!(with.ask('t'), "T");
    drop(with);
    // Another one of the same file finds it as it was.
    assert_eq!(back(&place, "after", &file).ask('c'), "GOOD");
}
