//! Emptying: what is saved, shut down, destroyed, and in which order.

use kxl_domain::State;
use serde_json::Value;

use super::{begun, events, outcome};
use crate::support::host::programs;
use crate::support::{Host, guest};

/// A registered domain that runs.
fn running(host: &Host, name: &str, words: &str, lines: &str) {
    host.define(name, &guest::mock_with(name, words, lines));
    host.ok(["start", name]);
}

fn wanted(host: &Host, name: &str) -> Value {
    host.domain(name).0["wanted"].clone()
}

/// The files that `host status` says are used up.
fn used(host: &Host) -> Vec<String> {
    let status: Value = serde_json::from_str(&host.ok(["host", "status", "--json"])).unwrap();
    let files = status["used"].as_array().unwrap().iter();
    files.map(|one| one["file"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_dozen_domains_go_by_their_order_and_come_back_as_they_were() {
    let host = Host::new();
    for number in 0..9 {
        running(&host, &format!("web{number}"), "memory=2M", "after = [\"db\"]");
    }
    running(&host, "db", "memory=2M", "priority = 900");
    running(&host, "first", "", "priority = 1");
    host.create("guest", &guest::mock("guest", "memory=2M"));
    host.ok(["pause", "web3"]);

    let saved = host.kxl(["host", "save", "--json", "--jobs", "3"]).expect(0);
    let order = begun(&saved);
    // The webs count as having the database's priority.
    assert_eq!(order[..9].iter().filter(|name| name.starts_with("web")).count(), 9, "{order:?}");
    assert_eq!(order[9..], ["db", "guest", "first"]);
    assert!(host.emulators().is_empty());
    for name in ["db", "first", "web0", "web3"] {
        assert_eq!(host.domain(name).rests(), Some(State::Suspended), "{name}");
        assert_eq!(outcome(&saved, name)["outcome"], "saved");
    }
    assert!(host.find("guest").is_none(), "a transient domain is its image only");
    assert_eq!(wanted(&host, "web0"), "running");
    assert_eq!(wanted(&host, "web3"), "paused");

    let back = host.kxl(["host", "restore", "--json"]).expect(0);
    let order = begun(&back);
    assert_eq!(order[..3], ["first", "guest", "db"]);
    assert_eq!(order.len(), 12);
    for name in ["db", "first", "web0", "guest"] {
        assert_eq!(host.domain(name).rests(), Some(State::Running), "{name}");
    }
    assert_eq!(host.domain("web3").rests(), Some(State::Paused));
    let again = host.kxl(["host", "restore", "--json"]).expect(0);
    assert!(begun(&again).is_empty(), "{again}");
}

#[test]
fn a_dry_run_tells_the_plan_and_touches_nothing() {
    let host = Host::new();
    running(&host, "web", "memory=8M", "");
    let plan = host.kxl(["host", "save", "--dry-run", "--json"]).expect(0);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(plan["tasks"][0]["ways"], serde_json::json!(["save", "shutdown"]));
    assert!(plan["disk"]["measured"] == true && plan["seconds"].as_f64().unwrap() > 0.0);
    let text = host.ok(["host", "save", "-n"]);
    assert!(text.contains("web") && text.contains("measured"), "{text}");
    assert_eq!(host.domain("web").rests(), Some(State::Running));
    let images = std::fs::read_dir(host.root.join("var/lib/kxl/images")).unwrap();
    assert_eq!(images.count(), 0, "what was written to try the disk is gone");
}

#[test]
fn what_cannot_be_saved_takes_the_next_way_of_the_policy() {
    let host = Host::new();
    running(&host, "obeys", "unsupported=save-state", "");
    running(&host, "deaf", "unsupported=save-state ignore=powerdown", "");
    running(&host, "refuses", "refuse=save", "");
    let script = [programs().join("kxl").display().to_string(), "destroy".into(), "script".into()];
    let lines = format!("stop_command = {script:?}");
    running(&host, "script", "unsupported=save-state unsupported=powerdown", &lines);

    // One of them uses it all up; for the others it is far more than they need.
    let gentle = host.kxl(["host", "save", "--json", "--patience", "20s"]).expect(1);
    for name in ["obeys", "refuses", "script"] {
        assert_eq!(outcome(&gentle, name)["outcome"], "shut-down", "{name}: {gentle}");
    }
    assert_eq!(outcome(&gentle, "deaf")["outcome"], "failed");
    assert_eq!(host.domain("deaf").rests(), Some(State::Running));

    let harsh = ["host", "save", "--json", "--patience", "1s", "--policy", "save,shutdown,destroy"];
    let harsh = host.kxl(harsh).expect(0);
    assert_eq!(outcome(&harsh, "deaf")["outcome"], "destroyed");
    for name in ["obeys", "deaf", "refuses", "script"] {
        assert_eq!(wanted(&host, name), "running", "{name}: the wish is not maintenance's");
        assert_eq!(host.domain(name).rests(), Some(State::Halted));
    }
    host.kxl(["host", "restore"]).expect(0);
    for name in ["obeys", "deaf", "refuses", "script"] {
        assert_eq!(host.domain(name).rests(), Some(State::Running), "{name}");
    }
}

#[test]
fn a_shutdown_of_the_host_is_undone_by_restore_also_for_transient_domains() {
    let host = Host::new();
    running(&host, "web", "", "");
    host.create("guest", &guest::mock("guest", ""));
    host.define("off", &guest::mock("off", ""));
    let uuid = host.domain("guest").uuid();
    host.kxl(["host", "shutdown"]).expect(0);
    assert!(host.emulators().is_empty());
    let status = host.ok(["host", "status", "--json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["back"].as_array().unwrap().len(), 2, "{status}");
    host.kxl(["host", "restore"]).expect(0);
    assert_eq!(host.domain("guest").uuid(), uuid);
    assert_eq!(host.domain("web").rests(), Some(State::Running));
    assert_eq!(host.domain("off").rests(), Some(State::Halted), "one that was off stays off");
}

#[test]
fn what_a_person_decides_meanwhile_counts() {
    let host = Host::new();
    running(&host, "web", "", "");
    host.kxl(["host", "shutdown"]).expect(0);
    host.ok(["start", "web"]);
    host.ok(["shutdown", "--wait", "web"]);
    let back = host.kxl(["host", "restore", "--json"]).expect(0);
    let stayed = host.domain("web").rests();
    assert_eq!((begun(&back).len(), stayed), (0, Some(State::Halted)));
}

#[test]
fn images_go_to_a_directory_and_are_found_there() {
    let host = Host::new();
    running(&host, "web", "memory=2M", "");
    host.create("guest", &guest::mock("guest", "memory=2M"));
    let directory = host.scratch().join("images");
    std::fs::create_dir(&directory).unwrap();
    let to = directory.display().to_string();
    for round in 0..2 {
        host.kxl(["host", "save", "--to", &to]).expect(0);
        assert_eq!(host.domain("web").rests(), Some(State::Halted));
        assert_eq!(wanted(&host, "web"), "running");
        let names = std::fs::read_dir(&directory).unwrap().count();
        assert_eq!(names, 2, "round {round}: a spent image is replaced");
        for name in ["web", "guest"] {
            let head = std::fs::read(directory.join(format!("{name}.kxl"))).unwrap();
            let head = String::from_utf8_lossy(&head[..4096.min(head.len())]).into_owned();
            assert!(head.contains(&format!("\"name\": \"{name}\"")), "for other programs: {head}");
        }
        assert_eq!(used(&host), [""; 0], "round {round}: they are still to come back");
        if round == 1 {
            // Nothing but the files themselves is left to find them by.
            std::fs::remove_file(host.root.join("var/lib/kxl/maintenance.json")).unwrap();
        }
        host.kxl(["host", "restore", "--from", &to]).expect(0);
        assert_eq!(host.domain("web").rests(), Some(State::Running));
        assert_eq!(host.domain("guest").rests(), Some(State::Running));
        // They stay where they are, and whoever looks is told that nothing needs them.
        let files = ["web", "guest"].map(|name| format!("{to}/{name}.kxl"));
        assert!(files.iter().all(|file| std::path::Path::new(file).is_file()));
        let mut told = used(&host);
        told.sort_by_key(|file| files.iter().position(|one| one == file));
        assert_eq!(told, files);
        let text = host.ok(["host", "status"]);
        assert!(text.contains("USED UP") && text.contains(&files[0]), "{text}");
    }
    std::fs::remove_file(directory.join("guest.kxl")).unwrap();
    assert_eq!(used(&host), [format!("{to}/web.kxl")]);
    // Others could put images there, or take them away.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&directory, open).unwrap();
    let refused = host.refused(1, &["host", "save", "--quiet", "--to", &to]);
    assert!(refused.stderr.contains("others can put files in it"), "{refused}");
}

#[test]
fn a_circle_is_named_and_can_be_passed_over() {
    let host = Host::new();
    running(&host, "a", "", "after = \"b\"");
    running(&host, "b", "", "after = \"a\"");
    let refused = host.refused(2, &["host", "save"]);
    assert!(refused.stderr.contains("\"a\" after \"b\" after \"a\""), "{refused}");
    assert_eq!(host.domain("a").rests(), Some(State::Running));
    host.kxl(["host", "save", "--order", "none"]).expect(0);
    // A host that comes up must not stay empty for it.
    let back = host.kxl(["host", "restore"]).expect(0);
    assert!(back.stderr.contains("they come back without one"), "{back}");
    assert_eq!(host.domain("b").rests(), Some(State::Running));
}

#[test]
fn only_named_or_managed_domains_are_saved_where_that_was_asked_for() {
    let host = Host::new();
    running(&host, "web", "", "");
    host.create("guest", &guest::mock("guest", ""));
    host.kxl(["host", "save", "--managed"]).expect(0);
    assert_eq!(host.domain("web").rests(), Some(State::Suspended));
    assert_eq!(host.domain("guest").rests(), Some(State::Running));
    // One that rests is left as it is, and that is no failure.
    let named = host.kxl(["host", "save", "--json", "web", "guest"]).expect(0);
    assert_eq!(outcome(&named, "web")["outcome"], "left");
    assert_eq!(events(&named)[0]["tasks"][1]["why"], "it is suspended");
    host.refused(3, &["host", "save", "nobody"]);
    host.kxl(["host", "restore", "guest"]).expect(0);
    assert_eq!(host.domain("web").rests(), Some(State::Suspended));
    host.refused(3, &["host", "restore", "guest"]);
}
