//! `kxl create`.

use kxl_control::{Call, Until};
use kxl_domain::config::Parsed;
use kxl_domain::{DomainConfig, Failure, Kind};
use kxl_engine::{Host, StartOpts, Started};
use serde_json::json;

use super::{Exit, START_DEADLINE, console};
use crate::args::{Create, Source};
use crate::source::{self, Words};
use crate::{out, report, view};

/// Starts a domain from a configuration.
pub(crate) fn create(args: Create) -> Exit {
    let words = words(args.source)?;
    let mut parsed = source::load(&words)?;
    warn(&parsed);
    if args.preserve {
        parsed.config.preserve_always();
    }
    if args.dry_run {
        show(&parsed.config, args.json)?;
        return Ok(0);
    }
    let mut host = Host::open()?;
    let opts = StartOpts { paused: args.paused, deadline: START_DEADLINE };
    let started = host.create(parsed.config, opts)?;
    if !args.quiet || args.json {
        tell(&started, args.paused, args.json)?;
    }
    if args.console {
        console::after_start(&mut host, &started)?;
    }
    if args.foreground {
        wait_until_gone(&mut host, &started)?;
    }
    Ok(0)
}

/// The words of a command line, checked.
///
/// # Errors
/// [`Kind::Usage`] when there is nothing to read, or a word too many.
pub(crate) fn words(source: Source) -> Result<Words, Failure> {
    let words = source::sort(&source.words, source.defconfig);
    if let Some(extra) = &words.extra {
        let text = format!("\"{extra}\" is one configuration file too many");
        return Err(
            Failure::new(Kind::Usage, text).hint("what overrides the file is written KEY=VALUE")
        );
    }
    if words.file.is_none() && words.overrides.is_empty() {
        return Err(Failure::new(Kind::Usage, "no configuration file is given")
            .hint("kxl create FILE [KEY=VALUE ...]"));
    }
    Ok(words)
}

/// Tells what the parser warns about.
pub(crate) fn warn(parsed: &Parsed) {
    for warning in parsed.warnings.iter().filter(|warning| warning.said_by_kxl()) {
        report::warning(&warning.to_string());
    }
}

/// Shows a parsed configuration.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn show(config: &DomainConfig, as_json: bool) -> Result<(), Failure> {
    if as_json { out::print_json(config) } else { out::print(&view::config::render(config)) }
}

/// Tells that a domain was started.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn tell(started: &Started, paused: bool, as_json: bool) -> Result<(), Failure> {
    let state = if paused { "paused" } else { "running" };
    if as_json {
        return out::print_json(&json!({
            "name": started.name.as_str(),
            "uuid": started.uuid.to_string(),
            "domid": started.domid.0,
            "state": state,
        }));
    }
    out::print(&format!("{}: {state}, domid {}\n", started.name, started.domid))
}

/// Waits until the domain is gone, or rests; through reboots, which are new runs of the same
/// domain. Interrupting the wait leaves it running.
///
/// # Errors
/// When its monitor is lost and no other can be had.
pub(crate) fn wait_until_gone(host: &mut Host, started: &Started) -> Result<(), Failure> {
    loop {
        let row = match host.find(&started.uuid.to_string()) {
            Ok(row) if row.domid.is_some() => row,
            Ok(_) => return Ok(()),
            Err(failure) if failure.kind == Kind::NoSuchDomain => return Ok(()),
            Err(failure) => return Err(failure),
        };
        let mut client = match host.connect(&row) {
            Ok(client) => client,
            // It ended between the look and the call.
            Err(failure) if matches!(failure.kind, Kind::Denied | Kind::NoSuchDomain) => {
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        match client.call(Call::Wait(Until::Gone), None, |_| ()) {
            // The end of this run; it may have been started anew.
            Ok(_) => {}
            // The monitor has gone: with its domain, or it died. Connecting again tells.
            Err(failure) if failure.kind == Kind::Failed => {}
            Err(failure) => return Err(failure),
        }
    }
}
