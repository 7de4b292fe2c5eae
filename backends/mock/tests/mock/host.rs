//! What the host sees: stopped and frozen processes, idle ones, files.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use kxl_backend::process::{RunState, Stat};
use kxl_backend::{BackendError, Event};
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
        let (_domain, mut up) = Domain::up(&["refuse=pause"]).await;
        up.live.process().signal(Signal::SIGSTOP).unwrap();
        up.live.query().await.unwrap_err();
        up.live.query().await.unwrap_err();
        up.live.process().signal(Signal::SIGCONT).unwrap();
        // The two late answers come first, and they are not refusals.
        let error = up.live.pause().await.unwrap_err();
        assert!(matches!(error, BackendError::Control { .. }), "{error}");
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
        let removed = std::fs::remove_dir(&self.dir);
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
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

/// Lets the emulator go to sleep, as it does a moment after its last answer, and asserts that
/// nothing wakes it.
pub(crate) async fn sleeps(pid: i32) {
    let mut woken = Vec::new();
    while woken.len() < 5 {
        let before = switches(pid);
        // A span in which something periodic would show.
        tokio::time::sleep(Duration::from_millis(300)).await;
        match switches(pid) - before {
            0 => return assert_eq!(Stat::read(pid).unwrap().state, RunState::Sleeping),
            times => woken.push(times),
        }
    }
    panic!("it does not sleep: it was woken {woken:?} times in 300 ms each");
}

#[test]
fn an_idle_emulator_never_wakes_up_whatever_its_guest_or_monitor_does() {
    run(async {
        let (domain, mut up) = Domain::up(&[]).await;
        up.console.expect("READY").await;
        up.report().await;
        sleeps(domain.identity().pid).await;
        up.live.pause().await.unwrap();
        up.console.type_in("unread").await;
        sleeps(domain.identity().pid).await;
        drop(up);
        sleeps(domain.identity().pid).await;
        let mut up = Up::of(domain.adopt().await.unwrap());
        up.live.unpause().await.unwrap();
        up.console.type_in("k").await;
        assert!(matches!(up.event().await, Event::Resumed));
        assert!(matches!(up.event().await, Event::GuestEnded(_)));
        sleeps(domain.identity().pid).await;
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn an_emulator_keeps_less_than_half_a_mebibyte_of_its_own() {
    run(async {
        let (domain, mut up) = Domain::up(&[]).await;
        up.report().await;
        let path = format!("/proc/{}/smaps_rollup", domain.identity().pid);
        let rollup = std::fs::read_to_string(path).unwrap();
        let line = rollup.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(kib < 512, "{kib} KiB");
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
