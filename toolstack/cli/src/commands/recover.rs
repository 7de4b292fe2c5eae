//! `kxl recover`.

use kxl_engine::{Host, Recovery};
use serde_json::json;

use super::Exit;
use crate::args::Recover;
use crate::{out, report};

/// Sees to it that every live domain has a monitor, or is recorded as what it is.
pub(crate) fn recover(args: &Recover) -> Exit {
    let mut host = Host::open()?;
    let mut status = 0;
    let mut text = String::new();
    let mut values = Vec::new();
    for one in host.recover()? {
        let told = match one.outcome {
            Ok(Recovery::Attended) if args.quiet => continue,
            Ok(Recovery::Attended) => "has its monitor".to_owned(),
            Ok(Recovery::Adopted) => "adopted by a new monitor".to_owned(),
            Ok(Recovery::Settled(state, reason)) => match reason {
                Some(reason) => format!("its emulator is gone: {state} ({reason})"),
                None => format!("its emulator is gone: {state}"),
            },
            Err(failure) => {
                report::failure(&failure);
                status = status.max(failure.kind.exit_code());
                failure.to_string()
            }
        };
        text.push_str(&format!("{}: {told}\n", one.name));
        values.push(json!({ "name": one.name.as_str(), "outcome": told }));
    }
    host.look_after_events();
    if args.json {
        out::print_json(&values)?;
    } else {
        out::print(&text)?;
    }
    Ok(status)
}
