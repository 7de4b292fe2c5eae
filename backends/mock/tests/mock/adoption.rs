//! What a later monitor finds.

use std::os::unix::process::ExitStatusExt;

use kxl_backend::{BackendError, Event};
use kxl_domain::{GuestEvent, State};
use nix::sys::signal::Signal;

use crate::{Domain, Up, run};

/// Tells the first of two monitors where to launch.
const RUNDIR: &str = "KXL_MOCK_TEST_RUNDIR";

#[test]
#[ignore = "the monitor that is killed in the test below, in a process of its own"]
fn a_monitor_that_is_killed() {
    run(async {
        let dir = std::env::var_os(RUNDIR).expect("started by the test below");
        let mut domain = Domain::within(dir.into(), 1, &[]);
        let _live = domain.launch().await.unwrap();
        let recorded = serde_json::to_vec(&domain.recorded).unwrap();
        std::fs::write(domain.path("recorded"), recorded).unwrap();
        nix::sys::signal::kill(nix::unistd::getpid(), Signal::SIGKILL).unwrap();
    });
}

/// A domain whose monitor was killed: its emulator is no child of ours.
fn orphan() -> Domain {
    let mut domain = Domain::new(&[]);
    let monitor = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["adoption::a_monitor_that_is_killed", "--exact", "--ignored"])
        .env(RUNDIR, &domain.spec.rundir)
        .output()
        .unwrap();
    assert_eq!(monitor.status.signal(), Some(9), "{monitor:?}");
    let recorded = std::fs::read(domain.path("recorded")).unwrap();
    domain.recorded = serde_json::from_slice(&recorded).unwrap();
    domain
}

#[test]
fn the_domain_of_a_killed_monitor_lives_on_and_can_be_adopted_and_destroyed() {
    run(async {
        let domain = orphan();
        let parent = domain.identity().stat().expect("it lives").ppid;
        assert_ne!(u32::try_from(parent).unwrap(), std::process::id());
        let mut up = Up::of(domain.adopt().await.unwrap());
        up.console.type_in("still here\n").await;
        up.console.expect("still here").await;
        // Three seconds are its own limit, whoever has to reap the process.
        let exit = up.live.destroy().await.unwrap();
        assert_eq!(exit.meaning, None);
        assert!(!domain.identity().alive());
    });
}

#[test]
fn the_death_of_an_adopted_emulator_is_a_crash_even_where_nobody_can_tell_how() {
    run(async {
        let domain = orphan();
        let mut up = Up::of(domain.adopt().await.unwrap());
        up.console.type_in("x 7\n").await;
        let Event::Exited(exit) = up.event().await else { panic!("not the last event") };
        assert!(matches!(exit.code, Some(7) | None), "{exit:?}");
        assert_eq!(exit.meaning, Some(GuestEvent::Crash));
    });
}

#[test]
fn a_domain_outlives_its_handle_and_is_taken_up_where_it_stands() {
    run(async {
        let (domain, mut up) = Domain::up(&["tick=10"]).await;
        up.console.expect("C 3 ").await;
        drop(up);
        let mut up = Up::of(domain.adopt().await.unwrap());
        let text = up.console.expect("C 9").await;
        assert!(!text.contains("READY") && !text.contains("C 1 "), "{text:?}");
        assert_eq!(up.report().await.state, State::Running);
        up.live.pause().await.unwrap();
        assert_eq!(up.event().await, Event::Stopped);
        drop(up);
        let mut up = Up::of(domain.adopt().await.unwrap());
        assert_eq!(up.report().await.state, State::Paused);
        assert_eq!(up.report().await.memory_mib, Some(96));
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn how_a_guest_ended_meanwhile_is_told_to_the_next_monitor() {
    run(async {
        let (domain, up) = Domain::up(&["end=reboot:30"]).await;
        drop(up);
        // The guest's own 30 ms; nobody is there to be told.
        tokio::time::sleep(std::time::Duration::from_millis(60)).await;
        let mut up = Up::of(domain.adopt().await.unwrap());
        assert_eq!(up.event().await, Event::GuestEnded(GuestEvent::Reboot));
        assert_eq!(up.report().await.ended, Some(GuestEvent::Reboot));
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn a_dead_process_is_not_adopted() {
    run(async {
        let (domain, up) = Domain::up(&[]).await;
        up.live.process().signal(Signal::SIGKILL).unwrap();
        up.live.process().gone().await.unwrap();
        drop(up);
        let error = domain.adopt().await.err().expect("it is dead");
        assert!(matches!(error, BackendError::Exited { .. }), "{error}");
    });
}

#[test]
fn a_stopped_process_is_left_alone_by_an_adoption_that_it_does_not_answer() {
    run(async {
        let (domain, up) = Domain::up(&[]).await;
        up.live.process().signal(Signal::SIGSTOP).unwrap();
        drop(up);
        let error = domain.adopt().await.err().expect("it cannot answer");
        assert!(error.is_timeout(), "{error}");
        assert!(domain.identity().alive());
        let process = kxl_backend::Process::open(domain.identity().clone()).unwrap();
        process.signal(Signal::SIGCONT).unwrap();
        let mut up = Up::of(domain.adopt().await.unwrap());
        up.console.type_in("still here\n").await;
        up.console.expect("still here").await;
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn an_emulator_that_took_the_sockets_of_another_is_not_taken_for_it() {
    run(async {
        let mut domain = Domain::new(&[]);
        let first = domain.launch().await.unwrap();
        let mut second = domain.launch().await.unwrap();
        drop(first);
        let newer = domain.recorded.pop().unwrap();
        let error = domain.adopt().await.err().expect("another one answers");
        assert!(error.to_string().contains("in the place of"), "{error}");
        domain.recorded.push(newer);
        second.destroy().await.unwrap();
    });
}

#[test]
fn the_newest_monitor_has_the_control_connection() {
    run(async {
        let (domain, mut old) = Domain::up(&[]).await;
        let mut new = Up::of(domain.adopt().await.unwrap());
        new.live.pause().await.unwrap();
        assert_eq!(new.event().await, Event::Stopped);
        let error = old.live.query().await.unwrap_err();
        assert!(matches!(error, BackendError::Control { .. }), "{error}");
        new.live.destroy().await.unwrap();
    });
}

#[test]
fn the_script_file_counts_for_the_next_monitor_too() {
    run(async {
        let (domain, up) = Domain::up(&[]).await;
        drop(up);
        domain.script("refuse=adopt");
        let error = domain.adopt().await.err().expect("it is refused");
        assert!(matches!(error, BackendError::Control { .. }), "{error}");
        domain.script("refuse=pause");
        let mut live = domain.adopt().await.unwrap();
        live.pause().await.unwrap_err();
        live.destroy().await.unwrap();
    });
}
