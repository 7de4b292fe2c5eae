//! Every step of the verbs that save a state and bring it back, with a kill -9 of the monitor, of
//! the command or of the emulator at that moment. After it either the domain runs and there is no
//! image, or the image is complete and the domain down: never neither, and never both believed.
//! Then the guest goes on, from where it was.

use kxl_domain::Verb;
use kxl_engine::steps::Step;

use super::world::{Stands, World};
use crate::lifecycle::crash::{self, Kind, VICTIMS, Victim};

use Stands::{Crashed, CrashedBeside, Image, Runs, RunsBeside};

/// The verbs of these tests.
pub(in crate::lifecycle) const VERBS: &[Verb] =
    &[Verb::Save, Verb::Suspend, Verb::Checkpoint, Verb::Restore, Verb::Resume];

/// How domain and image may stand after the fault.
fn allowed(verb: Verb, step: Step, victim: Victim) -> &'static [Stands] {
    match verb {
        Verb::Save | Verb::Suspend => after_save(step, victim),
        Verb::Checkpoint => after_checkpoint(step, victim),
        _ => after_return(verb, step, victim),
    }
}

/// The commit of the image is the point of no return.
fn after_save(step: Step, victim: Victim) -> &'static [Stands] {
    match (step, victim) {
        // A command that goes has given the save up, unless it came too late.
        (Step::Saving | Step::Streamed, Victim::Client) => &[Runs, Image],
        (Step::Saving | Step::Streamed, Victim::Own) => &[Runs],
        (Step::Saving, Victim::Emulator) => &[Crashed],
        // All of the state was out of it.
        _ => &[Image],
    }
}

fn after_checkpoint(step: Step, victim: Victim) -> &'static [Stands] {
    match (step, victim) {
        // The guest goes on before the image is committed.
        (Step::Committed, Victim::Client | Victim::Own) => &[RunsBeside],
        (_, Victim::Client) => &[Runs, RunsBeside],
        (_, Victim::Own) => &[Runs],
        (Step::Saving, Victim::Emulator) => &[Crashed],
        (_, Victim::Emulator) => &[CrashedBeside],
    }
}

/// The guest's going on is the point of no return.
fn after_return(verb: Verb, step: Step, victim: Victim) -> &'static [Stands] {
    // A file stays; the store's image goes when all of it was verified.
    let runs: &[Stands] = if verb == Verb::Restore { &[RunsBeside] } else { &[Runs] };
    match (step, victim) {
        (Step::Locked | Step::Claimed, Victim::Own | Victim::Client) => &[Image],
        (_, Victim::Client) | (Step::WentOn | Step::Started, Victim::Own) => runs,
        (_, Victim::Own) | (Step::Recorded | Step::Launched | Step::Spent, Victim::Emulator) => {
            &[Image]
        }
        (Step::WentOn | Step::Started, Victim::Emulator) => &[CrashedBeside],
        (_, Victim::Emulator) => runs,
    }
}

fn on_the_mock(verb: Verb, kind: Kind, victims: &[Victim]) {
    for step in Step::of(verb) {
        for victim in victims {
            let world = World::mock(kind, "", "");
            world.up();
            one(&world, verb, *step, *victim);
            world.clear(&case(&world, verb, *step, *victim));
        }
    }
}

fn case(world: &World, verb: Verb, step: Step, victim: Victim) -> String {
    format!("{} at {} of {verb} ({:?})", victim.word(), step.as_str(), world.kind)
}

/// One fault, and what follows from it.
fn one(world: &World, verb: Verb, step: Step, victim: Victim) {
    let case = case(world, verb, step, victim);
    eprintln!("{case}");
    let host = &world.host;
    let mut count = world.count();
    let before = host.domain("web").uuid();
    match verb {
        Verb::Restore => drop(world.act(Verb::Save).expect(0)),
        Verb::Resume => drop(world.act(Verb::Suspend).expect(0)),
        _ => world.lose_monitor(),
    }
    let words = world.words(verb);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    crash::act(host, &words, &case, step, victim);

    host.kxl(["recover"]).expect(0);
    let stands = world.comes_to(verb, allowed(verb, step, victim), &case);
    crash::alone(host, &case);
    // The first one leaves alone what the victim, not quite dead, still had locked.
    host.kxl(["recover"]).expect(0);
    host.nothing_is_left(&case);
    match stands {
        Runs | RunsBeside => {}
        Image => {
            let back = if matches!(verb, Verb::Save | Verb::Restore) {
                Verb::Restore
            } else {
                Verb::Resume
            };
            world.act(back).expect(0);
        }
        Crashed | CrashedBeside => return,
    }
    count = world.goes_on_from(count, &case);
    assert_eq!(host.domain("web").uuid(), before, "{case}");
    // And the verb itself goes as ever.
    match verb {
        Verb::Suspend | Verb::Resume => {
            world.act(Verb::Suspend).expect(0);
            world.act(Verb::Resume).expect(0);
        }
        Verb::Save | Verb::Restore => {
            drop(std::fs::remove_file(world.file()));
            world.act(Verb::Save).expect(0);
            world.act(Verb::Restore).expect(0);
        }
        _ => drop(world.act(Verb::Checkpoint).expect(0)),
    }
    world.goes_on_from(count, &case);
}

#[test]
fn a_save_cut_off_at_any_step_leaves_the_domain_or_its_image() {
    on_the_mock(Verb::Save, Kind::Managed, VICTIMS);
}

#[test]
fn a_save_of_a_transient_domain_cut_off_at_any_step_leaves_the_domain_or_its_image() {
    on_the_mock(Verb::Save, Kind::Transient, &[Victim::Own]);
}

#[test]
fn a_suspend_cut_off_at_any_step_leaves_the_domain_or_its_image() {
    on_the_mock(Verb::Suspend, Kind::Managed, VICTIMS);
}

#[test]
fn a_checkpoint_cut_off_at_any_step_leaves_the_domain_as_it_was() {
    on_the_mock(Verb::Checkpoint, Kind::Managed, VICTIMS);
}

#[test]
fn a_checkpoint_of_a_transient_domain_cut_off_at_any_step_leaves_the_domain_as_it_was() {
    on_the_mock(Verb::Checkpoint, Kind::Transient, &[Victim::Own]);
}

#[test]
fn a_restore_cut_off_at_any_step_is_finished_or_can_be_repeated() {
    on_the_mock(Verb::Restore, Kind::Managed, VICTIMS);
}

#[test]
fn a_restore_of_a_transient_domain_cut_off_at_any_step_is_finished_or_can_be_repeated() {
    on_the_mock(Verb::Restore, Kind::Transient, &[Victim::Own]);
}

#[test]
fn a_resume_cut_off_at_any_step_is_finished_or_can_be_repeated() {
    on_the_mock(Verb::Resume, Kind::Managed, VICTIMS);
}
