//! `new`, `delete`, `start`: xm's managed domains.

use kxl_domain::{Kind, State};
use kxl_engine::StartOpts;
use kxl_store::ListRow;

use super::getopt::{self, Options};
use super::names::{run, told};
use super::{FAILURE, Session, console, create, fail};
use crate::commands::START_DEADLINE;
use crate::out;
use crate::terminal::escape;

const NEW: Options =
    Options { short: "f:q", long: &[("defconfig", true, 'f'), ("quiet", false, 'q')] };
const START: Options =
    Options { short: "pc", long: &[("paused", false, 'p'), ("console_autoconnect", false, 'c')] };

/// Registers a domain.
pub(crate) fn new(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(NEW, args, 0)?;
        let config = create::config(session, &line)?;
        let (name, uuid) = (config.name.clone(), config.uuid);
        let host = session.host()?;
        let owner = host.find(name.as_str()).ok().filter(|row| row.name == name);
        if let Some(owner) = owner.filter(|owner| Some(owner.uuid) != uuid) {
            let live = owner.domid.map_or_else(String::new, |domid| format!(" as domain {domid}"));
            out::complain(&format!("Error: VM name '{name}' already exists{live}\n"));
            return Err(FAILURE);
        }
        Ok(told(host.define(config).map(drop)))
    })
}

/// Removes a registered domain.
pub(crate) fn delete(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(getopt::NONE, args, 1)?;
        let row = managed(session, &line.operands[0])?;
        if !rests(&row) {
            out::complain("Error: Domain is not halted.\n");
            return Err(FAILURE);
        }
        Ok(told(session.host()?.delete(&row)))
    })
}

/// Starts a registered domain.
pub(crate) fn start(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(START, args, 1)?;
        let row = managed(session, &line.operands[0])?;
        if !rests(&row) {
            out::complain("Error: Domain is already running\n");
            return Err(FAILURE);
        }
        let opts = StartOpts { paused: line.has('p'), deadline: START_DEADLINE };
        let host = session.host()?;
        let started = host.start(&row, opts).map_err(|failure| fail(&failure))?;
        if line.has('c') {
            let row = host.find(&started.uuid.to_string());
            let row = row.map_err(|failure| fail(&failure))?;
            return Ok(told(console::show(host, &row, escape::DEFAULT)));
        }
        Ok(0)
    })
}

/// Whether xm would call it halted.
fn rests(row: &ListRow) -> bool {
    row.domid.is_none() && matches!(row.state, State::Halted | State::Failed)
}

/// A domain by name, number or uuid, dormant ones too; an unknown one is told.
pub(crate) fn managed(session: &mut Session, arg: &str) -> Result<ListRow, u8> {
    match session.host()?.find(arg) {
        Ok(row) => Ok(row),
        Err(failure) if failure.kind == Kind::NoSuchDomain => {
            out::complain(&format!("Error: Domain '{arg}' does not exist.\n"));
            Err(FAILURE)
        }
        Err(failure) => Err(fail(&failure)),
    }
}
