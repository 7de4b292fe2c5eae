//! What a command leaves behind in the processes it starts: nothing of its caller's.

use std::process::Command;

use crate::support::host::COMMAND;
use crate::support::process::Proc;
use crate::support::run::run;
use crate::support::{Host, guest};

/// Runs a line of shell with `xl` and its sisters in the path and `file` as `$1`.
fn shell(host: &Host, line: &str, file: &std::path::Path) -> crate::support::Output {
    let mut command = Command::new("sh");
    let path = format!("{}:{}", host.bin().display(), std::env::var("PATH").unwrap());
    command.args(["-c", line, "sh"]).arg(file).env("PATH", path);
    host.settle_env(&mut command);
    run(&mut command, COMMAND)
}

#[test]
fn a_script_that_captures_the_output_of_create_goes_on_while_the_domain_lives() {
    for program in ["kxl", "xl", "xm", "xen"] {
        let host = Host::new();
        let file = host.file("web.cfg", &guest::mock("web", ""));
        let line = format!("out=$({program} create \"$1\" 2>&1); echo \"status $?\"");
        let output = shell(&host, &line, &file).expect(0);
        assert_eq!(output.stdout, "status 0\n", "{output}");
        assert_eq!(host.emulators().len(), 1);
    }
}

/// Targets of the descriptors that are not standard ones, sockets and other things without a path.
fn files(process: &Proc) -> Vec<String> {
    let fds = process.fds().into_iter();
    fds.map(|(_, target)| target).filter(|target| target.starts_with('/')).collect()
}

#[test]
fn neither_monitor_nor_emulator_inherits_a_descriptor_of_the_caller() {
    let host = Host::new();
    let file = host.file("web.cfg", &guest::mock("web", ""));
    // Descriptor 7 is open in kxl and not marked to be closed.
    let line = "exec 7>\"$1.open\" 8<\"$1\"; kxl create \"$1\"";
    shell(&host, line, &file).expect(0);
    let (monitors, emulators) = (host.monitors(), host.emulators());
    assert_eq!((monitors.len(), emulators.len()), (1, 1));
    for process in monitors.iter().chain(&emulators) {
        let stray: Vec<_> = files(process)
            .into_iter()
            .filter(|target| !target.starts_with(host.root.to_str().unwrap()))
            .filter(|target| !target.starts_with("/dev/null"))
            .collect();
        assert!(stray.is_empty(), "{:?} holds {stray:?}", process.args);
    }
    for (number, target) in monitors[0].fds().iter().take(3) {
        assert_eq!(target, "/dev/null", "descriptor {number} of the monitor");
    }
    let lock = |process: &Proc| files(process).iter().any(|target| target.ends_with("/lock"));
    assert!(lock(&monitors[0]), "{:?}", monitors[0].fds());
    assert!(!lock(&emulators[0]), "{:?}", emulators[0].fds());
    let database = |target: &String| target.contains(".db");
    assert!(!files(&emulators[0]).iter().any(database), "{:?}", emulators[0].fds());
}

#[test]
fn qemu_holds_no_lock_no_database_and_no_descriptor_of_the_caller() {
    let config = match guest::qemu("x86_64", "web", "", "") {
        Ok(config) => config,
        Err(reason) => return crate::support::skip::skip("descriptors of qemu", &reason),
    };
    let _slot = guest::slot();
    let host = Host::new();
    let file = host.file("web.cfg", &config);
    shell(&host, "exec 7>\"$1.open\"; kxl create -p \"$1\"", &file).expect(0);
    let emulator = &host.emulators()[0];
    for target in files(emulator) {
        let wrong =
            target.ends_with("/lock") || target.contains(".db") || target.ends_with(".open");
        assert!(!wrong, "{target}");
    }
}

#[test]
fn a_dry_run_and_a_look_touch_nothing() {
    let host = Host::new();
    let file = host.file("web.cfg", &guest::mock("web", ""));
    let file = file.to_str().unwrap();
    let shown = host.ok(["create", "-n", file]);
    assert!(shown.contains("web"), "{shown}");
    assert!(host.ok(["new", "-n", file]).contains("web"));
    host.xl(&["create", "-n", file]).expect(0);
    host.xl(&["-N", "create", file]).expect(0);
    host.ok(["list"]);
    host.ok(["events"]);
    host.ok(["info"]);
    host.refused(3, &["pause", "web"]);
    let left: Vec<_> = std::fs::read_dir(&host.root).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_is_kept_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::new();
    host.create("web", &guest::mock("web", ""));
    let mut dirs = vec![
        host.root.join("run/kxl"),
        host.root.join("var/lib/kxl"),
        host.root.join("var/log/kxl"),
    ];
    let mut looked_at = 0;
    while let Some(dir) = dirs.pop() {
        let mode = std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", dir.display());
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                dirs.push(entry.path());
            } else if !meta.is_symlink() {
                looked_at += 1;
                let mode = meta.permissions().mode() & 0o777;
                assert_eq!(mode & 0o177, 0, "{} has mode {mode:o}", entry.path().display());
            }
        }
    }
    assert!(looked_at > 5, "only {looked_at} files");
}
