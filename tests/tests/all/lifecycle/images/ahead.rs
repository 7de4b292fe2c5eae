//! What a guest touches first after a return is noted, and asked for at the next one.

use std::fs;
use std::path::PathBuf;

use kxl_domain::{State, Verb};

use super::world::World;
use crate::lifecycle::crash::Kind;
use crate::support::{Host, guest, skip, wait};

/// The notes that a host keeps.
fn notes(host: &Host) -> Vec<PathBuf> {
    let entries = fs::read_dir(host.root.join("var/lib/kxl/cache")).unwrap();
    let all = entries.map(|entry| entry.unwrap().path());
    let ours = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("touched-"))
    };
    all.filter(ours).collect()
}

/// Waits for the note of a return; its lines as ranges.
fn note(host: &Host) -> Vec<(u64, u64)> {
    let text = wait::until("what the guest touched is noted", wait::SOON, || {
        fs::read_to_string(notes(host).first()?)
            .ok()
            .filter(|text| text.starts_with(char::is_numeric))
    });
    let line = |line: &str| {
        let (start, end) = line.split_once(' ').unwrap();
        (start.parse().unwrap(), end.parse().unwrap())
    };
    text.lines().map(line).collect()
}

#[test]
fn on_qemu_what_a_guest_touches_after_a_return_is_noted_until_it_boots_anew() {
    let config = match guest::qemu("x86_64", "web", "tick=100 touch=24", "") {
        Ok(config) => config,
        Err(reason) => return skip::skip("notes of what a guest touches on qemu", &reason),
    };
    let _slot = guest::slot();
    let world = World::new(Host::new(), Kind::Managed, &config);
    let host = &world.host;
    let mut count = world.up();
    assert_eq!(notes(host), [""; 0].map(PathBuf::from), "nothing came back yet");

    world.act(Verb::Suspend).expect(0);
    world.act(Verb::Resume).expect(0);
    count = world.goes_on_from(count, "without a note");
    let touched = note(host);
    let bytes: u64 = touched.iter().map(|(start, end)| end - start).sum();
    assert!((1 << 20..64 << 20).contains(&bytes), "a guest's first steps: {bytes} bytes");
    assert!(touched.is_sorted() && touched.iter().all(|(start, end)| start < end), "{touched:?}");

    // Whatever the note says, the guest is the same.
    for text in ["0 65536\n", "no ranges\n", "9 8\n", "18446744073709486080 18446744073709551615\n"]
    {
        world.act(Verb::Suspend).expect(0);
        fs::write(&notes(host)[0], text).unwrap();
        world.act(Verb::Resume).expect(0);
        count = world.goes_on_from(count, text);
    }

    host.ok(["destroy", "web"]);
    host.rests("web", State::Halted);
    host.ok(["start", "web"]);
    assert_eq!(notes(host), [""; 0].map(PathBuf::from), "another boot has its kernel elsewhere");
    world.act(Verb::Suspend).expect(0);
    world.act(Verb::Resume).expect(0);
    drop(note(host));
    host.ok(["destroy", "web"]);
    host.ok(["delete", "web"]);
    assert_eq!(notes(host), [""; 0].map(PathBuf::from), "nobody comes back");
}
