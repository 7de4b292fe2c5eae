//! Real simulators, and a shell that plays one.

use std::path::Path;

use kxl_backend::Event;
use kxl_domain::{GuestEvent, State};
use nix::sys::signal::Signal;

use super::*;
use crate::program;
use crate::testing::{Record, Scratch, Typist, monitor, next, report, rests};
use kxl_domain::config::model::GuestEvents;

pub(super) fn driver(name: &str) -> Driver {
    Driver::new(Profile::load(name, Path::new("/nonexistent")).unwrap())
}

/// The simulator's counter program, as `make guest` leaves it; says when something is missing.
pub(super) fn counter(spec: &mut LaunchSpec, machine: &str, start: &str) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest");
    let ini = root.canonicalize().unwrap_or(root).join(format!("{machine}-counter.ini"));
    if program::find(Path::new(machine)).is_none() || !ini.is_file() {
        crate::testing::skip(&format!(
            "{machine} or its counter is missing; install simh and run `make guest`"
        ));
        return false;
    }
    spec.config.machine = Some(machine.into());
    spec.config.ini = Some(ini);
    spec.config.start = Some(start.into());
    true
}

/// Both simulators, where they are installed.
pub(super) fn each(test: &impl AsyncFn(&LaunchSpec)) {
    for (machine, start) in [("pdp11", "1000"), ("vax780", "400")] {
        let scratch = Scratch::new("simh");
        let mut spec = scratch.spec();
        if counter(&mut spec, machine, start) {
            monitor(test(&spec));
        }
    }
}

pub(super) async fn launched(
    spec: &LaunchSpec,
    name: &str,
) -> (Box<dyn Live>, Identity, Attachments) {
    let mut record = Record::default();
    let live = driver(name).launch(spec, &mut record).await.unwrap();
    let (identity, attachments) = record.kept.unwrap();
    (live, identity, attachments)
}

#[test]
fn a_simulator_counts_stands_still_and_goes_on() {
    each(&async |spec| {
        let (mut live, identity, _) = launched(spec, "simh").await;
        let mut events = live.events().unwrap();
        let mut console = Typist::new(live.console().unwrap());
        console.lines(2).await;
        assert_eq!(report(&mut live).await.state, State::Running);
        live.pause().await.unwrap();
        live.pause().await.unwrap();
        assert_eq!(report(&mut live).await.state, State::Paused);
        assert_eq!(next(&mut events).await, Event::Stopped);
        rests(&identity, Duration::from_millis(300)).await;
        live.unpause().await.unwrap();
        live.unpause().await.unwrap();
        assert_eq!(next(&mut events).await, Event::Resumed);
        console.lines(2).await;
        live.destroy().await.unwrap();
        assert!(!identity.alive());
        let Event::Exited(exit) = next(&mut events).await else { panic!("the end") };
        assert_eq!((exit.meaning, exit.signal), (None, Some(Signal::SIGKILL as i32)));
    });
}

