//! States saved and brought back.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use kxl_backend::{
    Backend, BackendError, Event, MemorySource, SaveOrder, SavedState, StateSink, StateSource,
    Watch,
};
use kxl_domain::State;
use kxl_domain::image::MemoryLayout;
use kxl_mock::script::Step;

use crate::{Domain, Up, backend, run};

/// The steps of a save.
pub(crate) const SAVING: [Step; 4] = [Step::Save, Step::SavePass, Step::SaveStop, Step::SaveEnd];

/// A state in two files without names, shared with the sink that fills them.
#[derive(Clone)]
struct Files {
    device: Arc<File>,
    memory: Arc<File>,
    told: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    layout: Option<MemoryLayout>,
    device: u64,
    pages: u64,
    /// Bytes until there is no space left.
    room: Option<u64>,
}

impl Files {
    fn new() -> Self {
        let file = |name: &str| {
            let path = std::env::temp_dir()
                .join(format!("kxl-mock-{name}-{}", kxl_domain::DomainUuid::random()));
            let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            Arc::new(file)
        };
        Self { device: file("device"), memory: file("memory"), told: Arc::default() }
    }

    fn source(&self, saved: &SavedState) -> StateSource {
        let fd = |file: &File| Arc::new(file.try_clone().unwrap().into());
        let layout = self.told.lock().unwrap().layout.clone();
        let memory =
            layout.map(|layout| MemorySource { layout, file: fd(&self.memory), own: false });
        StateSource { machine: saved.machine.clone(), device: fd(&self.device), memory }
    }

    fn room(&self, bytes: u64) -> io::Result<()> {
        let mut told = self.told.lock().unwrap();
        if let Some(room) = &mut told.room {
            *room = room.checked_sub(bytes).ok_or(io::ErrorKind::StorageFull)?;
        }
        Ok(())
    }
}

impl StateSink for Files {
    fn memory(&mut self, layout: &MemoryLayout) -> io::Result<()> {
        self.memory.set_len(layout.size)?;
        let before = self.told.lock().unwrap().layout.replace(layout.clone());
        assert_eq!(before, None, "announced once");
        Ok(())
    }

    fn pages(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.room(bytes.len() as u64)?;
        self.told.lock().unwrap().pages += bytes.len() as u64 / 4096;
        self.memory.write_all_at(bytes, offset)
    }

    fn zeros(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.memory.write_all_at(&vec![0; usize::try_from(length).unwrap()], offset)
    }

    fn device(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.room(bytes.len() as u64)?;
        let mut told = self.told.lock().unwrap();
        self.device.write_all_at(bytes, told.device)?;
        told.device += bytes.len() as u64;
        Ok(())
    }
}

fn order(live: bool) -> SaveOrder {
    SaveOrder { live, snapshot: None, go_on: None, watch: Arc::new(Watch::default()) }
}

/// Launches the domain again, from the state.
async fn back(domain: &mut Domain, files: &Files, saved: &SavedState) -> Up {
    domain.spec.image = Some(files.source(saved));
    Up::of(domain.launch().await.unwrap())
}

/// Numbers of the counter lines in a text.
fn counts(text: &str) -> Vec<u64> {
    let number = |line: &str| line.strip_prefix("C ")?.split(' ').next()?.parse().ok();
    text.lines().filter_map(number).collect()
}

const WORDS: &str = "tick=10 memory=2M touched=60 dirty=40 device=100000";

