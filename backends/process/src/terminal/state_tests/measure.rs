//! What a save and a restore cost.

use super::*;

/// Adds how long something takes to a list.
async fn timed<T>(times: &mut Vec<Duration>, what: impl Future<Output = T>) -> T {
    let begun = std::time::Instant::now();
    let done = what.await;
    times.push(begun.elapsed());
    done
}

#[test]
#[ignore = "a measurement: run it by name with --nocapture"]
fn how_long_a_save_and_a_restore_take() {
    each(&async |spec| {
        let mut taken = [const { Vec::new() }; 4];
        let [saves, goes, launches, unpauses] = &mut taken;
        let (mut live, ..) = launched(spec, "simh").await;
        let mut console = Typist::new(live.console().unwrap());
        begun(&mut console, spec.config.machine.as_deref()).await;
        let mut bytes = 0;
        for _ in 0..15 {
            let (saved, kept) = timed(saves, save(&mut live)).await;
            timed(goes, live.go_on(true)).await.unwrap();
            live.destroy().await.unwrap();
            bytes = kept.bytes.lock().unwrap().len();
            let spec = LaunchSpec { image: Some(kept.source(&saved)), ..spec.clone() };
            (live, ..) = timed(launches, launched(&spec, "simh")).await;
            timed(unpauses, live.unpause()).await.unwrap();
        }
        live.destroy().await.unwrap();
        let [save, go_on, launch, unpause] = taken.map(|mut times| {
            times.sort();
            times[times.len() / 2]
        });
        println!(
            "{}: {bytes} bytes; medians of 15: save {save:?}, go on {go_on:?}, launch with the \
             state {launch:?}, unpause {unpause:?}",
            spec.config.machine.as_deref().unwrap_or_default(),
        );
    });
}
