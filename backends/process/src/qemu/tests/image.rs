//! States of real guests: saved, and brought back.

use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use kxl_backend::{MemorySource, Pause, SaveOrder, SavedState, StateSource, Watch};

use super::*;
use crate::testing::{Basket, Kept};

/// Memory of the guest and how much of it is filled with random data, in MiB.
const MEMORY: u64 = 160;
const TOUCHED: u64 = 64;

/// The test guest, its memory filled.
fn filled(spec: &mut LaunchSpec) -> bool {
    let found = guest(spec);
    (spec.config.memory_mib, spec.config.maxmem_mib) = (MEMORY, MEMORY);
    let words = format!("console=ttyS0 quiet tick=10 touch={TOUCHED}");
    spec.config.boot.cmdline = Some(words);
    found
}

fn order(live: bool) -> SaveOrder {
    SaveOrder { live, snapshot: None, go_on: None, watch: Arc::new(Watch::default()) }
}

/// Saves; what came is given back with it.
async fn saved(live: &mut Box<dyn Live>, order: SaveOrder) -> (SavedState, Arc<Mutex<Kept>>) {
    let (sink, kept) = Basket::new();
    let state = live.save_state(order, Box::new(sink)).await.unwrap();
    assert_eq!(Arc::strong_count(&kept), 1, "the sink is gone with the thread");
    (state, kept)
}

/// The same domain, to come back from that state.
fn back(spec: &LaunchSpec, state: &SavedState, kept: &Mutex<Kept>) -> LaunchSpec {
    let kept = kept.lock().unwrap();
    let name = c"device";
    let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
    let device = File::from(nix::sys::memfd::memfd_create(name, flags).unwrap());
    device.write_all_at(&kept.device, 0).unwrap();
    let memory = MemorySource {
        layout: kept.layout.clone().unwrap(),
        file: Arc::new(kept.memory.as_ref().unwrap().try_clone().unwrap().into()),
        own: false,
    };
    let image = StateSource {
        machine: state.machine.clone(),
        device: Arc::new(device.into()),
        memory: Some(memory),
    };
    LaunchSpec { image: Some(image), ..spec.clone() }
}

/// The guest's number of the next counter line.
async fn counter(console: &mut Typist) -> u64 {
    console.until("\nC ").await;
    let text = console.until(" ").await;
    text.trim().parse().unwrap()
}

async fn check(console: &mut Typist) {
    console.send("c").await;
    console.until("CK ").await;
    let words = console.until("\n").await;
    assert!(words.starts_with("OK"), "{words}");
}

#[test]
fn a_guest_is_saved_comes_back_and_is_saved_again_for_generations() {
    both_ways(|| {
        let scratch = Scratch::new("qemu");
        let mut spec = scratch.spec();
        if !filled(&mut spec) {
            return;
        }
        monitor(async {
            let (mut live, ..) = launched(&spec).await;
            let mut console = Typist::new(live.console().unwrap());
            console.until("READY").await;
            for generation in 0..3 {
                if generation == 2 {
                    // All of it differs from what the image holds.
                    console.send("w").await;
                    console.until("W OK").await;
                }
                let before = counter(&mut console).await;
                let size = live.state_size().await.unwrap();
                let (state, kept) = saved(&mut live, order(generation == 1)).await;
                assert!(state.moment.running);
                assert!(size.device >= kept.lock().unwrap().device.len() as u64);
                let whole = size.memory.as_ref().unwrap().size;
                assert!((TOUCHED << 20..=whole).contains(&size.touched), "{size:?}");
                live.destroy().await.unwrap();
                spec = back(&spec, &state, &kept);
                let sum = digest(&kept);
                let (again, ..) = launched(&spec).await;
                live = again;
                assert_eq!(report(&mut live).await.state, State::Paused);
                console = Typist::new(live.console().unwrap());
                live.unpause().await.unwrap();
                assert!(counter(&mut console).await > before);
                check(&mut console).await;
                assert_eq!(digest(&kept), sum, "the image is as it was");
            }
            live.destroy().await.unwrap();
        });
    });
}

