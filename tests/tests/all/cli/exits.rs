//! Exit statuses and error texts of `kxl`.

use kxl_domain::failure::Kind;

use crate::support::{Host, guest};

fn code(kind: Kind) -> i32 {
    i32::from(kind.exit_code())
}

#[test]
fn each_kind_of_failure_has_its_exit_status() {
    let host = Host::new();
    host.create("web", &guest::mock("web", "ignore=powerdown unsupported=reset refuse=pause"));
    for (kind, args) in [
        (Kind::Failed, &["create", "/nonexistent.cfg"][..]),
        (Kind::Failed, &["pause", "web"]),
        (Kind::Failed, &["save", "web", "/nonexistent/x"]),
        (Kind::Usage, &["create"]),
        (Kind::Usage, &["frobnicate"]),
        (Kind::Usage, &["list", "--nonsense"]),
        (Kind::Usage, &["create", "a.cfg", "b.cfg"]),
        (Kind::NoSuchDomain, &["pause", "nosuch"]),
        (Kind::NoSuchDomain, &["list", "nosuch"]),
        (Kind::NoSuchDomain, &["destroy", "99"]),
        (Kind::Denied, &["delete", "web"]),
        (Kind::Unsupported, &["reset", "web"]),
        (Kind::TimedOut, &["shutdown", "-w", "--timeout", "1", "web"]),
    ] {
        host.refused(code(kind), args);
    }
}

#[test]
fn of_several_domains_each_gets_its_turn_and_the_worst_decides_the_status() {
    let host = Host::new();
    for name in ["one", "two"] {
        host.create(name, &guest::mock(name, ""));
    }
    let output = host.kxl(["pause", "one", "nosuch", "two"]).expect(code(Kind::NoSuchDomain));
    assert!(output.stderr.contains("nosuch"), "{output}");
    for name in ["one", "two"] {
        assert_eq!(host.domain(name).text("state"), Some("paused"));
    }
}

#[test]
fn a_failure_says_what_was_tried_why_not_and_what_would_help() {
    let host = Host::new();
    host.define("web1", &guest::mock("web1", ""));
    let output = host.refused(4, &["pause", "web1"]);
    assert!(
        output.stderr.starts_with("kxl: cannot pause domain \"web1\": it is halted"),
        "{output}"
    );
    assert!(output.stderr.contains("hint: kxl start web1"), "{output}");
    let output = host.refused(3, &["pause", "web2"]);
    assert!(output.stderr.contains("did you mean \"web1\"?"), "{output}");
}

#[test]
fn a_mistake_in_a_configuration_is_shown_where_it_is() {
    let host = Host::new();
    let file = host.file("bad.cfg", "name = \"web\"\nbackend = \"mock\"\nmemory = oops\n");
    let path = file.to_str().unwrap();
    let output = host.refused(2, &["create", path]);
    assert!(output.stderr.contains(&format!("{path}:3:")), "{output}");
    assert!(output.stderr.contains("memory = oops"), "{output}");
    assert!(output.stderr.contains('^'), "{output}");
    // A key that is none is named with the one that was meant, and the domain starts.
    let file = host.file("odd.cfg", &guest::mock_with("web", "", "memroy = 128"));
    let output = host.kxl(["create", file.to_str().unwrap()]).expect(0);
    assert!(
        output.stderr.contains("memroy") && output.stderr.contains("nearest key is memory"),
        "{output}"
    );
}

#[test]
fn names_and_values_that_lead_astray_are_refused() {
    let host = Host::new();
    for name in ["../up", "-rf", "a b", "12", "", ".hidden", "a/b", "Domain-0"] {
        let file = host.file("bad.cfg", &guest::mock(name, ""));
        host.refused(2, &["create", file.to_str().unwrap()]);
    }
    let file = host.file("bad.cfg", &guest::mock_with("web", "", "uuid = \"not-a-uuid\""));
    host.refused(2, &["create", file.to_str().unwrap()]);
    assert_eq!(host.domains().len(), 0);
    host.quiet();
}

#[test]
fn a_backend_that_does_not_exist_is_refused_and_nothing_is_left() {
    let host = Host::new();
    let file = host.file("web.cfg", "name = \"web\"\nbackend = \"nosuch\"\n");
    let output = host.kxl(["create", file.to_str().unwrap()]);
    assert!(matches!(output.code(), Some(1 | 2)), "{output}");
    assert!(output.stderr.contains("nosuch"), "{output}");
    assert!(host.find("web").is_none());
    host.quiet();
    assert_eq!(host.leftovers(), [""; 0]);
}

#[test]
fn a_create_that_fails_leaves_nothing_and_tells_the_emulators_words() {
    let host = Host::new();
    let file = host.file("web.cfg", &guest::mock("web", "die=launch"));
    let output = host.refused(1, &["create", file.to_str().unwrap()]);
    assert!(output.stderr.contains("dying at launch"), "{output}");
    assert!(host.find("web").is_none());
    host.quiet();
    assert_eq!(host.leftovers(), [""; 0]);
    let events = host.events("web");
    assert!(events.iter().any(|event| event["what"] == "start-failed"), "{events:?}");
}

#[test]
fn every_command_that_prints_has_json_that_parses() {
    let host = Host::new();
    let file = host.file("web.cfg", &guest::mock("web", ""));
    let file = file.to_str().unwrap();
    let parse = |args: &[&str]| {
        let text = host.ok(args);
        serde_json::from_str::<serde_json::Value>(&text)
            .unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    };
    assert_eq!(parse(&["create", "--json", file])["name"], "web");
    assert_eq!(parse(&["list", "--json"])[0]["state"], "running");
    assert_eq!(parse(&["list", "-l", "--json", "web"])[0]["config"]["name"], "web");
    assert_eq!(parse(&["domid", "--json", "web"])["name"], "web");
    assert_eq!(parse(&["domname", "--json", "1"])["name"], "web");
    assert!(parse(&["info", "--json"]).is_object());
    assert!(parse(&["info", "--backends", "--json"]).is_array());
    assert!(parse(&["why", "--json", "web"]).is_object());
    assert!(parse(&["recover", "--json"]).is_array());
    let started = host.events("web").iter().filter(|event| event["what"] == "started").count();
    assert_eq!(started, 1);
}

#[test]
fn list_shows_resting_domains_and_keeps_to_the_state_that_is_asked_for() {
    let host = Host::new();
    host.define("off", &guest::mock("off", ""));
    host.create("on", &guest::mock("on", ""));
    let names = |args: &[&str]| {
        let text = host.ok(args);
        text.lines()
            .skip(1)
            .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&["list"]), ["on", "off"]);
    assert_eq!(names(&["list", "--state", "halted"]), ["off"]);
    assert_eq!(names(&["list", "--state", "running"]), ["on"]);
    assert_eq!(names(&["list", "off"]), ["off"]);
}
