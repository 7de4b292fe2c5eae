//! `kxl console`.

use std::path::PathBuf;

use kxl_domain::{DomainName, Failure, Kind};
use kxl_engine::{Host, Started};
use kxl_store::ListRow;

use super::Exit;
use crate::args::Console;
use crate::terminal::escape;
use crate::terminal::viewer::{self, Left, View};
use crate::{facts, out, report, transcript, view};

/// Attaches to a console, or prints its log.
pub(crate) fn console(args: &Console) -> Exit {
    let mut host = Host::open()?;
    let found = host.find(&args.name);
    if args.log {
        let path = log_of(&host, found, &args.name)?;
        let from = since(args.since.as_deref())?;
        transcript::print(&path, from, args.follow)?;
        return Ok(0);
    }
    let row = found?;
    let view = View {
        escape: args.escape,
        write: !args.read_only,
        steal: args.steal,
        replay: !args.no_replay,
    };
    show(&mut host, &row, view)
}

/// The console log of a domain; what a transient one has said is there after its end, by name.
fn log_of(host: &Host, found: Result<ListRow, Failure>, who: &str) -> Result<PathBuf, Failure> {
    match found {
        Ok(row) => Ok(host.paths.console_log(&row.name)),
        Err(failure) => {
            let left = DomainName::new(who).ok().map(|name| host.paths.console_log(&name));
            left.filter(|path| path.exists()).ok_or(failure)
        }
    }
}

/// The console of a domain that was just started.
///
/// # Errors
/// As [`viewer::show`]; a domain that has ended already has no console and that is no failure.
pub(crate) fn after_start(host: &mut Host, started: &Started) -> Result<(), Failure> {
    let view = View { escape: escape::DEFAULT, write: true, steal: false, replay: true };
    let shown = host.find(&started.uuid.to_string()).and_then(|row| show(host, &row, view));
    match shown {
        Err(failure) if matches!(failure.kind, Kind::NoSuchDomain | Kind::Denied) => {
            report::note(&format!("domain \"{}\" has ended already", started.name));
            Ok(())
        }
        other => other.map(drop),
    }
}

fn show(host: &mut Host, row: &ListRow, view: View) -> Exit {
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
