//! The list of many domains that rest.

use crate::error::BenchError;
use crate::figure::{Figure, Goal, Series, Unit};
use crate::host::{Host, Lab, both, uuid};
use crate::libvirt::Libvirt;
use crate::table::Table;
use crate::writer;

const FEW: u32 = 1_000;
const MANY: u32 = 10_000;

/// Domains are defined through the store that `kxl new` uses, in one process.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let few = lab.host("list-few")?;
    define(&few, FEW)?;
    let peer = match Libvirt::start(lab, "libvirt-list")? {
        Ok(peer) => {
            peer.define_many(FEW)?;
            Some(peer)
        }
        Err(why) => {
            table.skip("virsh list --all", &why);
            None
        }
    };
    let [mut kxl, mut cpu, mut virsh] = std::array::from_fn(|_| Series::new(Unit::Ms));
    for _ in 0..lab.rounds.of(40, 8) {
        list(&few, FEW, &mut kxl, &mut cpu)?;
        if let Some(peer) = &peer {
            let run = peer.virsh(&["list", "--all"])?;
            let lines = run.stdout.lines().filter(|line| !line.trim().is_empty()).count();
            if lines != FEW as usize {
                return Err(BenchError::wrong(format!("virsh lists {lines} domains")));
            }
            virsh.push_time(run.wall);
        }
    }
    let mut figure = Figure::new("kxl list, 1,000 managed", kxl, Goal::Faster(10.0)).cpu(&cpu);
    if peer.is_some() {
        figure = figure.beside("virsh list --all", &virsh);
    }
    table.add(figure);
    drop((few, peer));

    let many = lab.host("list-many")?;
    define(&many, MANY)?;
    let [mut kxl, mut cpu] = std::array::from_fn(|_| Series::new(Unit::Ms));
    for _ in 0..lab.rounds.of(40, 8) {
        list(&many, MANY, &mut kxl, &mut cpu)?;
    }
    table.add(Figure::new("kxl list, 10,000 managed", kxl, Goal::Below(60.0)).cpu(&cpu));
    Ok(())
}

/// Two at a time, because each waits for the disk.
fn define(host: &Host, count: u32) -> Result<(), BenchError> {
    let store = host.store()?;
    let other = host.store()?;
    let define = |store: &kxl_store::Store, first: u32| {
        (first..=count).step_by(2).try_for_each(|number| {
            crate::interrupt::check()?;
            store.define(&writer::config(number)?, uuid(number))?;
            Ok(())
        })
    };
    both(|| define(&store, 1), || define(&other, 2))
}

fn list(host: &Host, count: u32, wall: &mut Series, cpu: &mut Series) -> Result<(), BenchError> {
    let run = host.kxl(["list"])?;
    let lines = run.stdout.lines().count();
    if lines != count as usize + 1 {
        return Err(BenchError::wrong(format!("kxl lists {lines} lines for {count} domains")));
    }
    wall.push_time(run.wall);
    cpu.push_time(run.cpu);
    Ok(())
}
