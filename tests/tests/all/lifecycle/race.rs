//! Many commands about one name at the same moment: one wins, the others hear why they did not.

use std::time::Duration;

use kxl_domain::State;
use nix::sys::signal::Signal;

use crate::support::run::Running;
use crate::support::{Host, Output, guest, wait};

/// Starts `count` commands and then waits for all of them.
fn at_once(host: &Host, count: usize, args: &[&str]) -> Vec<Output> {
    let running: Vec<Running> = (0..count).map(|_| host.begin(args)).collect();
    running.into_iter().map(|one| one.end(Duration::from_secs(180))).collect()
}

/// Exactly one of them won; the others were refused in words that name the domain.
fn one_winner(outputs: &[Output]) {
    let (won, lost): (Vec<_>, Vec<_>) = outputs.iter().partition(|output| output.code() == Some(0));
    assert_eq!(won.len(), 1, "winners:\n{won:?}\nlosers:\n{lost:?}");
    for output in lost {
        assert!(matches!(output.code(), Some(1 | 4)), "{output}");
        assert!(output.stderr.contains("\"web\""), "{output}");
    }
}

fn creates(count: usize) {
    let host = Host::new();
    // The start takes a while, so that the others come in the middle of it.
    let file = host.file("web.cfg", &guest::mock("web", "delay=launch:300"));
    let outputs = at_once(&host, count, &["create", file.to_str().unwrap()]);
    one_winner(&outputs);
    let domain = host.rests("web", State::Running);
    assert_eq!(host.emulators().len(), 1);
    assert_eq!(host.monitors().len(), 1);
    assert_eq!(host.domains().len(), 1);
    assert_eq!(host.emulators()[0].pid(), domain.pid().unwrap());
    host.ok(["destroy", "web"]);
    host.quiet();
    // The losers have left no directory either.
    host.kxl(["recover"]).expect(0);
    assert_eq!(host.leftovers(), [""; 0]);
}

#[test]
fn of_two_creates_of_one_name_at_once_one_wins() {
    creates(2);
}

#[test]
fn of_fifty_creates_of_one_name_at_once_one_wins() {
    creates(50);
}

fn starts(count: usize) {
    let host = Host::new();
    host.define("web", &guest::mock("web", "delay=launch:300"));
    let outputs = at_once(&host, count, &["start", "web"]);
    one_winner(&outputs);
    host.rests("web", State::Running);
    assert_eq!((host.emulators().len(), host.monitors().len()), (1, 1));
}

#[test]
fn of_two_starts_of_one_domain_at_once_one_wins() {
    starts(2);
}

#[test]
fn of_fifty_starts_of_one_domain_at_once_one_wins() {
    starts(50);
}

#[test]
fn fifty_destroys_at_once_end_one_domain_and_none_of_them_hangs() {
    let host = Host::new();
    host.define("web", &guest::mock("web", ""));
    host.ok(["start", "web"]);
    let outputs = at_once(&host, 50, &["destroy", "web"]);
    assert!(outputs.iter().any(|output| output.code() == Some(0)));
    for output in outputs {
        // Late ones find it off already, or its monitor on its way out.
        assert!(matches!(output.code(), Some(0 | 1 | 4)), "{output}");
    }
    assert_eq!(host.rests("web", State::Halted).reason(), Some("destroyed"));
    host.quiet();
    let ends = host.events("web").iter().filter(|event| event["what"] == "destroyed").count();
    assert_eq!(ends, 1, "{:?}", host.events("web"));
}

#[test]
fn starts_and_destroys_in_a_heap_leave_one_process_or_none() {
    let host = Host::new();
    host.define("web", &guest::mock("web", ""));
    for _ in 0..4 {
        let words = ["start", "destroy", "pause", "start", "unpause", "destroy", "start"];
        let running: Vec<Running> = words.iter().map(|word| host.begin(&[word, "web"])).collect();
        for output in running.into_iter().map(|one| one.end(Duration::from_secs(120))) {
            assert!(matches!(output.code(), Some(0 | 1 | 4)), "{output}");
        }
        wait::eventually("it comes to rest", || host.domain("web").rests().is_some());
        wait::eventually("as many processes as domains", || {
            let live = usize::from(host.domain("web").domid().is_some());
            (host.emulators().len(), host.monitors().len()) == (live, live)
        });
    }
}

#[test]
fn many_domains_are_created_at_once_and_each_has_a_number_of_its_own() {
    let host = Host::new();
    let running: Vec<Running> = (0..20)
        .map(|index| {
            let name = format!("web{index}");
            let file = host.file(&format!("{name}.cfg"), &guest::mock(&name, "tick=0"));
            host.begin(&["create", file.to_str().unwrap()])
        })
        .collect();
    for one in running {
        one.end(Duration::from_secs(180)).expect(0);
    }
    let domains = host.domains();
    let numbers: std::collections::BTreeSet<_> = domains.iter().map(|d| d.domid()).collect();
    assert_eq!((domains.len(), numbers.len()), (20, 20));
    assert_eq!((host.emulators().len(), host.monitors().len()), (20, 20));
}

/// A create that is ended by `signal` in the middle of its wait goes on without its command.
fn goes_on_after(signal: Signal) {
    let host = Host::new();
    let file = host.file("web.cfg", &guest::mock("web", "hold=launch"));
    let mut running = host.begin(&["create", file.to_str().unwrap()]);
    wait::eventually("the emulator is there", || !host.emulators().is_empty());
    assert!(running.child.try_wait().unwrap().is_none(), "the command waits for the launch");
    running.signal(signal);
    let output = running.end(wait::SOON);
    assert_ne!(output.code(), Some(0), "{output}");
    host.script("web", "ok=launch");
    host.rests("web", State::Running);
    assert_eq!(host.emulators().len(), 1);
}

#[test]
fn a_create_that_is_interrupted_goes_on() {
    goes_on_after(Signal::SIGINT);
}

#[test]
fn a_create_that_is_killed_goes_on() {
    goes_on_after(Signal::SIGKILL);
}