/// A sum of the memory file.
fn digest(kept: &Mutex<Kept>) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let kept = kept.lock().unwrap();
    let file = kept.memory.as_ref().unwrap();
    let (mut hasher, mut buffer) = (DefaultHasher::new(), vec![0; 1 << 20]);
    let length = file.metadata().unwrap().len();
    for offset in (0..length).step_by(buffer.len()) {
        let left = usize::try_from(length - offset).unwrap().min(buffer.len());
        file.read_exact_at(&mut buffer[..left], offset).unwrap();
        hasher.write(&buffer[..left]);
    }
    hasher.finish()
}

#[test]
fn a_guest_that_goes_on_after_its_save_was_not_hurt_and_nobody_is_told_of_the_pause() {
    both_ways(|| {
        let scratch = Scratch::new("qemu");
        let mut spec = scratch.spec();
        if !filled(&mut spec) {
            return;
        }
        monitor(async {
            let (mut live, ..) = launched(&spec).await;
            let mut events = live.events().unwrap();
            let mut console = Typist::new(live.console().unwrap());
            console.until("READY").await;
            assert_eq!(next(&mut events).await, Event::Resumed);
            for alive in [false, true, true] {
                saved(&mut live, order(alive)).await;
                assert_eq!(report(&mut live).await.state, State::Paused);
                live.go_on(true).await.unwrap();
                live.go_on(true).await.unwrap();
                assert_eq!(report(&mut live).await.state, State::Running);
                check(&mut console).await;
            }
            // One that stands still stays so, and can be saved again and again.
            live.pause().await.unwrap();
            assert_eq!(next(&mut events).await, Event::Stopped);
            for _ in 0..2 {
                let (state, _) = saved(&mut live, order(true)).await;
                assert!(!state.moment.running);
                live.go_on(false).await.unwrap();
                assert_eq!(report(&mut live).await.state, State::Paused);
            }
            live.unpause().await.unwrap();
            assert_eq!(next(&mut events).await, Event::Resumed);
            check(&mut console).await;
            events.try_recv().expect_err("nothing else was told");
            live.destroy().await.unwrap();
        });
    });
}

/// A save of a full guest that does not come to its end: `hinder` has the order's watch and the
/// process, and what the sink is like. The guest must run on and be whole.
async fn hindered(
    live: &mut Box<dyn Live>,
    sink: Basket,
    hinder: impl Future<Output = ()>,
    order: SaveOrder,
) -> BackendError {
    let kept = Arc::clone(&sink.kept);
    let (result, ()) = tokio::join!(live.save_state(order, Box::new(sink)), hinder);
    assert_eq!(Arc::strong_count(&kept), 1, "the thread has ended");
    result.unwrap_err()
}

