//! What it costs to run `kxl` at all.

use std::process::Command;

use crate::error::BenchError;
use crate::figure::{Figure, Goal, Series, Unit};
use crate::host::Lab;
use crate::run;
use crate::table::Table;

/// Every command of every script pays this.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let host = lab.host("version")?;
    let (mut kxl, mut cpu) = (Series::new(Unit::Ms), Series::new(Unit::Ms));
    let mut nothing = Series::new(Unit::Ms);
    for _ in 0..lab.rounds.of(200, 30) {
        let run = host.kxl(["--version"])?;
        kxl.push_time(run.wall);
        cpu.push_time(run.cpu);
        nothing.push_time(run::timed(&mut Command::new("/bin/true"))?.wall);
    }
    let above = kxl.above(nothing.median());
    let figure = Figure::new("kxl --version, above /bin/true", above, Goal::Below(3.0));
    table.add(figure.cpu(&cpu));
    table.add(Figure::new("kxl --version", kxl, Goal::Reported).beside("/bin/true", &nothing));
    Ok(())
}