#[test]
fn a_halt_of_the_guest_is_its_end_and_outlives_the_monitor() {
    each(&async |spec| {
        let (mut live, identity, attachments) = launched(spec, "simh").await;
        let mut events = live.events().unwrap();
        let mut console = Typist::new(live.console().unwrap());
        console.lines(1).await;
        console.send("H").await;
        assert_eq!(next(&mut events).await, Event::GuestEnded(GuestEvent::Poweroff));
        console.until("sim> ").await;
        let seen = report(&mut live).await;
        assert_eq!((seen.state, seen.ended), (State::Shutdown, Some(GuestEvent::Poweroff)));
        let error = live.unpause().await.unwrap_err().to_string();
        assert!(error.contains("the guest has ended"), "{error}");
        drop((live, events, console));
        let mut live = driver("simh").adopt(spec, identity, &attachments).await.unwrap();
        assert_eq!(report(&mut live).await.ended, Some(GuestEvent::Poweroff));
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_halt_that_nobody_was_there_to_read_is_found_by_the_next_monitor() {
    each(&async |spec| {
        let (mut live, identity, attachments) = launched(spec, "simh").await;
        let mut console = Typist::new(live.console().unwrap());
        console.lines(1).await;
        let master = live.process().take_fd(attachments.pty_fd.unwrap()).unwrap();
        drop((live, console));
        nix::unistd::write(&master, b"H").unwrap();
        while !pty::cooked(&master) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(master);
        let mut live = driver("simh").adopt(spec, identity, &attachments).await.unwrap();
        let seen = report(&mut live).await;
        assert_eq!((seen.state, seen.ended), (State::Shutdown, Some(GuestEvent::Poweroff)));
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_later_monitor_takes_the_console_back() {
    each(&async |spec| {
        let (mut live, identity, attachments) = launched(spec, "simh").await;
        let mut console = Typist::new(live.console().unwrap());
        console.lines(1).await;
        drop((live, console));
        assert!(identity.alive());
        let mut live = driver("simh").adopt(spec, identity.clone(), &attachments).await.unwrap();
        assert_eq!(report(&mut live).await.state, State::Running);
        let mut console = Typist::new(live.console().unwrap());
        console.lines(2).await;
        console.send("x").await;
        console.until("x").await;
        live.destroy().await.unwrap();
        let error = driver("simh").adopt(spec, identity, &attachments).await.err().unwrap();
        assert!(matches!(error, BackendError::Exited { .. }), "{error}");
    });
}

#[test]
fn the_attention_key_stops_the_machine_without_ending_it() {
    each(&async |spec| {
        let (mut live, ..) = launched(spec, "simh").await;
        let mut events = live.events().unwrap();
        let mut console = Typist::new(live.console().unwrap());
        console.lines(1).await;
        console.send("\x05").await;
        assert_eq!(next(&mut events).await, Event::Stopped);
        console.until("sim> ").await;
        assert_eq!(report(&mut live).await.state, State::Paused);
        live.unpause().await.unwrap();
        assert_eq!(next(&mut events).await, Event::Resumed);
        console.lines(1).await;
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_machine_launched_paused_begins_when_told() {
    each(&async |spec| {
        let spec = LaunchSpec { paused: true, ..spec.clone() };
        let (mut live, identity, attachments) = launched(&spec, "simh").await;
        assert_eq!(report(&mut live).await.state, State::Paused);
        drop(live);
        let mut live = driver("simh").adopt(&spec, identity, &attachments).await.unwrap();
        assert_eq!(report(&mut live).await.state, State::Paused);
        let mut console = Typist::new(live.console().unwrap());
        live.unpause().await.unwrap();
        console.lines(2).await;
        assert_eq!(report(&mut live).await.state, State::Running);
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_simulator_that_never_runs_its_guest_is_a_failed_launch() {
    let scratch = Scratch::new("simh");
    let mut spec = scratch.spec();
    if !counter(&mut spec, "pdp11", "1000") {
        return;
    }
    spec.config.start = Some("frobnicate".into());
    monitor(async {
        let mut record = Record::default();
        let error = driver("simh").launch(&spec, &mut record).await.err().unwrap().to_string();
        assert!(error.contains("it stands at its prompt"), "{error}");
        assert!(!record.kept.unwrap().0.alive());
    });
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_made() {
    let scratch = Scratch::new("simh");
    let spec = scratch.spec();
    let refused = |change: &dyn Fn(&mut LaunchSpec)| {
        let mut spec = spec.clone();
        change(&mut spec);
        driver("simh").check(&spec).unwrap_err().to_string()
    };
    assert_eq!(refused(&|_| {}), "machine: backend \"simh\" needs it");
    let error = refused(&|spec| spec.config.machine = Some("cray".into()));
    assert_eq!(error, "cray is missing: install the package simh");
    let error = refused(&|spec| spec.config.machine = Some("../bin/sh".into()));
    assert!(error.starts_with("machine: ../bin/sh: expected a plain name"), "{error}");
    let error = refused(&|spec| spec.config.machine = Some("-x".into()));
    assert_eq!(error, "machine: the value would be read as an option");
}

/// A shell that plays an emulator: this script, in cooked mode unless it says otherwise.
fn script(scratch: &Scratch, text: &str) -> LaunchSpec {
    let mut spec = scratch.spec();
    spec.config.emulator = Some("/bin/sh".into());
    spec.config.emulator_args = vec!["-c".into(), text.into()];
    spec
}

#[test]
fn any_program_is_asked_by_signal_and_understood_by_its_status() {
    for (text, how) in [
        ("trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done", GuestEvent::Poweroff),
        ("trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done", GuestEvent::Crash),
        ("echo up; exec sleep 1000", GuestEvent::Crash),
    ] {
        let scratch = Scratch::new("any");
        let spec = script(&scratch, text);
        monitor(async {
            let (mut live, ..) = launched(&spec, "any").await;
            let mut events = live.events().unwrap();
            let mut console = Typist::new(live.console().unwrap());
            console.until("up").await;
            live.powerdown().await.unwrap();
            let Event::Exited(exit) = next(&mut events).await else { panic!("the end") };
            assert_eq!(exit.meaning, Some(how), "{}", exit.text);
            assert!(exit.text.ends_with(": up"), "{}", exit.text);
            let log = std::fs::read_to_string(&spec.emulator_log).unwrap();
            assert_eq!(log, format!("{}\n", exit.text));
            let error = live.reset().await.unwrap_err();
            assert!(matches!(error, BackendError::Unsupported { .. }), "{error}");
        });
    }
}

#[test]
fn a_guest_cannot_fake_its_own_end() {
    let scratch = Scratch::new("simh");
    // Raw, as while a guest runs: the text alone must not be believed.
    let fake = "stty raw -echo; printf '\\r\\nHALT instruction, PC: 000001 (X)\\r\\nsim> '; \
                exec sleep 1000";
    let spec = LaunchSpec { ..script(&scratch, fake) };
    let mut profile = Profile::load("simh", Path::new("/nonexistent")).unwrap();
    profile.start.argv.clear();
    monitor(async {
        let driver = Driver::new(profile);
        let mut live = driver.launch(&spec, &mut Record::default()).await.unwrap();
        let mut events = live.events().unwrap();
        let mut console = Typist::new(live.console().unwrap());
        console.until("sim> ").await;
        // Longer than the second look takes.
        tokio::time::sleep(keeper::SETTLE * 4).await;
        events.try_recv().expect_err("nothing happened");
        assert_eq!(report(&mut live).await.state, State::Running);
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_monitor_that_does_not_read_does_not_hold_the_emulator_up() {
    let scratch = Scratch::new("any");
    // Far more than socket, pty and backlog hold together.
    let spec = script(&scratch, "head -c 8000000 /dev/zero; echo; exit 0");
    monitor(async {
        let (mut live, ..) = launched(&spec, "any").await;
        let mut events = live.events().unwrap();
        let Event::Exited(exit) = next(&mut events).await else { panic!("the end") };
        assert_eq!(exit.code, Some(0));
    });
}

#[test]
fn a_program_on_a_terminal_has_a_console_for_its_guest_and_no_port() {
    let scratch = Scratch::new("any");
    let mut spec = scratch.spec();
    spec.config.emulator = Some("/bin/cat".into());
    let driver = driver("any");
    spec.config.guest_events = GuestEvents::Console;
    driver.check(&spec).unwrap();
    spec.config.guest_events = GuestEvents::Port;
    let error = driver.check(&spec).unwrap_err().to_string();
    assert!(error.contains("guest_events") && error.contains("backend any"), "{error}");
}
