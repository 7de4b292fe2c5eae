//! Called as `xl`, `xm` or `xen`: the bytes that scripts have counted on for twenty years.

use crate::support::host::COMMAND;
use crate::support::run::run;
use crate::support::{Host, Output, guest};

const HEADER: &str = "Name                                        ID   Mem VCPUs\tState\tTime(s)";

/// A row as xl prints it, without its last column.
fn row(name: &str, id: u64, memory: u64, state: &str) -> String {
    format!("{name:<40} {id:>5} {memory:>5} {:>5}     {state}  ", 1)
}

fn called(host: &Host, program: &str, args: &[&str]) -> Output {
    run(&mut host.command(program, args), COMMAND)
}

#[test]
fn list_has_tabs_domain_0_and_one_row_for_each_live_domain() {
    let host = Host::new();
    host.create("web", &guest::mock("web", "tick=0"));
    host.create("paused", &guest::mock("paused", "tick=0"));
    host.ok(["pause", "paused"]);
    host.define("dormant", &guest::mock("dormant", ""));
    for program in ["xl", "xen"] {
        let output = called(&host, program, &["list"]).expect(0);
        let lines: Vec<_> = output.stdout.lines().collect();
        assert_eq!(lines.len(), 4, "{output}");
        assert_eq!(lines[0], HEADER);
        assert!(lines[1].starts_with(&format!("{:<40} {:>5} ", "Domain-0", 0)), "{output}");
        assert!(lines[1].contains("     r-----  "), "{output}");
        // An idle guest waits, or is seen on a CPU for a moment.
        let web = [row("web", 1, 64, "-b----"), row("web", 1, 64, "r-----")];
        assert!(web.iter().any(|row| lines[2].starts_with(row)), "{output}");
        assert!(lines[3].starts_with(&row("paused", 2, 64, "--p---")), "{output}");
        assert_eq!(lines[3].len(), row("paused", 2, 64, "--p---").len() + 8, "{output}");
        assert_eq!(output.stderr, "");
    }
    let one = host.xl(&["list", "paused"]).expect(0).stdout;
    assert_eq!(one.lines().count(), 2, "{one}");
    let xm = called(&host, "xm", &["list"]).expect(0).stdout;
    assert!(xm.contains("dormant"), "{xm}");
}

#[test]
fn long_lists_are_json_in_yajls_layout() {
    let host = Host::new();
    let web = host.create("web", &guest::mock("web", ""));
    let text = host.xl(&["list", "-l"]).expect(0).stdout;
    assert!(text.starts_with("[\n    {\n        \"domid\": 0,\n"), "{text}");
    assert!(text.ends_with("]\n\n"), "{text:?}");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.contains(&"        \"domid\": 1,"), "{text}");
    let name = "\"name\": \"web\",";
    assert_eq!(lines.iter().filter(|line| line.trim() == name).count(), 1, "{text}");
    assert!(text.contains(&format!("\"uuid\": \"{}\"", web.uuid())), "{text}");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value[1]["config"]["c_info"]["name"], "web");
    let one = host.xl(&["list", "-l", "web"]).expect(0).stdout;
    let one: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one.as_array().unwrap().len(), 1);
}

#[test]
fn unknown_domains_are_errors_on_standard_error() {
    let host = Host::new();
    let invalid = "nosuch is an invalid domain identifier (rc=-6)\n";
    for verb in ["list", "pause", "unpause", "destroy", "shutdown", "reboot"] {
        let output = host.xl(&[verb, "nosuch"]).expect(1);
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", invalid), "{output}");
    }
    let output = host.xl(&["list", "99"]).expect(1);
    assert_eq!(output.stdout, "");
    assert!(output.stderr.contains("Error: Domain '99' does not exist.\n"), "{output}");
    let output = host.xl(&["domid", "nosuch"]).expect(1);
    let text = "Can't get domid of domain name 'nosuch', maybe this domain does not exist.\n";
    assert_eq!(output.stderr, text);
    let output = host.xl(&["domname", "99"]).expect(1);
    let text = "Can't get domain name of domain id '99', maybe this domain does not exist.\n";
    assert_eq!(output.stderr, text);
}

#[test]
fn create_has_the_exit_statuses_of_the_library() {
    let host = Host::new();
    let file = host.file("web.cfg", &guest::mock("web", ""));
    let file = file.to_str().unwrap();
    let bad = host.file("bad.cfg", "name = web\n");
    host.xl(&["create"]).expect(6);
    host.xl(&["create", "name=\"x\""]).expect(6);
    let output = host.xl(&["create", "/nonexistent"]).expect(3);
    assert!(
        output
            .stderr
            .contains("Failed to read config file: /nonexistent: No such file or directory"),
        "{output}"
    );
    host.xl(&["create", bad.to_str().unwrap()]).expect(1);
    host.xl(&["create", file, "second.cfg"]).expect(2);
    host.xl(&["create", "-Q", file]).expect(2);
    let output = host.xl(&["create", file]).expect(0);
    assert_eq!(
        (output.stdout.as_str(), output.stderr),
        ("", format!("Parsing config from {file}\n"))
    );
    let output = host.xl(&["create", "-q", file]).expect(3);
    assert!(output.stderr.contains("Domain with name \"web\" already exists."), "{output}");
    assert_eq!(host.emulators().len(), 1);
    host.xl(&["destroy", "0"]).expect(1);
    host.xl(&["shutdown"]).expect(1);
    host.xl(&["frobnicate"]).expect(1);
    host.xl(&["pause"]).expect(2);
    let output = host.xl(&["destroy", "web"]).expect(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
}

#[test]
fn verbs_that_xl_carries_out_in_silence_stay_silent() {
    let host = Host::new();
    host.create("web", &guest::mock("web", ""));
    for verb in ["pause", "unpause"] {
        for who in ["web", "1", "77"] {
            let output = host.xl(&[verb, who]).expect(0);
            assert_eq!(output.stdout, "", "{output}");
        }
    }
    // Any unique beginning of a command will do.
    host.xl(&["pau", "web"]).expect(0);
    assert_eq!(host.domain("web").text("state"), Some("paused"));
    assert_eq!(host.xl(&["domid", "web"]).expect(0).stdout, "1\n");
    assert_eq!(host.xl(&["domname", "1"]).expect(0).stdout, "web\n");
}

#[test]
fn shutdown_tells_whom_it_asks_and_how_they_ended() {
    let host = Host::new();
    host.create("web", &guest::mock("web", ""));
    let output = host.xl(&["shutdown", "-w", "web"]).expect(0);
    assert_eq!(output.stdout, "");
    assert!(
        output.stderr.starts_with("Shutting down domain 1\nWaiting for 1 domains\n"),
        "{output}"
    );
    let ends = ["Domain 1 has been shut down, reason code 0\n", "Domain 1 has been destroyed\n"];
    assert!(ends.iter().any(|end| output.stderr.ends_with(end)), "{output}");
    host.gone("web");
}

#[test]
fn xm_registers_starts_and_forgets_domains() {
    let host = Host::new();
    let file = host.file("web.cfg", &guest::mock("web", ""));
    let xm = |args: &[&str]| called(&host, "xm", args);
    xm(&["new", file.to_str().unwrap()]).expect(0);
    xm(&["start", "web"]).expect(0);
    assert_eq!(host.emulators().len(), 1);
    xm(&["delete", "web"]).expect(1);
    xm(&["destroy", "web"]).expect(0);
    xm(&["delete", "web"]).expect(0);
    assert!(host.find("web").is_none());
}
