//! Telling in the face of kills, floods, a full disk and damage.

use std::fs;
use std::process::Stdio;

use kxl_store::HookRow;
use serde_json::Value;

use super::{NOTES, notes};
use crate::cli::full_disk::Small;
use crate::support::process::Role;
use crate::support::skip::skip;
use crate::support::{Host, guest, wait};

#[test]
fn a_killed_teller_is_followed_by_one_that_goes_on_where_it_was() {
    let host = Host::new();
    host.hook(
        "10-waits",
        "echo \"$KXL_EVENT_ID\" >> begun; while [ -e hold ]; do sleep 0.02; done",
    );
    host.hook("20-notes", NOTES);
    fs::write(host.scratch().join("hold"), "").unwrap();
    host.running("web");
    wait::eventually("the hook is at work", || !host.lines("begun").is_empty());
    host.ok(["pause", "web"]);
    host.teller().unwrap().kill();
    fs::remove_file(host.scratch().join("hold")).unwrap();
    // As its timer does.
    host.ok(["recover"]);
    wait::eventually("it goes on", || host.lines("told").len() == 2);
    host.told_all();
    assert_eq!(host.lines("begun"), ["1", "1", "2"], "what it was at is told again");
    assert_eq!(host.lines("told"), notes(&host.all_events()));
}

#[test]
fn many_tellers_and_writers_at_once_lose_nothing_and_tell_nothing_twice() {
    let host = Host::new();
    host.hook("notes", NOTES);
    std::thread::scope(|scope| {
        for name in ["a", "b", "c", "d", "e", "f"] {
            let host = &host;
            scope.spawn(move || {
                host.running(name);
                host.ok(["run-hooks"]);
                host.ok(["pause", name]);
                host.ok(["destroy", name]);
            });
        }
        for _ in 0..3 {
            scope.spawn(|| (0..5).for_each(|_| drop(host.ok(["run-hooks"]))));
        }
    });
    host.told_all();
    let events = host.all_events();
    assert!(events.len() >= 24, "{events:?}");
    assert_eq!(host.lines("told"), notes(&events));
}

#[test]
fn of_a_flood_hooks_are_told_a_part_and_one_alert() {
    let host = Host::new();
    host.hook("notes", NOTES);
    host.running("loud");
    host.running("quiet");
    // Of 160 events of a minute's length at most 80 lie on each side of its end.
    for _ in 0..80 {
        host.ok(["pause", "loud"]);
        host.ok(["unpause", "loud"]);
    }
    host.ok(["pause", "quiet"]);
    host.told_all();
    let events = host.all_events();
    let told = host.lines("told");
    assert!(told.len() < events.len() - 10, "{} of {}", told.len(), events.len());
    let floods = host.of_kind("flood");
    assert_eq!(floods.len(), 1, "{floods:?}");
    assert_eq!(floods[0]["name"], "loud");
    assert!(floods[0]["repeats"].as_u64().unwrap() > 5, "{floods:?}");
    assert!(told.contains(&notes(&floods)[0]), "it is told itself");
    let quiet: Vec<_> = events.into_iter().filter(|event| event["name"] == "quiet").collect();
    assert!(notes(&quiet).iter().all(|note| told.contains(note)), "others are not held up");
}

