//! `kxl wait`.

use crate::support::{Host, guest, wait};

/// A wait that has begun: it holds the monitor, or sleeps on the records.
fn begun(host: &Host, args: &[&str]) -> crate::support::run::Running {
    let running = host.begin(&[&["wait"], args].concat());
    let pid = running.child.id();
    wait::eventually("it sleeps", || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let watches = std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|mut fds| {
            fds.any(|fd| {
                let target = fd.and_then(|fd| std::fs::read_link(fd.path())).unwrap_or_default();
                target.to_string_lossy().contains("inotify")
            })
        });
        watches && (text.contains("poll") || stat.contains(") S "))
    });
    running
}

#[test]
fn a_state_that_is_there_already_is_not_waited_for() {
    let host = Host::new();
    host.define("web", &guest::mock("web", ""));
    host.ok(["wait", "web", "stopped"]);
    host.ok(["start", "web"]);
    host.ok(["wait", "web", "running"]);
    host.ok(["wait", "web", "started"]);
    host.ok(["wait", "1", "running"]);
    host.ok(["wait", "nobody", "gone"]);
    host.ok(["pause", "web"]);
    host.ok(["wait", "web", "paused", "--timeout", "60"]);
}

#[test]
fn what_does_not_come_is_given_up_and_what_does_not_exist_is_told() {
    let host = Host::new();
    host.running("web");
    let late = host.kxl(["wait", "web", "stopped", "--timeout", "1"]).expect(6);
    assert!(late.stderr.contains("domain \"web\" is not stopped after 1 s"), "{late}");
    host.refused(3, &["wait", "nobody", "running"]);
    host.refused(3, &["wait", "nobody", "stopped"]);
    host.refused(2, &["wait", "web", "happy"]);
    host.refused(6, &["wait", "nobody", "running", "--create", "--timeout", "0"]);
}

#[test]
fn a_rest_a_start_a_pause_and_an_end_are_waited_for_by_many() {
    let host = Host::new();
    host.define("web", &guest::mock("web", ""));
    let ups = [
        begun(&host, &["web", "running"]),
        begun(&host, &["web", "started"]),
        begun(&host, &["web", "running"]),
    ];
    host.ok(["start", "web"]);
    ups.into_iter().for_each(|up| drop(up.end(wait::SOON).expect(0)));
    let paused = begun(&host, &["web", "paused"]);
    let ended = begun(&host, &["web", "stopped"]);
    host.ok(["pause", "web"]);
    paused.end(wait::SOON).expect(0);
    host.ok(["destroy", "web"]);
    ended.end(wait::SOON).expect(0);
}

#[test]
fn a_domain_that_does_not_exist_yet_is_waited_for_where_that_is_asked() {
    let host = Host::new();
    let up = begun(&host, &["web", "running", "--create"]);
    host.running("web");
    up.end(wait::SOON).expect(0);
    let gone = begun(&host, &["web", "gone"]);
    let stopped = begun(&host, &["web", "stopped"]);
    let never = begun(&host, &["web", "paused"]);
    host.ok(["destroy", "web"]);
    gone.end(wait::SOON).expect(0);
    stopped.end(wait::SOON).expect(0);
    let never = never.end(wait::SOON).expect(3);
    assert!(never.stderr.contains("has ended and is gone"), "{never}");
}

#[test]
fn a_reboot_and_the_death_of_the_monitor_are_lived_through() {
    let host = Host::new();
    host.running("web");
    // By number, which the reboot changes.
    let by_number = begun(&host, &["1", "paused"]);
    let by_name = begun(&host, &["web", "paused"]);
    host.ok(["reboot", "--wait", "web"]);
    let monitor = host.monitor_of_name("web");
    monitor.kill();
    // Nobody else asks for the domain: the waits have it adopted.
    wait::eventually("it is adopted", || {
        host.monitors().iter().any(|one| one.pid() != monitor.pid())
    });
    host.ok(["pause", "web"]);
    by_number.end(wait::SOON).expect(0);
    by_name.end(wait::SOON).expect(0);
}

#[test]
fn the_end_of_monitor_and_emulator_together_is_noticed() {
    let host = Host::new();
    host.running("web");
    let domain = host.domain("web");
    let gone = begun(&host, &["web", "gone"]);
    host.emulator_of(&domain).signal(nix::sys::signal::Signal::SIGSTOP);
    host.monitor_of(&domain).kill();
    host.emulator_of(&domain).kill();
    gone.end(wait::SOON).expect(0);
}

#[test]
fn a_start_that_fails_for_good_ends_the_wait_with_the_reason() {
    let host = Host::new();
    host.define("bad", &guest::mock_with("bad", "exit=3:20", "startretries = 0\nstartsecs = 5"));
    let up = begun(&host, &["bad", "started"]);
    host.kxl(["start", "bad"]);
    let up = up.end(wait::SOON).expect(1);
    assert!(up.stderr.contains("domain \"bad\" could not be started"), "{up}");
}
