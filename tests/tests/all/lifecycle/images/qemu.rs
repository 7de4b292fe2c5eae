//! The same on QEMU, with real memory: one guest goes through every step, is checked after each,
//! and never boots anew.

use kxl_domain::{State, Verb};
use kxl_engine::steps::Step;

use super::world::World;
use crate::lifecycle::crash::{self, Kind, Victim};
use crate::support::{Console, Host, guest, skip};

/// The guest's own look at every byte of the memory that it has filled.
fn whole(world: &World, case: &str) {
    let mut console = Console::attach(&world.host, "web");
    console.skip();
    console.send("c");
    console.expect("CK ");
    console.expect("\n");
    let text = console.text();
    assert!(text.contains("CK OK") && !text.contains("CK BAD"), "{case}: {text}");
}

/// One fault; the guest goes on afterwards, from `count`.
fn one(world: &World, verb: Verb, step: Step, victim: Victim, count: u64) -> u64 {
    let case = format!("{} at {} of {verb} on qemu", victim.word(), step.as_str());
    eprintln!("{case}");
    let host = &world.host;
    match verb {
        Verb::Resume => drop(world.act(Verb::Suspend).expect(0)),
        _ => world.lose_monitor(),
    }
    // What earlier faults have written of their steps is not of this one.
    drop(std::fs::remove_file(host.root.join("var/log/kxl/web.monitor.log")));
    let words = world.words(verb);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    crash::act(host, &words, &case, step, victim);
    host.kxl(["recover"]).expect(0);
    let before_commit = verb == Verb::Suspend && matches!(step, Step::Saving | Step::Streamed);
    let went_on = verb == Verb::Resume && matches!(step, Step::WentOn | Step::Started);
    let runs = victim == Victim::Own && (before_commit || went_on);
    if runs {
        host.rests("web", State::Running);
    } else {
        host.rests("web", State::Suspended);
    }
    crash::alone(host, &case);
    host.kxl(["recover"]).expect(0);
    host.nothing_is_left(&case);
    if !runs {
        let image = host.only_image();
        host.ok(["image", "verify", &image]);
        world.act(Verb::Resume).expect(0);
    }
    let count = world.goes_on_from(count, &case);
    whole(world, &case);
    count
}

#[test]
fn on_qemu_a_suspend_and_a_resume_cut_off_at_any_step_lose_nothing() {
    let config = match guest::qemu("x86_64", "web", "tick=100 touch=24", "") {
        Ok(config) => config,
        Err(reason) => return skip::skip("states cut off on qemu", &reason),
    };
    let _slot = guest::slot();
    let world = World::new(Host::new(), Kind::Managed, &config);
    let mut count = world.up();
    for step in Step::of(Verb::Suspend) {
        count = one(&world, Verb::Suspend, *step, Victim::Own, count);
    }
    for step in Step::of(Verb::Resume) {
        count = one(&world, Verb::Resume, *step, Victim::Own, count);
    }
    for (verb, step) in [
        (Verb::Suspend, Step::Streamed),
        (Verb::Suspend, Step::Committed),
        (Verb::Resume, Step::Recorded),
        (Verb::Resume, Step::Launched),
        (Verb::Resume, Step::Spent),
    ] {
        count = one(&world, verb, step, Victim::Emulator, count);
    }
    // The one death that costs the guest: a crash, with nothing left of the image.
    world.lose_monitor();
    let case = "kill-emulator at saving of suspend on qemu";
    crash::act(&world.host, &["suspend", "web"], case, Step::Saving, Victim::Emulator);
    assert_eq!(world.host.rests("web", State::Halted).reason(), Some("crash"));
    world.clear(case);
}
