//! A host that is emptied, beside suspending its domains one by one.

use std::time::Duration;

use super::{Size, Subject, guest, times};
use crate::error::BenchError;
use crate::figure::{Figure, Goal};
use crate::host::Lab;
use crate::table::Table;

const DOMAINS: u32 = 8;

/// Eight guests; one by one and all by `host save` take turns.
pub(crate) fn measure(lab: &Lab, table: &mut Table) -> Result<(), BenchError> {
    let Some(guest) = guest(lab, table, "host save")? else { return Ok(()) };
    let host = lab.host("hosts")?;
    let mut subjects = Vec::new();
    for number in 1..=DOMAINS {
        subjects.push(Subject::linux(&host, &guest, number, Size::SMALL)?);
    }
    let names: Vec<&str> = subjects.iter().map(|subject| subject.name.as_str()).collect();
    let [mut all, mut row, mut back] = times();
    for _ in 0..lab.rounds.of(5, 1) {
        let mut sum = Duration::ZERO;
        for subject in &subjects {
            sum += subject.suspend()?.wall;
        }
        row.push_time(sum);
        host.kxl(["resume", "-q"].iter().chain(&names))?;
        everybody(&subjects)?;
        all.push_time(host.kxl(["host", "save", "-q"])?.wall);
        back.push_time(host.kxl(["host", "restore", "-q"])?.wall);
        everybody(&subjects)?;
    }
    let what = format!("kxl host save, {DOMAINS} x {}", Size::SMALL.name());
    let figure = Figure::new(what, all, Goal::Within(0.7));
    table.add(figure.beside("eight kxl suspend in a row", &row));
    table.add(Figure::new("  kxl host restore", back, Goal::Reported));
    subjects.into_iter().try_for_each(Subject::remove)
}

fn everybody(subjects: &[Subject<'_>]) -> Result<(), BenchError> {
    subjects.iter().try_for_each(|subject| subject.counts().and_then(|()| subject.alone()))
}
