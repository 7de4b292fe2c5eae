//! Suspend and resume, beside the peer and beside the disk itself.

use std::time::{Duration, Instant};

use super::{BOOT, SOON, Size, Subject, guest, times};
use crate::console::{Dialect, Said, Transcript};
use crate::disk;
use crate::error::BenchError;
use crate::figure::{Figure, Goal, Series};
use crate::host::{Guest, Lab};
use crate::libvirt::{Domain, Libvirt};
use crate::raw::Recipe;
use crate::table::Table;

/// How long the disk has to free the blocks of some gigabytes.
const SETTLES: Duration = Duration::from_secs(1);

/// What was measured of one size.
struct Seen {
    size: Size,
    suspend: Series,
    took: Series,
    still: Series,
    resume: Series,
    returns: Series,
    /// Those of a guest that has only just booted: what it touches is noted for the later ones.
    first_resume: Series,
    first_suspend: Series,
}

/// One size after the other; in each round everybody once.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let Some(guest) = guest(lab, table, "suspend and resume")? else { return Ok(()) };
    let small = one(lab, &guest, Size::SMALL, None, &mut times())?;
    let mut others: [Series; 3] = times();
    let peer = match Libvirt::start(lab, "libvirt-state")? {
        Ok(peer) => Some(peer),
        Err(why) => {
            table.skip("virsh save and restore", &why);
            None
        }
    };
    let middle = one(lab, &guest, Size::MIDDLE, peer.as_ref(), &mut others)?;
    drop(peer);
    let [direct, save, restore] = &others;
    let large = one(lab, &guest, Size::LARGE, None, &mut times())?;
    let sparse = one(lab, &guest, Size::SPARSE, None, &mut times())?;

    for seen in [&small, &middle, &large] {
        let what = format!("resume to the guest's next line, cold, {}", seen.size.name());
        table.add(Figure::new(what, seen.resume.clone(), Goal::AtMost(120.0)));
        table.add(Figure::new("  the command returns", seen.returns.clone(), Goal::Reported));
        let what = "  of it the first after a boot";
        table.add(Figure::new(what, seen.first_resume.clone(), Goal::Reported));
    }
    let what = "resume, 2 GiB";
    table.add(
        Figure::new(what, large.resume.clone(), Goal::Within(1.5)).beside("256 MiB", &small.resume),
    );
    let what = "resume, 1 GiB";
    let faster = Figure::new(what, middle.resume.clone(), Goal::Faster(10.0));
    table.add(faster.beside("virsh restore to the next line", restore));
    let what = format!("suspend until durable, {}", middle.size.name());
    let figure = Figure::new(&what, middle.suspend.clone(), Goal::Within(0.4));
    table.add(figure.beside("virsh save", save));
    let figure = Figure::new(&what, middle.suspend.clone(), Goal::Within(2.0));
    table.add(figure.beside("O_DIRECT write of as much", direct));
    let what = "  of it the first after a boot";
    table.add(Figure::new(what, middle.first_suspend.clone(), Goal::Reported));
    table.add(Figure::new("  of it the monitor's part", middle.took.clone(), Goal::Reported));
    table.add(Figure::new("  of it the guest stands still", middle.still.clone(), Goal::Reported));
    let what = format!("suspend until durable, {}", large.size.name());
    table.add(Figure::new(what, large.suspend.clone(), Goal::Reported));
    let share = f64::from(sparse.size.touched) / f64::from(large.size.touched);
    let what = format!("suspend until durable, {}", sparse.size.name());
    // As the touched memory, and what every suspend costs beside it: half as much again.
    let goal = Goal::Within(share * 1.5 + 0.1);
    table.add(Figure::new(what, sparse.suspend, goal).beside("80 % touched", &large.suspend));
    Ok(())
}

/// Rounds of one size; `others` are the direct write, the peer's save and its restore.
fn one(
    lab: &Lab,
    guest: &Guest,
    size: Size,
    peer: Option<&Libvirt>,
    others: &mut [Series; 3],
) -> Result<Seen, BenchError> {
    let host = lab.host(&format!("state-{}-{}", size.memory, size.touched))?;
    let subject = Subject::linux(&host, guest, 1, size)?;
    let peer = match peer {
        Some(peer) => Some(Peer::start(peer, guest, size, &subject)?),
        None => None,
    };
    let [suspend, took, still, resume, returns, first_resume, first_suspend] = times();
    let mut seen =
        Seen { size, suspend, took, still, resume, returns, first_resume, first_suspend };
    for round in 0..lab.rounds.of(9, 2) {
        subject.counts()?;
        let away = subject.suspend()?;
        seen.suspend.push_time(away.wall);
        if round == 0 {
            seen.first_suspend.push_time(away.wall);
        }
        seen.took.push_time(away.took);
        seen.still.push_time(away.still);
        let bytes = disk::taken(&away.image)?;
        if let Some(peer) = &peer {
            others[0].push_time(disk::write_direct(&host.root, bytes)?);
            peer.round(others)?;
        }
        disk::cool(&away.image)?;
        // The disk may still be busy with the blocks of the image before, which the end of its
        // guest has set free: that is part of neither.
        std::thread::sleep(SETTLES);
        let (heard, returned) = subject.resume()?;
        seen.resume.push_time(heard);
        if round == 0 {
            seen.first_resume.push_time(heard);
        }
        seen.returns.push_time(returned);
        subject.alone()?;
    }
    if let Some(peer) = peer {
        peer.end()?;
    }
    subject.remove()?;
    Ok(seen)
}

/// The same guest at libvirt.
struct Peer<'a> {
    libvirt: &'a Libvirt,
    transcript: Transcript,
    file: String,
}

impl<'a> Peer<'a> {
    fn start(
        libvirt: &'a Libvirt,
        guest: &Guest,
        size: Size,
        like: &Subject<'_>,
    ) -> Result<Self, BenchError> {
        let (path, listener) = libvirt.socket("console")?;
        let domain = Domain::of(
            &Recipe::of(like.host.emulator(&like.name)?.pid)?,
            size.memory,
            &size.cmdline(),
            Some(&path),
        );
        let transcript = Transcript::of_socket(listener, Dialect::Linux);
        libvirt.define(guest, &domain)?;
        libvirt.virsh(&["start", "guest"])?;
        if transcript.wait(0, BOOT, |said| *said == Said::Ready).is_none() {
            return Err(BenchError::wrong("the guest of libvirt does not boot"));
        }
        Ok(Self { libvirt, transcript, file: libvirt.path("saved") })
    }

    fn round(&self, others: &mut [Series; 3]) -> Result<(), BenchError> {
        others[1].push_time(self.libvirt.virsh(&["save", "guest", &self.file])?.wall);
        disk::cool(self.file.as_ref())?;
        let place = self.transcript.place();
        let start = Instant::now();
        self.libvirt.virsh(&["restore", &self.file])?;
        let heard = self.transcript.wait(place, SOON, |said| said.count().is_some());
        let (heard, _) = heard.ok_or_else(|| BenchError::wrong("libvirt's guest is not heard"))?;
        others[2].push_time(heard.at.saturating_duration_since(start));
        std::fs::remove_file(&self.file).map_err(BenchError::io("remove libvirt's image"))
    }

    fn end(self) -> Result<(), BenchError> {
        self.libvirt.virsh(&["destroy", "guest"]).map(drop)
    }
}
