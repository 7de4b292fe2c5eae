//! `pause`, `unpause`, `destroy`.

use kxl_domain::{DomId, Failure, Verb};

use super::getopt::{self, Options};
use super::names::run;
use super::{FAILURE, Session, Target, code, fail, rc};
use crate::commands::VERB_DEADLINE;
use crate::out;

/// `pause`: status 0 whenever the argument names something, whatever comes of it.
pub(crate) fn pause(session: &mut Session, args: &[String]) -> u8 {
    silently(session, args, Verb::Pause)
}

/// `unpause`: the same.
pub(crate) fn unpause(session: &mut Session, args: &[String]) -> u8 {
    silently(session, args, Verb::Unpause)
}

fn silently(session: &mut Session, args: &[String], verb: Verb) -> u8 {
    run(|| {
        let line = session.parse(getopt::NONE, args, 1)?;
        let target = session.target(&line.operands[0])?;
        if let Err(failure) = act(session, &target, verb)? {
            fail(&failure);
        }
        Ok(0)
    })
}

/// Carries a verb out on a target.
///
/// The outer error is an exit status of something told already.
pub(crate) fn act(
    session: &mut Session,
    target: &Target,
    verb: Verb,
) -> Result<Result<(), Failure>, u8> {
    Ok(match target {
        Target::Host => Err(Failure::new(
            kxl_domain::Kind::Denied,
            format!("cannot {verb} domain 0: it is the host"),
        )),
        Target::Missing(number) => Err(missing(DomId(*number))),
        Target::Live(row) => session.host()?.verb(row, verb, VERB_DEADLINE, |_| ()).map(drop),
    })
}

/// There is no domain of this number.
pub(crate) fn missing(domid: DomId) -> Failure {
    Failure::new(kxl_domain::Kind::NoSuchDomain, format!("there is no domain {domid}"))
}

/// `destroy`.
pub(crate) fn destroy(session: &mut Session, args: &[String]) -> u8 {
    const DESTROY: Options = Options { short: "f", long: &[] };
    run(|| {
        let line = session.parse(DESTROY, args, 1)?;
        let target = session.target(&line.operands[0])?;
        if matches!(target, Target::Host) {
            out::complain("Cannot destroy privileged domain 0.\n\n");
            return Err(FAILURE);
        }
        if let Target::Missing(_) = target {
            out::complain(&format!("destroy failed (rc={})\n", rc::DOMAIN_NOTFOUND));
            return Err(FAILURE);
        }
        match act(session, &target, Verb::Destroy)? {
            Ok(()) => Ok(0),
            Err(failure) => {
                fail(&failure);
                out::complain(&format!("destroy failed (rc={})\n", code(&failure)));
                Err(FAILURE)
            }
        }
    })
}
