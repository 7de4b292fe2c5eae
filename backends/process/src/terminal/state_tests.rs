//! States of real simulators, saved and brought back.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use kxl_backend::{Event, SaveOrder, SavedState, StateSink, StateSource, Watch};
use kxl_domain::State;
use kxl_domain::image::MemoryLayout;

use super::tests::{counter, driver, each, launched};
use super::*;
use crate::program;
use crate::testing::{Record, Scratch, Typist, monitor, next, report, rests};
use kxl_domain::GuestEvent;

/// A sink that keeps the device stream, as much as there is room for.
#[derive(Clone, Default)]
pub(super) struct Kept {
    bytes: Arc<Mutex<Vec<u8>>>,
    room: Option<usize>,
    /// Gives the save up at the first byte.
    watch: Option<Arc<Watch>>,
}

impl StateSink for Kept {
    fn memory(&mut self, _layout: &MemoryLayout) -> io::Result<()> {
        panic!("a simulator has no memory block")
    }

    fn pages(&mut self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        panic!("nor pages")
    }

    fn zeros(&mut self, _offset: u64, _length: u64) -> io::Result<()> {
        panic!("nor zeros")
    }

    fn device(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(watch) = &self.watch {
            watch.cancel();
        }
        let mut kept = self.bytes.lock().unwrap();
        if self.room.is_some_and(|room| kept.len() + bytes.len() > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        kept.extend_from_slice(bytes);
        Ok(())
    }
}

impl Kept {
    pub(super) fn of_room(room: usize) -> Self {
        Self { room: Some(room), ..Self::default() }
    }

    pub(super) fn source(&self, saved: &SavedState) -> StateSource {
        let name = format!("kxl-state-{}", kxl_domain::DomainUuid::random());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, &*self.bytes.lock().unwrap()).unwrap();
        let device: OwnedFd = File::open(&path).unwrap().into();
        fs::remove_file(path).unwrap();
        StateSource { machine: saved.machine.clone(), device: Arc::new(device), memory: None }
    }
}

pub(super) fn order() -> SaveOrder {
    SaveOrder { live: false, snapshot: None, go_on: None, watch: Arc::default() }
}

pub(super) async fn save(live: &mut Box<dyn Live>) -> (SavedState, Kept) {
    let kept = Kept::default();
    let saved = live.save_state(order(), Box::new(kept.clone())).await.unwrap();
    (saved, kept)
}

/// The number in a line of either counter; nothing of a talk with the simulator is one.
fn count(line: &str) -> u64 {
    let line = line.trim();
    let read = match line.strip_prefix("N=") {
        Some(octal) => u64::from_str_radix(octal, 8),
        None => u64::from_str_radix(line, 16),
    };
    read.unwrap_or_else(|_| panic!("{line:?} is no line of the counter"))
}

/// The next count on a console. A save may cut a line in two: its second half is passed over.
async fn counted(console: &mut Typist) -> u64 {
    let line = console.until("\n").await;
    let text = line.trim();
    let half = text.len() < 8 && text.chars().all(|c| c.is_ascii_hexdigit() || "N=".contains(c));
    if half { count(&console.until("\n").await) } else { count(&line) }
}

async fn back(spec: &LaunchSpec, kept: &Kept, saved: &SavedState) -> (Box<dyn Live>, Typist) {
    let spec = LaunchSpec { image: Some(kept.source(saved)), ..spec.clone() };
    driver("simh").check(&spec).unwrap();
    let (mut live, ..) = launched(&spec, "simh").await;
    let console = Typist::new(live.console().unwrap());
    (live, console)
}

/// Skips to the first line of the counter.
pub(super) async fn begun(console: &mut Typist, machine: Option<&str>) {
    console.until(if machine == Some("pdp11") { "N=000001\r\n" } else { "00000001\r\n" }).await;
}

