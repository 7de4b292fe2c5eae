//! kxl's units on a host that a real systemd runs, a container of tests/setup/systemd-host.

use std::path::PathBuf;
use std::process::Command;

use crate::support::guest::{self, top};
use crate::support::host::programs;
use crate::support::run;

use crate::support::skip::skip;
use crate::support::{Output, wait};

/// What the script says where a system cannot have such a container.
const CANNOT: i32 = 77;

/// What is installed, the template with a domain's name.
const UNITS: [&str; 6] = [
    "kxl-domains.service",
    "kxl-gate.service",
    "kxl-gate.socket",
    "kxl-recover.service",
    "kxl-recover.timer",
    "kxl@web.service",
];

/// The container; it is taken away again, whatever became of the test.
struct Machine(PathBuf);

impl Machine {
    fn call(&self, words: &[&str]) -> Output {
        let mut command = Command::new(top().join("tests/setup/systemd-host"));
        command.args(words).env("PLACE", &self.0).env("BUILT", programs());
        run::run(&mut command, wait::BOOT)
    }

    fn ok(&self, words: &[&str]) -> String {
        self.call(words).expect(0).stdout
    }

    /// Runs a command as a service does that is over with it.
    fn service(&self, words: &[&str]) {
        let runner = ["in", "systemd-run", "--quiet", "--collect", "-p", "Type=oneshot"];
        self.ok(&[&runner, words].concat());
    }

    fn state(&self, name: &str) -> String {
        let listed = self.ok(&["in", "kxl", "list", "--json", name]);
        let one: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let one = one.get(0).unwrap_or(&one);
        one["state"].as_str().unwrap_or_else(|| panic!("{listed}")).to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.call(&["rm"]);
    }
}

#[test]
fn under_systemd_a_domain_outlives_the_service_that_started_it_and_is_saved_with_the_host() {
    let name = format!("kxl-systemd-{}", std::process::id());
    let machine = Machine(std::env::temp_dir().join(name));
    let can = machine.call(&["can"]);
    if can.code() == Some(CANNOT) {
        return skip("a host that systemd runs", can.stdout.trim());
    }
    can.expect(0);
    machine.ok(&["up"]);
    let write = "printf %s \"$1\" >/etc/web.cfg";
    machine.ok(&["in", "sh", "-c", write, "sh", &guest::mock("web", "memory=1M")]);
    machine.ok(&["in", "kxl", "new", "/etc/web.cfg"]);
    for unit in UNITS {
        machine.ok(&["in", "systemd-analyze", "verify", unit]);
    }
    machine.ok(&["in", "systemctl", "enable", "--now", "kxl-domains.service"]);

    machine.service(&["kxl", "start", "web"]);
    assert_eq!(machine.state("web"), "running", "its service is over, and it is not");
    let scopes = machine.ok(&["in", "systemctl", "list-units", "--no-legend", "kxl-web-*.scope"]);
    assert!(scopes.contains("running"), "{scopes}");
    machine.ok(&["in", "systemctl", "daemon-reexec"]);
    machine.ok(&["install"]);
    assert_eq!(machine.state("web"), "running", "another version touches nothing");

    machine.ok(&["down"]);
    machine.ok(&["up"]);
    let events = machine.ok(&["in", "kxl", "events"]);
    assert!(events.contains("saved"), "before the host went down: {events}");
    assert!(events.contains("resumed"), "when it came up: {events}");
    assert_eq!(machine.state("web"), "running");
}
