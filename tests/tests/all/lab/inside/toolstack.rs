//! kxl itself, with Linux on its backend kvm.

use kxl_domain::State;

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
