//! What cannot be saved says why, and is left as it was.

use kxl_domain::State;

use super::state_tests::{Kept, begun, order, save};
use super::tests::{driver, each, launched};
use super::*;
use crate::testing::{Scratch, Typist, monitor, report};

#[test]
fn a_simulator_that_was_started_paused_and_never_ran_says_that_there_is_nothing_to_save() {
    each(&async |spec| {
        let paused = LaunchSpec { paused: true, ..spec.clone() };
        let (mut live, identity, attachments) = launched(&paused, "simh").await;
        for _ in 0..2 {
            let saved = live.save_state(order(), Box::new(Kept::default())).await;
            let error = saved.unwrap_err().to_string();
            assert!(error.contains("unpause it first"), "{error}");
            assert_eq!(report(&mut live).await.state, State::Paused);
            // A later monitor knows it as well.
            live = driver("simh").adopt(&paused, identity.clone(), &attachments).await.unwrap();
        }
        // Nothing was done to it.
        let mut console = Typist::new(live.console().unwrap());
        live.unpause().await.unwrap();
        begun(&mut console, spec.config.machine.as_deref()).await;
        save(&mut live).await;
        live.destroy().await.unwrap();
    });
}

#[test]
fn programs_without_a_way_to_be_saved_refuse() {
    let scratch = Scratch::new("any");
    let mut spec = scratch.spec();
    spec.config.emulator = Some("/bin/cat".into());
    monitor(async {
        let (mut live, ..) = launched(&spec, "any").await;
        let error = live.state_size().await.unwrap_err();
        assert!(matches!(error, BackendError::Unsupported { .. }), "{error}");
        let error = live.save_state(order(), Box::new(Kept::default())).await.unwrap_err();
        assert!(matches!(error, BackendError::Unsupported { .. }), "{error}");
        assert_eq!(report(&mut live).await.state, State::Running);
        live.destroy().await.unwrap();
    });
}

#[test]
fn devices_that_a_program_would_not_have_are_refused() {
    let scratch = Scratch::new("any");
    for (key, line) in [("disk", "disk=['/tmp/a,raw,hda,w']"), ("vif", "vif=['bridge=br0']")] {
        let text = format!("name='guest'\nbackend='any'\nexec='/bin/cat'\n{line}\n");
        let mut spec = scratch.spec();
        spec.config = kxl_domain::config::parse("f", &text, &[]).unwrap().config;
        let error = driver("any").check(&spec).unwrap_err();
        assert!(matches!(error, BackendError::Config { .. }), "{error:?}");
        assert!(error.to_string().contains(key), "{error}");
    }
}
