//! Kills, interruptions, deadlines, full disks, two at once.

use kxl_domain::State;
use nix::sys::signal::Signal;

use super::{begun, outcome};
use crate::cli::full_disk::Small;
use crate::support::skip::skip;
use crate::support::{Host, guest, wait};

/// Words of a script: a save that takes far longer than any test waits, in steps that are short.
const LASTING: &str = "passes=200 dirty=1 delay=save-pass:1000";

/// So many registered domains run, and each save of them lasts until it is let go.
fn held(host: &Host, count: usize) {
    for number in 0..count {
        let name = format!("d{number}");
        host.define(&name, &guest::mock(&name, "memory=1M hold=save"));
        host.ok(["start", &name]);
    }
}

/// Saves of the domains that live come to their end from now on.
fn let_go(host: &Host) {
    for domain in host.domains().iter().filter(|one| one.domid().is_some()) {
        host.script(domain.text("name").unwrap(), "ok=save");
    }
}

/// Waits until a domain is being saved; its name.
fn in_flight(host: &Host) -> String {
    wait::until("one is being saved", wait::SOON, || {
        let domains = host.domains();
        let one = domains.iter().find(|one| one.text("operation") == Some("suspending"))?;
        one.text("name").map(str::to_owned)
    })
}

fn suspended(host: &Host) -> usize {
    host.domains().iter().filter(|one| one.rests() == Some(State::Suspended)).count()
}

/// Every domain is an image or runs; none is lost, and none is both.
fn all_there(host: &Host, count: usize) {
    wait::eventually("what was in flight has come to its end", || {
        let rests: Vec<_> =
            host.domains().iter().filter_map(crate::support::Domain::rests).collect();
        rests.len() == count
            && rests.iter().all(|state| matches!(state, State::Running | State::Suspended))
    });
    assert_eq!(host.emulators().len() + suspended(host), count);
}

#[test]
fn a_host_save_that_is_killed_goes_on_when_it_is_given_again() {
    let host = Host::new();
    held(&host, 6);
    let running = host.begin(&["host", "save", "--jobs", "1"]);
    for _ in 0..2 {
        let name = in_flight(&host);
        host.script(&name, "ok=save");
        host.rests(&name, State::Suspended);
    }
    in_flight(&host);
    running.signal(Signal::SIGKILL);
    running.end(wait::SOON);
    let_go(&host);
    all_there(&host, 6);
    assert!(suspended(&host) < 6, "it was killed in the middle");
    let again = host.kxl(["host", "save", "--json"]).expect(0);
    assert!(begun(&again).len() < 6, "what is saved stays saved: {again}");
    assert_eq!(suspended(&host), 6);
    let back = host.kxl(["host", "restore", "--json"]).expect(0);
    assert_eq!(begun(&back).len(), 6);
    assert_eq!(host.emulators().len(), 6);
}

#[test]
fn an_interruption_lets_what_is_in_flight_end_and_a_second_one_gives_it_up() {
    for times in [1, 2] {
        let host = Host::new();
        held(&host, 4);
        if times == 2 {
            for number in 0..4 {
                host.script(&format!("d{number}"), &format!("ok=save {LASTING}"));
            }
        }
        let running = host.begin(&["host", "save", "--json", "--jobs", "1"]);
        in_flight(&host);
        // Two signals at the same moment would be one.
        (0..times).for_each(|_| running.hears(Signal::SIGINT));
        if times == 1 {
            let_go(&host);
        }
        let output = running.end(wait::SOON).expect(1);
        all_there(&host, 4);
        assert_eq!(suspended(&host), if times == 1 { 1 } else { 0 }, "{output}");
        assert_eq!(outcome(&output, "d3")["why"], "interrupted", "{output}");
        assert_eq!(outcome(&output, "d3")["attention"], true);
    }
}

#[test]
fn at_the_deadline_a_save_is_given_up_and_its_guest_runs_on() {
    let host = Host::new();
    host.define("slow", &guest::mock("slow", &format!("memory=1M {LASTING}")));
    host.define("quick", &guest::mock("quick", "memory=1M"));
    host.ok(["start", "slow", "quick"]);
    let output = host.kxl(["host", "save", "--json", "--deadline", "12s"]).expect(1);
    assert_eq!(outcome(&output, "quick")["outcome"], "saved", "{output}");
    assert_eq!(outcome(&output, "slow")["outcome"], "not-done", "{output}");
    host.rests("slow", State::Running);
}

