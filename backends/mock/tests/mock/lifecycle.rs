//! What the verbs do when nothing interferes.

use kxl_backend::{Backend, BackendError, Event};
use kxl_domain::{Capability, GuestEvent, State};

use crate::host::sleeps;
use crate::{Domain, Up, backend, run};

#[test]
fn a_launched_domain_runs_and_reports_its_machine() {
    run(async {
        let (domain, mut up) = Domain::up(&[]).await;
        up.console.expect("READY\r\n").await;
        let report = up.report().await;
        assert_eq!((report.state, report.ended), (State::Running, None));
        assert_eq!((report.memory_mib, report.vcpus), (Some(96), Some(2)));
        assert_eq!(domain.recorded.len(), 1, "recorded exactly once");
        assert_eq!(up.live.process().identity(), domain.identity());
        assert!(domain.recorded[0].1.emulator.starts_with("mock /"));
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn events_and_console_are_given_away_once() {
    run(async {
        let (_domain, mut up) = Domain::up(&[]).await;
        assert!(up.live.events().is_none() && up.live.console().is_none());
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn pause_and_unpause_are_idempotent_and_tell_of_each_change_once() {
    run(async {
        let (_domain, mut up) = Domain::up(&[]).await;
        for _ in 0..2 {
            up.live.pause().await.unwrap();
            assert_eq!(up.report().await.state, State::Paused);
        }
        for _ in 0..2 {
            up.live.unpause().await.unwrap();
            assert_eq!(up.report().await.state, State::Running);
        }
        up.live.reset().await.unwrap();
        let seen = [up.event().await, up.event().await, up.event().await];
        assert_eq!(seen, [Event::Stopped, Event::Resumed, Event::Reset]);
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn a_domain_launched_paused_says_nothing_before_it_is_let_go() {
    run(async {
        let mut domain = Domain::new(&[]);
        domain.spec.paused = true;
        let mut up = Up::of(domain.launch().await.unwrap());
        assert_eq!(up.report().await.state, State::Paused);
        // What is typed waits for the guest: the first thing to be heard is its READY.
        up.console.type_in("hello\n").await;
        up.report().await;
        up.live.unpause().await.unwrap();
        assert_eq!(up.console.expect("hello\r\n").await, "READY\r\nhello\r\n");
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn the_counter_of_a_paused_guest_stands_still_and_goes_on() {
    run(async {
        let (_domain, mut up) = Domain::up(&["tick=10"]).await;
        up.console.expect("C 2 ").await;
        up.live.pause().await.unwrap();
        // For as long as dozens of lines would take, were it running.
        sleeps(up.live.process().identity().pid).await;
        up.live.unpause().await.unwrap();
        let text = up.console.expect("C 9 ").await;
        let numbers: Vec<u32> = text
            .lines()
            .filter_map(|line| line.strip_prefix("C ")?.split(' ').next()?.parse().ok())
            .collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{text:?}");
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn the_power_button_ends_the_guest_and_the_emulator_stands_still() {
    run(async {
        let (_domain, mut up) = Domain::up(&[]).await;
        up.live.powerdown().await.unwrap();
        assert_eq!(up.event().await, Event::GuestEnded(GuestEvent::Poweroff));
        let report = up.report().await;
        assert_eq!((report.state, report.ended), (State::Shutdown, Some(GuestEvent::Poweroff)));
        let error = up.live.unpause().await.unwrap_err();
        assert!(matches!(error, BackendError::Control { .. }), "{error}");
        up.live.reset().await.unwrap();
        assert_eq!(up.report().await.state, State::Running);
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn the_guest_ends_by_itself_in_every_way_from_console_and_script() {
    run(async {
        for (key, event) in [
            ("p", GuestEvent::Poweroff),
            ("r", GuestEvent::Reboot),
            ("k", GuestEvent::Crash),
            ("W", GuestEvent::Watchdog),
        ] {
            let (_domain, mut up) = Domain::up(&[]).await;
            up.console.type_in(key).await;
            assert_eq!(up.event().await, Event::GuestEnded(event));
            up.live.destroy().await.unwrap();

            let (_domain, mut up) = Domain::up(&[&format!("end={event}:20")]).await;
            assert_eq!(up.event().await, Event::GuestEnded(event));
            up.live.destroy().await.unwrap();
        }
    });
}

#[test]
fn an_emulator_that_exits_is_a_crash_with_its_status_and_last_words() {
    run(async {
        let (_domain, mut up) = Domain::up(&[]).await;
        up.console.type_in("x 3\n").await;
        let Event::Exited(exit) = up.event().await else { panic!("not the last event") };
        assert_eq!((exit.code, exit.signal), (Some(3), None));
        assert_eq!(exit.meaning, Some(GuestEvent::Crash));
        assert!(exit.text.contains("exit status 3") && exit.text.contains("console"), "{exit:?}");
        assert!(up.events.recv().await.is_none(), "it is the last event");
        let error = up.live.query().await.unwrap_err();
        assert!(matches!(error, BackendError::Exited { .. }), "{error}");
        assert_eq!(up.live.destroy().await.unwrap(), exit, "destroying the dead is no error");

        let (_domain, mut up) = Domain::up(&["exit=4:20"]).await;
        let Event::Exited(exit) = up.event().await else { panic!("not the last event") };
        assert_eq!((exit.code, exit.meaning), (Some(4), Some(GuestEvent::Crash)));
    });
}

#[test]
fn an_emulator_that_somebody_kills_is_a_crash_and_one_that_we_destroy_is_none() {
    run(async {
        let (_domain, mut up) = Domain::up(&[]).await;
        up.live.process().signal(nix::sys::signal::Signal::SIGKILL).unwrap();
        let Event::Exited(exit) = up.event().await else { panic!("not the last event") };
        assert_eq!((exit.signal, exit.meaning), (Some(9), Some(GuestEvent::Crash)));

        let (domain, mut up) = Domain::up(&[]).await;
        let exit = up.live.destroy().await.unwrap();
        assert_eq!((exit.signal, exit.meaning), (Some(9), None));
        assert!(!domain.identity().alive());
        assert_eq!(up.event().await, Event::Exited(exit.clone()));
        assert_eq!(up.live.destroy().await.unwrap(), exit);
    });
}

#[test]
fn what_is_unsupported_is_not_declared_and_refused() {
    run(async {
        let mut domain = Domain::new(&["unsupported=reset unsupported=console"]);
        let offered = backend().capabilities(&domain.spec.config);
        assert_eq!(offered.to_string(), "pause powerdown save-state live-save sleep");
        let mut live = domain.launch().await.unwrap();
        assert!(live.console().is_none());
        let error = live.reset().await.unwrap_err();
        assert!(
            matches!(error, BackendError::Unsupported { capability: Capability::Reset, .. }),
            "{error}"
        );
        live.pause().await.unwrap();
        live.destroy().await.unwrap();
        let all = backend().capabilities(&Domain::new(&[]).spec.config);
        assert_eq!(all.to_string(), "pause powerdown reset save-state live-save sleep console");
    });
}

#[test]
fn a_reboot_launches_anew_in_the_same_directory() {
    run(async {
        let mut domain = Domain::new(&[]);
        for _ in 0..2 {
            let mut up = Up::of(domain.launch().await.unwrap());
            up.console.expect("READY").await;
            up.live.destroy().await.unwrap();
        }
        assert_ne!(domain.recorded[0].0, domain.recorded[1].0);
    });
}
