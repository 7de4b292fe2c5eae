//! The port of a guest on QEMU, through everything that happens to domains and monitors.

use kxl_domain::State;

use crate::support::event::{expect, linux, linux_on, record, texts};
use crate::support::guest::slot;
use crate::support::skip::skipped;
use crate::support::{Console, Host, wait};

const MANAGED: &str = "managed_start = 1\nstartretries = 0";

/// Runs the program in the guest, where it has to end with this status.
fn told(console: &mut Console, words: &str, status: i32) {
    let said = console.shell(&format!("kxl-event --timeout 60 {words}; echo $?"));
    assert_eq!(said.lines().last(), Some(status.to_string().as_str()), "{words}: {said}");
}

#[test]
fn a_guest_tells_how_its_start_goes_and_what_is_to_be_logged() {
    let host = Host::new();
    let config = linux(&host, "it", MANAGED);
    if skipped("a_guest_tells_how_its_start_goes_and_what_is_to_be_logged", &config) {
        return;
    }
    let _slot = slot();
    host.define("it", &config.unwrap());
    host.ok(["start", "--no-wait", "it"]);
    let mut console = Console::attach(&host, "it");
    console.enter();
    assert!(!record(&host, "it").ready, "it is starting until it says that it is up");

    told(&mut console, "progress 42 fsck /data", 0);
    let maintenance = record(&host, "it").maintenance.expect("a maintenance start");
    assert_eq!((maintenance.percent, maintenance.text.as_str()), (42, "fsck /data"));
    told(&mut console, "id=progress percent=7000", 6);

    told(&mut console, "run /ok", 0);
    // The program ends when its word has had its effect.
    assert!(record(&host, "it").ready);
    told(&mut console, "started", 0);
    assert_eq!(texts(&host, "it", "running"), [""], "it is up once");

    told(&mut console, "id=log log_text=T", 0);
    told(&mut console, "id=log severity=warning text='a b' if=eth0 name=other domid=0", 0);
    told(&mut console, "alert \"$(printf 'IP \\033[31mconflict')\"", 0);
    assert_eq!(texts(&host, "it", "guest-log"), ["T", "a b if=eth0 name=other domid=0"]);
    assert_eq!(texts(&host, "it", "guest-alert"), ["IP [31mconflict"]);
    assert!(host.ok(["alerts"]).contains("IP [31mconflict"));
    assert!(host.events("it").iter().all(|event| event["name"] == "it"));

    // Two at once: each whole, none lost.
    let many = "for n in 1 2 3 4 5 6; do kxl-event --timeout 60 log one$n & done; wait";
    console.shell(many);
    let all = texts(&host, "it", "guest-log");
    (1..=6).for_each(|n| assert!(all.contains(&format!("one{n}")), "{all:?}"));
}

#[test]
fn a_guest_on_aarch64_tells_by_its_port() {
    let host = Host::new();
    let config = linux_on("aarch64", &host, "it", MANAGED);
    if skipped("a_guest_on_aarch64_tells_by_its_port", &config) {
        return;
    }
    let _slot = slot();
    host.define("it", &config.unwrap());
    host.ok(["start", "--no-wait", "it"]);
    let mut console = Console::attach(&host, "it");
    console.enter();
    told(&mut console, "progress 7 fsck", 0);
    assert_eq!(record(&host, "it").maintenance.unwrap().percent, 7);
    told(&mut console, "run /ok", 0);
    assert!(record(&host, "it").ready);
    told(&mut console, "alert 'from another machine'", 0);
    assert_eq!(texts(&host, "it", "guest-alert"), ["from another machine"]);
}

#[test]
fn a_guest_that_says_that_it_failed_has_failed_to_start_with_its_reason() {
    let host = Host::new();
    let config = linux(&host, "it", MANAGED);
    if skipped("a_guest_that_says_that_it_failed_has_failed_to_start_with_its_reason", &config) {
        return;
    }
    let _slot = slot();
    host.define("it", &config.unwrap());
    host.ok(["start", "--no-wait", "it"]);
    let mut console = Console::attach(&host, "it");
    console.enter();
    console.send("kxl-event run /fails\n");
    host.rests("it", State::Failed);
    let why = host.ok(["why", "it"]);
    assert!(why.contains("no disk: /dev/vdb"), "{why}");
}

