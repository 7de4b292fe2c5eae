//! The tests.

use std::fs;
use std::process::Child;

use crate::attempt::{
    Place, ROLES, attempt, attempt_in_the_open, expect_death, expect_success, standing,
};
use crate::deeds;
use crate::skip::skip;

pub(crate) const ALL: &[(&str, fn())] = &[
    ("what_no_thread_may_do_ends_the_process", what_no_thread_may_do_ends_the_process),
    ("what_only_the_main_thread_may_do_ends_it_too", what_only_the_main_thread_may_do_ends_it_too),
    ("every_thread_keeps_to_its_own_trade", every_thread_keeps_to_its_own_trade),
    ("the_dying_thread_names_the_system_call", the_dying_thread_names_the_system_call),
    ("threads_can_do_their_work", threads_can_do_their_work),
    (
        "files_are_opened_and_removed_where_it_was_said",
        files_are_opened_and_removed_where_it_was_said,
    ),
    ("nothing_of_root_is_left", nothing_of_root_is_left),
    ("a_user_of_its_own_is_taken_on", a_user_of_its_own_is_taken_on),
    ("a_process_without_a_sandbox_says_so", a_process_without_a_sandbox_says_so),
];

fn what_no_thread_may_do_ends_the_process() {
    for role in ROLES {
        for (deed, _) in deeds::FORBIDDEN {
            expect_death(role, deed);
        }
    }
}

fn what_only_the_main_thread_may_do_ends_it_too() {
    for role in &ROLES[1..] {
        for (deed, _) in deeds::FOR_MAIN {
            expect_death(role, deed);
        }
    }
}

fn every_thread_keeps_to_its_own_trade() {
    let not_theirs = [
        (
            "vcpu",
            ["attach a tap", "read the dirty log", "read a file", "accept a client"].as_slice(),
        ),
        ("device", &["run a processor", "read the dirty log"]),
        ("save", &["run a processor", "attach a tap", "accept a client"]),
    ];
    for (role, deeds) in not_theirs {
        for deed in deeds {
            expect_death(role, deed);
        }
    }
    // The same deeds where they belong: the kernel refuses the descriptor, and nobody dies.
    for (role, deed) in [
        ("vcpu", "run a processor"),
        ("device", "attach a tap"),
        ("device", "accept a client"),
        ("save", "read the dirty log"),
    ] {
        assert_eq!(attempt(role, deed).status.code(), Some(libc::EBADF), "{role} {deed}");
    }
    expect_success("device", "read a file");
    expect_success("save", "read a file");
}

fn the_dying_thread_names_the_system_call() {
    let said = expect_death("vcpu", "an unknown ioctl");
    assert!(said.contains("thread vcpu0 tried system call 16,"), "{said}");
    assert!(said.contains("arguments 0x0 0x5412 0x0\n"), "{said}");
    let said = expect_death("main", "socket");
    assert!(said.contains("tried system call 41, which its sandbox forbids"), "{said}");
}

fn threads_can_do_their_work() {
    for role in ROLES {
        expect_success(role, "work");
    }
    for role in ["main", "device", "save"] {
        expect_success(role, "serve");
    }
    expect_success("main", "another thread");
}

fn files_are_opened_and_removed_where_it_was_said() {
    expect_success("main", "open");
    expect_success("main", "make a file");
    expect_success("main", "unlink");
    for deed in [
        "open elsewhere",
        "open memory of its own",
        "open beside a socket",
        "make beside a socket",
        "unlink elsewhere",
    ] {
        let output = attempt("main", deed);
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("no landlock") {
            skip(deed, "this kernel has no landlock");
            continue;
        }
        assert_eq!(output.status.code(), Some(libc::EACCES), "{deed}: {said}");
    }
}

/// A line of /proc/PID/status, or of one of its threads.
fn status(file: &str, key: &str) -> String {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

fn nothing_of_root_is_left() {
    let place = Place::new();
    let child = standing("vcpu", &place, None);
    let proc = format!("/proc/{}", child.id());
    let file = format!("{proc}/status");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(&file, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(&file, "NoNewPrivs"), "1");
    assert_eq!(status(&file, "Seccomp"), "2");
    for task in fs::read_dir(format!("{proc}/task")).unwrap().flatten() {
        let file = task.path().join("status");
        let file = file.to_str().unwrap();
        let expected = if status(file, "Name") == "vcpu0" { "2" } else { "1" };
        assert_eq!(status(file, "Seccomp_filters"), expected, "{}", status(file, "Name"));
    }
    if status("/proc/self/status", "CapEff") != "0000000000000000" {
        assert_eq!(status(&file, "CapBnd"), "0000000000000000");
        assert_eq!(status(&file, "Groups"), "");
        let network = |proc: &str| fs::read_link(format!("{proc}/ns/net")).unwrap();
        // From 6.12 on landlock closes the network, and no other is made.
        let landlock_does = kernel() >= (6, 12);
        assert_eq!(network(&proc) == network("/proc/self"), landlock_does);
    }
    let limits = fs::read_to_string(format!("{proc}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    end(child);
}

/// The kernel's version.
fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn a_user_of_its_own_is_taken_on() {
    const NOBODY: u32 = 65534;
    if status("/proc/self/status", "Uid").split(' ').next() != Some("0") {
        skip("a_user_of_its_own_is_taken_on", "only root can become another user");
        return;
    }
    let place = Place::new();
    let child = standing("device", &place, Some(NOBODY));
    let file = format!("/proc/{}/status", child.id());
    for ids in ["Uid", "Gid"] {
        assert_eq!(status(&file, ids), "65534 65534 65534 65534", "{ids}");
    }
    assert_eq!(status(&file, "CapEff"), "0000000000000000");
    assert_eq!(status(&file, "CapPrm"), "0000000000000000");
    end(child);
}

fn a_process_without_a_sandbox_says_so() {
    let output = attempt_in_the_open("vcpu", "open elsewhere");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("kxl-vmm: THE SANDBOX IS OFF"), "{said}");
}
