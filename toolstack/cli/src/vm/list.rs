//! `vmlist`.

use kxl_engine::Host;

use super::guest_status::{self, Response};
use super::roster::{self, Entry};
use super::{block, json, screen};
use crate::args::VmList;
use crate::commands::{self, Exit};
use crate::{facts, out, report};

/// Prints the server and its emulators: a table, or all about those that are named.
pub(crate) fn list(args: &VmList) -> Exit {
    let mut host = Host::open()?;
    let mut status = 0;
    let mut named = Vec::new();
    for name in &args.names {
        match host.find(name) {
            Ok(row) if row.managed => named.push(row.uuid),
            Ok(row) => report::note(&format!("domain \"{}\" is not registered", row.name)),
            Err(failure) => {
                report::failure(&failure);
                status = status.max(failure.kind.exit_code());
            }
        }
    }
    if named.is_empty() && !args.names.is_empty() {
        return Ok(status);
    }
    let all = commands::all_rows(&mut host)?;
    let entries =
        roster::gather(&mut host, all, |row| named.is_empty() || named.contains(&row.uuid));
    let server = facts::gather();
    if args.json {
        let asking = guest_status::ask(&entries);
        let mut responses: Vec<Option<Response>> = vec![None; entries.len()];
        while let Some((place, response)) = asking.next() {
            responses[place] = Some(response);
        }
        out::print_json(&json::screen(&server, &entries, &responses))?;
        return Ok(status);
    }
    out::print(&screen::server(&server))?;
    if args.long || !named.is_empty() {
        long(&entries)?;
    } else {
        out::print(&format!("\n{}", screen::table(&entries, screen::now_ms())))?;
    }
    Ok(status)
}

/// All about each. Those whose guests are asked come as they answer, behind the others, so that
/// nothing waits for an answer but what it is about.
fn long(entries: &[Entry]) -> Result<(), kxl_domain::Failure> {
    let asking = guest_status::ask(entries);
    for entry in entries.iter().filter(|entry| !guest_status::is_asked(entry)) {
        out::print(&block::render(entry, None, screen::now_ms()))?;
    }
    while let Some((place, response)) = asking.next() {
        out::print(&block::render(&entries[place], Some(&response), screen::now_ms()))?;
    }
    if let Some(legend) = block::legend(entries) {
        out::print(&legend)?;
    }
    Ok(())
}
