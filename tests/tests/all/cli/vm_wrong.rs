//! `vmlist` and its family where something is wrong with one domain: with its files, its record, or
//! with what its operator types.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use kxl_store::Paths;
use nix::sys::stat::Mode;

use super::vm::{entry, program, register, vm};
use crate::support::{Host, wait};

#[test]
fn files_of_an_emulator_that_never_come_to_an_end_hold_nothing_up() {
    let host = Host::new();
    let log = host.scratch().join("log");
    register(&host, "well", &[]);
    register(&host, "logs", &[]);
    let script = host.scratch().join("never");
    register(&host, "bad", &[&format!("stop_script='{}'", script.display())]);
    let text = format!(
        "set session hw_model=AlphaServer_DS20 log=\"{}\"\nset COM1 alias=OPA0 port=10004\n",
        log.display()
    );
    fs::write(host.scratch().join("logs.cfg"), text).unwrap();
    let config = host.scratch().join("bad.cfg");
    fs::remove_file(&config).unwrap();
    for fifo in [&log, &script, &config] {
        nix::unistd::mkfifo(fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    }
    host.ok(["start", "logs"]);
    let table = vm(&host, "vmlist", &[]).expect(0).stdout;
    assert!(table.contains("logs.cfg") && table.contains("bad.cfg"), "{table}");
    vm(&host, "vmlist", &["-l"]).expect(0);
    assert_eq!(entry(&host, "bad")["stop_script"], "Not found");
    assert_eq!(entry(&host, "well")["memory_mib"], 512);
    let refused = vm(&host, "vmcfg", &["--show", "bad"]).expect(1);
    assert!(refused.stderr.contains("it is not a plain file"), "{refused}");
}

#[test]
fn a_record_that_cannot_be_read_is_unknown_and_the_others_go_on() {
    let host = Host::new();
    let stop = register(&host, "one", &[]);
    register(&host, "odd", &[]);
    host.ok(["start", "one", "--quiet"]);
    let uuid = host.domain("odd").uuid();
    let registry = rusqlite::Connection::open(Paths::under(&host.root).registry_db()).unwrap();
    let words = "UPDATE config SET config = 'rubbish' WHERE uuid = ?1";
    assert_eq!(registry.execute(words, [&uuid]).unwrap(), 1);
    drop(registry);
    let table = vm(&host, "vmlist", &[]).expect(0).stdout;
    assert!(table.contains("UNKNOWN") && table.contains("ACTIVE"), "{table}");
    let shown = entry(&host, "odd");
    assert_eq!((&shown["state"], &shown["emulator"]), (&"UNKNOWN".into(), &"-".into()));
    let block = vm(&host, "vmlist", &["odd"]).expect(0).stdout;
    assert!(block.contains("its record cannot be read: "), "{block}");
    let made = host.kxl(["stop-script", "create"]).expect(0);
    assert!(made.stdout.contains("with 1 case") && made.stderr.contains("\"odd\""), "{made}");
    let checked = host.kxl(["stop-script", "check"]).expect(1);
    assert!(checked.stdout.contains("To customize") && checked.stderr.contains("\"odd\""));
    fs::write(stop, "").unwrap();
    vm(&host, "vmstop", &["one"]).expect(0);
}

#[test]
fn words_of_an_emulators_own_configuration_do_nothing_to_a_terminal() {
    let host = Host::new();
    register(&host, "es40", &[]);
    let text = "set session hw_model=\"Alpha\u{1b}[31mServer\" log=\"/tmp/\u{1b}]0;x\u{7}\"\n\
                set COM1 alias=OPA0 line=\"/dev/tty\u{1b}[2J\"\n\
                load packet_port P interface=\"e\u{1b}[1m\"\n";
    fs::write(host.scratch().join("es40.cfg"), text).unwrap();
    for args in [&[][..], &["-l"], &["--json"]] {
        let shown = vm(&host, "vmlist", args).expect(0);
        assert!(shown.stdout.contains("es40.cfg"), "{shown}");
        assert!(!shown.stdout.contains('\u{1b}') && !shown.stdout.contains('\u{7}'), "{shown:?}");
    }
}

#[test]
fn a_script_that_others_may_write_is_run_by_nobody() {
    let host = Host::new();
    let ran = host.scratch().join("ran");
    let text = format!("touch {}", ran.display());
    let open = program(&host, "open", &text);
    let key = |key: &str| format!("{key}='{}'", open.display());
    register(&host, "stops", &[&key("stop_script")]);
    register(&host, "starts", &[&key("prestart")]);
    register(&host, "tells", &[&key("guest_status_script")]);
    for name in ["stops", "tells"] {
        host.ok(["start", name, "--quiet"]);
    }
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let why = "can be written by others (mode 777); chmod go-w it";
    let refused = host.refused(1, &["start", "starts"]);
    assert!(refused.stderr.contains(why), "{refused}");
    let told = vm(&host, "vmlist", &["tells"]).expect(0);
    assert!(told.stdout.contains(why), "{told}");
    let checked = host.kxl(["stop-script", "check"]).expect(1);
    assert!(checked.stderr.contains(why), "{checked}");
    let stopped = vm(&host, "vmstop", &["stops"]).expect(1);
    assert!(stopped.stderr.contains("is not run") && stopped.stderr.contains(why), "{stopped}");
    assert_eq!(entry(&host, "stops")["state"], "FAILED");
    assert!(!ran.exists());
}

#[test]
fn a_start_that_fails_does_not_change_which_domain_is_meant() {
    let host = Host::new();
    register(&host, "good", &[]);
    let fails = program(&host, "fails", "exit 1");
    register(&host, "bad", &[&format!("prestart='{}'", fails.display())]);
    vm(&host, "vmstart", &["bad"]).expect(1);
    vm(&host, "vmstop", &[]).expect(2);
    vm(&host, "vmstart", &["good"]).expect(0);
    vm(&host, "vmstart", &["bad"]).expect(1);
    assert_eq!(entry(&host, "good")["is_default"], true);
    // One that runs already was started all the same.
    vm(&host, "vmstart", &["good"]).expect(4);
    assert_eq!(entry(&host, "good")["is_default"], true);
}

#[test]
fn the_menu_tells_no_success_of_what_failed_and_takes_what_is_typed_as_it_is() {
    let host = Host::new();
    let config = host.file("two=2.cfg", "set session hw_model=VAX_6610 configuration_name=two\n");
    let lines =
        format!("6\nnosuch\n6\n-x\n7\n{}\n/bin/sh\n-with a dash\nn\n6\ntwo\nq\n", config.display());
    let mut command = host.command("kxl", ["vm"]);
    command.stdin(Stdio::from(fs::File::open(host.file("typed", &lines)).unwrap()));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("nosuch: ") && !text.contains("-x: "), "{text}");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        complaints.contains("\"nosuch\"") && !complaints.contains("unexpected"),
        "{complaints}"
    );
    assert!(text.contains("two: start on boot is YES"), "{text}{complaints}");
    assert_eq!(entry(&host, "two")["description"], "-with a dash");
    wait::eventually("nothing runs", || host.emulators().is_empty());
}
