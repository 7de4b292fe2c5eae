//! `kxl release`.

use kxl_domain::Failure;
use kxl_engine::{Host, Outcome};
use kxl_store::ListRow;

use super::{Exit, list};
use crate::args::Release;
use crate::{out, report};

/// Ends monitors; their domains go on.
pub(crate) fn release(args: &Release) -> Exit {
    let mut host = Host::open()?;
    let mut worst = 0;
    let mut rows = Vec::new();
    if args.all {
        rows.extend(list::all(&mut host)?.into_iter().filter(|row| row.domid.is_some()));
    }
    let mut failed = |failure: &Failure| {
        report::failure(failure);
        worst = worst.max(failure.kind.exit_code());
    };
    for name in &args.names {
        match host.find(name) {
            Ok(row) => rows.push(row),
            Err(failure) => failed(&failure),
        }
    }
    let mut said = String::new();
    for row in &rows {
        match host.release(row) {
            Ok(outcome) => said.push_str(&told(row, outcome)),
            Err(failure) => failed(&failure),
        }
    }
    if args.all && rows.is_empty() {
        report::note("no domain is live: there is no monitor to end");
    }
    out::print(&said)?;
    Ok(worst)
}

fn told(row: &ListRow, outcome: Outcome) -> String {
    let state = row.state;
    match (outcome, row.domid) {
        (_, None) => format!("{}: {state}, without a monitor\n", row.name),
        (Outcome::Done, _) => format!("{}: monitor ended, the domain goes on\n", row.name),
        (Outcome::Already, _) => format!("{}: has no monitor\n", row.name),
    }
}