#[test]
fn a_simulator_goes_on_where_it_was_saved_and_viewers_see_nothing_of_it() {
    each(&async |spec| {
        let (mut live, ..) = launched(spec, "simh").await;
        let mut console = Typist::new(live.console().unwrap());
        begun(&mut console, spec.config.machine.as_deref()).await;
        let mut last = 1;
        for _ in 0..3 {
            let size = live.state_size().await.unwrap();
            let (saved, kept) = save(&mut live).await;
            assert!(saved.moment.running && saved.files.is_empty(), "{saved:?}");
            assert_eq!(Some(&saved.machine.emulator), spec.config.machine.as_ref());
            let bytes = kept.bytes.lock().unwrap().len() as u64;
            assert!(size.memory.is_none() && bytes > 10_000 && bytes < size.device, "{bytes}");
            // 8 MiB of memory at most, and the registers.
            assert!(size.device < 16 << 20, "{size:?}");
            assert_eq!(report(&mut live).await.state, State::Paused);
            // What it printed before the save, to the end.
            while console.seen.contains('\n') {
                last = counted(&mut console).await;
            }
            live.destroy().await.unwrap();
            // The last line may be cut in two by the save.
            let left = console.rest().await;
            let (whole, half) = left.rsplit_once('\n').unwrap_or(("", &left));
            last = whole.lines().map(count).next_back().unwrap_or(last);
            (live, console) = back(spec, &kept, &saved).await;
            console.seen = half.to_owned();
            assert_eq!(report(&mut live).await.state, State::Paused);
            live.unpause().await.unwrap();
            assert_eq!(report(&mut live).await.state, State::Running);
            let next = counted(&mut console).await;
            assert!(next == last + 1, "{next} after {last}");
            last = next;
        }
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_saved_simulator_goes_on_without_a_gap_and_keeps_what_was_typed() {
    each(&async |spec| {
        let (mut live, ..) = launched(spec, "simh").await;
        let mut events = live.events().unwrap();
        let mut console = Typist::new(live.console().unwrap());
        begun(&mut console, spec.config.machine.as_deref()).await;
        for round in 0..4u64 {
            let (saved, _) = save(&mut live).await;
            assert!(saved.moment.running);
            // It waits for the guest, and the prompt does not get it.
            console.send("x").await;
            tokio::time::sleep(keeper::SETTLE).await;
            live.go_on(true).await.unwrap();
            live.go_on(true).await.unwrap();
            assert_eq!(next(&mut events).await, Event::Stopped);
            assert_eq!(next(&mut events).await, Event::Resumed);
            let text = console.until("x").await;
            assert!(!text.contains("sim>") && !text.contains("cont"), "{round}: {text:?}");
        }
        console.until("\n").await;
        let (one, two) = (counted(&mut console).await, counted(&mut console).await);
        assert_eq!(two, one + 1);
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_restored_machine_does_not_run_before_it_is_told() {
    each(&async |spec| {
        let (mut live, ..) = launched(spec, "simh").await;
        let mut console = Typist::new(live.console().unwrap());
        begun(&mut console, spec.config.machine.as_deref()).await;
        let (saved, kept) = save(&mut live).await;
        live.destroy().await.unwrap();
        let spec = LaunchSpec { image: Some(kept.source(&saved)), ..spec.clone() };
        let (mut live, identity, attachments) = launched(&spec, "simh").await;
        let mut console = Typist::new(live.console().unwrap());
        console.send("q").await;
        // Several times what the counter takes for a line.
        rests(&identity, Duration::from_millis(700)).await;
        // The next monitor finds it as it is.
        drop((live, console));
        let mut live = driver("simh").adopt(&spec, identity, &attachments).await.unwrap();
        assert_eq!(report(&mut live).await.state, State::Paused);
        let mut console = Typist::new(live.console().unwrap());
        live.pause().await.unwrap();
        live.unpause().await.unwrap();
        counted(&mut console).await;
        // And one that runs can be saved again, and paused.
        let (_, kept) = save(&mut live).await;
        live.go_on(true).await.unwrap();
        assert!(kept.bytes.lock().unwrap().len() > 10_000);
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_paused_machine_is_saved_and_stays_paused() {
    each(&async |spec| {
        let (mut live, identity, _) = launched(spec, "simh").await;
        let mut console = Typist::new(live.console().unwrap());
        begun(&mut console, spec.config.machine.as_deref()).await;
        live.pause().await.unwrap();
        for _ in 0..2 {
            let (saved, _) = save(&mut live).await;
            assert!(!saved.moment.running);
            live.go_on(false).await.unwrap();
            assert_eq!(report(&mut live).await.state, State::Paused);
        }
        rests(&identity, Duration::from_millis(300)).await;
        live.unpause().await.unwrap();
        let (one, two) = (counted(&mut console).await, counted(&mut console).await);
        assert_eq!(two, one + 1);
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_machine_that_somebody_stopped_at_its_prompt_is_saved_and_left_to_him() {
    each(&async |spec| {
        let (mut live, ..) = launched(spec, "simh").await;
        let mut console = Typist::new(live.console().unwrap());
        begun(&mut console, spec.config.machine.as_deref()).await;
        console.send("\x05").await;
        console.until("sim> ").await;
        console.send("half a li").await;
        console.until("half a li").await;
        let (saved, _) = save(&mut live).await;
        assert!(!saved.moment.running);
        live.go_on(false).await.unwrap();
        console.send("echo mine\r").await;
        console.until("mine\r\nmine\r\nsim> ").await;
        live.unpause().await.unwrap();
        console.until("cont\r\n").await;
        console.lines(2).await;
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_failed_save_leaves_the_guest_as_it_was() {
    each(&async |spec| {
        let (mut live, ..) = launched(spec, "simh").await;
        let mut console = Typist::new(live.console().unwrap());
        begun(&mut console, spec.config.machine.as_deref()).await;
        for paused in [false, true] {
            if paused {
                live.pause().await.unwrap();
            }
            let full = Kept { room: Some(5000), ..Kept::default() };
            let error = live.save_state(order(), Box::new(full)).await.unwrap_err();
            assert!(matches!(error, BackendError::Sink(_)), "{error}");
            let order = order();
            let kept = Kept { watch: Some(Arc::clone(&order.watch)), ..Kept::default() };
            let error = live.save_state(order, Box::new(kept)).await.unwrap_err();
            assert!(matches!(error, BackendError::Cancelled), "{error}");
            let state = if paused { State::Paused } else { State::Running };
            assert_eq!(report(&mut live).await.state, state);
        }
        // A directory in the file's place.
        fs::create_dir(spec.rundir.join("state.save")).unwrap();
        let error = live.save_state(order(), Box::new(Kept::default())).await.unwrap_err();
        assert!(error.to_string().contains("File open error"), "{error}");
        fs::remove_dir(spec.rundir.join("state.save")).unwrap();
        live.unpause().await.unwrap();
        let (one, two) = (counted(&mut console).await, counted(&mut console).await);
        assert_eq!(two, one + 1);
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_later_monitor_brings_back_what_a_save_left_at_the_prompt() {
    each(&async |spec| {
        let (mut live, identity, attachments) = launched(spec, "simh").await;
        let mut console = Typist::new(live.console().unwrap());
        begun(&mut console, spec.config.machine.as_deref()).await;
        save(&mut live).await;
        drop((live, console));
        fs::write(spec.rundir.join("state.save"), "of a dead save").unwrap();
        let mut live = driver("simh").adopt(spec, identity, &attachments).await.unwrap();
        assert!(!spec.rundir.join("state.save").exists());
        assert_eq!(report(&mut live).await.state, State::Paused);
        let mut console = Typist::new(live.console().unwrap());
        live.go_on(true).await.unwrap();
        let (one, two) = (counted(&mut console).await, counted(&mut console).await);
        assert_eq!(two, one + 1);
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_save_that_is_dropped_at_any_moment_leaves_a_guest_that_can_go_on() {
    each(&async |spec| {
        let (mut live, ..) = launched(spec, "simh").await;
        let mut console = Typist::new(live.console().unwrap());
        begun(&mut console, spec.config.machine.as_deref()).await;
        for ms in [0, 1, 2, 3, 5, 8, 13, 30] {
            let save = live.save_state(order(), Box::new(Kept::default()));
            let _dropped = tokio::time::timeout(Duration::from_millis(ms), save).await;
            live.go_on(true).await.unwrap();
            let (one, two) = (counted(&mut console).await, counted(&mut console).await);
            assert_eq!(two, one + 1, "after {ms} ms");
        }
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_guest_that_has_ended_is_not_saved() {
    each(&async |spec| {
        let (mut live, ..) = launched(spec, "simh").await;
        let mut events = live.events().unwrap();
        let mut console = Typist::new(live.console().unwrap());
        console.lines(1).await;
        console.send("H").await;
        assert_eq!(next(&mut events).await, Event::GuestEnded(GuestEvent::Poweroff));
        let error = live.save_state(order(), Box::new(Kept::default())).await.unwrap_err();
        assert!(error.to_string().contains("the guest has ended"), "{error}");
        assert_eq!(report(&mut live).await.state, State::Shutdown);
        live.destroy().await.unwrap();
    });
}

/// A PDP-11 with these lines in its command file.
fn pdp11(scratch: &Scratch, lines: &str) -> Option<LaunchSpec> {
    let mut spec = scratch.spec();
    counter(&mut spec, "pdp11", "1000").then(|| {
        let ini = scratch.0.join("own.ini");
        let text = fs::read_to_string(spec.config.ini.as_ref().unwrap()).unwrap();
        fs::write(&ini, format!("{text}\n{lines}\n")).unwrap();
        spec.config.ini = Some(ini);
        spec
    })
}

#[test]
fn disks_are_named_written_and_needed_to_come_back() {
    let (scratch, disks) = (Scratch::new("simh"), Scratch::new("disks"));
    let (rk, rx) = (disks.0.join("rk.img"), disks.0.join("rx.img"));
    fs::write(&rk, vec![0; 4096]).unwrap();
    fs::write(&rx, vec![0; 256_256]).unwrap();
    let lines = format!(
        "attach rk0 {}\nattach rx0 {}\ndep rk0 0 123\ndep rx0 0 123",
        rk.display(),
        rx.display()
    );
    let Some(spec) = pdp11(&scratch, &lines) else { return };
    monitor(async {
        let (mut live, ..) = launched(&spec, "simh").await;
        let mut console = Typist::new(live.console().unwrap());
        begun(&mut console, Some("pdp11")).await;
        assert_eq!(fs::read(&rx).unwrap()[0], 0, "the floppy is in the simulator's memory");
        let (saved, kept) = save(&mut live).await;
        assert_eq!(fs::read(&rx).unwrap()[0], 0o123, "and on the disk now");
        assert_eq!(fs::read(&rk).unwrap()[0], 0o123);
        let named: Vec<_> = saved.files.iter().map(|file| (&file.path, file.writable)).collect();
        assert_eq!(named, [(&rk, true), (&rx, true)]);
        live.go_on(true).await.unwrap();
        counted(&mut console).await;
        live.destroy().await.unwrap();
        let (mut live, mut console) = back(&spec, &kept, &saved).await;
        live.unpause().await.unwrap();
        counted(&mut console).await;
        live.destroy().await.unwrap();
        // A disk that is gone is not made anew behind the guest's back.
        fs::remove_file(&rk).unwrap();
        let ini = spec.config.ini.clone().unwrap();
        fs::write(&ini, "").unwrap();
        let spec = LaunchSpec { image: Some(kept.source(&saved)), ..spec };
        let mut record = Record::default();
        let error = driver("simh").launch(&spec, &mut record).await.err().unwrap().to_string();
        assert!(error.contains("RK: creating new file"), "{error}");
        assert!(!record.kept.unwrap().0.alive());
    });
}

#[test]
fn a_guest_whose_disks_did_not_come_back_does_not_go_on() {
    let (scratch, disks) = (Scratch::new("simh"), Scratch::new("disks"));
    let rx = disks.0.join("rx.img");
    fs::write(&rx, vec![0; 256_256]).unwrap();
    let Some(spec) = pdp11(&scratch, &format!("attach rx0 {}", rx.display())) else { return };
    let mut profile = Profile::load("simh", Path::new("/nonexistent")).unwrap();
    profile.save.flush[1].text = "restore /nonexistent/state".into();
    monitor(async {
        let driver = Driver::new(profile);
        let mut live = driver.launch(&spec, &mut Record::default()).await.unwrap();
        let mut console = Typist::new(live.console().unwrap());
        begun(&mut console, Some("pdp11")).await;
        let error = live.save_state(order(), Box::new(Kept::default())).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("File open error") && text.contains("standing still"), "{text}");
        assert_eq!(report(&mut live).await.state, State::Paused);
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_command_file_that_starts_the_machine_does_not_do_so_in_a_restore() {
    let scratch = Scratch::new("simh");
    let Some(mut spec) = pdp11(&scratch, "go 1000") else { return };
    monitor(async {
        // With start= its stop would be a new start.
        let (mut live, ..) = launched(&spec, "simh").await;
        let mut console = Typist::new(live.console().unwrap());
        begun(&mut console, Some("pdp11")).await;
        let error = live.save_state(order(), Box::new(Kept::default())).await.unwrap_err();
        assert!(error.to_string().contains("start= would start it anew"), "{error}");
        assert_eq!(counted(&mut console).await, 2);
        live.destroy().await.unwrap();

        spec.config.start = None;
        let (mut live, ..) = launched(&spec, "simh").await;
        let mut console = Typist::new(live.console().unwrap());
        begun(&mut console, Some("pdp11")).await;
        let (saved, kept) = save(&mut live).await;
        live.go_on(true).await.unwrap();
        save(&mut live).await;
        live.destroy().await.unwrap();
        let (mut live, mut console) = back(&spec, &kept, &saved).await;
        assert_eq!(report(&mut live).await.state, State::Paused);
        live.unpause().await.unwrap();
        assert!(counted(&mut console).await > 1);
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_state_of_another_machine_or_none_at_all_is_refused() {
    let scratch = Scratch::new("simh");
    let Some(spec) = pdp11(&scratch, "") else { return };
    monitor(async {
        let (mut live, ..) = launched(&spec, "simh").await;
        let mut console = Typist::new(live.console().unwrap());
        begun(&mut console, Some("pdp11")).await;
        let (saved, kept) = save(&mut live).await;
        live.destroy().await.unwrap();
        let with = |change: &dyn Fn(&mut LaunchSpec)| {
            let mut spec = LaunchSpec { image: Some(kept.source(&saved)), ..spec.clone() };
            change(&mut spec);
            spec
        };
        let foreign = |spec: &LaunchSpec| driver("simh").check(spec).unwrap_err();
        if program::find(Path::new("vax780")).is_some() {
            let error = foreign(&with(&|spec| spec.config.machine = Some("vax780".into())));
            assert!(matches!(error, BackendError::Foreign { .. }), "{error}");
            assert!(error.to_string().contains("saved by pdp11, this is vax780"), "{error}");
        }
        let newer = with(&|spec| spec.image.as_mut().unwrap().machine.version = "3.99".into());
        assert!(foreign(&newer).to_string().contains("saved by pdp11 3.99, this host has"));
        let other = with(&|spec| spec.image.as_mut().unwrap().machine.backend = "qemu".into());
        assert!(matches!(foreign(&other), BackendError::Foreign { .. }));
        let error = driver("any").check(&with(&|_| {})).unwrap_err();
        assert!(matches!(error, BackendError::Config { .. } | BackendError::Unsupported { .. }));
        // Bytes that are no state: the simulator itself says so.
        kept.bytes.lock().unwrap().truncate(20_000);
        let mut record = Record::default();
        let torn = with(&|_| {});
        let error = driver("simh").launch(&torn, &mut record).await.err().unwrap().to_string();
        assert!(error.contains("restore ") && error.contains("I/O error"), "{error}");
        assert!(!record.kept.unwrap().0.alive());
        assert!(!spec.rundir.join("state.restore").exists());
    });
}
