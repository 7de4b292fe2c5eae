//! Real guests go and come back.

use kxl_domain::State;

use super::{begun, outcome};
use crate::support::guest::{Counter, slot};
use crate::support::{Console, Host, guest, skip};

#[test]
fn guests_on_qemu_go_on_counting_after_a_host_save() {
    let configs = ["a", "b"].map(|name| guest::qemu("x86_64", name, "tick=50", ""));
    if configs.iter().any(|config| skip::skipped("a host save on QEMU", config)) {
        return;
    }
    let _slot = slot();
    let host = Host::new();
    let mut counts = Vec::new();
    for (name, config) in ["a", "b"].iter().zip(configs) {
        host.define(name, &config.unwrap());
        host.ok(["start", name]);
    }
    for name in ["a", "b"] {
        let console = Console::attach(&host, name);
        counts.push(Counter::Linux.begins(&console));
    }
    let saved = host.kxl(["host", "save", "--json"]).expect(0);
    assert!(host.emulators().is_empty());
    for name in ["a", "b"] {
        let end = outcome(&saved, name);
        assert_eq!(end["outcome"], "saved", "{saved}");
        // What a guest of 160 MiB that only counts has touched, and no more.
        let bytes = end["bytes"].as_u64().unwrap();
        assert!((1 << 20..160 << 20).contains(&bytes), "{saved}");
        assert_eq!(host.domain(name).rests(), Some(State::Suspended));
    }
    let back = host.kxl(["host", "restore", "--json"]).expect(0);
    assert_eq!(begun(&back), ["a", "b"]);
    for (name, count) in ["a", "b"].iter().zip(counts) {
        let console = Console::attach(&host, name);
        Counter::Linux.beyond(&console, count);
    }
}
