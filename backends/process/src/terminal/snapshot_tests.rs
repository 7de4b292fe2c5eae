//! States of a program that writes them and ends when a signal comes.

use kxl_backend::{Event, Pause, SaveOrder};
use kxl_domain::State;
use nix::sys::signal::Signal;

use super::kinds_tests::{Program, SIGNAL};
use super::state_tests::{Kept, order};
use super::*;
use crate::testing::{monitor, report};

/// Counts, and begins where a file says; at USR1 it writes how far it has come and ends.
const COUNTER: &str = r#"
import os, signal, sys, time
rundir, count = sys.argv[1], 0
if len(sys.argv) > 3:
    with open(sys.argv[3]) as file: count = int(file.read())
    print("goes on from", count, flush=True)
def save(*_):
    with open(rundir + "/state", "w") as file: file.write("%d\n" % count)
    os.write(1, b"STOPPED\n")
    os._exit(0)
signal.signal(signal.SIGUSR1, save)
print("up", flush=True)
while True:
    time.sleep(0.01)
    count += 1
"#;

const KEYS: &str = r#"[pause]
kind = "signal"
[save]
kind = "signal-then-exit"
signal = "USR1"
file = "{rundir}/state"
end = "\n"
timeout_ms = 20000
[restore]
kind = "signal-then-exit"
file = "{rundir}/state.in"
argv = ["{file}"]
[exit]
code = { "*" = "crash" }
[[exit.rule]]
match = "STOPPED"
means = "stopped"
"#;

fn program(script: &str) -> Option<Program> {
    Program::python(script, "", &format!("{SIGNAL}{KEYS}"))
}

#[test]
fn a_program_that_ends_when_it_is_saved_comes_back_from_what_it_wrote() {
    let Some(program) = program(COUNTER) else { return };
    monitor(async {
        let mut running = program.launched().await;
        running.console().until("up").await;
        let kept = Kept::default();
        let saved = running.live.save_state(order(), Box::new(kept.clone())).await.unwrap();
        assert!(saved.moment.running);
        let exit = running.live.destroy().await.unwrap();
        assert_eq!(exit.code, Some(0), "it has ended by itself");
        assert!(!program.path("state").exists(), "it is in the image");
        let mut spec = program.spec();
        spec.image = Some(kept.source(&saved));
        let mut back = program.launch(&spec).await.unwrap();
        assert_eq!(report(&mut back.live).await.state, State::Paused, "it waits to be let go");
        back.live.unpause().await.unwrap();
        let mut console = back.console();
        console.until("goes on from ").await;
        back.live.destroy().await.unwrap();
    });
}

#[test]
fn what_a_program_wrote_is_kept_where_the_image_cannot_be_made() {
    let Some(program) = program(COUNTER) else { return };
    monitor(async {
        let mut running = program.launched().await;
        running.console().until("up").await;
        let full = Kept::of_room(1);
        let error = running.live.save_state(order(), Box::new(full)).await.unwrap_err();
        let error = error.to_string();
        assert!(error.contains("its program has ended") && error.contains("state.kept"), "{error}");
        assert!(program.path("state.kept").is_file());
        assert_eq!(running.ended().await.code, Some(0), "and its end is told");
    });
}

#[test]
fn a_program_that_could_not_obey_or_go_on_is_not_told_to_end() {
    let Some(program) = program(COUNTER) else { return };
    monitor(async {
        let mut running = program.launched().await;
        running.console().until("up").await;
        running.live.pause().await.unwrap();
        let save = running.live.save_state(order(), Box::new(Kept::default())).await;
        assert!(save.unwrap_err().to_string().contains("unpause it first"));
        running.live.unpause().await.unwrap();
        let go_on = SaveOrder { go_on: Some(Pause(Rc::new(|_| Box::pin(async {})))), ..order() };
        let save = running.live.save_state(go_on, Box::new(Kept::default())).await;
        assert!(save.unwrap_err().to_string().contains("cannot go on"));
        assert_eq!(report(&mut running.live).await.state, State::Running);
        running.live.destroy().await.unwrap();
    });
}

#[test]
fn an_end_of_another_kind_at_that_moment_is_no_state() {
    for (part, other) in
        [("STOPPED", "HALT"), ("os._exit(0)", "os._exit(3)"), ("\"%d\\n\" % count", "\"cut\"")]
    {
        let script = COUNTER.replace(part, other);
        assert_ne!(script, COUNTER);
        let Some(program) = program(&script) else { return };
        monitor(async {
            let mut running = program.launched().await;
            running.console().until("up").await;
            let kept = Kept::default();
            running.live.save_state(order(), Box::new(kept)).await.unwrap_err();
            let exit = running.ended().await;
            assert_ne!(exit.signal, Some(Signal::SIGKILL as i32), "{other}");
        });
    }
}

#[test]
fn its_end_is_an_event_only_after_the_state_was_taken() {
    let Some(program) = program(COUNTER) else { return };
    monitor(async {
        let mut running = program.launched().await;
        running.console().until("up").await;
        running.live.save_state(order(), Box::new(Kept::default())).await.unwrap();
        let event = running.events.recv().await.unwrap();
        assert!(matches!(event, Event::Exited(_)), "{event:?}");
    });
}
