//! `kxl status`.

use std::fmt::Write as _;

use kxl_domain::supervision::Word;
use kxl_domain::{Failure, Kind, Reason, State};
use kxl_engine::{Answering, Host, Seen, observe, observe_recorded};
use serde_json::{Value, json};

use super::{Exit, LOOK_BUDGET, service};
use crate::args::Status;
use crate::view::{tame, when};
use crate::{facts, out, report};

/// Of more live domains than so many none is asked that is not named: what their records, their locks
/// and the kernel tell costs a tenth of that.
const MOST_ASKED: usize = 100;

/// What a column of names takes at least.
const NAMES: usize = 16;

/// Prints the state of domains in Supervisor's words. With names the exit status tells whether all
/// of them are RUNNING.
pub(crate) fn status(args: &Status) -> Exit {
    let mut host = Host::open()?;
    let mut exit = 0;
    let named = !args.names.is_empty() && args.names != ["all"];
    let rows = if args.names.is_empty() {
        super::list::all(&mut host)?
    } else {
        let (rows, worst) = service::select(&mut host, &args.names)?;
        exit = worst;
        rows
    };
    let live = rows.iter().filter(|row| row.is_live()).count();
    let mut seen = if named || live <= MOST_ASKED {
        observe(&host.paths, rows, LOOK_BUDGET)
    } else {
        observe_recorded(&host.paths, rows)
    };
    seen.sort_by(|a, b| a.row.name.cmp(&b.row.name));
    if named && seen.iter().any(|domain| domain.word() != Word::Running) {
        exit = exit.max(Kind::Denied.exit_code());
    }
    let alerts = host
        .store
        .open_alerts()
        .map_err(|error| Failure::because(Kind::Failed, "cannot read the alerts", &error))?;
    let now = Now {
        ms: i64::try_from(facts::now_ms()).unwrap_or(i64::MAX),
        boot_ms: kxl_store::boot_ms(),
    };
    if args.json {
        let domains: Vec<_> = seen.iter().map(|domain| as_json(domain, now)).collect();
        out::print_json(&json!({ "domains": domains, "open_alerts": alerts }))?;
        return Ok(exit);
    }
    let width = seen.iter().map(|domain| domain.row.name.as_str().len()).max().unwrap_or(0);
    let width = width.max(NAMES);
    let mut text = String::new();
    for domain in &seen {
        let (name, word, told) = (&domain.row.name, domain.word(), told(domain, now));
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name:<width$}  {word:<9} {told}");
    }
    match alerts {
        0 => {}
        1 => text.push_str("1 open alert: kxl alerts\n"),
        count => {
            let _ = writeln!(text, "{count} open alerts: kxl alerts");
        }
    }
    out::print(&text)?;
    if seen.iter().any(|d| matches!(d.answering, Answering::NoMonitor | Answering::Lost)) {
        report::note("kxl recover brings monitors for domains that have none");
    }
    Ok(exit)
}

/// This moment, by the calendar and since the host's boot.
#[derive(Clone, Copy, Debug, Default)]
struct Now {
    ms: i64,
    boot_ms: i64,
}

fn as_json(domain: &Seen, now: Now) -> Value {
    let up = matches!(domain.word(), Word::Running | Word::Starting | Word::Stopping);
    let pid = domain.row.process.as_ref().map(|process| process.pid).filter(|_| up);
    let since = domain.row.started_ms.filter(|_| pid.is_some());
    json!({
        "name": domain.row.name.as_str(),
        "uuid": domain.row.uuid.to_string(),
        "domid": domain.domid.map(|domid| domid.0),
        "state": domain.word().as_str(),
        "pid": pid,
        "uptime_seconds": since.map(|since| (now.ms - since).max(0) / 1000),
        "told": told(domain, now),
        "reason": domain.reason.map(Reason::as_str),
        "supervision": domain.row.supervision,
    })
}

/// What is to be said beside the word.
fn told(domain: &Seen, now: Now) -> String {
    let record = &domain.row.supervision;
    let why = record.why.clone().unwrap_or_else(|| domain.row.detail.clone());
    let text = match domain.word() {
        Word::Running => process(domain, now.ms),
        Word::Starting => match &record.maintenance {
            Some(work) if work.text.is_empty() => format!("(maintenance {} %)", work.percent),
            Some(work) => format!("(maintenance {} %: {})", work.percent, work.text),
            None => process(domain, now.ms),
        },
        Word::Backoff => {
            let left = record.retry_in_ms(now.boot_ms).unwrap_or(0);
            let (seconds, tenths) = (left / 1000, left % 1000 / 100);
            format!("{why}; next try in {seconds}.{tenths} s")
        }
        Word::Stopping => process(domain, now.ms),
        Word::Stopped => stopped(domain),
        Word::Exited => exited(domain),
        // What is recorded tells of an end before this one.
        Word::Unknown if domain.answering == Answering::Lost => {
            "nobody saw how it ended".to_owned()
        }
        Word::Fatal | Word::Unknown if !why.is_empty() => why,
        Word::Fatal => "it did not start".to_owned(),
        Word::Unknown => "nobody saw how it ended".to_owned(),
    };
    let silent = match domain.answering {
        Answering::No(why) => Some(why),
        Answering::NoMonitor => Some("it has no monitor"),
        Answering::Lost => Some("it has neither monitor nor process"),
        Answering::Resting | Answering::Yes => None,
    };
    // Programs have a say in it.
    let text = tame::line(&text);
    silent.map_or_else(|| text.clone(), |silent| format!("{text} ({silent})"))
}