#[test]
fn what_is_told_while_nobody_listens_waits_for_the_next_monitor() {
    let host = Host::new();
    let config = linux(&host, "it", MANAGED);
    if skipped("what_is_told_while_nobody_listens_waits_for_the_next_monitor", &config) {
        return;
    }
    let _slot = slot();
    let domain = host.define("it", &config.unwrap());
    host.ok(["start", "--no-wait", "it"]);
    let mut console = Console::attach(&host, "it");
    console.enter();
    console.shell("cat /sys/class/virtio-ports/*/name");
    // Its words come one after the other, before, during and after the change of monitors.
    console.send(
        "(n=0; while [ $n -lt 40 ]; do kxl-event --timeout 300 log w$n; n=$((n+1)); done; \
         kxl-event --timeout 300 started; kxl-event --timeout 300 log done) 2>/dev/null &\n",
    );
    expect(&host, "it", "guest-log", "w1");
    for _ in 0..3 {
        host.monitor_of(&domain).kill();
        host.kxl(["recover"]).expect(0);
    }
    expect(&host, "it", "guest-log", "done");
    let all = texts(&host, "it", "guest-log");
    for number in 0..40 {
        // Said again where the answer was lost with its monitor, and never lost.
        let count = all.iter().filter(|text| **text == format!("w{number}")).count();
        assert!((1..=4).contains(&count), "w{number}: {count} in {all:?}");
    }
    assert!(record(&host, "it").ready, "what it said of its start is known, too");
}

#[test]
fn the_port_is_there_after_a_save_a_suspend_and_a_reboot() {
    let host = Host::new();
    let config = linux(&host, "it", "guest_events = \"port\"");
    if skipped("the_port_is_there_after_a_save_a_suspend_and_a_reboot", &config) {
        return;
    }
    let _slot = slot();
    host.define("it", &config.unwrap());
    host.ok(["start", "--no-wait", "it"]);
    let mut console = Console::attach(&host, "it");
    console.enter();
    told(&mut console, "log before", 0);
    // Held open across the save, with a line half written.
    console.shell("exec 7>$(echo /dev/vport*p1); printf 'id=log text=ha' >&7");
    let image = host.scratch().join("image");
    host.ok(["save", "it", image.to_str().unwrap()]);
    host.ok(["restore", image.to_str().unwrap()]);
    let mut console = Console::attach(&host, "it");
    console.shell("exec 7>&-");
    told(&mut console, "log restored", 0);

    host.ok(["suspend", "it"]);
    host.ok(["resume", "it"]);
    let mut console = Console::attach(&host, "it");
    told(&mut console, "log resumed", 0);
    // An event, where nobody waits for a start.
    told(&mut console, "started", 0);

    let before = host.domain("it").domid();
    console.skip();
    console.send("busybox reboot -f\n");
    wait::until("it comes up again", wait::BOOT, || {
        host.find("it").filter(|now| now.domid() != before && now.rests() == Some(State::Running))
    });
    console.enter();
    told(&mut console, "log rebooted", 0);
    let all = texts(&host, "it", "guest-log");
    assert_eq!(all, ["before", "restored", "resumed", "started", "rebooted"]);
}

#[test]
fn a_guest_without_a_port_speaks_on_its_console() {
    let host = Host::new();
    let config = linux(&host, "it", "guest_events = \"console\"");
    if skipped("a_guest_without_a_port_speaks_on_its_console", &config) {
        return;
    }
    let _slot = slot();
    let domain = host.create("it", &config.unwrap());
    assert!(!host.rundir(&domain).join("guest.sock").exists(), "it was not asked for");
    let mut console = Console::attach(&host, "it");
    console.enter();
    told(&mut console, "alert 'from the console'", 0);
    expect(&host, "it", "guest-alert", "from the console");
    assert!(console.text().contains("@@kxl-event id=alert"), "what is said is shown as well");
}
