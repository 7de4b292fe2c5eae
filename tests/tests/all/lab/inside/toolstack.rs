//! kxl itself, with Linux on its backend kvm.

use kxl_domain::State;

use crate::support::event::{record, texts};
use crate::support::guest::{Counter, built};
use crate::support::{Console, Host};

/// The test guest on the backend.
fn config(name: &str, backend: &str, words: &str) -> String {
    format!(
        "name = \"{name}\"\n{backend}type = \"pvh\"\nkernel = \"{}\"\nramdisk = \"{}\"\n\
         cmdline = \"console=ttyS0 quiet panic=-1 tick=200 {words}\"\nmemory = 160\nvcpus = 1\n",
        built("vmlinuz").unwrap().display(),
        built("initramfs.cpio.gz").unwrap().display()
    )
}

pub(in crate::lab) fn kxl_runs_linux_from_create_to_shutdown() {
    let host = Host::new();
    host.define("web", &config("web", "backend = \"kvm\"\n", "touch=32 button=off"));
    drop(host.ok(["start", "web"]));
    let mut console = Console::attach(&host, "web");
    let count = Counter::Linux.begins(&console);
    assert_eq!(host.domain("web").rests(), Some(State::Running));
    assert!(host.ok(["list"]).contains("web"));
    drop(host.ok(["pause", "web"]));
    assert_eq!(host.domain("web").rests(), Some(State::Paused));
    drop(host.ok(["unpause", "web"]));
    let count = Counter::Linux.beyond(&console, count);
    drop(host.ok(["suspend", "web"]));
    assert_eq!(host.domain("web").rests(), Some(State::Suspended));
    drop(host.ok(["image", "verify", &host.only_image()]));
    drop(host.ok(["resume", "web"]));
    drop(console);
    console = Console::attach(&host, "web");
    Counter::Linux.beyond(&console, count);
    console.skip();
    console.send("c");
    console.expect("CK OK ");
    drop(host.ok(["shutdown", "--wait", "web"]));
    host.rests("web", State::Halted);
    host.quiet();
}

pub(in crate::lab) fn auto_takes_kvm_where_linux_runs_on_it() {
    let host = Host::new();
    let shown = host.ok(["info", "--backends"]);
    assert!(shown.contains("kvm"), "{shown}");
    host.create("own", &config("own", "", "button=off"));
    let console = Console::attach(&host, "own");
    Counter::Linux.begins(&console);
    let emulator = host.emulator_of(&host.domain("own"));
    assert!(emulator.args[0].ends_with("/kxl-vmm"), "{:?}", emulator.args);
    drop(host.ok(["destroy", "own"]));
    host.gone("own");
    host.quiet();
}

pub(in crate::lab) fn linux_tells_over_its_port_how_it_stands() {
    let host = Host::new();
    let config = config("it", "backend = \"kvm\"\n", "").replace("tick=200", "tick=0");
    let config = config.replace("initramfs.cpio.gz", "telling.cpio.gz");
    let domain = host.define("it", &format!("{config}managed_start = 1\n"));
    drop(host.ok(["start", "--no-wait", "it"]));
    let mut console = Console::attach(&host, "it");
    console.enter();
    assert!(!record(&host, "it").ready);
    let tell = |console: &mut Console, words: &str| {
        let said = console.shell(&format!("kxl-event --timeout 60 {words}; echo $?"));
        assert_eq!(said.lines().last(), Some("0"), "{words}: {said}");
    };
    tell(&mut console, "progress 42 fsck");
    assert_eq!(record(&host, "it").maintenance.map(|start| start.percent), Some(42));
    tell(&mut console, "started");
    assert!(record(&host, "it").ready);
    // A viewer that stayed would keep the keyboard.
    drop(console);
    host.monitor_of(&domain).kill();
    host.kxl(["recover"]).expect(0);
    console = Console::attach(&host, "it");
    tell(&mut console, "log adopted");
    drop(console);
    drop(host.ok(["suspend", "it"]));
    drop(host.ok(["resume", "it"]));
    console = Console::attach(&host, "it");
    tell(&mut console, "alert resumed");
    assert_eq!(texts(&host, "it", "guest-log"), ["adopted"]);
    assert_eq!(texts(&host, "it", "guest-alert"), ["resumed"]);
    drop(host.ok(["destroy", "it"]));
    host.quiet();
}
