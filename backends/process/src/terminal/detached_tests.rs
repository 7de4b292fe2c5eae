//! Programs that put themselves into the background.

use std::sync::{Mutex, PoisonError};

use kxl_domain::GuestEvent;
use nix::sys::signal::Signal;

use super::kinds_tests::{ECHO_ON, Program, SIGNAL, UNIX};
use super::*;
use crate::testing::monitor;

/// A monitor starts one emulator at a time, and what comes to it meanwhile is of that.
fn alone(test: impl Future<Output = ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    monitor(test);
}

/// Forks twice, as daemons do, and serves its console.
fn daemon_script() -> String {
    format!(
        "{ECHO_ON}\nserver = socket.socket(socket.AF_UNIX)\nserver.bind(sys.argv[1] + \"/line\")\n\
         print(\"leaving\", flush=True)\nif os.fork(): os._exit(0)\nos.setsid()\n\
         if os.fork(): os._exit(0)\nfor fd in range(3): os.close(fd)\nserve(server)\n"
    )
}

#[test]
fn an_emulator_in_the_background_is_found_steered_and_reaped() {
    let Some(program) = Program::python(&daemon_script(), "detach = \"self\"", UNIX) else {
        return;
    };
    alone(async {
        let mut running = program.launched().await;
        assert!(running.identity.alive(), "what is on record is the emulator itself");
        assert_eq!(running.live.process().identity(), &running.identity);
        assert_eq!(running.identity.stat().unwrap().ppid.unsigned_abs(), std::process::id());
        let mut console = running.console();
        console.until("ready").await;
        drop(console);
        let mut running = program.adopted(running).await;
        let mut console = running.console();
        console.send("q").await;
        console.until("bye").await;
        let exit = running.ended().await;
        assert_eq!((exit.code, exit.meaning), (Some(0), Some(GuestEvent::Poweroff)));
    });
}

#[test]
fn an_emulator_whose_monitor_died_before_it_was_recorded_is_found_again() {
    let Some(program) = Program::python(&daemon_script(), "detach = \"self\"", UNIX) else {
        return;
    };
    alone(async {
        let running = program.launched().await;
        let mut as_before = running.attachments.clone();
        // The record of the first process, which has ended.
        as_before.notes.insert(detached::FIRST.into(), "1 1".into());
        assert_eq!(program.driver().successor(&as_before), Some(running.identity.clone()));
        let mut of_another = as_before.clone();
        of_another.notes.insert(detached::NOTE.into(), "another".into());
        // A terminal's number is used again at once, and says nothing.
        of_another.notes.retain(|key, _| key != freezer::NOTE && key != lifeline::NOTE);
        assert!(of_another.notes.contains_key("terminal"));
        assert_eq!(program.driver().successor(&of_another), None);
        let mut running = program.adopted(running).await;
        running.live.destroy().await.unwrap();
        assert_eq!(program.driver().successor(&as_before), None);
    });
}

#[test]
fn a_program_that_does_not_go_into_the_background_is_a_start_that_failed() {
    let keys = format!(
        "{SIGNAL}[console]\nkind = \"none\"\n[ready]\nkind = \"alive\"\ntimeout_ms = 500\n"
    );
    for (script, said) in [
        ("echo licence not found; exit 1", "exit status 1: licence not found"),
        ("echo done; exit 0", "left no emulator running: done"),
        ("exec sleep 1000", "the program to put itself into the background"),
    ] {
        let program = Program::new("/bin/sh", script, "detach = \"self\"", &keys);
        alone(async {
            let error = program.launch(&program.spec()).await.err().unwrap().to_string();
            assert!(error.contains(said), "{script}: {error}");
        });
    }
    let program = Program::new("/bin/sh", "exit 0", "detach = \"self\"", &keys);
    let spec = LaunchSpec { paused: true, ..program.spec() };
    let error = program.driver().check(&spec).unwrap_err().to_string();
    assert!(error.contains("cannot be launched paused"), "{error}");
}