/// Returns when so many bytes have been moved.
async fn moved(watch: &Watch, bytes: u64) {
    while watch.progress().0 < bytes {
        // Nothing tells of single bytes.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_save_that_is_given_up_or_cannot_be_written_leaves_the_guest_as_it_was() {
    both_ways(|| {
        let scratch = Scratch::new("qemu");
        let mut spec = scratch.spec();
        if !filled(&mut spec) {
            return;
        }
        let slow = || Basket { slow: Some(Duration::from_millis(20)), ..Basket::default() };
        let full = || Basket { full_at: Some(20 << 20), ..Basket::default() };
        monitor(async {
            let (mut live, ..) = launched(&spec).await;
            let mut events = live.events().unwrap();
            let mut console = Typist::new(live.console().unwrap());
            console.until("READY").await;
            assert_eq!(next(&mut events).await, Event::Resumed);
            for run in [true, false] {
                if !run {
                    live.pause().await.unwrap();
                    assert_eq!(next(&mut events).await, Event::Stopped);
                }
                for alive in [true, false] {
                    let order = order(alive);
                    let watch = Arc::clone(&order.watch);
                    let cancel = async {
                        moved(&watch, 10 << 20).await;
                        watch.cancel();
                    };
                    let error = hindered(&mut live, slow(), cancel, order.clone()).await;
                    assert!(matches!(error, BackendError::Cancelled), "{error}");
                    let error =
                        hindered(&mut live, full(), async {}, super::image::order(alive)).await;
                    let BackendError::Sink(error) = error else { panic!("{error}") };
                    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
                    let error = hindered(&mut live, slow(), async {}, order).await;
                    assert!(matches!(error, BackendError::Cancelled), "cancelled before it began");
                    let state = if run { State::Running } else { State::Paused };
                    assert_eq!(report(&mut live).await.state, state);
                    if run {
                        check(&mut console).await;
                    }
                }
            }
            saved(&mut live, order(true)).await;
            live.unpause().await.unwrap();
            assert_eq!(next(&mut events).await, Event::Resumed);
            check(&mut console).await;
            events.try_recv().expect_err("nothing else was told");
            live.destroy().await.unwrap();
        });
    });
}

#[test]
fn a_save_that_is_dropped_is_taken_back_by_going_on_also_by_a_later_monitor() {
    both_ways(|| {
        let scratch = Scratch::new("qemu");
        let mut spec = scratch.spec();
        if !filled(&mut spec) {
            return;
        }
        monitor(async {
            let (mut live, identity, attachments) = launched(&spec).await;
            let mut console = Typist::new(live.console().unwrap());
            console.until("READY").await;
            for (alive, later) in [(true, false), (false, false), (true, true), (false, true)] {
                let order = order(alive);
                let watch = Arc::clone(&order.watch);
                let sink = Basket { slow: Some(Duration::from_millis(20)), ..Basket::default() };
                tokio::select! {
                    _ = live.save_state(order, Box::new(sink)) => panic!("it is slow"),
                    () = moved(&watch, 10 << 20) => {}
                }
                if later {
                    drop((live, console));
                    live = driver().adopt(&spec, identity.clone(), &attachments).await.unwrap();
                    console = Typist::new(live.console().unwrap());
                }
                live.go_on(true).await.unwrap();
                assert_eq!(report(&mut live).await.state, State::Running);
                check(&mut console).await;
            }
            // Saved, and the monitor dies before anything follows.
            let (state, _) = saved(&mut live, order(true)).await;
            drop((live, console));
            let mut live = driver().adopt(&spec, identity.clone(), &attachments).await.unwrap();
            assert_eq!(report(&mut live).await.state, State::Paused);
            live.go_on(true).await.unwrap();
            let mut console = Typist::new(live.console().unwrap());
            check(&mut console).await;
            let (again, _) = saved(&mut live, order(true)).await;
            assert_eq!(again.machine, state.machine, "as it was told by the first monitor");
            live.destroy().await.unwrap();
        });
    });
}

#[test]
fn an_emulator_that_dies_while_it_is_saved_is_told_as_ended() {
    both_ways(|| {
        let scratch = Scratch::new("qemu");
        let mut spec = scratch.spec();
        if !filled(&mut spec) {
            return;
        }
        monitor(async {
            let (mut live, identity, _) = launched(&spec).await;
            let mut console = Typist::new(live.console().unwrap());
            console.until("READY").await;
            let order = order(true);
            let watch = Arc::clone(&order.watch);
            let process = Process::open(identity).unwrap();
            let kill = async {
                moved(&watch, 10 << 20).await;
                process.signal(Signal::SIGKILL).unwrap();
            };
            let sink = Basket { slow: Some(Duration::from_millis(20)), ..Basket::default() };
            let error = hindered(&mut live, sink, kill, order.clone()).await;
            assert!(matches!(error, BackendError::Exited { .. }), "{error}");
        });
    });
}

#[test]
fn a_guest_that_never_stops_writing_is_saved_all_the_same() {
    both_ways(|| {
        let scratch = Scratch::new("qemu");
        let mut spec = scratch.spec();
        if !filled(&mut spec) {
            return;
        }
        monitor(async {
            let (mut live, ..) = launched(&spec).await;
            let mut console = Typist::new(live.console().unwrap());
            console.until("READY").await;
            // Enough rewriting for the whole save, through a sink slower than the guest.
            console.send(&"w".repeat(200)).await;
            let sink = Basket { slow: Some(Duration::from_millis(10)), ..Basket::default() };
            let kept = Arc::clone(&sink.kept);
            let state = live.save_state(order(true), Box::new(sink)).await.unwrap();
            let bytes = kept.lock().unwrap().bytes;
            assert!(bytes > TOUCHED << 20 && bytes < (6 * MEMORY) << 20, "{bytes}");
            live.destroy().await.unwrap();
            let (mut live, ..) = launched(&back(&spec, &state, &kept)).await;
            let mut console = Typist::new(live.console().unwrap());
            live.unpause().await.unwrap();
            // The rewriting that was under way comes to its end.
            console.until("W OK").await;
            live.destroy().await.unwrap();
        });
    });
}

/// The pages of a stopped guest's memory that differ from what was kept of it.
fn different(pid: i32, kept: &Mutex<Kept>) -> Vec<u64> {
    const PAGE: usize = 4096;
    let kept = kept.lock().unwrap();
    let size = kept.layout.as_ref().unwrap().size;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let starts = maps.lines().filter_map(|line| {
        let (start, rest) = line.split_once('-')?;
        let (end, rest) = rest.split_once(' ')?;
        let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).unwrap());
        (end - start == size && rest.starts_with("rw-")).then_some(start)
    });
    let starts: Vec<u64> = starts.collect();
    assert_eq!(starts.len(), 1, "one mapping of {size} bytes: {maps}");
    let real = File::open(format!("/proc/{pid}/mem")).unwrap();
    let (mut here, mut there) = ([0; PAGE], [0; PAGE]);
    let mut found = Vec::new();
    for offset in (0..size).step_by(PAGE) {
        real.read_exact_at(&mut here, starts[0] + offset).unwrap();
        kept.memory.as_ref().unwrap().read_exact_at(&mut there, offset).unwrap();
        if here != there {
            found.push(offset);
        }
    }
    found
}

