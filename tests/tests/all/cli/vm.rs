//! `vmlist`, `vmstart`, `vmstop` and the stop script, with a shell script for an emulator: nothing
//! of it is about how an emulator is talked to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use crate::support::host::programs;
use crate::support::run::{self, Output};
use crate::support::{Host, wait};

const COMMAND: std::time::Duration = std::time::Duration::from_secs(120);

pub(super) fn program(host: &Host, name: &str, text: &str) -> PathBuf {
    let path = host.file(name, &format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

pub(super) fn vm(host: &Host, program: &str, args: &[&str]) -> Output {
    run::run(&mut host.command(program, args), COMMAND)
}

/// Registers an emulator that ends when its file `stop` is there.
pub(super) fn register(host: &Host, name: &str, more: &[&str]) -> PathBuf {
    let config = host.file(
        &format!("{name}.cfg"),
        "set session hw_model=AlphaServer_DS20\nset ram size=512\nset COM1 alias=OPA0 port=10003\n\
         load packet_port P interface=\"eth-none\"\n",
    );
    let emulator = program(host, &format!("{name}.emu"), "while test ! -e $1; do sleep 0.05; done");
    let stop = host.scratch().join(format!("{name}.stop"));
    let arguments = format!("device_model_args=['{}']", stop.display());
    let mut words = vec!["new", config.to_str().unwrap(), "backend='any'", &arguments];
    words.extend(["--emulator", emulator.to_str().unwrap(), "--quiet", "stopwaitsecs=60"]);
    words.extend(more);
    host.ok(words);
    stop
}

pub(super) fn entry(host: &Host, name: &str) -> Value {
    let text = vm(host, "vmlist", &["--json"]).expect(0).stdout;
    let screen: Value = serde_json::from_str(&text).unwrap();
    let all = screen["domains"].as_array().unwrap().clone();
    all.into_iter().find(|one| one["name"] == name).unwrap_or_else(|| panic!("{screen}"))
}

#[test]
fn the_list_tells_of_an_emulator_what_its_own_configuration_says() {
    let host = Host::new();
    register(&host, "ds20", &["--description", "payroll", "--autostart"]);
    let table = vm(&host, "vmlist", &[]).expect(0).stdout;
    assert!(table.contains("CONFIGURATION FILE") && table.contains("ds20.cfg"), "{table}");
    let one = entry(&host, "ds20");
    assert_eq!(
        (&one["state"], &one["cpus"], &one["memory_mib"]),
        (&"INACTIVE".into(), &2.into(), &512.into())
    );
    assert_eq!((&one["console_port"], &one["start_on_boot"]), (&10003.into(), &true.into()));
    assert_eq!(one["network_interfaces"][0]["findings"], serde_json::json!([1, 2]));
    let block = vm(&host, "vmlist", &["ds20"]).expect(0).stdout;
    for line in ["AlphaServer_DS20", "payroll", "YES", "Not found", "eth-none (1) (2)"] {
        assert!(block.contains(line), "{line}: {block}");
    }
}

#[test]
fn only_a_start_by_name_sets_the_domain_that_is_meant_and_its_removal_ends_that() {
    let host = Host::new();
    register(&host, "one", &[]);
    register(&host, "two", &[]);
    let nobody = vm(&host, "vmstop", &[]).expect(2);
    assert!(nobody.stderr.contains("vmstart NAME"), "{nobody}");
    host.ok(["start", "two"]);
    vm(&host, "vmstop", &[]).expect(2);
    vm(&host, "vmstart", &["one"]).expect(0);
    assert_eq!(
        (&entry(&host, "one")["is_default"], &entry(&host, "two")["is_default"]),
        (&true.into(), &false.into())
    );
    let shown = vm(&host, "vmcfg", &[]).expect(0);
    assert!(shown.stdout.contains("hw_model") && shown.stderr.contains("\"one\""), "{shown}");
    let stopped = vm(&host, "vmstop", &[]).expect(0);
    assert!(stopped.stderr.contains("for its guest this is a power-off"), "{stopped}");
    host.ok(["stop", "two", "--quiet"]);
    host.ok(["delete", "one"]);
    vm(&host, "vmstop", &[]).expect(2);
}

#[test]
fn a_domain_with_a_stop_script_is_shut_down_by_it() {
    let host = Host::new();
    let stop = register(&host, "es40", &[]);
    assert_eq!(entry(&host, "es40")["stop_script"], "Not found");
    host.ok(["stop-script", "create"]);
    assert_eq!(entry(&host, "es40")["stop_script"], "To customize");
    assert_eq!(host.kxl(["stop-script", "check"]).code(), Some(1));
    let file = host.root.join("etc/kxl/stop-script");
    let text = fs::read_to_string(&file).unwrap();
    let told = host.scratch().join("told");
    let commands =
        format!("echo \"$1 $KXL_DOMAIN\" > {}; touch {}\n", told.display(), stop.display());
    fs::write(&file, text.replace("        to_customize\n", &commands)).unwrap();
    assert_eq!(entry(&host, "es40")["stop_script"], "Customized");
    host.ok(["stop-script", "check"]);
    register(&host, "late", &[]);
    assert_eq!(entry(&host, "late")["stop_script"], "Case not set");
    host.ok(["stop-script", "create", "--quiet"]);
    assert_eq!(entry(&host, "late")["stop_script"], "To customize");

    vm(&host, "vmstart", &["es40"]).expect(0);
    assert_eq!(entry(&host, "es40")["state"], "ACTIVE");
    let stopped = vm(&host, "vmstop", &["es40"]).expect(0);
    assert_eq!((stopped.stdout.as_str(), stopped.stderr.as_str()), ("es40: stopped\n", ""));
    let said = fs::read_to_string(told).unwrap();
    assert!(said.ends_with("es40.cfg es40\n") && said.starts_with('/'), "{said}");
    assert_eq!(entry(&host, "es40")["state"], "INACTIVE");
}

#[test]
fn a_stop_whose_script_fails_has_failed_and_the_power_is_taken_away() {
    let host = Host::new();
    let script = program(&host, "stop-es40", "echo no route to vms >&2\nsync\nexit 3");
    register(&host, "es40", &[&format!("stop_script='{}'", script.display())]);
    host.ok(["start", "es40"]);
    let failed = vm(&host, "vmstop", &["es40"]).expect(1);
    for words in ["ended with status 3: no route to vms", "the power was taken away"] {
        assert!(failed.stderr.contains(words), "{failed}");
    }
    assert_eq!(entry(&host, "es40")["state"], "FAILED");
    let alert = host.events("es40").into_iter().find(|event| event["what"] == "stop-failed");
    assert_eq!(alert.unwrap()["severity"], "alert");
    assert!(host.domain("es40").pid().is_none());
    host.ok(["start", "es40"]);
    assert_eq!(entry(&host, "es40")["state"], "ACTIVE");
}

#[test]
fn a_stop_whose_script_leaves_the_emulator_running_has_failed_too() {
    let host = Host::new();
    let script = program(&host, "stop-es40", "sync");
    let own = format!("stop_script='{}'", script.display());
    register(&host, "es40", &[&own, "stopwaitsecs=1"]);
    host.ok(["start", "es40"]);
    let failed = vm(&host, "vmstop", &["es40"]).expect(1);
    assert!(failed.stderr.contains("has not ended the emulator within 1 s"), "{failed}");
    assert_eq!(entry(&host, "es40")["state"], "FAILED");
}

#[test]
fn a_guest_that_does_not_answer_holds_up_nothing_but_what_is_said_of_it() {
    let host = Host::new();
    let hung = program(&host, "hung", "sleep 600");
    let well = program(&host, "well", "echo up 3 days");
    let srm = program(&host, "srm", "exit 255");
    for (name, script) in [("a", &hung), ("b", &well), ("c", &srm)] {
        register(&host, name, &[&format!("guest_status_script='{}'", script.display())]);
        host.ok(["start", name]);
    }
    assert!(!vm(&host, "vmlist", &[]).expect(0).stdout.contains("up 3 days"));
    let all = vm(&host, "vmlist", &["-l"]).expect(0).stdout;
    let at = |words: &str| all.find(words).unwrap_or_else(|| panic!("{words}: {all}"));
    assert!(at("up 3 days") < at("no answer within 5 s"), "{all}");
    assert!(at("not booted (SRM prompt)") < at("no answer within 5 s"), "{all}");
}

#[test]
fn an_emulator_that_is_no_program_and_a_configuration_with_a_mistake_are_refused() {
    let host = Host::new();
    let config = host.file("x.cfg", "set session hw_model=AlphaServer_DS20\nset COM1 port=x\n");
    let config = config.to_str().unwrap();
    let none = host.refused(2, &["new", config]);
    assert!(none.stderr.contains("--emulator PATH"), "{none}");
    host.refused(2, &["create", config]);
    let plain = host.file("plain", "no program");
    let refused = host.refused(2, &["new", config, "--emulator", plain.to_str().unwrap()]);
    assert!(refused.stderr.contains("it is not executable"), "{refused}");
    let wrong = host.refused(2, &["new", config, "--emulator", "/bin/sh"]);
    assert!(wrong.stderr.contains("x.cfg:2:15: the console's port is \"x\""), "{wrong}");
    assert!(host.domains().is_empty());
}

#[test]
fn the_menu_starts_stops_adds_and_removes() {
    let host = Host::new();
    register(&host, "one", &[]);
    let config = host.file("two.cfg", "set session hw_model=VAX_6610\n");
    let lines = format!(
        "1\none\n2\n\n7\n{}\n/bin/sh\nspare\ny\n8\none\nn\n8\none\ny\nx\n4\ntwo\nq\n",
        config.display()
    );
    let mut command = host.command("kxl", ["vm"]);
    command.stdin(Stdio::from(fs::File::open(host.file("typed", &lines)).unwrap()));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for said in ["one: started", "one: stopped", "two: registered", "VAX_6610"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let names: Vec<_> =
        host.domains().iter().filter_map(|d| d.text("name").map(str::to_owned)).collect();
    assert_eq!(names, ["two"]);
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(complaints.contains("\"x\" is none of the choices"), "{complaints}");
    let two = entry(&host, "two");
    assert_eq!((&two["start_on_boot"], &two["description"]), (&true.into(), &"spare".into()));
    wait::eventually("nothing runs", || host.emulators().is_empty());
}

#[test]
fn a_stop_script_goes_on_when_the_monitor_dies_in_the_middle() {
    let host = Host::new();
    let (began, go) = (host.scratch().join("began"), host.scratch().join("go"));
    let stop = host.scratch().join("es40.stop");
    let script = program(
        &host,
        "stop-es40",
        &format!(
            "touch {}\nuntil test -e {}; do sleep 0.05; done\necho bye\ntouch {}",
            began.display(),
            go.display(),
            stop.display()
        ),
    );
    register(&host, "es40", &[&format!("stop_script='{}'", script.display())]);
    host.ok(["start", "es40"]);
    let stopping = host.begin(&["stop", "es40"]);
    wait::eventually("the script has begun", || began.exists());
    assert_eq!(entry(&host, "es40")["state"], "DEACTIVATING");
    host.monitor_of_name("es40").signal(nix::sys::signal::Signal::SIGKILL);
    fs::write(&go, "").unwrap();
    let stopped = stopping.end(COMMAND).expect(0);
    assert_eq!(stopped.stdout, "es40: stopped\n");
    assert_eq!(entry(&host, "es40")["state"], "INACTIVE");
}

/// The whole way of an operator with a Charon. The product cannot be had: the emulator is the
/// stand-in for it.
#[test]
fn an_operator_looks_after_a_charon_with_the_stand_in_for_the_product() {
    let host = Host::new();
    let standin = programs().join("charon-standin");
    let logs = host.scratch().join("logs");
    fs::create_dir(&logs).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = host.file(
        "vax.cfg",
        &format!(
            "set session hw_model=VAX_6620 configuration_name=\"vms\" log=\"{}\"\n\
             set ram size=256\nset OPA0 port={port} stop_on=\"F6\"\n",
            logs.display()
        ),
    );
    let emulator = standin.to_str().unwrap();
    host.ok(["new", config.to_str().unwrap(), "--emulator", emulator, "--quiet"]);
    // The monitor hands its own PATH on to the stop script, which calls kxl.
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", host.bin().display());
    let mut start = host.command("vmstart", ["vms"]);
    run::run(start.env("PATH", path), COMMAND).expect(0);
    let one = entry(&host, "vms");
    assert_eq!((&one["state"], &one["cpus"]), (&"ACTIVE".into(), &2.into()));
    assert_eq!(one["emulator"], emulator);
    let log = PathBuf::from(one["log_file"].as_str().unwrap());
    assert!(log.is_file() && log.starts_with(&logs), "{one}");
    // Its log, from a release that tells of its licence.
    let told = "Charon-VAX V 4.12 B 1\nLicense key 1 found\nLicense communication lost\n";
    fs::write(&log, told).unwrap();
    let lines = entry(&host, "vms")["licence"].clone();
    assert_eq!(lines, serde_json::json!(["License key 1 found", "License communication lost"]));

    host.ok(["stop-script", "create", "--quiet"]);
    let script = host.root.join("etc/kxl/stop-script");
    let text = fs::read_to_string(&script).unwrap();
    fs::write(&script, text.replace("        to_customize\n", "        switch_off\n")).unwrap();
    let stopped = vm(&host, "vmstop", &[]).expect(0);
    assert!(stopped.stdout == "vms: stopped\n", "{stopped}");
    assert_eq!(entry(&host, "vms")["state"], "INACTIVE");
}
