//! `kxl console`.

use kxl_domain::{Failure, Kind};
use kxl_engine::{Host, Started};

use super::Exit;
use crate::args::Console;
use crate::terminal::escape;
use crate::terminal::viewer::{self, Left, View};
use crate::{facts, out, report, transcript, view};

/// Attaches to a console, or prints its log.
pub(crate) fn console(args: &Console) -> Exit {
    let mut host = Host::open()?;
    let row = host.find(&args.name)?;
    if args.log {
        let path = host.paths.console_log(&row.name);
        let from = since(args.since.as_deref())?;
        transcript::print(&path, from, args.follow)?;
        return Ok(0);
    }
    let view = View { escape: args.escape, write: !args.read_only, steal: args.steal };
    show(&mut host, &row, view)
}

/// The console of a domain that was just started.
///
/// # Errors
/// As [`viewer::show`]; a domain that has ended already has no console and that is no failure.
pub(crate) fn after_start(host: &mut Host, started: &Started) -> Result<(), Failure> {
    let view = View { escape: escape::DEFAULT, write: true, steal: false };
    let shown = host.find(&started.uuid.to_string()).and_then(|row| show(host, &row, view));
    match shown {
        Err(failure) if matches!(failure.kind, Kind::NoSuchDomain | Kind::Denied) => {
            report::note(&format!("domain \"{}\" has ended already", started.name));
            Ok(())
        }
        other => other.map(drop),
    }
}

fn show(host: &mut Host, row: &kxl_store::ListRow, view: View) -> Exit {
    if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        report::note(&format!(
            "console of domain \"{}\"; {} leaves",
            row.name,
            escape::show(view.escape)
        ));
    }
    match viewer::show(host, row, view, report::note)? {
        Left::Ended(how) => {
            out::complain("\n");
            report::note(&how);
        }
        Left::Escaped => out::complain("\n"),
        Left::Signalled(_) | Left::Lost => {}
    }
    Ok(0)
}

fn since(text: Option<&str>) -> Result<transcript::From, Failure> {
    match text {
        None => Ok(transcript::From::Beginning),
        Some("start") => Ok(transcript::From::LastStart),
        Some(text) => {
            let now = i64::try_from(facts::now_ms() / 1000).unwrap_or(i64::MAX);
            let seconds = view::when::parse(text, now)
                .map_err(|wrong| Failure::new(Kind::Usage, format!("--since: {wrong}")))?;
            Ok(transcript::From::Moment(seconds.saturating_mul(1000)))
        }
    }
}
