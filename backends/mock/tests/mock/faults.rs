//! Every step with every fault.

use std::time::{Duration, Instant};

use kxl_backend::{Backend, BackendError, Event, Live, Result};
use kxl_domain::{GuestEvent, State};
use kxl_mock::script::Step;

use crate::{Domain, Up, backend, run};

/// The steps that are commands to a living domain, destroy aside.
const COMMANDS: [Step; 9] = [
    Step::Pause,
    Step::Unpause,
    Step::Powerdown,
    Step::Reset,
    Step::Status,
    Step::GoOn,
    Step::SetClock,
    Step::Sleep,
    Step::Wake,
];

async fn act(live: &mut dyn Live, step: Step) -> Result<()> {
    match step {
        Step::Pause => live.pause().await,
        Step::Unpause => live.unpause().await,
        Step::Powerdown => live.powerdown().await,
        Step::Reset => live.reset().await,
        Step::Sleep => live.sleep().await,
        Step::Wake => live.wake().await,
        Step::Status => live.query().await.map(|_| ()),
        Step::Destroy => live.destroy().await.map(|_| ()),
        Step::GoOn => live.go_on(true).await,
        Step::SetClock => live.set_clock().await.map(|_| ()),
        _ => panic!("not a command"),
    }
}

#[test]
fn every_step_is_tried_here() {
    let others = [Step::Launch, Step::Adopt, Step::Destroy, Step::Restore];
    let tried = COMMANDS.len() + others.len() + crate::images::SAVING.len();
    assert_eq!(tried, Step::ALL.len());
}

#[test]
fn a_refused_command_changes_nothing_and_works_once_the_script_allows_it() {
    run(async {
        for step in COMMANDS {
            let (domain, mut up) = Domain::up(&[&format!("refuse={}", step.as_str())]).await;
            let error = act(&mut *up.live, step).await.unwrap_err();
            let BackendError::Control { command, .. } = &error else { panic!("{error}") };
            assert_eq!(command, step.as_str());
            domain.script(&format!("ok={}", step.as_str()));
            assert_eq!(up.report().await.state, State::Running);
            act(&mut *up.live, step).await.unwrap();
            up.live.destroy().await.unwrap();
        }
    });
}

#[test]
fn an_emulator_that_dies_at_a_command_is_gone_with_its_last_words() {
    run(async {
        for step in COMMANDS {
            let (domain, mut up) = Domain::up(&[&format!("die={}", step.as_str())]).await;
            let error = act(&mut *up.live, step).await.unwrap_err();
            let BackendError::Exited { text } = &error else { panic!("{error}") };
            assert!(text.contains(&format!("dying at {}", step.as_str())), "{text}");
            let Event::Exited(exit) = up.event().await else { panic!("not the last event") };
            assert_eq!((exit.code, exit.meaning), (Some(1), Some(GuestEvent::Crash)));
            assert!(!domain.identity().alive());
        }
    });
}

#[test]
fn a_command_that_is_never_answered_times_out_and_the_next_one_works() {
    run(async {
        for step in COMMANDS {
            let (domain, mut up) = Domain::up(&[&format!("hang={}", step.as_str())]).await;
            // The clock jumps over the wait: nothing else is going to happen.
            tokio::time::pause();
            let error = act(&mut *up.live, step).await.unwrap_err();
            tokio::time::resume();
            assert!(error.is_timeout(), "{error}");
            domain.script(&format!("ok={}", step.as_str()));
            assert_eq!(up.report().await.state, State::Running);
            up.live.destroy().await.unwrap();
        }
    });
}

#[test]
fn a_delayed_command_takes_its_time_and_succeeds() {
    run(async {
        for step in COMMANDS {
            let (_domain, mut up) = Domain::up(&[&format!("delay={}:40", step.as_str())]).await;
            let start = Instant::now();
            act(&mut *up.live, step).await.unwrap();
            assert!(start.elapsed() >= Duration::from_millis(40), "{}", step.as_str());
            up.live.destroy().await.unwrap();
        }
    });
}

