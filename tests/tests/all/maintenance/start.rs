//! The start of a host: what comes back, what starts, and that a second time changes nothing.

use std::fs;
use std::os::unix::fs::symlink;

use kxl_domain::State;

use super::begun;
use crate::support::host::programs;
use crate::support::run;
use crate::support::{Host, Output, guest, wait};

/// Runs the worker of the service, under its own name.
fn worker(host: &Host, boot: &str, word: &str) -> Output {
    let program = host.bin().join("kxl-domains");
    if !program.exists() {
        symlink(programs().join("kxl"), &program).unwrap();
    }
    let mut command = host.command("kxl-domains", [word]);
    run::run(command.env("KXL_BOOT_ID", boot), wait::BOOT)
}

fn put_auto(host: &Host, name: &str, text: &str) {
    let directory = host.root.join("etc/kxl/auto");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(name), text).unwrap();
}

#[test]
fn autostart_is_set_by_key_and_by_command() {
    let host = Host::new();
    host.define("a", &guest::mock_with("a", "", "autostart = 1"));
    let uuid = host.define("b", &guest::mock("b", "")).uuid();
    assert_eq!(
        host.ok(["autostart"]).split_whitespace().collect::<Vec<_>>(),
        ["a", "on", "b", "off"]
    );
    host.ok(["autostart", "a", "off"]);
    host.ok(["autostart", "b", "on"]);
    assert_eq!(host.ok(["autostart", "b"]).split_whitespace().collect::<Vec<_>>(), ["b", "on"]);
    // Registered again without the key: as it was.
    host.define("b", &guest::mock_with("b", "", &format!("uuid = \"{uuid}\"")));
    assert!(host.ok(["autostart", "--json", "b"]).contains("true"));
    host.create("t", &guest::mock("t", ""));
    host.refused(4, &["autostart", "t", "on"]);
    host.refused(3, &["autostart", "nobody"]);
}

#[test]
fn a_host_that_starts_starts_its_domains_once_and_in_order() {
    let host = Host::new();
    host.define("web", &guest::mock_with("web", "", "autostart = 1\nafter = \"file\""));
    host.define("db", &guest::mock_with("db", "", "autostart = 1\npriority = 10"));
    host.define("idle", &guest::mock("idle", ""));
    put_auto(&host, "file.cfg", &guest::mock("file", ""));
    put_auto(&host, "file.cfg.dpkg-old", &guest::mock("old", ""));
    put_auto(&host, "broken.cfg", "name = \n");

    let first = host.kxl(["host", "start", "--json"]).expect(1);
    assert!(first.stderr.contains("broken.cfg:1"), "{first}");
    assert_eq!(begun(&first), ["db", "file", "web"]);
    assert_eq!(host.domain("idle").rests(), Some(State::Halted));
    assert!(host.find("old").is_none());

    fs::remove_file(host.root.join("etc/kxl/auto/broken.cfg")).unwrap();
    host.ok(["shutdown", "--wait", "web", "file"]);
    let second = host.kxl(["host", "start", "--json"]).expect(0);
    assert!(begun(&second).is_empty(), "what a person has shut down stays down: {second}");
}

#[test]
fn after_a_reboot_the_saved_come_back_and_the_lost_that_start_with_the_host_start() {
    let host = Host::new();
    host.define("saved", &guest::mock("saved", "memory=1M"));
    host.define("lost", &guest::mock_with("lost", "", "autostart = 1"));
    host.define("gone", &guest::mock("gone", ""));
    host.ok(["start", "saved", "lost", "gone"]);
    host.create("guest", &guest::mock("guest", "memory=1M"));
    host.kxl(["host", "save", "saved", "guest"]).expect(0);
    // The power goes: monitors and emulators die, and the runtime directory with them.
    for process in host.monitors().into_iter().chain(host.emulators()) {
        process.signal(nix::sys::signal::Signal::SIGKILL);
    }
    host.quiet();
    fs::remove_dir_all(host.root.join("run/kxl")).unwrap();

    assert_eq!(worker(&host, "boot-2", "status").code(), Some(3));
    worker(&host, "boot-2", "start").expect(0);
    let listed = host.kxl_with("KXL_BOOT_ID", "boot-2", &["list", "--json"]).expect(0).stdout;
    let rests = |name: &str| {
        let all: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
        all.into_iter().find(|one| one["name"] == name).map(|one| one["state"].clone())
    };
    for (name, state) in [("saved", "running"), ("lost", "running"), ("gone", "halted")] {
        assert_eq!(rests(name), Some(state.into()), "{name}: {listed}");
    }
    assert_eq!(rests("guest"), Some("running".into()), "{listed}");
    assert_eq!(worker(&host, "boot-2", "status").code(), Some(0));
    worker(&host, "boot-2", "start").expect(0);
}

#[test]
fn the_worker_stops_as_its_settings_say() {
    let host = Host::new();
    let settings = host.root.join("etc/default/kxl-domains");
    fs::create_dir_all(settings.parent().unwrap()).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let boot = boot.trim();
    host.define("auto", &guest::mock_with("auto", "memory=1M", "autostart = 1"));
    host.define("other", &guest::mock("other", "memory=1M"));
    host.ok(["start", "other"]);

    worker(&host, boot, "start").expect(0);
    fs::write(&settings, "XENDOMAINS_AUTO_ONLY=true\nXENDOMAINS_SYSRQ=\"s\"\n").unwrap();
    let stopped = worker(&host, boot, "stop").expect(0);
    assert!(stopped.stderr.contains("XENDOMAINS_SYSRQ"), "{stopped}");
    assert_eq!(host.domain("auto").rests(), Some(State::Suspended));
    assert_eq!(host.domain("other").rests(), Some(State::Halted), "shut down with the rest");
    assert_eq!(worker(&host, boot, "status").code(), Some(1));
    worker(&host, boot, "start").expect(0);
    assert_eq!(host.domain("auto").rests(), Some(State::Running));

    fs::write(&settings, "XENDOMAINS_SAVE=\"\" # never\n").unwrap();
    worker(&host, boot, "stop").expect(0);
    assert_eq!(host.domain("auto").rests(), Some(State::Halted));

    fs::write(&settings, "XENDOMAINS_SAVE=$DIR\n").unwrap();
    let refused = worker(&host, boot, "start").expect(2);
    assert!(refused.stderr.contains("kxl-domains:1"), "{refused}");
    assert_eq!(worker(&host, boot, "dance").code(), Some(2));
}

#[test]
fn the_service_manager_hears_that_work_goes_on() {
    let host = Host::new();
    host.define("web", &guest::mock("web", "memory=1M"));
    host.ok(["start", "web"]);
    let path = host.scratch().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let mut command = host.command("kxl-domains", ["stop"]);
    run::run(command.env("NOTIFY_SOCKET", &path), wait::BOOT).expect(0);
    socket.set_nonblocking(true).unwrap();
    let mut heard = String::new();
    let mut buffer = [0u8; 512];
    while let Ok(length) = socket.recv(&mut buffer) {
        heard.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    assert!(heard.contains("EXTEND_TIMEOUT_USEC=30000000"), "{heard}");
    assert!(heard.contains("STATUS=1 domains done"), "{heard}");
}
