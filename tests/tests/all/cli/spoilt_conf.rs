//! Commands on a host whose kxl.conf somebody has just spoilt.

use std::fs;

use kxl_domain::State;
use kxl_store::Paths;
use nix::sys::signal::Signal;

use crate::support::{Host, guest, wait};

#[test]
fn a_mistake_in_kxl_conf_keeps_nobody_from_stopping_saving_and_adopting() {
    let host = Host::new();
    for name in ["web", "vax", "pdp"] {
        host.define(name, &guest::mock_with(name, "", "on_crash = \"restart\""));
        host.ok(["start", name]);
    }
    let conf = Paths::under(&host.root).conf_file();
    fs::create_dir_all(conf.parent().unwrap()).unwrap();
    fs::write(&conf, "no_such = 1\n").unwrap();
    // What makes or starts a domain would be another than was meant.
    for words in [&["start", "web"][..], &["restart", "web"], &["host", "start"]] {
        let output = host.refused(2, words);
        assert!(output.stderr.contains("no_such"), "{output}");
    }
    let output = host.kxl(["list"]).expect(0);
    assert!(output.stderr.contains("no_such") && output.stdout.contains("web"), "{output}");
    host.monitor_of(&host.domain("vax")).signal(Signal::SIGKILL);
    host.ok(["recover"]);
    // Nor is it launched again as another user than the file may name.
    host.emulator_of(&host.domain("vax")).signal(Signal::SIGKILL);
    wait::eventually("its restart is refused", || {
        host.events("vax").iter().any(|event| event["text"].as_str().unwrap().contains("no_such"))
    });
    host.ok(["stop", "web"]);
    host.ok(["host", "save", "pdp"]);
    assert_eq!(host.domain("pdp").state(), State::Suspended);
    fs::remove_file(&conf).unwrap();
    host.ok(["start", "web"]);
}
