//! `shutdown` and `reboot`.

use kxl_control::Until;
use kxl_domain::{Kind, Reason, Verb};
use kxl_store::ListRow;

use super::getopt::Options;
use super::names::run;
use super::{FAILURE, Session, Target, code, fail, rc};
use crate::ending::{self, Ask, News};
use crate::out;

const OPTIONS: Options =
    Options { short: "awF", long: &[("all", false, 'a'), ("wait", false, 'w')] };

/// `shutdown`.
pub(crate) fn shutdown(session: &mut Session, args: &[String]) -> u8 {
    end(session, args, Verb::Shutdown)
}

/// `reboot`.
pub(crate) fn reboot(session: &mut Session, args: &[String]) -> u8 {
    end(session, args, Verb::Reboot)
}

fn end(session: &mut Session, args: &[String], verb: Verb) -> u8 {
    run(|| {
        let line = session.parse(OPTIONS, args, 0)?;
        let domain = line.operands.first();
        if domain.is_none() && !line.has('a') {
            out::complain("You must specify -a or a domain id.\n\n");
            return Err(FAILURE);
        }
        let rows = match domain.filter(|_| !line.has('a')) {
            None => session.live()?,
            Some(arg) => match session.target(arg)? {
                Target::Live(row) => vec![*row],
                Target::Host => return Err(refused(verb, 0, rc::INVAL)),
                Target::Missing(number) => {
                    return Err(refused(verb, number, rc::DOMAIN_NOTFOUND));
                }
            },
        };
        let wait = match line.count('w') {
            0 => None,
            1 => Some(Until::Shutdown),
            _ => Some(Until::Gone),
        };
        ask(session, &rows, verb, wait)
    })
}

/// The lines of a domain that cannot be asked at all.
fn refused(verb: Verb, domid: u32, rc: i32) -> u8 {
    out::complain(&format!("{} domain {domid}\n{verb} failed (rc={rc})\n", doing(verb)));
    FAILURE
}

fn doing(verb: Verb) -> &'static str {
    if verb == Verb::Reboot { "Rebooting" } else { "Shutting down" }
}

fn ask(session: &mut Session, rows: &[ListRow], verb: Verb, wait: Option<Until>) -> Result<u8, u8> {
    let mut status = 0;
    let ask = Ask { verb, wait, timeout: None };
    ending::ask(session.host()?, rows, ask, |news| match news {
        News::Asking(row) => {
            let domid = row.domid.map_or(0, |domid| domid.0);
            out::complain(&format!("{} domain {domid}\n", doing(verb)));
        }
        News::Failed(failure) => {
            fail(failure);
            if failure.kind == Kind::Unsupported {
                out::complain(
                    "PV control interface not available: external graceful shutdown not \
                     possible.\n",
                );
            }
            out::complain(&format!("{verb} failed (rc={})\n", code(failure)));
            status = FAILURE;
        }
        News::Waiting(count) => out::complain(&format!("Waiting for {count} domains\n")),
        News::Ended { reason, domid, .. } => {
            out::complain(&ended(domid.0, reason, wait == Some(Until::Gone)));
        }
        // It has gone between the list and the question: what was wanted.
        News::Already(_) | News::Late(_) => {}
    });
    Ok(status)
}

/// The line for a domain that has come to the point that was waited for.
fn ended(domid: u32, reason: Option<Reason>, gone: bool) -> String {
    match reason.filter(|reason| !gone && *reason != Reason::Destroyed) {
        Some(reason) => {
            format!("Domain {domid} has been shut down, reason code {}\n", reason.xen_code())
        }
        None => format!("Domain {domid} has been destroyed\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_wait_is_told_in_the_words_of_xl() {
        let off = Some(Reason::Poweroff);
        assert_eq!(ended(3, off, false), "Domain 3 has been shut down, reason code 0\n");
        assert_eq!(
            ended(3, Some(Reason::Reboot), false),
            "Domain 3 has been shut down, reason code 1\n"
        );
        assert_eq!(ended(3, off, true), "Domain 3 has been destroyed\n");
        assert_eq!(ended(3, Some(Reason::Destroyed), false), "Domain 3 has been destroyed\n");
    }
}