#[test]
fn a_guest_goes_on_where_it_was_saved_any_number_of_times() {
    run(async {
        for live in [false, true] {
            let (mut domain, mut up) = Domain::up(&[WORDS]).await;
            let mut last = *counts(&up.console.expect("C 3 ").await).last().unwrap_or(&0);
            for _ in 0..3 {
                let files = Files::new();
                let size = up.live.state_size().await.unwrap();
                let order = order(live);
                let watch = Arc::clone(&order.watch);
                let saved = up.live.save_state(order, Box::new(files.clone())).await.unwrap();
                assert!(saved.moment.running && saved.moment.stopped_ms > 1_600_000_000_000);
                {
                    let told = files.told.lock().unwrap();
                    assert_eq!(told.layout, size.memory);
                    assert!(told.device <= size.device && told.device > 100_000);
                    let touched = size.touched / 4096;
                    assert_eq!(touched, 512 * 60 / 100);
                    // The passes of a live save send again what was written meanwhile.
                    assert!(told.pages < touched + 120, "{}", told.pages);
                    let (done, total) = watch.progress();
                    assert!(done >= total, "{done} of {total}");
                }
                up.live.destroy().await.unwrap();
                up = back(&mut domain, &files, &saved).await;
                assert_eq!(up.report().await.state, State::Paused, "it waits to be let go");
                up.live.unpause().await.unwrap();
                let text = up.console.expect("C ").await + &up.console.expect("\r\n").await;
                assert!(!text.contains("READY"), "{text}");
                let next = counts(&text)[0];
                assert!(next > last && next < last + 50, "{last} {text}");
                last = next;
            }
            up.live.destroy().await.unwrap();
        }
    });
}

#[test]
fn one_state_serves_many_guests_and_a_saved_one_goes_on() {
    run(async {
        let (mut domain, mut up) = Domain::up(&["memory=64K tick=5"]).await;
        let files = Files::new();
        up.console.type_in("half a line").await;
        let saved = up.live.save_state(order(false), Box::new(files.clone())).await.unwrap();
        assert_eq!(up.report().await.state, State::Paused);
        up.live.go_on(true).await.unwrap();
        up.live.go_on(true).await.unwrap();
        up.console.type_in(" and its end\n").await;
        up.console.expect("half a line and its end\r\n").await;
        up.live.destroy().await.unwrap();
        for _ in 0..2 {
            let mut up = back(&mut domain, &files, &saved).await;
            up.live.unpause().await.unwrap();
            up.live.set_clock().await.unwrap();
            up.console.expect("CLOCK SET").await;
            up.live.destroy().await.unwrap();
        }
    });
}

#[test]
fn a_paused_guest_stays_paused_and_its_state_says_so() {
    run(async {
        for live in [false, true] {
            let (_domain, mut up) = Domain::up(&["memory=64K"]).await;
            up.live.pause().await.unwrap();
            let saved = up.live.save_state(order(live), Box::new(Files::new())).await.unwrap();
            assert!(!saved.moment.running);
            up.live.go_on(false).await.unwrap();
            assert_eq!(up.report().await.state, State::Paused);
            up.live.destroy().await.unwrap();
        }
    });
}

