//! `kxl events`.

use kxl_domain::{Failure, Kind};
use kxl_engine::Host;
use kxl_store::{EventQuery, EventRow, Severity, StoreError};

use super::Exit;
use crate::args::Events;
use crate::out;
use crate::view::when;

/// Prints what happened, and with `-f` what happens.
pub(crate) fn events(args: &Events) -> Exit {
    let mut host = Host::open()?;
    let mut query =
        EventQuery { limit: Some(args.limit).filter(|n| *n > 0), ..EventQuery::default() };
    if let Some(name) = &args.name {
        narrow(&mut host, &mut query, name)?;
    }
    let found = host.store.events(&query).map_err(|e| unreadable(&e))?;
    print(&found, args.json)?;
    if !args.follow {
        return Ok(0);
    }
    // What was recorded since the look above comes first.
    query.since_id = Some(found.last().map_or(0, |row| row.id));
    let mut tail = host.store.follow_events(query).map_err(|e| unreadable(&e))?;
    loop {
        let news = tail.next(None).map_err(|e| unreadable(&e))?;
        print(&news, args.json)?;
    }
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
            let json = serde_json::to_string(row)
                .map_err(|error| Failure::because(Kind::Internal, "cannot write JSON", &error))?;
            text.push_str(&json);
        } else {
            text.push_str(&line(row));
        }
        text.push('\n');
    }
    if text.is_empty() { Ok(()) } else { out::print(&text) }
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
        // What a guest has a say in must not reach the terminal as it is.
        text.push_str(": ");
        text.extend(event.text.chars().map(|c| if c.is_control() { ' ' } else { c }));
    }
    text
}
