//! States of real guests: saved, and brought back.

use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use kxl_backend::{MemorySource, SaveOrder, SavedState, StateSource, Watch};

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
    SaveOrder { live, snapshot: None, watch: Arc::new(Watch::default()) }
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
            assert!(size.touched >= TOUCHED << 20 && size.touched <= MEMORY << 20, "{size:?}");
            live.destroy().await.unwrap();
            spec = back(&spec, &state, &kept);
            let sum = digest(&kept);
            let (again, ..) = launched(&spec).await;
            live = again;
            assert_eq!(live.query().await.unwrap().state, State::Paused);
            console = Typist::new(live.console().unwrap());
            live.unpause().await.unwrap();
            assert!(counter(&mut console).await > before);
            check(&mut console).await;
            assert_eq!(digest(&kept), sum, "the image is as it was");
        }
        live.destroy().await.unwrap();
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
        file.read_exact_at(&mut buffer, offset).unwrap();
        hasher.write(&buffer);
    }
    hasher.finish()
}

#[test]
fn a_guest_that_goes_on_after_its_save_was_not_hurt_and_nobody_is_told_of_the_pause() {
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
            assert_eq!(live.query().await.unwrap().state, State::Paused);
            live.go_on(true).await.unwrap();
            live.go_on(true).await.unwrap();
            assert_eq!(live.query().await.unwrap().state, State::Running);
            check(&mut console).await;
        }
        // One that stands still stays so, and can be saved again and again.
        live.pause().await.unwrap();
        assert_eq!(next(&mut events).await, Event::Stopped);
        for _ in 0..2 {
            let (state, _) = saved(&mut live, order(true)).await;
            assert!(!state.moment.running);
            live.go_on(false).await.unwrap();
            assert_eq!(live.query().await.unwrap().state, State::Paused);
        }
        live.unpause().await.unwrap();
        assert_eq!(next(&mut events).await, Event::Resumed);
        check(&mut console).await;
        events.try_recv().expect_err("nothing else was told");
        live.destroy().await.unwrap();
    });
}
