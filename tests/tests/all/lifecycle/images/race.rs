//! Two commands about one domain or one image at the same moment: one wins, the other hears why it
//! did not, and what is left is what the winner made.

use std::path::Path;
use std::time::Duration;

use kxl_domain::{State, Verb};

use super::world::World;
use crate::lifecycle::crash::Kind;
use crate::support::run::Running;
use crate::support::{Host, Output, guest, wait};

/// Longest time for a command that races others.
const RACE: Duration = Duration::from_secs(180);

fn ends(one: Running) -> Output {
    one.end(RACE)
}

/// Starts the first command, which the script holds at a step, and the second one when the domain
/// is seen in the middle of it. When that has ended, the first one goes on.
fn in_the_middle(host: &Host, first: &[&str], op: &str, second: &[&str]) -> (Output, Output) {
    let first = host.begin(first);
    wait::eventually(&format!("web is {op}"), || {
        host.find("web").is_some_and(|domain| domain.text("operation") == Some(op))
    });
    let second = host.kxl(second);
    if host.find("web").is_some_and(|domain| domain.text("operation") == Some(op)) {
        host.script("web", "ok=save-stop ok=restore");
    }
    (ends(first), second)
}

/// It failed because the domain was busy, and says so.
fn busy(output: &Output, op: &str) {
    assert_eq!(output.code(), Some(4), "{output}");
    assert!(output.stderr.contains("\"web\"") && output.stderr.contains(op), "{output}");
}

fn held_in_its_save(kind: Kind) -> (World, u64) {
    let world = World::mock(kind, "hold=save-stop", "");
    let count = world.up();
    (world, count)
}

#[test]
fn of_two_saves_at_once_one_wins() {
    let (world, count) = held_in_its_save(Kind::Transient);
    let other = world.host.scratch().join("other.img");
    let file = world.file();
    let second = ["save", "web", other.to_str().unwrap()];
    let (won, lost) = in_the_middle(&world.host, &["save", "web", &file], "saving", &second);
    won.expect(0);
    busy(&lost, "saving");
    assert!(!other.exists());
    world.act(Verb::Restore).expect(0);
    world.goes_on_from(count, "two saves");
    world.clear("two saves");
}

#[test]
fn of_two_domains_saved_to_one_file_at_once_one_goes_on() {
    let host = Host::new();
    let file = host.scratch().join("both.img").display().to_string();
    for name in ["web", "mail"] {
        host.create(name, &guest::mock(name, "memory=2M delay=save-stop:1000"));
    }
    let (web, mail) = (host.begin(&["save", "web", &file]), host.begin(&["save", "mail", &file]));
    let outputs = [("web", ends(web)), ("mail", ends(mail))];
    let (won, lost): (Vec<_>, Vec<_>) = outputs.iter().partition(|(_, o)| o.code() == Some(0));
    assert_eq!(won.len(), 1, "{outputs:?}");
    let (loser, output) = lost[0];
    assert!(output.stderr.contains("both.img"), "{output}");
    host.rests(loser, State::Running);
    host.gone(won[0].0);
    host.ok(["restore", &file]);
    host.rests(won[0].0, State::Running);
    host.nothing_is_left("both at once");
}

#[test]
fn a_destroy_in_the_middle_of_a_save_leaves_no_image() {
    let (world, _) = held_in_its_save(Kind::Managed);
    let file = world.file();
    let (save, destroy) =
        in_the_middle(&world.host, &["save", "web", &file], "saving", &["destroy", "web"]);
    destroy.expect(0);
    // As a save that comes now: the domain is halted, and the command knows why.
    assert_eq!(save.code(), Some(4), "{save}");
    assert!(save.stderr.contains("domain \"web\": it was destroyed meanwhile"), "{save}");
    assert!(!Path::new(&file).exists());
    assert_eq!(world.host.rests("web", State::Halted).reason(), Some("destroyed"));
    world.clear("destroyed");
}

#[test]
fn a_save_of_a_transient_domain_that_is_destroyed_meanwhile_tells_of_no_domain_any_more() {
    let (world, _) = held_in_its_save(Kind::Transient);
    let file = world.file();
    let (save, destroy) =
        in_the_middle(&world.host, &["save", "web", &file], "saving", &["destroy", "web"]);
    destroy.expect(0);
    assert_eq!(save.code(), Some(3), "{save}");
    assert!(save.stderr.contains("it was destroyed meanwhile"), "{save}");
    world.clear("destroyed");
}

#[test]
fn a_shutdown_in_the_middle_of_a_suspend_is_refused() {
    let (world, count) = held_in_its_save(Kind::Managed);
    let (suspend, shutdown) =
        in_the_middle(&world.host, &["suspend", "web"], "suspending", &["shutdown", "web"]);
    suspend.expect(0);
    busy(&shutdown, "suspending");
    world.host.rests("web", State::Suspended);
    world.act(Verb::Resume).expect(0);
    world.goes_on_from(count, "shutdown");
    world.clear("shutdown");
}

