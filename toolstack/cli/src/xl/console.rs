//! `console`.

use std::io::IsTerminal;

use super::getopt::Options;
use super::names::run;
use super::{FAILURE, Session, Target, fail};
use crate::out;
use crate::terminal::escape;
use crate::terminal::viewer::{self, View};

/// Attaches to a console. Types and numbers are accepted; there is one console.
pub(crate) fn console(session: &mut Session, args: &[String]) -> u8 {
    const CONSOLE: Options = Options { short: "n:t:e:", long: &[] };
    run(|| {
        let line = session.parse(CONSOLE, args, 1)?;
        let kind = line.value('t').unwrap_or("serial");
        if !["pv", "serial", "vuart"].contains(&kind) {
            out::complain("console type supported are: pv, serial, vuart\n");
            return Err(FAILURE);
        }
        let escape =
            line.value('e').map_or(Ok(escape::DEFAULT), escape::parse).map_err(|wrong| {
                out::complain(&format!("xl: {wrong}\n"));
                FAILURE
            })?;
        let row = match session.target(&line.operands[0])? {
            Target::Live(row) => row,
            Target::Host | Target::Missing(_) => {
                out::complain("Unable to attach console\n");
                return Err(FAILURE);
            }
        };
        let host = session.host()?;
        show(host, &row, escape).map_err(|failure| {
            fail(&failure);
            out::complain("Unable to attach console\n");
            FAILURE
        })?;
        Ok(0)
    })
}

/// Shows a console until it is left.
pub(crate) fn show(
    host: &mut kxl_engine::Host,
    row: &kxl_store::ListRow,
    escape: u8,
) -> Result<(), kxl_domain::Failure> {
    let view = View { escape, write: true, steal: false, replay: true };
    viewer::show(host, row, view, |text| out::complain(&format!("xl: {text}\n")))?;
    if std::io::stdout().is_terminal() {
        out::complain("\n");
    }
    Ok(())
}