fn process(domain: &Seen, now_ms: i64) -> String {
    let Some(process) = &domain.row.process else { return "no process yet".to_owned() };
    let up = domain.row.started_ms.map_or(0, |since| (now_ms - since).max(0) / 1000);
    let still = match domain.status.state {
        State::Paused => ", paused",
        State::Asleep => ", asleep",
        _ => "",
    };
    format!("pid {}, uptime {}{still}", process.pid, uptime(up))
}

/// As Supervisor writes it: `0:01:05`, `3 days, 4:00:00`.
fn uptime(seconds: i64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let clock = format!("{}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    match days {
        0 => clock,
        1 => format!("1 day, {clock}"),
        days => format!("{days} days, {clock}"),
    }
}

fn since(domain: &Seen) -> String {
    domain.row.supervision.ended_ms.map_or_else(String::new, |ms| format!("{}, ", when::moment(ms)))
}

fn stopped(domain: &Seen) -> String {
    if let Some(why) = &domain.row.supervision.stop_failed {
        return format!("{}its guest was not shut down: {why}", since(domain));
    }
    match (domain.status.state, domain.reason) {
        (State::Suspended, _) => "suspended".to_owned(),
        (_, Some(Reason::New)) => "not started yet".to_owned(),
        (_, Some(Reason::Saved)) => format!("{}saved to a file", since(domain)),
        (_, Some(Reason::LostAtHostReboot)) => "lost when the host went down".to_owned(),
        _ => since(domain).trim_end_matches(", ").to_owned(),
    }
}

fn exited(domain: &Seen) -> String {
    let Some(last) = domain.row.supervision.last_exit else {
        let reason = domain.reason.map_or("", Reason::as_str);
        return format!("{}{reason}", since(domain));
    };
    let how = match (last.code, last.signal) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => domain.reason.map_or("", Reason::as_str).to_owned(),
    };
    let expected = if last.expected { "expected" } else { "not expected" };
    format!("{}{how} ({expected})", since(domain))
}

#[cfg(test)]
mod tests {
    use kxl_domain::supervision::{LastExit, MaintenanceStart, Record};

    use super::*;
    use crate::view::table::tests::seen;

    fn with(state: State, record: Record) -> Seen {
        let mut domain = seen("web", 3, state);
        domain.answering = Answering::Yes;
        domain.row.supervision = record;
        domain
    }

    #[test]
    fn uptimes_are_those_of_supervisor() {
        assert_eq!(uptime(5), "0:00:05");
        assert_eq!(uptime(3_600 * 11 + 61), "11:01:01");
        assert_eq!(uptime(86_400 + 1), "1 day, 0:00:01");
        assert_eq!(uptime(3 * 86_400), "3 days, 0:00:00");
    }

    #[test]
    fn a_maintenance_start_shows_how_far_it_is() {
        let work = MaintenanceStart { percent: 42, text: "fsck".into(), at_ms: 0 };
        let domain = with(State::Running, Record { maintenance: Some(work), ..Record::default() });
        assert_eq!(domain.word(), Word::Starting);
        assert_eq!(told(&domain, Now::default()), "(maintenance 42 %: fsck)");
    }

    #[test]
    fn an_end_tells_its_code_and_whether_it_was_expected() {
        let last_exit = Some(LastExit { code: Some(3), signal: None, expected: false });
        let mut domain = with(State::Halted, Record { last_exit, ..Record::default() });
        domain.reason = Some(Reason::Crash);
        assert_eq!(
            (domain.word(), told(&domain, Now::default())),
            (Word::Exited, "exit status 3 (not expected)".into())
        );
        domain.row.supervision.stopped_by_person = true;
        assert_eq!(domain.word(), Word::Stopped);
    }

    #[test]
    fn a_domain_that_waits_says_why_and_for_how_long() {
        let record = Record {
            failed_starts: 3,
            retry_at_ms: Some(2500),
            why: Some("it ended".into()),
            ..Record::default()
        };
        let mut domain = with(State::Halted, record);
        domain.status.op = Some(kxl_domain::Op::Starting);
        assert_eq!(
            (domain.word(), told(&domain, Now { boot_ms: 1000, ..Now::default() })),
            (Word::Backoff, "it ended; next try in 1.5 s".into())
        );
    }
}
