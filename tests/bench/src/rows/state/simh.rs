//! Old machines: a state of theirs is small, and SIMH writes it itself.

use std::time::Instant;

use super::{SOON, Subject, times};
use crate::console::Dialect;
use crate::error::BenchError;
use crate::figure::{Figure, Goal};
use crate::host::Lab;
use crate::libvirt;
use crate::table::Table;

/// Save into a file and restore from it.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let machines = [("pdp11", "1000", Dialect::Pdp11), ("vax780", "400", Dialect::Vax)];
    let host = lab.host("simh")?;
    for (number, (machine, start, dialect)) in (1_u32..).zip(machines) {
        let what = format!("save of a {machine}");
        let ini = format!("{machine}-counter.ini");
        if libvirt::program(machine).is_none() {
            table.skip(&what, &format!("{machine} is not installed"));
            continue;
        }
        if !Lab::built().unwrap_or_default().join(&ini).is_file() {
            table.skip(&what, &format!("target/guest/{ini} is not built: make guest"));
            continue;
        }
        let copies = lab.copies(&[&ini])?;
        let ini = copies.first().map(|path| path.display().to_string()).unwrap_or_default();
        let config = format!(
            "name = \"g{number}\"\nbackend = \"simh\"\nmachine = \"{machine}\"\n\
             start = \"{start}\"\nini = \"{ini}\"\nmemory = 4\n"
        );
        let subject = Subject::of(&host, number, &config, dialect)?;
        let file = host.root.join(format!("{machine}.kxl")).to_string_lossy().into_owned();
        let [mut save, mut restore, mut heard] = times();
        for _ in 0..lab.rounds.of(9, 2) {
            subject.counts()?;
            save.push_time(host.kxl(["save", "-q", "--force", &subject.name, &file])?.wall);
            let place = subject.transcript.place();
            let start = Instant::now();
            restore.push_time(host.kxl(["restore", "-q", &file])?.wall);
            let (at, _) = subject.hear(place, SOON, |said| said.count().is_some())?;
            heard.push_time(at.saturating_duration_since(start));
        }
        table.add(Figure::new(format!("{machine}: save returns"), save, Goal::Reported));
        table.add(Figure::new(format!("{machine}: restore returns"), restore, Goal::Reported));
        let what = "  to its next line, one each 200 ms";
        table.add(Figure::new(what, heard, Goal::Reported));
        subject.remove()?;
    }
    Ok(())
}
