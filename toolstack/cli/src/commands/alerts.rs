//! `kxl alerts`.

use kxl_domain::{Failure, Kind};
use kxl_engine::Host;
use kxl_store::{Ack, Acked, EventQuery, EventRow, Severity};
use nix::unistd::{User, getuid};

use super::{Exit, events};
use crate::args::{Alerts, AlertsVerb};
use crate::text::add;
use crate::view::{advice, tame, when};
use crate::{out, report};

/// Prints open alerts, or acknowledges some.
pub(crate) fn alerts(args: &Alerts) -> Exit {
    match &args.verb {
        Some(AlertsVerb::Ack { ids }) => ack(ids),
        None => list(args),
    }
}

fn list(args: &Alerts) -> Exit {
    let mut host = Host::open()?;
    let mut query =
        EventQuery { severity: Some(Severity::Alert), open: !args.all, ..EventQuery::default() };
    if let Some(name) = &args.name {
        // One of which nothing is recorded has no alerts, but it may not exist either.
        let mut any = EventQuery::default();
        events::narrow(&mut host, &mut any, name)?;
        (query.uuid, query.name) = (any.uuid, any.name);
    }
    let mut found = host.store.events(&query).map_err(|e| events::unreadable(&e))?;
    // What repeats an alert is counted there.
    found.retain(|row| row.repeat_of.is_none());
    if args.json {
        let text = serde_json::to_string_pretty(&found)
            .map_err(|error| Failure::because(Kind::Internal, "cannot write JSON", &error))?;
        out::print(&format!("{}\n", tame::json(&text)))?;
        return Ok(0);
    }
    let mut text = String::new();
    for row in &found {
        show(&mut text, row);
    }
    out::print(&text)?;
    Ok(0)
}

/// An alert in a line, its number first, which is what acknowledging it asks for; below an open one
/// what to do about it.
fn show(text: &mut String, row: &EventRow) {
    add(text, format_args!("{:>6}  {}", row.id, events::line(row)));
    if let (repeats @ 1.., Some(last)) = (row.repeats, row.last_ms) {
        let times = if repeats == 1 { "once" } else { &format!("{repeats} times") };
        add(text, format_args!("  (again {times}, last {})", when::moment(last)));
    }
    if let Some(acked) = &row.acked {
        let by = tame::line(&acked.by);
        add(text, format_args!("  (acknowledged by {by}, {})", when::moment(acked.time_ms)));
    }
    text.push('\n');
    if row.is_open_alert() {
        add(text, format_args!("{:>6}  {}\n", "", tame::line(&advice::next_step(row))));
    }
}

fn ack(ids: &[String]) -> Exit {
    let host = Host::open()?;
    let numbers = if matches!(ids, [one] if one == "all") { None } else { Some(numbers(ids)?) };
    let acked = Acked { by: who(), time_ms: kxl_store::now_ms() };
    let outcome = host
        .store
        .ack_alerts(numbers.as_deref(), &acked)
        .map_err(|e| Failure::because(Kind::Failed, "cannot acknowledge alerts", &e))?;
    let mut worst = 0;
    for one in &outcome {
        let failure = match one {
            Ack::Done(_) => continue,
            Ack::Already(id, before) => {
                let (by, at) = (tame::line(&before.by), when::moment(before.time_ms));
                report::note(&format!("alert {id} was acknowledged by {by} on {at}"));
                continue;
            }
            Ack::Unknown(id) => Failure::new(Kind::Failed, format!("there is no event {id}"))
                .hint("kxl alerts prints the open ones with their numbers"),
            Ack::NoAlert(id) => Failure::new(Kind::Failed, format!("event {id} is no alert")),
        };
        report::failure(&failure);
        worst = worst.max(failure.kind.exit_code());
    }
    if numbers.is_none() {
        let count = outcome.len();
        report::note(&format!("{count} alert{} acknowledged", if count == 1 { "" } else { "s" }));
    }
    Ok(worst)
}

fn numbers(ids: &[String]) -> Result<Vec<i64>, Failure> {
    let number = |id: &String| {
        id.parse().map_err(|_| {
            Failure::new(Kind::Usage, format!("\"{id}\" is not the number of an alert"))
                .hint("kxl alerts ack ID…, or kxl alerts ack all")
        })
    };
    ids.iter().map(number).collect()
}

/// The user who acts, by name where there is one; behind sudo, the one who called it.
fn who() -> String {
    let uid = getuid();
    let name = User::from_uid(uid).ok().flatten().map_or_else(|| format!("uid {uid}"), |u| u.name);
    match std::env::var("SUDO_USER") {
        Ok(person) if uid.is_root() && !person.is_empty() => format!("{person} (as {name})"),
        _ => name,
    }
}
