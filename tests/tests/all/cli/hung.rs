//! One domain that hangs delays nobody else.

use nix::sys::signal::Signal;

use crate::support::{Host, guest, wait};

#[test]
fn one_stopped_emulator_among_twenty_is_told_apart_and_holds_nobody_up() {
    let host = Host::new();
    for index in 0..20 {
        let name = format!("web{index}");
        host.create(&name, &guest::mock(&name, "tick=0"));
    }
    let hung = host.emulator_of(&host.domain("web7"));
    hung.signal(Signal::SIGSTOP);
    // On a busy host 150 ms may be too few for one of the others, but not again and again.
    wait::eventually("all others answer", || {
        let domains = host.domains();
        assert_eq!(domains.len(), 20);
        let (mute, others): (Vec<_>, Vec<_>) =
            domains.iter().partition(|domain| domain.text("name") == Some("web7"));
        assert_eq!(mute[0].0["answering"], false, "{mute:?}");
        others.iter().all(|domain| domain.0["answering"] == true)
    });
    let silent = host.domain("web7");
    assert_eq!(silent.text("silent_because"), Some("its emulator is stopped by a signal"));
    wait::eventually("the list marks it alone", || {
        let text = host.ok(["list"]);
        let marked: Vec<_> = text.lines().filter(|line| line.contains("not answering")).collect();
        assert!(marked.iter().any(|line| line.starts_with("web7 ")), "{text}");
        marked.len() == 1
    });
    // xl shows the letters it knew last, and no other format.
    let table = host.xl(&["list"]).expect(0).stdout;
    assert_eq!(table.lines().count(), 22, "{table}");
    for name in ["web6", "web8"] {
        host.ok(["pause", name]);
        host.ok(["unpause", name]);
        host.ok(["destroy", name]);
    }
    // Asking the one that hangs fails by its own deadline, and ends nothing.
    let output = host.kxl(["pause", "web7"]);
    assert!(matches!(output.code(), Some(1 | 6)), "{output}");
    assert!(hung.alive());
    host.ok(["destroy", "web7"]);
    assert!(!hung.alive());
}