/// Goes into the background and executes itself with an environment of its own; `before` is what
/// the first process does then.
fn forgetful_script(before: &str) -> String {
    format!(
        "{ECHO_ON}
rundir = sys.argv[1]
if len(sys.argv) == 3 or sys.argv[3] != \"again\":
    if os.fork():
        {before}
    os.setsid()
    os.execve(\"/usr/bin/python3\",
        [\"python3\", sys.argv[0], rundir, \"0\", \"again\"], {{\"PATH\": \"/usr/bin\"}})
with open(rundir + \"/new\", \"w\") as file: file.write(str(os.getpid()))
os.rename(rundir + \"/new\", rundir + \"/pid\")
server = socket.socket(socket.AF_UNIX)
server.bind(rundir + \"/line\")
serve(server)
"
    )
}

#[test]
fn an_emulator_that_loses_its_environment_is_found_steered_and_reaped() {
    let script = forgetful_script("os._exit(0)");
    let Some(program) = Program::python(&script, "detach = \"self\"", UNIX) else { return };
    alone(async {
        let mut running = program.launched().await;
        let pid = fs::read_to_string(program.path("pid")).unwrap();
        assert_eq!(running.identity.pid.to_string(), pid);
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap();
        assert!(!String::from_utf8_lossy(&environ).contains("KXL_START"), "the entry is lost");
        let mut console = running.console();
        console.until("ready").await;
        console.send("q").await;
        console.until("bye").await;
        let exit = running.ended().await;
        assert_eq!((exit.code, exit.meaning), (Some(0), Some(GuestEvent::Poweroff)));
    });
}

#[test]
fn one_without_its_environment_is_found_again_by_its_group_or_what_it_inherits() {
    let script = forgetful_script("os._exit(0)");
    let Some(program) = Program::python(&script, "detach = \"self\"", UNIX) else { return };
    alone(async {
        let mut running = program.launched().await;
        let mut as_before = running.attachments.clone();
        as_before.notes.insert(detached::FIRST.into(), "1 1".into());
        let traces = [freezer::NOTE, lifeline::NOTE];
        let there = traces.into_iter().filter(|key| as_before.notes.contains_key(*key));
        for key in there {
            let mut only = as_before.clone();
            only.notes.retain(|other, _| *other == key || !traces.contains(&other.as_str()));
            let found = program.driver().successor(&only);
            assert_eq!(found.as_ref(), Some(&running.identity), "by its {key}");
        }
        assert!(as_before.notes.contains_key(lifeline::NOTE));
        let mut neither = as_before.clone();
        neither.notes.retain(|key, _| !traces.contains(&key.as_str()));
        assert_eq!(program.driver().successor(&neither), None, "it has lost its environment");
        running.live.destroy().await.unwrap();
        assert_eq!(program.driver().successor(&as_before), None);
    });
}

#[test]
fn a_start_that_fails_leaves_nothing_whatever_its_environment() {
    let wait = "\n        while not os.path.exists(rundir + \"/pid\"): pass\n        os._exit(3)";
    let script = forgetful_script(wait);
    let Some(program) = Program::python(&script, "detach = \"self\"", UNIX) else { return };
    alone(async {
        let error = program.launch(&program.spec()).await.err().unwrap().to_string();
        assert!(error.contains("exit status 3"), "{error}");
        let pid = fs::read_to_string(program.path("pid")).unwrap().parse().unwrap();
        let left = kxl_backend::process::Stat::read(pid);
        assert!(left.is_err(), "killed and reaped: {left:?}");
    });
}

#[test]
fn a_helper_that_a_dead_emulator_has_left_is_not_the_emulator_and_is_ended() {
    let helper = "if os.fork() == 0:\n    import time\n    time.sleep(1000)\n    os._exit(0)\n";
    let script = daemon_script().replace("for fd in", &format!("{helper}for fd in"));
    let Some(program) = Program::python(&script, "detach = \"self\"", UNIX) else { return };
    for with_monitor in [true, false] {
        alone(async {
            let mut running = program.launched().await;
            let mark = running.attachments.notes.get(detached::NOTE).unwrap().clone();
            let mut console = running.console();
            console.until("ready").await;
            let helper = left::marked(&mark);
            let helper = helper.into_iter().find(|found| *found != running.identity).unwrap();
            if with_monitor {
                running.live.process().signal(Signal::SIGKILL).unwrap();
                assert_eq!(running.ended().await.signal, Some(Signal::SIGKILL as i32));
            } else {
                let emulator = Process::open(running.identity.clone()).unwrap();
                drop((running.live, running.events));
                emulator.signal(Signal::SIGKILL).unwrap();
                emulator.gone().await.unwrap();
                assert!(helper.alive());
                assert_eq!(program.driver().successor(&running.attachments), None);
                program.driver().sweep(&program.spec(), &running.attachments);
            }
            while helper.alive() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
}