#[test]
fn a_later_monitor_brings_a_saved_guest_back() {
    run(async {
        let (domain, mut up) = Domain::up(&["memory=64K"]).await;
        up.live.save_state(order(false), Box::new(Files::new())).await.unwrap();
        drop(up);
        let mut up = Up::of(domain.adopt().await.unwrap());
        assert_eq!(up.report().await.state, State::Paused);
        up.live.go_on(true).await.unwrap();
        assert_eq!(up.report().await.state, State::Running);
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn whatever_step_fails_the_guest_is_as_it_was() {
    run(async {
        for step in SAVING {
            for paused in [false, true] {
                let word = format!("refuse={}", step.as_str());
                let (domain, mut up) = Domain::up(&["memory=64K", &word]).await;
                if paused {
                    up.live.pause().await.unwrap();
                }
                let saved = up.live.save_state(order(true), Box::new(Files::new())).await;
                // A guest that stands still needs no pass while it runs.
                if paused && step == Step::SavePass {
                    saved.unwrap();
                } else {
                    let error = saved.unwrap_err();
                    let BackendError::Control { command, .. } = &error else { panic!("{error}") };
                    assert_eq!(command, step.as_str());
                }
                let state = if paused { State::Paused } else { State::Running };
                assert_eq!(up.report().await.state, state, "{word}");
                domain.script(&format!("ok={}", step.as_str()));
                up.live.save_state(order(true), Box::new(Files::new())).await.unwrap();
                up.live.destroy().await.unwrap();
            }
        }
    });
}

#[test]
fn an_emulator_that_dies_in_a_save_is_gone_with_its_last_words() {
    run(async {
        for step in SAVING {
            let (domain, mut up) = Domain::up(&[&format!("die={}", step.as_str())]).await;
            let saved = up.live.save_state(order(true), Box::new(Files::new())).await;
            let error = saved.unwrap_err();
            let BackendError::Exited { text } = &error else { panic!("{error}") };
            assert!(text.contains(&format!("dying at {}", step.as_str())), "{text}");
            assert!(!domain.identity().alive());
        }
    });
}

#[test]
fn a_save_that_gets_no_answer_times_out_and_the_guest_runs() {
    run(async {
        for step in SAVING {
            let (_domain, mut up) = Domain::up(&[&format!("hang={}", step.as_str())]).await;
            tokio::time::pause();
            let saved = up.live.save_state(order(true), Box::new(Files::new())).await;
            tokio::time::resume();
            assert!(saved.unwrap_err().is_timeout());
            assert_eq!(up.report().await.state, State::Running);
            up.live.destroy().await.unwrap();
        }
    });
}

#[test]
fn a_sink_without_room_ends_the_save_and_the_guest_runs() {
    run(async {
        for room in [0, 4096, 300_000, 1_300_000] {
            let (_domain, mut up) = Domain::up(&[WORDS]).await;
            let files = Files::new();
            files.told.lock().unwrap().room = Some(room);
            let saved = up.live.save_state(order(true), Box::new(files)).await;
            let error = saved.unwrap_err();
            let BackendError::Sink(source) = &error else { panic!("{error}") };
            assert_eq!(source.kind(), io::ErrorKind::StorageFull);
            assert_eq!(up.report().await.state, State::Running);
            up.live.destroy().await.unwrap();
        }
    });
}

#[test]
fn a_save_that_is_given_up_at_any_step_leaves_the_guest_running() {
    run(async {
        for step in SAVING {
            let (_domain, mut up) = Domain::up(&[&format!("hang={}", step.as_str())]).await;
            let order = order(true);
            let watch = Arc::clone(&order.watch);
            let give_up = async {
                tokio::task::yield_now().await;
                watch.cancel();
            };
            let (saved, ()) =
                tokio::join!(up.live.save_state(order, Box::new(Files::new())), give_up);
            assert!(matches!(saved.unwrap_err(), BackendError::Cancelled));
            assert_eq!(up.report().await.state, State::Running);
            up.live.destroy().await.unwrap();
        }
    });
}

#[test]
fn a_save_that_is_dropped_leaves_a_guest_that_can_go_on() {
    run(async {
        for step in SAVING {
            let (_domain, mut up) = Domain::up(&[&format!("hang={}", step.as_str())]).await;
            let save = up.live.save_state(order(true), Box::new(Files::new()));
            let brief = std::time::Duration::from_millis(50);
            tokio::time::timeout(brief, save).await.unwrap_err();
            up.live.go_on(true).await.unwrap();
            assert_eq!(up.report().await.state, State::Running);
            up.live.destroy().await.unwrap();
        }
    });
}

#[test]
fn an_ended_guest_is_not_saved() {
    run(async {
        let (_domain, mut up) = Domain::up(&[]).await;
        up.live.powerdown().await.unwrap();
        assert!(matches!(up.event().await, Event::GuestEnded(_)));
        let saved = up.live.save_state(order(false), Box::new(Files::new())).await;
        assert!(saved.unwrap_err().to_string().contains("the guest has ended"));
        assert_eq!(up.report().await.state, State::Shutdown);
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn without_the_capability_nothing_is_saved() {
    run(async {
        let (_domain, mut up) = Domain::up(&["unsupported=save-state"]).await;
        let error = up.live.state_size().await.unwrap_err();
        assert!(matches!(error, BackendError::Unsupported { .. }), "{error}");
        let saved = up.live.save_state(order(false), Box::new(Files::new())).await;
        assert!(matches!(saved.unwrap_err(), BackendError::Unsupported { .. }));
        up.live.destroy().await.unwrap();
    });
}

#[test]
fn a_restore_that_fails_says_why_leaves_no_process_and_can_be_repeated() {
    run(async {
        let (mut domain, mut up) = Domain::up(&["memory=64K"]).await;
        let files = Files::new();
        let saved = up.live.save_state(order(false), Box::new(files.clone())).await.unwrap();
        up.live.destroy().await.unwrap();
        domain.spec.image = Some(files.source(&saved));
        for (word, said) in
            [("refuse=restore", "refused"), ("die=restore", "dying"), ("hang=restore", "no answer")]
        {
            domain.script(word);
            if word.starts_with("hang") {
                tokio::time::pause();
            }
            let error = domain.launch().await.err().expect("it cannot come back").to_string();
            if word.starts_with("hang") {
                tokio::time::resume();
            }
            assert!(error.contains(said), "{error}");
            assert!(!domain.identity().alive());
        }
        domain.script("");
        domain.launch().await.unwrap().destroy().await.unwrap();
    });
}

#[test]
fn a_state_that_was_changed_is_not_believed() {
    run(async {
        let (mut domain, mut up) = Domain::up(&["memory=64K device=5000"]).await;
        let files = Files::new();
        let saved = up.live.save_state(order(false), Box::new(files.clone())).await.unwrap();
        up.live.destroy().await.unwrap();
        domain.spec.image = Some(files.source(&saved));
        let length = files.device.metadata().unwrap().len();
        for (file, at, said) in [
            (&files.memory, 8192, "its memory is not what was saved at 0x2000"),
            (&files.device, 0, "device stream"),
            (&files.device, length - 1, "padding"),
        ] {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], at).unwrap();
            let error = domain.launch().await.err().expect("it is not the same").to_string();
            assert!(error.contains(said), "{error}");
            file.write_all_at(&byte, at).unwrap();
        }
        files.memory.write_all_at(b"!", 0).unwrap();
        domain.script("verify=no");
        domain.launch().await.unwrap().destroy().await.unwrap();
        assert_eq!(domain.recorded.len(), 2, "a bad state makes no process");
    });
}

#[test]
fn a_state_of_another_machine_is_refused_by_check_and_launch() {
    run(async {
        let (mut domain, mut up) = Domain::up(&["memory=64K"]).await;
        let files = Files::new();
        let saved = up.live.save_state(order(false), Box::new(files.clone())).await.unwrap();
        up.live.destroy().await.unwrap();
        domain.spec.image = Some(files.source(&saved));
        backend().check(&domain.spec).unwrap();
        let refused = async |domain: &mut Domain, said: &str| {
            let error = backend().check(&domain.spec).unwrap_err();
            assert!(matches!(error, BackendError::Foreign { .. }), "{error}");
            assert!(error.to_string().contains(said), "{error}");
            let error = domain.launch().await.err().expect("it does not fit");
            assert!(matches!(error, BackendError::Foreign { .. }), "{error}");
        };
        domain.script("foreign=cpu-features");
        refused(&mut domain, "cpu-features").await;
        domain.script("version=0.0.1");
        refused(&mut domain, "this host has 0.0.1").await;
        domain.script("version=99.1");
        backend().check(&domain.spec).unwrap();
        domain.script("");
        let good = domain.spec.clone();
        domain.spec.config.vcpus = 7;
        refused(&mut domain, "cpus 7").await;
        domain.spec.config.vcpus = good.config.vcpus;
        domain.spec.config.emulator_args = vec!["memory=128K".into()];
        refused(&mut domain, "block 131072").await;
        domain.spec.config.emulator_args.clear();
        refused(&mut domain, "block 65536").await;
        domain.spec = good;
        let change =
            |domain: &mut Domain, f: fn(&mut StateSource)| f(domain.spec.image.as_mut().unwrap());
        change(&mut domain, |source| source.memory = None);
        refused(&mut domain, "a memory block of none bytes").await;
        change(&mut domain, |source| source.machine.machine = "mock-2".into());
        refused(&mut domain, "machine type mock-2").await;
        change(&mut domain, |source| source.machine.backend = "qemu".into());
        refused(&mut domain, "of backend \"qemu\"").await;
    });
}
