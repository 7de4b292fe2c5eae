//! `kxl list`.

use kxl_domain::{DomainConfig, DomainUuid, Failure, Kind};
use kxl_engine::{Answering, Host, Seen, observe};
use kxl_store::ListRow;

use super::{Exit, LOOK_BUDGET};
use crate::args::List;
use crate::view::table::Width;
use crate::view::{json, table};
use crate::{out, report};

/// Lists all domains, or the named ones.
pub(crate) fn list(args: &List) -> Exit {
    let mut host = Host::open()?;
    let mut status = 0;
    let rows = if args.names.is_empty() {
        all(&mut host)?
    } else {
        let mut rows = Vec::new();
        for name in &args.names {
            // A domain that is named is attended to: one whose monitor has died gets a new one.
            match host.find(name).and_then(|row| host.attend(&row)) {
                Ok(row) => rows.push(row),
                Err(failure) => {
                    report::failure(&failure);
                    status = status.max(failure.kind.exit_code());
                }
            }
        }
        if rows.is_empty() {
            return Ok(status);
        }
        rows
    };
    let mut seen = observe(&host.paths, rows, LOOK_BUDGET);
    if let Some(state) = args.state {
        seen.retain(|domain| domain.status.state == state);
    }
    if args.json || args.long {
        print_json(&mut host, &seen, args.long)?;
    } else {
        let width = if args.verbose { Width::Wide } else { Width::Normal };
        out::print(&table::render(&seen, width, out::colour()))?;
    }
    if seen.iter().any(|d| matches!(d.answering, Answering::NoMonitor | Answering::Lost)) {
        report::note(
            "a domain without a monitor is attended to by the next command about it, or by: kxl recover",
        );
    }
    Ok(status)
}

/// Every row.
///
/// # Errors
/// When the databases cannot be read.
pub(crate) fn all(host: &mut Host) -> Result<Vec<ListRow>, Failure> {
    host.store
        .list()
        .map_err(|error| Failure::because(Kind::Failed, "cannot read the domains", &error))
}

fn print_json(host: &mut Host, seen: &[Seen], long: bool) -> Result<(), Failure> {
    let mut configs = Vec::new();
    for domain in seen {
        let one = if long { config(host, domain.row.uuid)? } else { None };
        configs.push(one);
    }
    let domains: Vec<_> =
        seen.iter().zip(&configs).map(|(d, config)| json::domain(d, config.as_ref())).collect();
    out::print_json(&domains)
}

/// The configuration that a domain runs with, or else the registered one; `None` when it has gone
/// meanwhile.
///
/// # Errors
/// When the databases cannot be read.
pub(crate) fn config(host: &mut Host, uuid: DomainUuid) -> Result<Option<DomainConfig>, Failure> {
    let failed = |error: &kxl_store::StoreError| {
        Failure::because(Kind::Failed, "cannot read a domain's configuration", error)
    };
    if let Some(live) = host.store.live(uuid).map_err(|e| failed(&e))? {
        return Ok(Some(live.config));
    }
    Ok(host.store.managed(uuid).map_err(|e| failed(&e))?.map(|managed| managed.config))
}
