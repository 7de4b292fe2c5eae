//! `kxl domid` and `kxl domname`.

use kxl_domain::{Failure, Kind};
use kxl_engine::Host;
use serde_json::json;

use super::Exit;
use crate::args::{Domid, Domname};
use crate::out;

/// Prints the number of a live domain.
pub(crate) fn domid(args: &Domid) -> Exit {
    let mut host = Host::open()?;
    let row = host.find(&args.name)?;
    let Some(domid) = row.domid else {
        let text = format!("domain \"{}\" has no number: it is {}", row.name, row.state);
        return Err(Failure::new(Kind::Denied, text).hint(format!("kxl start {}", row.name)));
    };
    if args.json {
        out::print_json(&json!({ "name": row.name.as_str(), "domid": domid.0 }))?;
    } else {
        out::print(&format!("{domid}\n"))?;
    }
    Ok(0)
}

/// Prints the name of a live domain.
pub(crate) fn domname(args: &Domname) -> Exit {
    let mut host = Host::open()?;
    let row = host.find(&args.domid.to_string())?;
    if args.json {
        out::print_json(&json!({ "name": row.name.as_str(), "domid": args.domid }))?;
    } else {
        out::print(&format!("{}\n", row.name))?;
    }
    Ok(0)
}
