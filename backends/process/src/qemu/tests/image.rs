//! States of real guests: saved, and brought back.

use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use kxl_backend::{MemorySource, Pause, SaveOrder, SavedState, StateSource, Watch};

use super::*;
use crate::testing::{Basket, Kept};

mod hindered;
mod live;

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
            let (mut live, identity, _) = launched(&spec).await;
            let open = || std::fs::read_dir(format!("/proc/{}/fd", identity.pid)).unwrap().count();
            let mut before = None;
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
                // The first one may leave a file with QEMU for the later ones.
                assert_eq!(*before.get_or_insert_with(open), open());
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

/// Whether this host lets us see what a program writes; says when it does not.
fn host_tracks() -> bool {
    let mut command = spawn::Command::new(Path::new("/bin/sleep")).unwrap();
    command.arg("600").unwrap().track_writes();
    let process = spawn::spawn(command).unwrap().open().unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.identity().pid)).unwrap();
    let stack = maps.lines().find(|line| line.ends_with("[stack]")).unwrap();
    let (start, end) = stack.split_once(' ').unwrap().0.split_once('-').unwrap();
    let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).unwrap());
    let tracked = kxl_backend::tracking::Tracked::begin(&process, start..end);
    process.signal(Signal::SIGKILL).unwrap();
    if let Err(error) = &tracked {
        crate::testing::skip(&format!("memory read past QEMU: {error}"));
    }
    tracked.is_ok()
}

#[test]
fn a_machine_of_every_kind_comes_back_also_for_another_user() {
    let tracks = host_tracks();
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
                // The end of a stream of ours.
                let direct = kept.lock().unwrap().device.ends_with(b"{}");
                assert_eq!(direct, tracks, "{arch} {machine}");
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
