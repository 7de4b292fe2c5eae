//! `kxl shutdown` and `kxl reboot`.

use std::time::Duration;

use kxl_control::Until;
use kxl_domain::{Failure, Kind, State, Verb};
use kxl_engine::{Host, Outcome};
use kxl_store::ListRow;

use super::{Exit, already, list};
use crate::args::End;
use crate::ending::{self, Ask, News};
use crate::report;

/// Asks the named domains, or all that run, to end.
pub(crate) fn end(args: &End, verb: Verb) -> Exit {
    let mut host = Host::open()?;
    let mut status = 0;
    let mut failed = |failure: &Failure| {
        report::failure(failure);
        status = status.max(failure.kind.exit_code());
    };
    let mut rows = Vec::new();
    if args.all {
        rows.extend(list::all(&mut host)?.into_iter().filter(runs));
    }
    for name in &args.names {
        match host.find(name) {
            Ok(row) => rows.push(row),
            Err(failure) => failed(&failure),
        }
    }
    let what = Ask {
        verb,
        wait: match args.wait {
            0 => None,
            1 if verb == Verb::Reboot => Some(Until::Restarted),
            1 => Some(Until::Shutdown),
            _ => Some(Until::Gone),
        },
        timeout: args.timeout.map(Duration::from_secs),
    };
    ending::ask(&mut host, &rows, what, |news| match news {
        News::Asking(_) | News::Waiting(_) | News::Ended { .. } => {}
        News::Already(row) => already(Outcome::Already, row, verb),
        News::Failed(failure) => failed(failure),
        News::Late(row) => failed(&late(row, verb, args.timeout.unwrap_or_default())),
    });
    Ok(status)
}

/// Whether `--all` means this one: a guest that has ended already, and is only kept, does not
/// count.
fn runs(row: &ListRow) -> bool {
    row.domid.is_some() && row.state != State::Shutdown
}

fn late(row: &ListRow, verb: Verb, after: u64) -> Failure {
    let text =
        format!("domain \"{}\" has not obeyed the {verb} within {after} s; it runs on", row.name);
    Failure::new(Kind::TimedOut, text)
        .hint(format!("kxl destroy {} takes the power away", row.name))
}
