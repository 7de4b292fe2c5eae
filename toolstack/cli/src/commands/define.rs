//! `kxl new` and `kxl delete`.

use kxl_domain::{Failure, Kind, State};
use kxl_engine::Host;
use serde_json::json;

use super::{Exit, each};
use crate::args::{Delete, New};
use crate::commands::create;
use crate::{out, source};

/// Registers a domain.
pub(crate) fn new(args: New) -> Exit {
    let words = create::words(args.source)?;
    let parsed = source::load(&words)?;
    create::warn(&parsed);
    if args.dry_run {
        create::show(&parsed.config, args.json)?;
        return Ok(0);
    }
    let mut host = Host::open()?;
    let defined = host.define(parsed.config)?;
    if args.json {
        out::print_json(&json!({
            "name": defined.name.as_str(),
            "uuid": defined.uuid.to_string(),
            "replaced": defined.replaced,
        }))?;
    } else if !args.quiet {
        let how = if defined.replaced { "registered anew" } else { "registered" };
        out::print(&format!("{}: {how}, uuid {}\n", defined.name, defined.uuid))?;
    }
    Ok(0)
}

/// Removes registered domains.
pub(crate) fn delete(args: &Delete) -> Exit {
    let mut host = Host::open()?;
    Ok(each(&mut host, &args.names, |host, row| {
        if row.managed {
            if args.with_image && row.state == State::Suspended {
                host.discard(row)?;
            }
            return host.delete(row);
        }
        let text = format!("cannot delete domain \"{}\": it is not registered", row.name);
        Err(Failure::new(Kind::Denied, text)
            .hint(format!("it is gone when it ends; kxl destroy {} ends it", row.name)))
    }))
}
