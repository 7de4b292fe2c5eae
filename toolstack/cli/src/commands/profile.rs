//! `kxl profile`.

use std::process::Command;

use kxl_domain::{Failure, Kind};
use kxl_engine::monitor_program;
use serde::{Deserialize, Serialize};

use super::{Exit, info};
use crate::args::{ProfileCheck, ProfileVerb};
use crate::out;

/// Lists the profiles, or checks the file of one.
pub(crate) fn profile(verb: &ProfileVerb) -> Exit {
    match verb {
        ProfileVerb::List(args) => info::backends(args.json),
        ProfileVerb::Check(args) => check(args),
    }
}

/// What the monitor says of a profile that is in order.
#[derive(Debug, Deserialize, Serialize)]
struct Checked {
    name: String,
    description: String,
    capabilities: Vec<String>,
}

/// Asks the monitor program, which links the backends; this one does not.
fn check(args: &ProfileCheck) -> Exit {
    let program = monitor_program()?;
    let attempt = format!("cannot check {} with {}", args.file.display(), program.display());
    let output = Command::new(&program)
        .arg("--check-profile")
        .arg(&args.file)
        .output()
        .map_err(|error| Failure::because(Kind::Failed, &attempt, &error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim_end();
        let said = said.strip_prefix("kxl-monitor: ").unwrap_or(said).to_owned();
        let wrong = output.status.code() == Some(Kind::Usage.exit_code().into());
        return Err(Failure::new(if wrong { Kind::Usage } else { Kind::Failed }, said));
    }
    let checked: Checked = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::because(Kind::Internal, &attempt, &error))?;
    if args.json {
        out::print_json(&checked)?;
    } else {
        let offers = checked.capabilities.join(" ");
        out::print(&format!("{}: in order; it offers {offers}\n", checked.name))?;
    }
    Ok(0)
}
