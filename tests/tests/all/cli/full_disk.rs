//! A full disk refuses starts with a reason, and keeps nobody from ending domains.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::host::COMMAND;
use crate::support::run::run;
use crate::support::skip::skip;
use crate::support::{Host, Output, guest, wait};

/// A mount namespace in which the root of a host is a small file system of its own.
pub(crate) struct Small {
    holder: Child,
}

impl Small {
    /// Makes one of 6 MiB, or says why not.
    pub(crate) fn make(root: &Path) -> Result<Self, String> {
        let mut holder = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c"])
            .arg("mount -t tmpfs -o size=6m,mode=0755 kxl-test \"$1\" && touch \"$1/mounted\" && exec sleep 600")
            .arg("sh")
            .arg(root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let seen = || {
            Path::new(&format!("/proc/{}/root", holder.id()))
                .join(root.strip_prefix("/").unwrap())
                .join("mounted")
        };
        let seen = seen();
        let mut ended = None;
        wait::eventually("the small file system is there", || {
            ended = holder.try_wait().unwrap();
            ended.is_some() || seen.exists()
        });
        match ended {
            Some(status) => {
                Err(format!("this user may not mount in a namespace of its own ({status})"))
            }
            None => Ok(Self { holder }),
        }
    }

    /// Runs a command of the host inside.
    pub(crate) fn run(&self, host: &Host, args: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-t", &self.holder.id().to_string(), "--"]);
        command.args(args);
        let path = format!("{}:{}", host.bin().display(), std::env::var("PATH").unwrap());
        command.env("PATH", path);
        host.settle_env(&mut command);
        run(&mut command, COMMAND)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

#[test]
fn on_a_full_disk_starts_are_refused_with_the_reason_and_ends_go_on() {
    let host = Host::new();
    let small = match Small::make(&host.root) {
        Ok(small) => small,
        Err(reason) => return skip("a full disk", &reason),
    };
    let kxl = |args: &[&str]| small.run(&host, &[&["kxl"], args].concat());
    let listed = |name: &str| {
        let text = kxl(&["list", "--json"]).expect(0).stdout;
        let all: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        all.into_iter().find(|domain| domain["name"] == name)
    };
    let file = |name: &str| {
        host.file(&format!("{name}.cfg"), &guest::mock(name, "tick=0")).display().to_string()
    };
    kxl(&["new", &file("kept")]).expect(0);
    kxl(&["start", "kept"]).expect(0);
    kxl(&["create", &file("asked")]).expect(0);
    kxl(&["create", &file("ended")]).expect(0);
    kxl(&["create", &file("last")]).expect(0);

    let fill = format!("cat /dev/zero > {}/fill; sync", host.root.display());
    drop(small.run(&host, &["sh", "-c", &fill]));

    let output = kxl(&["create", &file("late")]).expect(1);
    let says = output.stderr.to_lowercase();
    assert!(says.contains("space") || says.contains("full"), "{output}");
    assert!(listed("late").is_none());
    wait::eventually("nothing of the refused one is left", || {
        host.processes().iter().all(|process| !process.args.iter().any(|arg| arg == "late"))
    });
    kxl(&["pause", "kept"]).expect(0);
    kxl(&["unpause", "kept"]).expect(0);
    kxl(&["shutdown", "-ww", "asked"]).expect(0);
    kxl(&["destroy", "ended"]).expect(0);
    kxl(&["destroy", "kept"]).expect(0);
    let status = kxl(&["host", "status"]).expect(0);
    assert!(!status.stdout.contains("lock"), "{status}");
    kxl(&["host", "shutdown"]).expect(0);
    wait::eventually("every emulator has ended", || host.emulators().is_empty());

    let empty = format!("rm {}/fill", host.root.display());
    small.run(&host, &["sh", "-c", &empty]).expect(0);
    kxl(&["recover"]).expect(0);
    wait::eventually("the records are true again", || {
        listed("kept").is_some_and(|kept| kept["state"] == "halted")
            && listed("asked").is_none()
            && listed("ended").is_none()
            && listed("last").is_none()
    });
    kxl(&["create", &file("late")]).expect(0);
    kxl(&["start", "kept"]).expect(0);
    kxl(&["destroy", "late", "kept"]).expect(0);
}

#[test]
fn on_a_full_disk_commands_at_the_same_time_wait_for_each_other_and_all_answer() {
    let host = Host::new();
    let small = match Small::make(&host.root) {
        Ok(small) => small,
        Err(reason) => return skip("a full disk", &reason),
    };
    let kxl = |args: &[&str]| small.run(&host, &[&["kxl"], args].concat());
    let file = host.file("web.cfg", &guest::mock("web", "tick=0")).display().to_string();
    kxl(&["new", &file]).expect(0);
    kxl(&["start", "web"]).expect(0);
    let fill = format!("cat /dev/zero > {}/fill; sync", host.root.display());
    drop(small.run(&host, &["sh", "-c", &fill]));
    // There is no room for what lets several use a database, so each has it alone.
    for _ in 0..4 {
        let answers: Vec<_> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..8).map(|_| scope.spawn(|| kxl(&["list"]))).collect();
            asked.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for answer in answers {
            assert!(answer.expect(0).stdout.contains("web"));
        }
    }
    kxl(&["destroy", "web"]).expect(0);
}

#[test]
fn where_the_end_of_a_domain_cannot_be_written_down_it_is_not_saved() {
    let host = Host::new();
    let run = host.root.join("run");
    std::fs::create_dir_all(&run).unwrap();
    let small = match Small::make(&run) {
        Ok(small) => small,
        Err(reason) => return skip("a full runtime directory", &reason),
    };
    let kxl = |args: &[&str]| small.run(&host, &[&["kxl"], args].concat());
    let file = host.file("web.cfg", &guest::mock_with("web", "memory=4M tick=0", ""));
    kxl(&["new", &file.display().to_string()]).expect(0);
    kxl(&["start", "web"]).expect(0);
    let fill = format!("cat /dev/zero > {}/fill; sync", run.display());
    drop(small.run(&host, &["sh", "-c", &fill]));
    for verb in ["suspend", "save"] {
        let state = host.scratch().join("web.kxl").display().to_string();
        let words = [verb, "web", &state];
        let output = kxl(&words[..if verb == "save" { 3 } else { 2 }]).expect(1);
        assert!(output.stderr.contains("live.db") && output.stderr.contains("space"), "{output}");
        assert!(kxl(&["list", "web"]).expect(0).stdout.contains("running"));
        assert!(!std::path::Path::new(&state).exists());
    }
    assert_eq!(kxl(&["image", "list", "--json"]).expect(0).stdout.trim(), "[]");
    let empty = format!("rm {}/fill", run.display());
    small.run(&host, &["sh", "-c", &empty]).expect(0);
    kxl(&["suspend", "web"]).expect(0);
    kxl(&["resume", "web"]).expect(0);
    kxl(&["destroy", "web"]).expect(0);
}

/// A program that ends when the file is there.
fn until_told(name: &str, sign: &Path, lines: &str) -> String {
    format!(
        "name = \"{name}\"\nbackend = \"any\"\nexec = \"/bin/sh\"\nmemory = 8\n\
         device_model_args = [\"-c\", \"until [ -e {} ]; do sleep 0.05; done; exit 1\"]\n{lines}\n",
        sign.display()
    )
}

#[test]
fn what_ends_while_the_runtime_directory_is_full_is_started_when_there_is_room() {
    let host = Host::new();
    let run = host.root.join("run");
    std::fs::create_dir_all(&run).unwrap();
    let small = match Small::make(&run) {
        Ok(small) => small,
        Err(reason) => return skip("a full runtime directory", &reason),
    };
    let kxl = |args: &[&str]| small.run(&host, &[&["kxl"], args].concat());
    let sign = host.scratch().join("end");
    let lines = "startsecs = 0\nautorestart = \"always\"\nstartretries = 1000";
    let file = host.file("web.cfg", &until_told("web", &sign, lines));
    kxl(&["new", &file.display().to_string()]).expect(0);
    kxl(&["start", "web"]).expect(0);
    let fill = format!("cat /dev/zero > {}/fill; sync", run.display());
    drop(small.run(&host, &["sh", "-c", &fill]));
    std::fs::write(&sign, "").unwrap();
    wait::eventually("it cannot be started", || {
        let waits = kxl(&["status", "web"]).stdout.contains("BACKOFF");
        waits && kxl(&["events", "web"]).stdout.contains("start-failed")
    });
    std::fs::remove_file(&sign).unwrap();
    small.run(&host, &["rm", &format!("{}/fill", run.display())]).expect(0);
    wait::eventually("it is started", || kxl(&["status", "web"]).stdout.contains("RUNNING"));
    kxl(&["stop", "web"]).expect(0);
}

/// A host whose disk was filled while its program ran, which then was told to end.
struct Full {
    host: Host,
    small: Small,
}

impl Full {
    /// `None`, with its reason printed, where there is no small disk to be had.
    fn with_program(lines: &str) -> Option<Self> {
        let host = Host::new();
        let small = match Small::make(&host.root) {
            Ok(small) => small,
            Err(reason) => {
                skip("a full disk", &reason);
                return None;
            }
        };
        let full = Self { host, small };
        let sign = full.host.scratch().join("end");
        let file = full.host.file("web.cfg", &until_told("web", &sign, lines));
        full.kxl(&["new", &file.display().to_string()]).expect(0);
        full.kxl(&["start", "web"]).expect(0);
        drop(full.sh(&format!("cat /dev/zero > {}/fill; sync", full.host.root.display())));
        std::fs::write(&sign, "").unwrap();
        Some(full)
    }

    fn kxl(&self, args: &[&str]) -> Output {
        self.small.run(&self.host, &[&["kxl"], args].concat())
    }

    fn sh(&self, line: &str) -> Output {
        self.small.run(&self.host, &["sh", "-c", line])
    }

    fn make_room(&self) {
        self.sh(&format!("rm {}/fill", self.host.root.display())).expect(0);
    }
}

#[test]
fn an_alert_that_a_full_disk_did_not_take_is_told_when_there_is_room() {
    let lines = "startsecs = 0\nautorestart = \"always\"\nstartretries = 1";
    let Some(full) = Full::with_program(lines) else { return };
    let log = format!("{}/var/log/kxl/web.monitor.log", full.host.root.display());
    wait::eventually("every try has failed", || {
        let over = full.kxl(&["status", "web"]).stdout.contains("FATAL");
        // The log is on the full disk as well; what it has is enough where it has it.
        over || full.sh(&format!("cat {log}")).stdout.contains("what=\"fatal\"")
    });
    full.make_room();
    wait::eventually("the alert is there", || full.kxl(&["alerts"]).stdout.contains("fatal"));
    wait::eventually("its end is recorded", || {
        full.kxl(&["status", "web"]).stdout.contains("FATAL")
    });
    // Not only the alert: what led to it as well, in its order.
    wait::eventually("the other events are there", || {
        let told = full.kxl(&["events", "web"]).stdout;
        let at = |what: &str| told.find(what);
        at("start-failed").is_some_and(|first| at("fatal").is_some_and(|last| first < last))
    });
}

#[test]
fn a_stop_of_what_waits_for_its_next_try_on_a_full_disk_is_over_at_once() {
    let lines = "startsecs = 0\nautorestart = \"always\"\nstartretries = 1000\nstopwaitsecs = 600";
    let Some(full) = Full::with_program(lines) else { return };
    wait::eventually("it waits", || full.kxl(&["status", "web"]).stdout.contains("BACKOFF"));
    // Were its end waited for, the test would be at its own before.
    let stopped = full.kxl(&["stop", "web"]).expect(0);
    assert!(!stopped.stdout.contains("had not ended"), "{stopped}");
    assert!(full.kxl(&["status", "web"]).stdout.contains("STOPPED"));
    full.make_room();
    wait::eventually("its stop is told", || {
        let told = full.kxl(&["events", "web"]).stdout;
        told.contains("destroyed") || told.contains("stopped")
    });
}
