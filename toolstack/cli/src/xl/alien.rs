//! Commands of Xen's that mean nothing here and still have an answer that callers live with.

use super::getopt::{self, Options};
use super::{FAILURE, Session, USAGE, print};
use crate::out;

/// `getenforce`: there is no security module, and xl has a line for that.
pub(crate) fn getenforce(session: &mut Session, args: &[String]) -> u8 {
    match session.parse(getopt::NONE, args, 0) {
        Ok(_) => print("Flask XSM Disabled\n"),
        Err(status) => status,
    }
}

/// `setenforce`.
pub(crate) fn setenforce(session: &mut Session, args: &[String]) -> u8 {
    no_security_module(session, args)
}

/// `loadpolicy`.
pub(crate) fn loadpolicy(session: &mut Session, args: &[String]) -> u8 {
    no_security_module(session, args)
}

fn no_security_module(session: &Session, args: &[String]) -> u8 {
    match session.parse(getopt::NONE, args, 0) {
        Ok(line) if line.operands.is_empty() => {
            session.usage();
            USAGE
        }
        Ok(_) => {
            out::complain(&format!(
                "xl: \"{}\" is not available: there is no Xen security module\n",
                session.command.name
            ));
            FAILURE
        }
        Err(status) => status,
    }
}

/// `devd`: there are no driver domains, so there is nothing to serve and that is fine.
pub(crate) fn devd(session: &mut Session, args: &[String]) -> u8 {
    const DEVD: Options = Options { short: "Fp:", long: &[("pidfile", true, 'p')] };
    session.parse(DEVD, args, 0).err().unwrap_or(0)
}
