//! The host goes down at each step of a save and of a return: command, monitor and emulator die at
//! once, the runtime directory is gone, and the next command is one of another boot. What was
//! complete is there, what was not has left nothing, and no old memory comes back by itself.

use kxl_domain::{State, Verb};
use kxl_engine::steps::Step;

use super::world::World;
use crate::lifecycle::crash::{self, Kind, Victim};

/// A managed domain with a disk that its guest may write, and the host down at a step of a verb.
fn down_at(verb: Verb, step: Step) -> (World, u64, String) {
    let host = crate::support::Host::new();
    let disk = host.file("disk.img", &"disk".repeat(64 << 10));
    let lines = format!("disk = [ '{},raw,xvda,w' ]", disk.display());
    let config = crate::support::guest::mock_with("web", "memory=2M dirty=8", &lines);
    let world = World::new(host, Kind::Managed, &config);
    let case = format!("down at {} of {verb}", step.as_str());
    eprintln!("{case}");
    let count = world.up();
    match verb {
        Verb::Restore => drop(world.act(Verb::Save).expect(0)),
        Verb::Resume => drop(world.act(Verb::Suspend).expect(0)),
        _ => world.lose_monitor(),
    }
    let words = world.words(verb);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    crash::act(&world.host, &words, &case, step, Victim::Own);
    world.host.reboot();
    assert!(world.host.find("web").is_some_and(|domain| domain.domid().is_none()), "{case}");
    world.host.kxl(["recover"]).expect(0);
    assert_eq!(world.host.temporaries(), [""; 0], "{case}");
    assert_eq!(world.host.journal(), [], "{case}");
    (world, count, case)
}

/// The domain rests in `state` for `reason`, and there are so many images of it.
fn rests(world: &World, case: &str, state: State, reason: &str, images: usize) {
    let domain = world.host.domain("web");
    let stands = (domain.rests(), domain.reason(), world.host.images().len());
    assert_eq!(stands, (Some(state), Some(reason), images), "{case}");
}

/// It was lost with the host, and can be started.
fn lost(world: &World, case: &str, images: usize) {
    rests(world, case, State::Halted, "lost-at-host-reboot", images);
    world.up();
}

/// It comes back from its image, and goes on.
fn comes_back(world: &World, verb: Verb, count: u64, case: &str) {
    world.act(verb).expect(0);
    world.goes_on_from(count, case);
}

#[test]
fn a_host_that_goes_down_at_any_step_of_a_suspend_leaves_a_suspended_domain_or_no_image() {
    for step in Step::of(Verb::Suspend) {
        let (world, count, case) = down_at(Verb::Suspend, *step);
        if matches!(step, Step::Saving | Step::Streamed) {
            lost(&world, &case, 0);
        } else {
            rests(&world, &case, State::Suspended, "suspended", 1);
            comes_back(&world, Verb::Resume, count, &case);
        }
        world.clear(&case);
    }
}

#[test]
fn a_host_that_goes_down_at_any_step_of_a_save_leaves_a_whole_file_or_none() {
    for step in Step::of(Verb::Save) {
        let (world, count, case) = down_at(Verb::Save, *step);
        let file = std::path::PathBuf::from(world.file());
        if matches!(step, Step::Saving | Step::Streamed) {
            assert!(!file.exists(), "{case}");
            lost(&world, &case, 0);
        } else {
            rests(&world, &case, State::Halted, "saved", 0);
            comes_back(&world, Verb::Restore, count, &case);
        }
        world.clear(&case);
    }
}

#[test]
fn a_host_that_goes_down_at_any_step_of_a_checkpoint_leaves_a_whole_image_or_none() {
    for step in Step::of(Verb::Checkpoint) {
        let (world, _, case) = down_at(Verb::Checkpoint, *step);
        let images = usize::from(*step == Step::Committed);
        rests(&world, &case, State::Halted, "lost-at-host-reboot", images);
        if images == 1 {
            world.host.ok(["image", "verify", &world.host.only_image()]);
        }
        lost(&world, &case, images);
        world.clear(&case);
    }
}

#[test]
fn a_host_that_goes_down_at_any_step_of_a_resume_never_brings_old_memory_back_by_itself() {
    for step in Step::of(Verb::Resume) {
        let (world, count, case) = down_at(Verb::Resume, *step);
        if *step == Step::Started {
            // The guest ran on: it was lost with the host, and what it came from is an old state.
            rests(&world, &case, State::Halted, "lost-at-host-reboot", 1);
            let image = world.host.only_image();
            let refused = world.host.refused(4, &["restore", &image]);
            assert!(refused.stderr.contains("went on from this image already"), "{refused}");
            lost(&world, &case, 1);
            world.clear(&case);
            continue;
        }
        rests(&world, &case, State::Suspended, "suspended", 1);
        let spent = world.host.images()[0]["spent_ms"].is_number();
        match step {
            Step::Locked | Step::Claimed | Step::MonitorUp => assert!(!spent, "{case}"),
            // The mark is made beside the launch.
            Step::Recorded | Step::Launched => {}
            _ => assert!(spent, "{case}"),
        }
        if spent {
            let refused = world.host.refused(4, &["resume", "web"]);
            assert!(refused.stderr.contains("went on from this image already"), "{refused}");
            rests(&world, &case, State::Suspended, "suspended", 1);
            // By hand, and by somebody who says so.
            world.host.ok(["resume", "--force-disks", "web"]);
            world.goes_on_from(count, &case);
        } else {
            comes_back(&world, Verb::Resume, count, &case);
        }
        world.clear(&case);
    }
}

#[test]
fn a_host_that_goes_down_at_any_step_of_a_restore_leaves_the_file() {
    for step in Step::of(Verb::Restore) {
        let (world, count, case) = down_at(Verb::Restore, *step);
        world.host.ok(["image", "verify", &world.file()]);
        let domain = world.host.domain("web");
        let reason = if *step == Step::Started { "lost-at-host-reboot" } else { "saved" };
        assert_eq!(
            (domain.rests(), domain.reason()),
            (Some(State::Halted), Some(reason)),
            "{case}"
        );
        comes_back(&world, Verb::Restore, count, &case);
        world.clear(&case);
    }
}

#[test]
fn an_image_that_was_complete_before_the_host_went_down_is_no_outcome_of_a_later_save() {
    // Its entry in the journal has outlived the boot; the file is still there.
    let (world, count, case) = down_at(Verb::Save, Step::Committed);
    world.act(Verb::Restore).expect(0);
    let count = world.goes_on_from(count, &case);
    world.lose_monitor();
    crash::act(&world.host, &["suspend", "web"], &case, Step::Streamed, Victim::Own);
    world.host.kxl(["recover"]).expect(0);
    world.host.rests("web", State::Running);
    world.goes_on_from(count, &case);
    world.clear(&case);
}