#[test]
fn a_resume_in_the_middle_of_a_suspend_is_refused() {
    let (world, count) = held_in_its_save(Kind::Managed);
    let (suspend, resume) =
        in_the_middle(&world.host, &["suspend", "web"], "suspending", &["resume", "web"]);
    suspend.expect(0);
    busy(&resume, "suspending");
    world.host.rests("web", State::Suspended);
    world.act(Verb::Resume).expect(0);
    world.goes_on_from(count, "resume");
    world.clear("resume");
}

fn held_in_its_return(verb: Verb) -> (World, u64) {
    let world = World::mock(Kind::Managed, "hold=restore", "");
    let count = world.up();
    world.act(verb).expect(0);
    (world, count)
}

/// One emulator, one monitor, one guest.
fn one_runs(world: &World, count: u64) {
    world.host.rests("web", State::Running);
    assert_eq!((world.host.emulators().len(), world.host.monitors().len()), (1, 1));
    world.goes_on_from(count, "once");
}

#[test]
fn of_two_resumes_at_once_one_wins() {
    let (world, count) = held_in_its_return(Verb::Suspend);
    let (won, lost) =
        in_the_middle(&world.host, &["resume", "web"], "resuming", &["resume", "web"]);
    won.expect(0);
    busy(&lost, "resuming");
    one_runs(&world, count);
    world.clear("two resumes");
}

#[test]
fn of_two_restores_of_one_file_at_once_one_wins() {
    let (world, count) = held_in_its_return(Verb::Save);
    let file = world.file();
    let (won, lost) =
        in_the_middle(&world.host, &["restore", &file], "restoring", &["restore", &file]);
    won.expect(0);
    busy(&lost, "restoring");
    one_runs(&world, count);
    let again = world.host.refused(4, &["restore", &file]);
    assert!(again.stderr.contains("running"), "{again}");
    world.clear("two restores");
}

#[test]
fn an_image_is_not_removed_while_its_domain_comes_back() {
    let (world, count) = held_in_its_return(Verb::Suspend);
    let id = world.host.only_image();
    let (won, lost) =
        in_the_middle(&world.host, &["resume", "web"], "resuming", &["image", "rm", "web", &id]);
    won.expect(0);
    busy(&lost, "resuming");
    assert!(lost.stderr.contains(&id), "{lost}");
    one_runs(&world, count);
    world.clear("removed");
}

#[test]
fn a_state_is_not_thrown_away_with_its_domain_while_that_comes_back() {
    let (world, count) = held_in_its_return(Verb::Suspend);
    let delete = ["delete", "--with-image", "web"];
    let (won, lost) = in_the_middle(&world.host, &["resume", "web"], "resuming", &delete);
    won.expect(0);
    busy(&lost, "resuming");
    assert!(
        lost.stderr.contains("cannot throw the state") && !lost.stderr.contains("cannot resume")
    );
    one_runs(&world, count);
    world.clear("deleted");
}

#[test]
fn a_start_and_a_delete_of_a_suspended_domain_are_refused() {
    let world = World::mock(Kind::Managed, "", "");
    let count = world.up();
    world.act(Verb::Suspend).expect(0);
    for verb in ["start", "delete"] {
        let refused = world.host.refused(4, &[verb, "web"]);
        assert!(refused.stderr.contains("suspended"), "{refused}");
    }
    world.act(Verb::Resume).expect(0);
    world.goes_on_from(count, "refused");
    world.clear("refused");
}

/// The image is complete, and the emulator did not end when it was told to.
fn ends_late(verb: Verb, back: Verb, state: State, reason: &str) {
    let world = World::mock(Kind::Managed, "refuse=destroy", "on_crash = \"restart\"\n");
    let count = world.up();
    let emulator = world.host.emulator_of(&world.host.domain("web"));
    let output = world.act(verb);
    assert_ne!(output.code(), Some(0), "{output}");
    assert!(output.stderr.contains("the image is complete"), "{output}");
    emulator.kill();
    let after = world.host.rests("web", state);
    assert_eq!(after.reason(), Some(reason), "{verb}: nothing has crashed");
    world.act(back).expect(0);
    world.goes_on_from(count, "an emulator that ended late");
    world.host.script("web", "ok=destroy");
    world.clear("an emulator that ended late");
}

#[test]
fn an_emulator_that_ends_late_leaves_the_image_and_no_crash() {
    ends_late(Verb::Save, Verb::Restore, State::Halted, "saved");
    ends_late(Verb::Suspend, Verb::Resume, State::Suspended, "suspended");
}
