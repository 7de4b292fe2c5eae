//! What the host sees: stopped and frozen processes, idle ones, files.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kxl_backend::process::RunState;
use nix::sys::signal::Signal;

use crate::{Domain, Up, run};

#[test]
fn a_stopped_emulator_times_out_its_queries_and_is_destroyed_all_the_same() {
    run(async {
        let (domain, mut up) = Domain::up(&[]).await;
        up.live.process().signal(Signal::SIGSTOP).unwrap();
        for _ in 0..3 {
            let error = up.live.query().await.unwrap_err();
            assert!(error.is_timeout(), "{error}");
        }
        assert_eq!(domain.identity().stat().unwrap().state, RunState::Stopped);
        let exit = up.live.destroy().await.unwrap();
        assert_eq!((exit.signal, exit.meaning), (Some(9), None));
        assert!(!domain.identity().alive());
    });
}

#[test]
fn late_answers_to_given_up_questions_confuse_nobody() {
    run(async {
        let (_domain, mut up) = Domain::up(&[]).await;
        up.live.process().signal(Signal::SIGSTOP).unwrap();
        up.live.query().await.unwrap_err();
        up.live.query().await.unwrap_err();
        up.live.process().signal(Signal::SIGCONT).unwrap();
        up.live.pause().await.unwrap();
        let state = up.live.query().await.unwrap().state;
        assert_eq!(state, kxl_domain::State::Paused);
        up.live.destroy().await.unwrap();
    });
}

/// A control group of the test's own that can be frozen: v1 or v2, whichever the host has.
struct Freezer {
    dir: std::path::PathBuf,
    switch: &'static str,
    word: &'static str,
}

impl Freezer {
    /// `None` where the host has none that we may use; that is said on stderr.
    fn make() -> Option<Self> {
        let name = format!("kxl-mock-test-{}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        for (base, switch, word) in [
            (root.join("freezer"), "freezer.state", "FROZEN"),
            (root.join("unified"), "cgroup.freeze", "1"),
            (root.to_owned(), "cgroup.freeze", "1"),
        ] {
            let dir = base.join(&name);
            if base.join("cgroup.procs").exists() && std::fs::create_dir(&dir).is_ok() {
                return Some(Self { dir, switch, word });
            }
        }
        eprintln!("skipped: no control group of this host may be frozen by this user");
        None
    }

    fn freeze(&self) {
        std::fs::write(self.dir.join(self.switch), self.word).unwrap();
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.dir).unwrap();
    }
}

#[test]
fn a_frozen_emulator_is_destroyed_all_the_same() {
    let Some(freezer) = Freezer::make() else { return };
    run(async {
        let mut domain = Domain::new(&[]);
        domain.spec.cgroups.push(freezer.dir.clone());
        let mut up = Up::of(domain.launch().await.unwrap());
        freezer.freeze();
        assert!(up.live.query().await.unwrap_err().is_timeout());
        assert_eq!(up.live.destroy().await.unwrap().signal, Some(9));
        assert!(!domain.identity().alive());
    });
}

fn switches(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let numbers = status.lines().filter(|line| line.contains("ctxt_switches"));
    numbers.map(|line| line.split_whitespace().last().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn an_idle_emulator_never_wakes_up() {
    run(async {
        let (domain, mut up) = Domain::up(&[]).await;
        up.console.expect("READY").await;
        up.live.query().await.unwrap();
        let pid = domain.identity().pid;
        // It goes back to sleep a moment after its answer.
        while domain.identity().stat().unwrap().state != RunState::Sleeping {
            tokio::task::yield_now().await;
        }
        let before = switches(pid);
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert_eq!(switches(pid), before);
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn sockets_and_log_are_for_their_owner_only_and_the_emulator_holds_nothing_else() {
    run(async {
        let (domain, mut up) = Domain::up(&[]).await;
        for name in ["mock.sock", "console.sock", "emulator.log"] {
            let mode = std::fs::metadata(domain.path(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let held = std::fs::read_dir(format!("/proc/{}/fd", domain.identity().pid)).unwrap();
        // Standard three, two listeners, two connections.
        assert_eq!(held.count(), 7);
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn a_console_reader_that_does_not_keep_up_never_stops_the_emulator() {
    run(async {
        let (_domain, mut up) = Domain::up(&[]).await;
        let line = "y".repeat(4000) + "\n";
        // Far more than the sockets' buffers hold; nobody reads what comes back.
        for _ in 0..400 {
            up.console.type_in(&line).await;
        }
        up.live.pause().await.unwrap();
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn the_program_refuses_to_be_started_by_hand() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_kxl-mock"))
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not by hand"));
}