#[test]
fn a_live_save_holds_exactly_the_memory_of_a_guest_that_boots_or_writes() {
    both_ways(|| {
        let scratch = Scratch::new("qemu");
        let mut spec = scratch.spec();
        if !filled(&mut spec) {
            return;
        }
        // During the boot some of it is given back.
        spec.config.memory_mib = MEMORY - 8;
        monitor(async {
            let (mut live, identity, _) = launched(&spec).await;
            let mut console = Typist::new(live.console().unwrap());
            for round in 0..10 {
                // The first saves fall into the boot, the last ones into the rewriting.
                if round == 6 {
                    console.until("READY").await;
                    console.send(&"w".repeat(100)).await;
                }
                // The guest gets somewhere in between; where, does not matter.
                tokio::time::sleep(Duration::from_millis(300)).await;
                let (_, kept) = saved(&mut live, order(true)).await;
                assert_eq!(different(identity.pid, &kept), Vec::<u64>::new(), "round {round}");
                live.go_on(true).await.unwrap();
            }
            let (state, kept) = saved(&mut live, order(true)).await;
            live.destroy().await.unwrap();
            for own in [false, true] {
                let mut spec = back(&spec, &state, &kept);
                spec.image.as_mut().unwrap().memory.as_mut().unwrap().own = own;
                let (mut live, identity, _) = launched(&spec).await;
                live.unpause().await.unwrap();
                for round in 0..3 {
                    let (_, kept) = saved(&mut live, order(true)).await;
                    let found = different(identity.pid, &kept);
                    assert_eq!(found, Vec::<u64>::new(), "own {own}, round {round}");
                    live.go_on(true).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                live.destroy().await.unwrap();
            }
        });
    });
}

/// What a stream begins with, up to the memory, and its blocks.
fn beginning(stream: &[u8]) -> (Vec<u8>, Vec<(String, u64)>) {
    let ram = stream.windows(4).position(|word| word == b"\x03ram").unwrap();
    let (head, table) = (&stream[..ram - 5], &stream[ram + 4 + 8..]);
    let word = |bytes: &[u8]| u64::from_be_bytes(bytes[..8].try_into().unwrap());
    let (total, mut rest, mut blocks) = (word(table) & !0xfff, &table[8..], Vec::new());
    while blocks.iter().map(|(_, used)| used).sum::<u64>() < total {
        let (name, behind) = rest[1..].split_at(rest[0].into());
        blocks.push((String::from_utf8(name.to_vec()).unwrap(), word(behind)));
        rest = &behind[8..];
    }
    blocks.sort();
    (head.to_vec(), blocks)
}

#[test]
fn a_stream_of_ours_begins_as_one_of_qemus_and_holds_the_same_blocks() {
    for arch in installed() {
        let scratch = Scratch::new("qemu");
        let mut spec = scratch.spec();
        (spec.config.arch, spec.paused) = (Some(arch), true);
        (spec.config.memory_mib, spec.config.maxmem_mib) = (96, 96);
        spec.config.nics = vec![Nic { user: true, ..Nic::default() }];
        let mut streams = Vec::new();
        both_ways(|| {
            monitor(async {
                let (mut live, ..) = launched(&spec).await;
                let (_, kept) = saved(&mut live, order(true)).await;
                live.destroy().await.unwrap();
                streams.push(kept.lock().unwrap().device.clone());
            });
        });
        let [ours, theirs] = &streams[..] else { panic!("two ways") };
        if !ours.ends_with(b"{}") {
            println!("skipped: memory cannot be read past QEMU for {arch} on this host");
            continue;
        }
        assert_eq!(beginning(ours), beginning(theirs), "{arch}");
    }
}

#[test]
fn a_guest_that_is_to_go_on_does_so_at_once_and_its_state_is_that_of_one_moment() {
    both_ways(|| {
        let scratch = Scratch::new("qemu");
        let mut spec = scratch.spec();
        if !filled(&mut spec) {
            return;
        }
        monitor(async {
            let (mut live, ..) = launched(&spec).await;
            let mut events = live.events().unwrap();
            let mut console = Typist::new(live.console().unwrap());
            console.until("READY").await;
            assert_eq!(next(&mut events).await, Event::Resumed);
            console.send(&"w".repeat(20)).await;
            let looked = Rc::new(Cell::new(0));
            let count = Rc::clone(&looked);
            let pause = Pause(Rc::new(move |_| {
                count.set(count.get() + 1);
                Box::pin(std::future::ready(()))
            }));
            let goes_on = || SaveOrder { go_on: Some(pause.clone()), ..order(true) };
            let (state, kept) = saved(&mut live, goes_on()).await;
            assert_eq!(looked.get(), 1);
            let went_on = state.went_on_ms.expect("a host that lets us or QEMU track memory");
            assert!(state.moment.running && went_on >= state.moment.stopped_ms);
            assert_eq!(live.query().await.unwrap().state, State::Running);
            console.until("W OK").await;
            check(&mut console).await;
            // Saved again in every other way.
            saved(&mut live, order(false)).await;
            live.go_on(true).await.unwrap();
            saved(&mut live, order(true)).await;
            live.go_on(true).await.unwrap();
            check(&mut console).await;
            events.try_recv().expect_err("nobody was told of the pauses");
            live.destroy().await.unwrap();

            let (mut live, ..) = launched(&back(&spec, &state, &kept)).await;
            let mut console = Typist::new(live.console().unwrap());
            live.unpause().await.unwrap();
            // The rewriting that was under way comes to its end, and all fits together.
            console.until("W OK").await;
            check(&mut console).await;
            // Memory that was mapped from a file may be one that cannot be protected.
            let (state, _) = saved(&mut live, goes_on()).await;
            if state.went_on_ms.is_none() {
                assert_eq!(live.query().await.unwrap().state, State::Paused);
                live.go_on(true).await.unwrap();
            }
            check(&mut console).await;
            live.destroy().await.unwrap();
        });
    });
}

#[test]
fn a_guest_that_came_back_can_be_reset() {
    let scratch = Scratch::new("qemu");
    let mut spec = scratch.spec();
    if !filled(&mut spec) {
        return;
    }
    monitor(async {
        let (mut live, ..) = launched(&spec).await;
        let mut console = Typist::new(live.console().unwrap());
        console.until("READY").await;
        let (state, kept) = saved(&mut live, order(false)).await;
        live.destroy().await.unwrap();
        let sum = digest(&kept);
        let (mut live, ..) = launched(&back(&spec, &state, &kept)).await;
        let mut console = Typist::new(live.console().unwrap());
        live.unpause().await.unwrap();
        check(&mut console).await;
        live.reset().await.unwrap();
        console.until("READY").await;
        check(&mut console).await;
        let (state, second) = saved(&mut live, order(true)).await;
        live.destroy().await.unwrap();
        assert_eq!(digest(&kept), sum, "the image is as it was");
        let (mut live, ..) = launched(&back(&spec, &state, &second)).await;
        let mut console = Typist::new(live.console().unwrap());
        live.unpause().await.unwrap();
        check(&mut console).await;
        live.destroy().await.unwrap();
    });
}

#[test]
fn a_state_that_does_not_fit_is_refused_with_what_differs() {
    let scratch = Scratch::new("qemu");
    let mut spec = scratch.spec();
    if !guest(&mut spec) {
        return;
    }
    spec.paused = true;
    monitor(async {
        let (mut live, ..) = launched(&spec).await;
        let (state, kept) = saved(&mut live, order(false)).await;
        live.destroy().await.unwrap();
        assert!(!state.moment.running);
        assert!(state.machine.features.contains(&"sse2".to_owned()), "{:?}", state.machine);
        let good = back(&spec, &state, &kept);
        driver().check(&good).unwrap();
        let refused = |change: &dyn Fn(&mut LaunchSpec, &mut StateSource)| {
            let mut spec = good.clone();
            let mut image = spec.image.take().unwrap();
            change(&mut spec, &mut image);
            spec.image = Some(image);
            let error = driver().check(&spec).unwrap_err();
            let BackendError::Foreign { why } = error else { panic!("{error}") };
            why
        };
        let (version, machine) = (&state.machine.version, &state.machine.machine);
        let why = refused(&|_, image| image.machine.version = "99.1.0".into());
        let expected = format!("saved by QEMU 99.1.0 with {machine}; this host has {version}");
        assert_eq!(why, expected);
        let why = refused(&|_, image| image.machine.machine = "pc-i440fx-99.0".into());
        assert!(why.starts_with(&format!("saved by QEMU {version} with pc-i440fx-99.0;")), "{why}");
        // An older one has been built since, with features that this one lacks.
        let why = refused(&|_, image| {
            image.machine.version = "1.0".into();
            image.machine.features.push("zzz".into());
        });
        assert_eq!(why, "saved on a processor Nehalem-v1 with zzz, which this host's lacks");
        let why = refused(&|_, image| {
            (image.machine.version, image.machine.cpu) = ("1.0".into(), "i8080".into());
        });
        assert!(why.ends_with("has no processor i8080"), "{why}");
        let why = refused(&|spec, _| spec.config.vcpus = 2);
        assert!(why.contains("smp cpus=2"), "{why}");
        let why = refused(&|spec, _| spec.config.nics = vec![Nic { user: true, ..Nic::default() }]);
        assert!(why.contains("device virtio-net-pci") && why.contains("has nothing"), "{why}");
        let why = refused(&|spec, _| spec.config.maxmem_mib = 256);
        assert!(why.starts_with("saved with 128 MiB of memory"), "{why}");
        let why = refused(&|_, image| image.memory = None);
        assert!(why.contains("no memory"), "{why}");
        let why = refused(&|_, image| image.machine.emulator = "pdp11".into());
        assert!(why.contains("saved by pdp11"), "{why}");
        // One that was saved before the guest ran at all comes back as well, and boots.
        let (mut live, ..) = launched(&good).await;
        let mut console = Typist::new(live.console().unwrap());
        live.unpause().await.unwrap();
        console.until("READY").await;
        live.destroy().await.unwrap();
        // What QEMU itself refuses is told in its own words, and nothing is left.
        let mut spec = good.clone();
        let image = spec.image.as_mut().unwrap();
        let torn = File::from(image.device.try_clone().unwrap());
        torn.set_len(torn.metadata().unwrap().len() / 2).unwrap();
        let mut record = Record::default();
        let error = driver().launch(&spec, &mut record).await.err().unwrap().to_string();
        assert!(error.contains("qemu-system-x86_64: "), "{error}");
        assert!(!record.kept.unwrap().0.alive());
    });
}

#[test]
fn a_balloon_leaves_the_image_as_it_is() {
    let scratch = Scratch::new("qemu");
    let mut spec = scratch.spec();
    if !filled(&mut spec) {
        return;
    }
    spec.config.memory_mib = MEMORY - 8;
    spec.config.boot.cmdline = Some("console=ttyS0 quiet tick=10 touch=16".into());
    let shrunk = async |live: &mut Box<dyn Live>| {
        while report(live).await.memory_mib != Some(MEMORY - 8) {
            // The balloon tells nobody when it is full.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    monitor(async {
        let (mut live, ..) = launched(&spec).await;
        let mut console = Typist::new(live.console().unwrap());
        console.until("READY").await;
        shrunk(&mut live).await;
        let (state, kept) = saved(&mut live, order(false)).await;
        live.destroy().await.unwrap();
        let sum = digest(&kept);
        let (mut live, ..) = launched(&back(&spec, &state, &kept)).await;
        let mut console = Typist::new(live.console().unwrap());
        assert_eq!(report(&mut live).await.memory_mib, Some(MEMORY - 8));
        // The next boot gives the same memory away once more.
        live.reset().await.unwrap();
        console.until("READY").await;
        shrunk(&mut live).await;
        check(&mut console).await;
        assert_eq!(digest(&kept), sum, "the image is as it was");
        live.destroy().await.unwrap();
    });
}

/// A qcow2 disk; says when there is nothing to make it with.
fn qcow2(path: &Path) -> bool {
    let Some(program) = crate::program::find(Path::new("qemu-img")) else {
        println!("skipped: no qemu-img");
        return false;
    };
    let name = path.display().to_string();
    crate::program::output(&program, &["create", "-q", "-f", "qcow2", &name, "8M"]).unwrap();
    true
}

/// The snapshots inside of a disk.
fn snapshots(path: &Path) -> String {
    let program = crate::program::find(Path::new("qemu-img")).unwrap();
    let name = path.display().to_string();
    crate::program::output(&program, &["snapshot", "-U", "-l", &name]).unwrap()
}

#[test]
fn disks_are_snapshotted_in_the_same_pause_and_only_for_a_save_that_succeeds() {
    both_ways(|| {
        let scratch = Scratch::new("qemu");
        let mut spec = scratch.spec();
        let (image, raw) = (scratch.0.join("a.qcow2"), scratch.0.join("b.raw"));
        if !guest(&mut spec) || !qcow2(&image) {
            return;
        }
        File::create(&raw).unwrap().set_len(1 << 20).unwrap();
        let mut first = disk(Some(&image), "xvda", DiskBus::Virtio, 0, false);
        first.format = DiskFormat::Qcow2;
        spec.config.disks = vec![first, disk(Some(&raw), "xvdb", DiskBus::Virtio, 1, false)];
        spec.config.boot.cmdline = Some("console=ttyS0 quiet tick=50 touch=32".into());
        let named = |name: &str| SaveOrder { snapshot: Some(name.into()), ..order(true) };
        monitor(async {
            let (mut live, ..) = launched(&spec).await;
            let mut console = Typist::new(live.console().unwrap());
            console.until("READY").await;
            let (state, _) = saved(&mut live, named("one")).await;
            assert_eq!(state.snapshots, ["xvda"], "the other has no place for one");
            live.go_on(true).await.unwrap();
            console.send("d").await;
            console.until("D OK").await;
            assert!(snapshots(&image).contains("one"), "{}", snapshots(&image));
            // QEMU refuses a second one of that name: the save comes to nothing.
            let error = hindered(&mut live, Basket::default(), async {}, named("one")).await;
            assert!(error.to_string().starts_with("blockdev-snapshot-internal-sync: "), "{error}");
            // The disk of the sink is full in the last pass, behind the snapshot.
            let full = Basket { deaf: true, ..Basket::default() };
            let error = hindered(&mut live, full, async {}, named("two")).await;
            assert!(matches!(error, BackendError::Sink(_)), "{error}");
            assert_eq!(report(&mut live).await.state, State::Running);
            let (one, two) = (snapshots(&image).contains("one"), snapshots(&image).contains("two"));
            assert!(one && !two, "{}", snapshots(&image));
            // Its image was not kept, after all.
            live.forget_snapshots("one").await;
            live.forget_snapshots("none").await;
            assert!(!snapshots(&image).contains("one"), "{}", snapshots(&image));
            console.send("d").await;
            console.until("D OK").await;
            live.destroy().await.unwrap();
        });
    });
}

#[test]
fn a_machine_of_every_kind_comes_back_also_for_another_user() {
    // Every kind of machine can be read past QEMU, or none on this host.
    let mut past_qemu = None;
    for arch in installed() {
        let machines: &[&str] = if arch == Arch::X86_64 { &["pc", "q35"] } else { &["virt"] };
        for machine in machines {
            let scratch = Scratch::new("qemu");
            let mut spec = scratch.spec();
            let config = &mut spec.config;
            (config.arch, config.machine) = (Some(arch), Some((*machine).into()));
            (config.memory_mib, config.maxmem_mib) = (96, 96);
            config.kind = GuestKind::Hvm;
            config.display.vncdisplay = Some(3617);
            config.usb.devices = vec!["tablet".into()];
            config.nics = vec![Nic { user: true, ..Nic::default() }];
            spec.paused = true;
            if nix::unistd::geteuid().is_root() {
                spec.run_as = Some(kxl_backend::RunAs { uid: 65534, gid: 65534 });
            }
            monitor(async {
                let (mut live, ..) = launched(&spec).await;
                live.unpause().await.unwrap();
                let (state, kept) = saved(&mut live, order(true)).await;
                assert!(state.machine.machine.contains('-'), "a versioned one");
                assert!(!state.machine.devices.is_empty());
                let direct = kept.lock().unwrap().device.ends_with(b"{}");
                assert_eq!(*past_qemu.get_or_insert(direct), direct, "{arch} {machine}");
                live.destroy().await.unwrap();
                for own in [false, true] {
                    let mut spec = back(&spec, &state, &kept);
                    spec.image.as_mut().unwrap().memory.as_mut().unwrap().own = own;
                    driver().check(&spec).unwrap();
                    let (mut live, ..) = launched(&spec).await;
                    assert_eq!(report(&mut live).await.state, State::Paused);
                    live.unpause().await.unwrap();
                    assert_eq!(report(&mut live).await.state, State::Running);
                    let (again, _) = saved(&mut live, order(false)).await;
                    assert_eq!(again.machine, state.machine, "{arch} {machine}");
                    live.destroy().await.unwrap();
                }
            });
        }
    }
}
