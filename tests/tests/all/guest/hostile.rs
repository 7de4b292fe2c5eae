//! Guests that want to do harm: they cost little and change nothing.

use std::time::Instant;

use super::console::script;
use crate::support::event::{linux, record, resident, texts};
use crate::support::guest::slot;
use crate::support::skip::skipped;
use crate::support::{Console, Domain, Host, wait};

/// The most that a monitor may be, in KiB; without a guest that talks it is a third of that.
const LARGEST: u64 = 40 * 1024;

/// Log messages of a guest that become events at once, and room for those that come after.
const MOST: usize = 120;

/// Waits until the flood is told of, and looks at what it costs.
fn bounded(host: &Host, domain: &Domain) {
    let monitor = host.monitor_of(domain);
    wait::until("the flood is told of", wait::BOOT, || {
        assert!(resident(monitor.pid()) < LARGEST, "{} KiB", resident(monitor.pid()));
        (!texts(host, "it", "guest-suppressed").is_empty()).then_some(())
    });
    let begun = Instant::now();
    host.ok(["list"]);
    host.ok(["events", "it"]);
    assert!(begun.elapsed() < wait::SOON / 2, "commands beside a flood: {:?}", begun.elapsed());
    let kept = host.events("it").len();
    assert!(kept < MOST, "{kept} events");
    for event in host.events("it") {
        let text = event["text"].as_str().unwrap();
        assert!(!text.chars().any(char::is_control) && text.len() < 4096, "{text:?}");
        assert_eq!(event["name"], "it");
    }
    assert!(resident(monitor.pid()) < LARGEST, "{} KiB", resident(monitor.pid()));
    host.ok(["destroy", "it"]);
    host.gone("it");
    host.quiet();
}

#[test]
fn a_flood_on_a_console_costs_little() {
    let host = Host::new();
    let text = "while :; do printf '@@kxl-event id=log text=\"\\033[2Jflood\" name=dom0\\n\
                @@kxl-event id=progress percent=1\\n@@kxl-event id=started\\n'; done";
    let domain = host.create("it", &script("it", text, "guest_events = \"console\""));
    bounded(&host, &domain);
}

#[test]
fn garbage_on_a_console_costs_little() {
    let host = Host::new();
    let text = "while :; do printf '@@kxl-event '; head -c 3000 /dev/urandom; printf '\\n'; \
                printf '@@kxl-event '; head -c 100000 /dev/zero | tr '\\0' x; printf '\\r'; done";
    let domain = host.create("it", &script("it", text, "guest_events = \"console\""));
    bounded(&host, &domain);
}

#[test]
fn a_flood_on_a_port_costs_little_and_hides_no_word_about_the_start() {
    let name = "a_flood_on_a_port_costs_little_and_hides_no_word_about_the_start";
    let host = Host::new();
    let config = linux(&host, "it", "managed_start = 1");
    if skipped(name, &config) {
        return;
    }
    let _slot = slot();
    let domain = host.create("it", &config.unwrap());
    let mut console = Console::attach(&host, "it");
    console.enter();
    console.send(
        "exec 7>$(echo /dev/vport*p1); (while :; do echo id=log text=flood ref=a; \
         busybox head -c 5000 /dev/urandom; busybox head -c 5000 /dev/zero; echo; \
         echo id=alert text=flood; echo id=started; done) >&7 &\n",
    );
    wait::until("its word is heard", wait::BOOT, || record(&host, "it").ready.then_some(()));
    bounded(&host, &domain);
}
