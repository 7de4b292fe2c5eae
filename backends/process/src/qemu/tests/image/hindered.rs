//! Saves that come to nothing.

use super::*;

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

/// A qcow2 disk; says when there is nothing to make it with.
fn qcow2(path: &Path) -> bool {
    let Some(program) = crate::program::find(Path::new("qemu-img")) else {
        crate::testing::skip("no qemu-img");
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
            let (mut live, identity, attachments) = launched(&spec).await;
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
            // One that was left standing has let go of its disks, also for a later monitor.
            for name in ["three", "four"] {
                saved(&mut live, order(true)).await;
                if name == "four" {
                    drop((live, console));
                    live = driver().adopt(&spec, identity.clone(), &attachments).await.unwrap();
                    console = Typist::new(live.console().unwrap());
                }
                let (state, _) = saved(&mut live, named(name)).await;
                assert!(!state.moment.running);
                live.go_on(true).await.unwrap();
                console.send("d").await;
                console.until("D OK").await;
            }
            live.destroy().await.unwrap();
        });
    });
}

#[test]
fn a_machine_that_has_never_run_does_not_run_because_it_is_saved() {
    for arch in installed() {
        both_ways(|| {
            let scratch = Scratch::new("qemu");
            let mut spec = scratch.spec();
            (spec.config.arch, spec.paused) = (Some(arch), true);
            (spec.config.memory_mib, spec.config.maxmem_mib) = (96, 96);
            monitor(async {
                let (live, identity, attachments) = launched(&spec).await;
                drop(live);
                let adopted = driver().adopt(&spec, identity, &attachments).await;
                let mut live = adopted.unwrap();
                let (state, _) = saved(&mut live, order(true)).await;
                assert!(!state.moment.running);
                live.destroy().await.unwrap();
            });
            // QEMU tells of each change there.
            let log = std::fs::read_to_string(&spec.emulator_log).unwrap();
            assert!(!log.contains("(running)"), "{log}");
        });
    }
}
