//! `kxl autostart`.

use kxl_domain::{Failure, Kind};
use kxl_engine::Host;
use kxl_store::{ListRow, ManagedChange, StoreError};
use serde_json::json;

use super::host::args::{Autostart, Switch};
use super::{Exit, list};
use crate::out;
use crate::text::add;

/// Sets or tells whether managed domains start with the host.
pub(crate) fn autostart(args: &Autostart) -> Exit {
    let mut host = Host::open()?;
    let rows = match &args.name {
        Some(name) => vec![managed(host.find(name)?)?],
        None => list::all(&mut host)?.into_iter().filter(|row| row.managed).collect(),
    };
    if let (Some(switch), [row]) = (args.switch, &rows[..]) {
        let change =
            ManagedChange { autostart: Some(switch == Switch::On), ..ManagedChange::default() };
        host.store.set_managed(row.uuid, change).map_err(|error| failed(row, &error))?;
        if !args.json {
            return Ok(0);
        }
    }
    let mut told = Vec::new();
    for row in &rows {
        let record = host.store.managed(row.uuid).map_err(|error| failed(row, &error))?;
        // Unregistered meanwhile: not in the list.
        told.extend(record.map(|record| (record.name, record.autostart)));
    }
    if args.json {
        let values: Vec<_> = told
            .iter()
            .map(|(name, on)| json!({ "name": name.as_str(), "autostart": on }))
            .collect();
        out::print_json(&values)?;
    } else {
        let mut text = String::new();
        for (name, on) in told {
            add(&mut text, format_args!("{name:<20} {}\n", if on { "on" } else { "off" }));
        }
        out::print(&text)?;
    }
    Ok(0)
}

fn managed(row: ListRow) -> Result<ListRow, Failure> {
    if row.managed {
        return Ok(row);
    }
    let text = format!("domain \"{}\" is not registered: nothing would start it", row.name);
    Err(Failure::new(Kind::Denied, text)
        .hint("kxl new registers a domain; a configuration in the auto directory starts one too"))
}

fn failed(row: &ListRow, error: &StoreError) -> Failure {
    Failure::because(Kind::Failed, format!("cannot set autostart of \"{}\"", row.name), error)
}
