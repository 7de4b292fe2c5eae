//! A start, beside QEMU without a toolstack and beside the peer.

use std::path::Path;

use crate::error::BenchError;
use crate::figure::{Figure, Goal, Series, Unit};
use crate::host::{Guest, Host, Lab};
use crate::libvirt::{self, Domain, Libvirt};
use crate::raw::Recipe;
use crate::table::Table;

/// Rounds of raw QEMU, kxl and libvirt take turns; each ends what it started.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let guest = match lab.guest()? {
        Ok(guest) => guest,
        Err(why) => {
            table.skip("create", &why);
            return Ok(());
        }
    };
    if libvirt::program("qemu-system-x86_64").is_none() {
        table.skip("create", "qemu-system-x86_64 is not installed");
        return Ok(());
    }
    let host = lab.host("create")?;
    let config = host.file("guest.cfg", &guest.config())?;
    // Once before, so that everybody has asked QEMU what it can do and its files are in memory.
    create(&host, &config)?;
    let recipe = Recipe::of(host.emulator("guest")?.pid)?;
    host.kxl(["destroy", "guest"])?;
    let raw_dir = lab.dir("raw")?;
    recipe.first_answer(&raw_dir)?;
    let peer = match Libvirt::start(lab, "libvirt-create")? {
        Ok(peer) => Some(peer),
        Err(why) => {
            table.skip("virsh start", &why);
            None
        }
    };
    if let Some(peer) = &peer {
        peer.define(&guest, &Domain::of(&recipe, Guest::MEMORY, Guest::CMDLINE, None))?;
        peer.virsh(&["start", "guest"])?;
        peer.virsh(&["destroy", "guest"])?;
    }

    let [mut kxl, mut raw, mut virsh, mut cpu] = std::array::from_fn(|_| Series::new(Unit::Ms));
    for _ in 0..lab.rounds.of(25, 5) {
        raw.push_time(recipe.first_answer(&raw_dir)?);
        let run = create(&host, &config)?;
        kxl.push_time(run.wall);
        cpu.push_time(run.cpu);
        host.kxl(["destroy", "guest"])?;
        if let Some(peer) = &peer {
            virsh.push_time(peer.virsh(&["start", "guest"])?.wall);
            peer.virsh(&["destroy", "guest"])?;
        }
    }
    let what = "kxl create returns";
    table.add(Figure::new(what, kxl.clone(), Goal::Within(1.5)).beside("raw QEMU", &raw).cpu(&cpu));
    if peer.is_some() {
        table.add(Figure::new(what, kxl, Goal::Faster(4.0)).beside("virsh start", &virsh));
    }
    Ok(())
}

fn create(host: &Host, config: &Path) -> Result<crate::run::Run, BenchError> {
    host.kxl([Path::new("create"), Path::new("-q"), config])
}