#[test]
fn a_full_disk_keeps_hooks_from_being_told_only_while_it_is_full() {
    let host = Host::new();
    let small = match Small::make(&host.root) {
        Ok(small) => small,
        Err(reason) => return skip("hooks on a full disk", &reason),
    };
    let kxl = |args: &[&str]| small.run(&host, &[&["kxl"], args].concat());
    let sh = |script: &str| small.run(&host, &["sh", "-c", script]).expect(0);
    let config = host.file("web.cfg", &guest::mock("web", ""));
    let (root, hooks) = (host.root.display(), host.places().hooks_dir());
    let body = format!("#!/bin/sh\ncd {}\n{NOTES}\n", host.scratch().display());
    let script = host.file("hook", &body);
    sh(&format!(
        "mkdir -p {0} && cp {1} {0}/notes && chmod 755 {0}/notes",
        hooks.display(),
        script.display()
    ));
    kxl(&["create", config.to_str().unwrap()]).expect(0);
    wait::eventually("the hook is told", || host.lines("told").len() == 1);
    sh(&format!("dd if=/dev/zero of={root}/fill bs=4k 2>/dev/null; true"));
    for _ in 0..20 {
        kxl(&["pause", "web"]).expect(0);
        kxl(&["unpause", "web"]).expect(0);
        kxl(&["recover"]);
    }
    sh(&format!("rm {root}/fill"));
    kxl(&["destroy", "web"]).expect(0);
    wait::eventually("the hook is told again", || {
        host.lines("told").last().is_some_and(|line| line.ends_with(" destroyed"))
    });
    // Whatever was recorded was told, in order; what could not be noted may be told twice.
    let text = kxl(&["events", "--json", "--limit", "0"]).expect(0).stdout;
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut told = host.lines("told");
    told.dedup();
    assert_eq!(told, notes(&events));
}

#[test]
fn a_cursor_beyond_all_events_and_a_clock_that_was_set_back_stop_nothing() {
    let host = Host::new();
    host.hook("notes", NOTES);
    host.running("web");
    host.told_all();
    let beyond = HookRow {
        name: "notes".into(),
        told: i64::MAX,
        tries: 3,
        next_ms: i64::MAX,
        problem: None,
    };
    host.records().set_hook(&beyond).unwrap();
    host.ok(["pause", "web"]);
    host.told_all();
    // From the newest on: what came with the damage is all that may be missing.
    host.ok(["unpause", "web"]);
    host.told_all();
    assert_eq!(host.lines("told").last().unwrap(), "3 unpaused");
}

#[test]
fn damaged_events_keep_no_command_from_its_work_and_a_new_history_is_told() {
    let host = Host::new();
    host.hook("notes", NOTES);
    host.running("web");
    host.told_all();
    let db = host.places().events_db();
    for suffix in ["-wal", "-shm"] {
        drop(fs::remove_file(format!("{}{suffix}", db.display())));
    }
    fs::write(&db, "no database at all ".repeat(999)).unwrap();
    host.ok(["pause", "web"]);
    let failed = host.kxl(["run-hooks"]).expect(1);
    assert!(failed.stderr.contains("cannot tell hooks"), "{failed}");
    fs::remove_file(&db).unwrap();
    host.ok(["unpause", "web"]);
    host.told_all();
    // What could not be recorded comes first.
    let told = host.lines("told");
    assert_eq!(told[told.len() - 2..], ["1 paused", "2 unpaused"]);
}

#[test]
fn hooks_that_are_no_directory_are_told_of_once() {
    let host = Host::new();
    fs::create_dir_all(host.places().hooks_dir().parent().unwrap()).unwrap();
    fs::write(host.places().hooks_dir(), "not a directory").unwrap();
    host.running("web");
    host.told_all();
    host.ok(["pause", "web"]);
    host.told_all();
    let refused = host.of_kind("hook-refused");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0]["text"].as_str().unwrap().contains("hooks.d"));
}

#[test]
fn a_follower_misses_nothing_while_writers_are_killed() {
    let host = Host::new();
    let file = host.scratch().join("followed");
    let mut command = host.command("kxl", ["events", "--json", "-f", "--limit", "0"]);
    command.stdin(Stdio::null()).stdout(fs::File::create(&file).unwrap()).stderr(Stdio::null());
    let mut follower = command.spawn().unwrap();
    for round in 0..8 {
        let name = format!("d{round}");
        host.running(&name);
        host.ok(["pause", &name]);
        let monitor = host.monitor_of_name(&name);
        let running = host.begin(&["unpause", &name]);
        monitor.kill();
        drop(running.end(wait::SOON));
        host.kxl(["destroy", &name]);
    }
    let events = host.all_events();
    wait::eventually("the follower has all", || host.lines("followed").len() >= events.len());
    let followed: Vec<Value> =
        host.lines("followed").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(followed, host.all_events());
    assert!(host.processes().iter().any(|one| one.role == Role::Command), "it goes on");
    follower.kill().unwrap();
    follower.wait().unwrap();
}
