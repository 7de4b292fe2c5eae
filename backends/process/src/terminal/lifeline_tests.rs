//! Programs that close what they keep for the next monitor.

use kxl_backend::process::RunState;

use super::streams_tests::{read, shell, until, warnings};
use super::tests::{driver, launched};
use super::*;
use crate::testing::{Scratch, Typist, monitor};

/// A program that closes all it does not know and says on its terminal what it is told there.
const ECHO: &str = "exec bash -c 'exec 100>&- 101>&- 102>&- 103>&-; \
                    while read -r line; do echo \"heard $line\"; echo note $line >&2; done'";

fn is_holder(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "kxl-holder\n")
}

/// Waits until there is a holder.
async fn holder(spec: &LaunchSpec) -> Process {
    loop {
        let text = fs::read(spec.rundir.join(lifeline::HOLDER)).unwrap_or_default();
        if let Ok(identity) = serde_json::from_slice::<Identity>(&text)
            // Until then it may be waiting to be let go.
            && is_holder(identity.pid)
        {
            return Process::open(identity).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_program_that_closes_all_it_does_not_know_keeps_its_terminal_and_its_output_through_monitors() {
    monitor(async {
        let scratch = Scratch::new("lifeline");
        let spec = shell(&scratch, "stderr='DIR/err'\n", ECHO);
        let (mut live, identity, attachments) = launched(&spec, "any").await;
        let mut console = Typist::new(live.console().unwrap());
        console.send("one\r").await;
        console.until("heard one").await;
        let first = holder(&spec).await;
        for word in ["two", "three"] {
            drop((live, console));
            live = driver("any").adopt(&spec, identity.clone(), &attachments).await.unwrap();
            assert_eq!(warnings(&mut live), [""; 0], "{word}");
            console = Typist::new(live.console().unwrap());
            console.send(&format!("{word}\r")).await;
            console.until(&format!("heard {word}")).await;
            until(&scratch, "err", &format!("note {word}\n")).await;
        }
        assert_eq!(holder(&spec).await.identity(), first.identity(), "one is enough");
        assert_eq!(read(&scratch, "err"), "note one\nnote two\nnote three\n");
        assert_eq!(first.identity().stat().unwrap().state, RunState::Sleeping);
        live.destroy().await.unwrap();
        assert!(!identity.alive());
        first.gone().await.unwrap();
        while spec.rundir.join(lifeline::HOLDER).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_holder_that_is_killed_is_replaced() {
    monitor(async {
        let scratch = Scratch::new("lifeline");
        let spec = shell(&scratch, "", ECHO);
        let (mut live, identity, attachments) = launched(&spec, "any").await;
        let first = holder(&spec).await;
        first.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
        while holder(&spec).await.identity() == first.identity() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(live);
        live = driver("any").adopt(&spec, identity.clone(), &attachments).await.unwrap();
        let mut console = Typist::new(live.console().unwrap());
        console.send("one\r").await;
        console.until("heard one").await;
        live.destroy().await.unwrap();
    });
}

#[test]
fn what_only_a_child_of_the_program_has_is_taken_from_it_and_held() {
    monitor(async {
        let scratch = Scratch::new("lifeline");
        let script = format!("(while [ ! -e go ]; do sleep 0.01; done) & {ECHO}");
        let spec = shell(&scratch, "stderr='DIR/err'\n", &script);
        let (mut live, identity, attachments) = launched(&spec, "any").await;
        let mut console = Typist::new(live.console().unwrap());
        console.send("one\r").await;
        console.until("heard one").await;
        assert!(!spec.rundir.join(lifeline::HOLDER).exists(), "its child holds them");
        drop((live, console));
        live = driver("any").adopt(&spec, identity.clone(), &attachments).await.unwrap();
        assert_eq!(warnings(&mut live), [""; 0]);
        let kept = holder(&spec).await;
        fs::write(scratch.0.join("go"), "").unwrap();
        drop(live);
        live = driver("any").adopt(&spec, identity.clone(), &attachments).await.unwrap();
        console = Typist::new(live.console().unwrap());
        console.send("two\r").await;
        console.until("heard two").await;
        until(&scratch, "err", "note two\n").await;
        live.destroy().await.unwrap();
        kept.gone().await.unwrap();
    });
}

#[test]
fn what_was_closed_while_no_monitor_was_there_is_told_and_what_is_left_is_held() {
    monitor(async {
        let scratch = Scratch::new("lifeline");
        // The pipe of its errors is still the program's by its number 2.
        let script = "exec bash -c 'trap \"\" HUP; while [ ! -e go ]; do sleep 0.01; done; \
                      exec 100>&- 101>&- 102>&- 103>&-; (echo > closed); \
                      while [ ! -e more ]; do sleep 0.01; done; echo after >&2; exec sleep 1000'";
        let spec = shell(&scratch, "stderr='DIR/err'\n", script);
        let (live, identity, attachments) = launched(&spec, "any").await;
        drop(live);
        fs::write(scratch.0.join("go"), "").unwrap();
        until(&scratch, "closed", "\n").await;
        let mut live = driver("any").adopt(&spec, identity.clone(), &attachments).await.unwrap();
        assert_eq!(warnings(&mut live), ["console"]);
        let kept = holder(&spec).await;
        let held = fs::read_dir(format!("/proc/{}/fd", kept.identity().pid)).unwrap();
        assert_eq!(held.count(), 3, "the terminal, the pipe, and whose end it waits for");
        fs::write(scratch.0.join("more"), "").unwrap();
        until(&scratch, "err", "after\n").await;
        live.destroy().await.unwrap();
        kept.gone().await.unwrap();
    });
}

#[test]
fn a_program_that_closes_nothing_costs_no_second_process() {
    monitor(async {
        let scratch = Scratch::new("lifeline");
        let script = "echo ready; while [ ! -e end ]; do sleep 0.01; done";
        let spec = shell(&scratch, "", script);
        let (mut live, identity, attachments) = launched(&spec, "any").await;
        let mut console = Typist::new(live.console().unwrap());
        console.until("ready").await;
        drop((live, console));
        let mut live = driver("any").adopt(&spec, identity.clone(), &attachments).await.unwrap();
        assert_eq!(warnings(&mut live), [""; 0]);
        // A turn of the loop in which a holder would be made.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!spec.rundir.join(lifeline::HOLDER).exists());
        live.destroy().await.unwrap();
    });
}
