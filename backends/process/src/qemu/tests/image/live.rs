//! Saves of guests that run meanwhile.

use super::*;

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
            crate::testing::skip(&format!(
                "memory cannot be read past QEMU for {arch} on this host"
            ));
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
