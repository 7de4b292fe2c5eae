//! `domid` and `domname`.

use kxl_domain::DomainName;

use super::{FAILURE, Session, Target, fail, getopt, print};
use crate::out;

/// Prints the number of a live domain.
pub(crate) fn domid(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(getopt::NONE, args, 1)?;
        let name = &line.operands[0];
        if name == DomainName::HOST {
            return Ok(print("0\n"));
        }
        let row = session.live()?.into_iter().find(|row| row.name.as_str() == name);
        match row.and_then(|row| row.domid) {
            Some(domid) => Ok(print(&format!("{domid}\n"))),
            None => {
                out::complain(&format!(
                    "Can't get domid of domain name '{name}', maybe this domain does not exist.\n"
                ));
                Err(FAILURE)
            }
        }
    })
}

/// Prints the name of a live domain.
pub(crate) fn domname(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(getopt::NONE, args, 1)?;
        // As strtol does it: the digits at the beginning count.
        let digits: String =
            line.operands[0].trim_start().chars().take_while(char::is_ascii_digit).collect();
        if digits.is_empty() {
            out::complain("Invalid domain id.\n\n");
            return Err(FAILURE);
        }
        match session.target(&digits)? {
            Target::Host => Ok(print("Domain-0\n")),
            Target::Live(row) => Ok(print(&format!("{}\n", row.name))),
            Target::Missing(_) => {
                out::complain(&format!(
                    "Can't get domain name of domain id '{digits}', maybe this domain does not \
                     exist.\n"
                ));
                Err(FAILURE)
            }
        }
    })
}

/// Lets a command return early with a status.
pub(crate) fn run(body: impl FnOnce() -> Result<u8, u8>) -> u8 {
    body().unwrap_or_else(|status| status)
}

/// The outcome of a call as a status, its failure told.
pub(crate) fn told(outcome: Result<(), kxl_domain::Failure>) -> u8 {
    outcome.map_or_else(|failure| fail(&failure), |()| 0)
}
