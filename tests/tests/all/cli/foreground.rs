//! `kxl-monitor --foreground`: a monitor that a service manager starts.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use kxl_domain::State;
use nix::sys::signal::Signal;

use crate::support::host::{COMMAND, programs};
use crate::support::run::{self, Running};
use crate::support::{Host, guest, wait};

fn monitor(host: &Host, args: &[&str]) -> Running {
    let mut command = Command::new(programs().join("kxl-monitor"));
    command.arg("--foreground").args(args);
    host.settle_env(&mut command);
    run::start(&mut command)
}

fn defined(words: &str) -> Host {
    let host = Host::new();
    host.define("web", &guest::mock("web", words));
    host
}

#[test]
fn it_starts_its_domain_and_leaves_it_running_when_it_is_told_to_go() {
    let host = defined("");
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let running = monitor(&host, &["web"]);
        let web = host.rests("web", State::Running);
        wait::eventually("it attends to its domain", || host.monitors().len() == 1);
        assert!(host.ok(["list", "web"]).contains("running"));
        running.signal(signal);
        let output = running.end(COMMAND).expect(0);
        assert!(output.stderr.contains("goes on without this monitor"), "{output}");
        assert!(output.stdout.is_empty(), "{output}");
        assert!(host.monitors().is_empty());
        assert_eq!(host.domain("web").pid(), web.pid(), "taken over as it runs, and left so");
    }
    host.ok(["pause", "web"]);
    assert_eq!(host.domain("web").state(), State::Paused);
}

#[test]
fn it_takes_a_running_domain_over_from_its_monitor() {
    let host = defined("");
    host.ok(["start", "web"]);
    let (pid, before) = (host.domain("web").pid(), host.monitors()[0].pid());
    let running = monitor(&host, &["web"]);
    wait::eventually("the monitor in the background leaves", || {
        host.monitors().iter().all(|monitor| monitor.pid() != before)
    });
    host.ok(["list", "web"]);
    assert_eq!(host.domain("web").pid(), pid);
    assert_eq!(host.monitors().len(), 1);
    // A person's stop ends both.
    host.ok(["destroy", "web"]);
    running.end(COMMAND).expect(0);
}

#[test]
fn with_stop_it_ends_its_domain_asked_or_by_force() {
    let host = Host::new();
    let obeys = guest::mock("web", "");
    let stubborn = guest::mock_with("vax", "ignore=powerdown", "stopwaitsecs = 1");
    host.define("web", &obeys);
    host.define("vax", &stubborn);
    for name in ["web", "vax"] {
        let running = monitor(&host, &["--stop", name]);
        host.rests(name, State::Running);
        wait::eventually("it attends to its domain", || host.monitors().len() == 1);
        host.ok(["list", name]);
        running.signal(Signal::SIGTERM);
        let output = running.end(COMMAND).expect(0);
        // Whether it was asked or forced is what its end was, however long a loaded host took.
        let reason = if name == "vax" { "Some(Destroyed)" } else { "Some(Poweroff)" };
        assert!(output.stderr.contains(reason), "{output}");
        assert_eq!(host.domain(name).state(), State::Halted);
    }
    assert!(host.emulators().is_empty());
}

#[test]
fn its_status_tells_what_became_of_the_domain() {
    let host = defined("");
    // The emulator dies, and nothing follows.
    let running = monitor(&host, &["web"]);
    host.rests("web", State::Running);
    host.emulator_of(&host.domain("web")).signal(Signal::SIGKILL);
    let output = running.end(COMMAND);
    assert_ne!(output.code(), Some(0), "{output}");
    // It could not be started.
    host.script("web", "refuse=launch");
    let output = monitor(&host, &["web"]).end(COMMAND);
    assert_ne!(output.code(), Some(0), "{output}");
    assert!(output.stderr.contains("not up"), "{output}");
    monitor(&host, &["nobody"]).end(COMMAND).expect(3);
    monitor(&host, &[]).end(COMMAND).expect(2);
}

#[test]
fn a_service_manager_hears_when_the_domain_is_up_and_how_long_its_stop_may_take() {
    let host = Host::new();
    host.define("vax", &guest::mock_with("vax", "", "stopwaitsecs = 8000"));
    let path = host.scratch().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(wait::BOOT)).unwrap();
    let heard = || {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let mut command = Command::new(programs().join("kxl-monitor"));
    command.args(["--foreground", "--stop", "vax"]);
    host.settle_env(&mut command);
    let running = run::start(command.env("NOTIFY_SOCKET", &path));
    assert_eq!(heard().trim(), "READY=1");
    running.signal(Signal::SIGTERM);
    let stopping = heard();
    assert!(stopping.contains("STOPPING=1"), "{stopping}");
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC=8060000000"), "{stopping}");
    running.end(COMMAND).expect(0);
}
