//! `kxl events`.

use kxl_domain::{Failure, Kind};
use kxl_engine::Host;
use kxl_store::{EventQuery, EventRow, Severity, StoreError};

use super::Exit;
use crate::args::Events;
use crate::view::{tame, when};
use crate::{facts, out};

/// Prints what happened, and with `-f` what happens.
pub(crate) fn events(args: &Events) -> Exit {
    let mut host = Host::open()?;
    let mut query = EventQuery {
        limit: Some(args.limit).filter(|n| *n > 0),
        severity: args.severity,
        what: args.what.clone(),
        ..EventQuery::default()
    };
    match args.since.as_deref().map(moment).transpose()? {
        // The event of that number is one of those that are asked for.
        Some(Moment::Number(id)) => query.since_id = Some(id.saturating_sub(1)),
        Some(Moment::Time(ms)) => query.since_ms = Some(ms),
        None => {}
    }
    match args.until.as_deref().map(moment).transpose()? {
        Some(Moment::Number(id)) => query.until_id = Some(id),
        Some(Moment::Time(ms)) => query.until_ms = Some(ms),
        None => {}
    }
    if let Some(name) = &args.name {
        narrow(&mut host, &mut query, name)?;
    }
    let found = host.store.events(&query).map_err(|e| unreadable(&e))?;
    print(&found, args.json)?;
    if !args.follow {
        return Ok(0);
    }
    // What was recorded since the look above comes first.
    query.since_id = found.last().map(|row| row.id).or(query.since_id).or(Some(0));
    let mut tail = host.store.follow_events(query).map_err(|e| unreadable(&e))?;
    loop {
        let news = tail.next(None).map_err(|e| unreadable(&e))?;
        print(&news, args.json)?;
    }
}

/// A bound of what is asked for.
enum Moment {
    /// The number of an event.
    Number(i64),
    /// Milliseconds since 1970.
    Time(i64),
}

fn moment(text: &str) -> Result<Moment, Failure> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // One that is too long for a number is later than every event.
        return Ok(Moment::Number(text.parse().unwrap_or(i64::MAX)));
    }
    let now = i64::try_from(facts::now_ms() / 1000).unwrap_or(i64::MAX);
    when::parse(text, now).map(|seconds| Moment::Time(seconds.saturating_mul(1000))).map_err(
        |problem| Failure::new(Kind::Usage, problem).hint("the number of an event will do, too"),
    )
}

/// Narrows the query to one domain: by its uuid while it exists, by its name after that.
///
/// # Errors
/// [`Kind::NoSuchDomain`] when nothing was ever recorded under this name.
pub(crate) fn narrow(host: &mut Host, query: &mut EventQuery, name: &str) -> Result<(), Failure> {
    match host.find(name) {
        Ok(row) => query.uuid = Some(row.uuid),
        Err(failure) if failure.kind == Kind::NoSuchDomain => {
            query.name = Some(name.to_owned());
            let one = EventQuery { limit: Some(1), ..query.clone() };
            if host.store.events(&one).map_err(|e| unreadable(&e))?.is_empty() {
                return Err(failure);
            }
        }
        Err(failure) => return Err(failure),
    }
    Ok(())
}

pub(crate) fn unreadable(error: &StoreError) -> Failure {
    Failure::because(Kind::Failed, "cannot read the events", error)
}

fn print(rows: &[EventRow], as_json: bool) -> Result<(), Failure> {
    let mut text = String::new();
    for row in rows {
        if as_json {
            text.push_str(&json(row)?);
        } else {
            text.push_str(&line(row));
        }
        text.push('\n');
    }
    if text.is_empty() { Ok(()) } else { out::print(&text) }
}

/// An event as JSON in a line, of which nothing acts on a terminal.
pub(crate) fn json(row: &EventRow) -> Result<String, Failure> {
    let text = serde_json::to_string(row)
        .map_err(|error| Failure::because(Kind::Internal, "cannot write JSON", &error))?;
    Ok(tame::json(&text))
}

/// An event in a line.
pub(crate) fn line(row: &EventRow) -> String {
    let event = &row.event;
    let who = if event.name.is_empty() { "(host)" } else { &event.name };
    let mut text = format!("{}  {who:<20}  {}", when::moment(event.time_ms), said(row));
    if event.severity != Severity::Info {
        text.push_str(&format!("  [{}]", event.severity.as_str()));
    }
    text
}

/// What an event says, without when and who.
pub(crate) fn said(row: &EventRow) -> String {
    let event = &row.event;
    let mut text = event.what.clone();
    if let Some(domid) = event.domid {
        text.push_str(&format!(" (domid {domid})"));
    }
    if let Some(reason) = event.reason {
        text.push_str(&format!(", reason {reason}"));
    }
    if let Some(action) = &event.action {
        text.push_str(&format!(", action {action}"));
    }
    if !event.text.is_empty() {
        text.push_str(": ");
        text.push_str(&event.text);
    }
    // A guest has a say in some of this.
    tame::line(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kxl_store::Event;

    #[test]
    fn a_bound_is_the_number_of_an_event_or_a_moment() {
        assert!(matches!(moment("12"), Ok(Moment::Number(12))));
        assert!(matches!(moment("99999999999999999999"), Ok(Moment::Number(i64::MAX))));
        assert!(matches!(moment("2026-08-01"), Ok(Moment::Time(ms)) if ms % 1000 == 0));
        let failure = moment("yesterday").err().unwrap();
        assert_eq!(failure.kind, Kind::Usage);
        assert!(moment("").is_err());
    }

    #[test]
    fn what_a_guest_says_does_not_act_on_a_terminal() {
        let text = "\u{1b}[2Jgone\u{9b}31m\u{202e}desrever\n@@";
        let row = EventRow::new(1, Event::new(Severity::Info, "guest-log").text(text));
        assert_eq!(said(&row), "guest-log:  [2Jgone 31m desrever @@");
        let json = json(&row).unwrap();
        assert!(json.chars().all(tame::is_tame), "{json}");
        let back: EventRow = serde_json::from_str(&json).unwrap();
        assert_eq!(back.event.text, text, "it says the same");
    }
}