#[test]
fn a_step_that_is_held_waits_until_it_is_let_go() {
    run(async {
        let mut domain = Domain::new(&["hold=launch", "hold=pause"]);
        let brief = Duration::from_millis(50);
        assert!(tokio::time::timeout(brief, domain.launch()).await.is_err(), "it is held");
        domain.script("ok=launch");
        let mut up = Up::of(domain.launch().await.unwrap());
        let mut pause = up.live.pause();
        assert!(tokio::time::timeout(brief, &mut pause).await.is_err(), "it is held");
        domain.script("ok=pause");
        pause.await.unwrap();
        assert_eq!(up.report().await.state, State::Paused);
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn a_query_that_takes_too_long_times_out_after_150_ms() {
    run(async {
        let (_domain, mut up) = Domain::up(&["delay=status:5000"]).await;
        let error = up.live.query().await.unwrap_err();
        let BackendError::TimedOut { after, .. } = error else { panic!("{error}") };
        assert_eq!(after, Duration::from_millis(150));
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn a_guest_may_ignore_what_it_is_asked() {
    run(async {
        let words = ["ignore=pause ignore=unpause", "ignore=powerdown", "ignore=reset"];
        let (_domain, mut up) = Domain::up(&words).await;
        for step in [Step::Pause, Step::Unpause, Step::Powerdown, Step::Reset] {
            act(&mut *up.live, step).await.unwrap();
            assert_eq!(up.report().await.state, State::Running);
        }
        up.live.destroy().await.unwrap();
        let Event::Exited(_) = up.event().await else { panic!("something did happen") };
    });
}

#[test]
fn a_launch_that_fails_says_why_and_leaves_no_process() {
    run(async {
        for (word, why) in [("refuse=launch", "refused"), ("die=launch", "dying at launch")] {
            let mut domain = Domain::new(&[word]);
            let error = domain.launch().await.err().expect("it cannot be launched");
            let BackendError::Launch { program, why: said } = &error else { panic!("{error}") };
            assert!(program.ends_with("kxl-mock") && said.contains(why), "{error}");
            assert!(!domain.identity().alive());
        }
        let mut domain = Domain::new(&["hang=launch"]);
        tokio::time::pause();
        let error = domain.launch().await.err().expect("it never gets ready");
        tokio::time::resume();
        let BackendError::TimedOut { after, .. } = &error else { panic!("{error}") };
        assert_eq!(*after, Duration::from_secs(10));
        assert!(!domain.identity().alive());
    });
}

#[test]
fn a_slow_launch_succeeds_and_one_that_is_cancelled_leaves_no_process() {
    run(async {
        let mut domain = Domain::new(&["delay=launch:60"]);
        let start = Instant::now();
        let mut live = domain.launch().await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(60));
        live.destroy().await.unwrap();

        let mut domain = Domain::new(&["hang=launch"]);
        let brief = Duration::from_millis(50);
        assert!(tokio::time::timeout(brief, domain.launch()).await.is_err(), "it cannot get ready");
        assert!(!domain.identity().alive());
        assert!(
            kxl_backend::process::Stat::read(domain.identity().pid).is_err(),
            "not even a zombie is left"
        );
    });
}

#[test]
fn an_emulator_whose_record_fails_is_never_born() {
    run(async {
        let mut domain = Domain::new(&[]);
        domain.refuse_record = true;
        let error = domain.launch().await.err().expect("it must not start");
        assert!(error.to_string().contains("the database is full"), "{error}");
        assert!(!domain.identity().alive());
        assert_eq!(std::fs::read_to_string(domain.path("emulator.log")).unwrap(), "");
    });
}

#[test]
fn an_adoption_can_die_hang_and_take_its_time() {
    run(async {
        let (domain, up) = Domain::up(&["hang=adopt"]).await;
        drop(up);
        tokio::time::pause();
        let error = domain.adopt().await.err().expect("it is never answered");
        tokio::time::resume();
        assert!(error.is_timeout() && domain.identity().alive(), "{error}");
        domain.script("ok=adopt delay=adopt:40");
        let start = Instant::now();
        drop(domain.adopt().await.unwrap());
        assert!(start.elapsed() >= Duration::from_millis(40));
        domain.script("ok=adopt die=adopt");
        let error = domain.adopt().await.err().expect("it dies");
        assert!(matches!(error, BackendError::Exited { .. }), "{error}");
        assert!(!domain.identity().alive());
    });
}

#[test]
fn a_destroy_can_be_refused_delayed_hang_and_find_it_dead() {
    run(async {
        let (domain, mut up) = Domain::up(&["refuse=destroy"]).await;
        let error = up.live.destroy().await.unwrap_err();
        assert!(matches!(error, BackendError::Control { .. }), "{error}");
        domain.script("ok=destroy hang=destroy");
        tokio::time::pause();
        let error = up.live.destroy().await.unwrap_err();
        tokio::time::resume();
        assert!(error.is_timeout() && domain.identity().alive(), "{error}");
        domain.script("ok=destroy delay=destroy:40");
        let start = Instant::now();
        assert_eq!(up.live.destroy().await.unwrap().signal, Some(9));
        assert!(start.elapsed() >= Duration::from_millis(40));

        let (_domain, mut up) = Domain::up(&["die=destroy"]).await;
        let exit = up.live.destroy().await.unwrap();
        assert_eq!((exit.code, exit.meaning), (Some(1), None), "{exit:?}");
    });
}

#[test]
fn a_script_file_that_cannot_be_read_stops_commands_but_never_a_destroy() {
    run(async {
        let (domain, mut up) = Domain::up(&[]).await;
        domain.script("explode=pause");
        let error = up.live.pause().await.unwrap_err();
        let BackendError::Config { key, .. } = &error else { panic!("{error}") };
        assert_eq!(key, "mock.script");
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn the_guest_of_a_living_domain_follows_its_script_file() {
    run(async {
        let (domain, mut up) = Domain::up(&[]).await;
        domain.script("tick=5");
        up.report().await;
        up.console.expect("C 3 ").await;
        domain.script("end=watchdog");
        up.report().await;
        assert_eq!(up.event().await, Event::GuestEnded(GuestEvent::Watchdog));
        domain.script("exit=9");
        up.report().await;
        let Event::Exited(exit) = up.event().await else { panic!("not the last event") };
        assert_eq!(exit.code, Some(9));
    });
}

#[test]
fn check_finds_bad_words_and_a_missing_program_without_making_anything() {
    let mut domain = Domain::new(&["explode=launch"]);
    let error = backend().check(&domain.spec).unwrap_err();
    assert!(matches!(error, BackendError::Config { .. }), "{error}");
    domain.spec.config.emulator_args.clear();
    backend().check(&domain.spec).unwrap();
    domain.spec.config.emulator = Some("/nonexistent/kxl-mock".into());
    let error = backend().check(&domain.spec).unwrap_err();
    assert!(matches!(error, BackendError::Missing { .. }), "{error}");
    assert_eq!(std::fs::read_dir(&domain.spec.rundir).unwrap().count(), 0);
}

#[test]
fn a_program_that_is_no_emulator_fails_the_launch_with_what_it_said() {
    run(async {
        let mut domain = Domain::new(&[]);
        domain.spec.config.emulator = Some("/bin/false".into());
        let error = domain.launch().await.err().expect("false is no emulator");
        assert!(matches!(error, BackendError::Launch { .. }), "{error}");
        domain.spec.config.emulator = None;
        let mut up = Up::of(domain.launch().await.unwrap());
        up.live.destroy().await.unwrap();
    });
}
