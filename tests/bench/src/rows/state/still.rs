//! For how long a guest stands still while its state is kept and it goes on, rewriting its memory.

use std::time::{Duration, Instant};

use super::{BOOT, SOON, Size, Subject, guest, times};
use crate::console::{Dialect, Said, Transcript};
use crate::error::BenchError;
use crate::figure::{Figure, Goal};
use crate::host::Lab;
use crate::libvirt::{Domain, Libvirt};
use crate::raw::Recipe;
use crate::table::Table;
use crate::typist::Typist;

/// Rewrites that are asked for at once: the guest is busy with them until the save is over.
const BUSY: &str = "wwwwwwwwwwwwwwwwwwwwwwwwwwwwww";

/// For how long the guest is watched without a save, and after each.
const WATCHED: Duration = Duration::from_secs(2);

/// The largest gap of the guest's counter, which goes on every 10 ms while it rewrites.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let what = "stand-still of save -c";
    let Some(guest) = guest(lab, table, what)? else { return Ok(()) };
    let host = lab.host("still")?;
    let size = Size::MIDDLE;
    let subject = Subject::linux(&host, &guest, 1, size)?;
    let file = host.root.join("still.kxl");
    let [mut gaps, mut idle, mut told, mut wall] = times();
    for _ in 0..lab.rounds.of(5, 1) {
        let mut typist = Typist::at(&host, &subject.name)?;
        typist.type_keys(BUSY)?;
        let place = subject.transcript.place();
        subject.hear(place, SOON, |said| *said == Said::Rewritten)?;
        let place = subject.transcript.place();
        std::thread::sleep(WATCHED);
        idle.push_time(gap(&subject.transcript, place)?);
        let place = subject.transcript.place();
        let run = host.kxl([
            "save".as_ref(),
            "-c".as_ref(),
            "--json".as_ref(),
            subject.name.as_ref(),
            file.as_os_str(),
        ])?;
        std::thread::sleep(WATCHED / 4);
        gaps.push_time(gap(&subject.transcript, place)?);
        wall.push_time(run.wall);
        told.push_time(still(&run.stdout)?);
        quiet(&subject.transcript)?;
        typist.leave()?;
        std::fs::remove_file(&file).map_err(BenchError::io("remove the saved state"))?;
    }
    let name = format!("largest gap of the counter, save -c, {}, rewriting", size.name());
    let figure = Figure::new(name, gaps.clone(), Goal::AtMost(60.0));
    table.add(figure.beside("rewriting, no save", &idle));
    table.add(Figure::new("  stand-still as the monitor tells it", told, Goal::Reported));
    table.add(Figure::new("  the whole save -c", wall, Goal::Reported));
    match Libvirt::start(lab, "libvirt-still")? {
        Err(why) => table.skip("virsh snapshot-create-as --live --memspec", &why),
        Ok(peer) => {
            let (path, listener) = peer.socket("console")?;
            let domain = Domain::of(
                &Recipe::of(host.emulator(&subject.name)?.pid)?,
                size.memory,
                &size.cmdline(),
                Some(&path),
            );
            subject.remove()?;
            let transcript = Transcript::of_socket(listener, Dialect::Linux);
            peer.define(&guest, &domain)?;
            let (theirs, whole) = snapshots(lab, &peer, &transcript)?;
            let what = "  the same beside libvirt";
            let figure = Figure::new(what, gaps, Goal::Reported);
            table.add(figure.beside("virsh snapshot-create-as --live --memspec", &theirs));
            table.add(Figure::new("  the whole virsh snapshot-create-as", whole, Goal::Reported));
            return Ok(());
        }
    }
    subject.remove()
}

/// Libvirt's live snapshots; the gaps, and how long the command took.
fn snapshots(
    lab: &Lab,
    peer: &Libvirt,
    transcript: &Transcript,
) -> Result<(crate::figure::Series, crate::figure::Series), BenchError> {
    peer.virsh(&["start", "guest"])?;
    let lost = || BenchError::wrong("libvirt's guest is not heard");
    transcript.wait(0, BOOT, |said| *said == Said::Ready).ok_or_else(lost)?;
    let [mut gaps, mut whole] = times();
    let file = peer.path("snapshot");
    let memory = format!("file={file},snapshot=external");
    for _ in 0..lab.rounds.of(5, 1) {
        let place = transcript.place();
        transcript.send(BUSY.as_bytes())?;
        transcript.wait(place, SOON, |said| *said == Said::Rewritten).ok_or_else(lost)?;
        let place = transcript.place();
        let start = Instant::now();
        let words =
            ["snapshot-create-as", "guest", "--live", "--no-metadata", "--memspec", &memory];
        peer.virsh(&words)?;
        whole.push_time(start.elapsed());
        std::thread::sleep(WATCHED / 4);
        gaps.push_time(gap(transcript, place)?);
        quiet(transcript)?;
        std::fs::remove_file(&file).map_err(BenchError::io("remove libvirt's snapshot"))?;
    }
    peer.virsh(&["destroy", "guest"])?;
    Ok((gaps, whole))
}

fn gap(transcript: &Transcript, place: usize) -> Result<Duration, BenchError> {
    let gap = transcript.largest_gap(place);
    gap.ok_or_else(|| BenchError::wrong("the guest did not count meanwhile"))
}

/// Waits until the guest has no rewrite left to do.
fn quiet(transcript: &Transcript) -> Result<(), BenchError> {
    let until = Instant::now() + BOOT;
    loop {
        let place = transcript.place();
        let longest = Duration::from_secs(6);
        if transcript.wait(place, longest, |said| *said == Said::Rewritten).is_none() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(BenchError::wrong("the guest does not come to an end of rewriting"));
        }
    }
}

/// The stand-still that `save --json` tells.
fn still(json: &str) -> Result<Duration, BenchError> {
    let told: Option<serde_json::Value> = serde_json::from_str(json).ok();
    let ms = told.as_ref().and_then(|told| told["still_ms"].as_u64());
    ms.map(Duration::from_millis).ok_or_else(|| BenchError::wrong(format!("save told {json}")))
}