#[test]
fn only_one_command_at_a_time_empties_a_host() {
    let host = Host::new();
    held(&host, 3);
    let first = host.begin(&["host", "save", "--jobs", "1"]);
    in_flight(&host);
    for command in [&["host", "save"][..], &["host", "restore"], &["host", "shutdown"]] {
        let refused = host.refused(4, command);
        assert!(refused.stderr.contains(&format!("pid {}", first.child.id())), "{refused}");
    }
    let_go(&host);
    first.end(wait::SOON).expect(0);
    assert_eq!(suspended(&host), 3);
}

#[test]
fn one_that_fails_to_come_back_stops_no_other_and_keeps_its_image() {
    let host = Host::new();
    host.define("bad", &guest::mock("bad", "memory=1M"));
    host.define("good", &guest::mock_with("good", "memory=1M", "after = \"bad\""));
    host.ok(["start", "bad", "good"]);
    host.kxl(["host", "save"]).expect(0);
    host.script("bad", "refuse=restore");
    let first = host.kxl(["host", "restore", "--json"]).expect(1);
    assert_eq!(outcome(&first, "good")["outcome"], "restored", "{first}");
    assert_eq!(outcome(&first, "bad")["attention"], true);
    assert_eq!(host.domain("bad").rests(), Some(State::Suspended));
    host.script("bad", "ok=restore");
    let second = host.kxl(["host", "restore", "--json"]).expect(0);
    assert_eq!(begun(&second), ["bad"]);
    assert_eq!(host.domain("bad").rests(), Some(State::Running));
}

#[test]
fn a_save_killed_with_its_monitors_leaves_every_domain_to_the_next_one() {
    let host = Host::new();
    held(&host, 4);
    let running = host.begin(&["host", "save", "--jobs", "4"]);
    in_flight(&host);
    running.signal(Signal::SIGKILL);
    for monitor in host.monitors() {
        monitor.signal(Signal::SIGKILL);
    }
    running.end(wait::SOON);
    let_go(&host);
    host.kxl(["host", "save"]).expect(0);
    assert_eq!(suspended(&host), 4);
    host.kxl(["host", "restore"]).expect(0);
    assert_eq!(host.emulators().len(), 4);
}

#[test]
fn without_room_for_images_guests_are_shut_down_and_that_can_be_undone() {
    let host = Host::new();
    let small = match Small::make(&host.root) {
        Ok(small) => small,
        Err(reason) => return skip("emptying onto a full disk", &reason),
    };
    let kxl = |args: &[&str]| small.run(&host, &[&["kxl"], args].concat());
    let file = host.file("web.cfg", &guest::mock("web", "memory=32M touched=100"));
    kxl(&["new", &file.display().to_string()]).expect(0);
    kxl(&["start", "web"]).expect(0);
    let refused = kxl(&["host", "save", "--json", "--policy", "save"]).expect(1);
    assert_eq!(outcome(&refused, "web")["attention"], true, "{refused}");
    let saved = kxl(&["host", "save", "--json"]).expect(0);
    let end = outcome(&saved, "web");
    assert_eq!(end["outcome"], "shut-down", "{saved}");
    assert!(end["planned_because"].as_str().unwrap().starts_with("its image needs "), "{saved}");
    kxl(&["host", "restore"]).expect(0);

    // Not a byte is left: an orderly end has to be possible all the same.
    let fill = format!("cat /dev/zero > {}/fill 2>/dev/null; true", host.root.display());
    small.run(&host, &["sh", "-c", &fill]);
    let ended = kxl(&["host", "shutdown", "--json"]);
    assert_eq!(outcome(&ended, "web")["outcome"], "shut-down", "{ended}");
}

#[test]
fn a_guest_that_crashes_while_its_host_is_shut_down_is_kept_and_waited_for_no_longer() {
    let host = Host::new();
    let lines = "on_crash = \"preserve\"";
    host.define("web", &guest::mock_with("web", "ignore=powerdown", lines));
    host.ok(["start", "web"]);
    let mut console = crate::support::Console::attach(&host, "web");
    console.expect("READY");
    let stopping = host.begin(&["host", "shutdown", "--json"]);
    wait::eventually("it is asked", || {
        host.events("web").iter().any(|event| event["what"] == "asked")
    });
    console.send("k");
    let ended = stopping.end(crate::support::host::COMMAND).expect(0);
    assert_eq!(outcome(&ended, "web")["outcome"], "shut-down", "{ended}");
    assert_eq!(host.domain("web").rests(), Some(State::Shutdown));
    host.ok(["destroy", "web"]);
    host.quiet();
}
