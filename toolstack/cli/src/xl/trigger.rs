//! `trigger` and `button-press`: only what has a verb here. The trigger's own failure leaves
//! status 0, as in xl.

use kxl_domain::Verb;

use super::names::run;
use super::verbs::act;
use super::{FAILURE, Session, USAGE, fail, getopt};
use crate::out;

/// `trigger`.
pub(crate) fn trigger(session: &mut Session, args: &[String]) -> u8 {
    run(|| {
        let line = session.parse(getopt::NONE, args, 2)?;
        let target = session.target(&line.operands[0])?;
        let verb = match line.operands[1].as_str() {
            "power" => Verb::Shutdown,
            "reset" => Verb::Reset,
            "sleep" => Verb::Sleep,
            "s3resume" => Verb::Wake,
            known @ ("nmi" | "init") => {
                out::complain(&format!("xl: trigger \"{known}\" is not built yet\n"));
                return Err(FAILURE);
            }
            other => {
                out::complain(&format!("Invalid trigger \"{other}\"\n"));
                return Err(FAILURE);
            }
        };
        if let Err(failure) = act(session, &target, verb)? {
            fail(&failure);
        }
        Ok(0)
    })
}

/// `button-press`: an old name for two of the triggers.
pub(crate) fn button_press(session: &mut Session, args: &[String]) -> u8 {
    out::complain("WARNING: \"button-press\" is deprecated. Please use \"trigger\"\n");
    run(|| {
        let line = session.parse(getopt::NONE, args, 2)?;
        let target = session.target(&line.operands[0])?;
        let verb = match line.operands[1].as_str() {
            "power" => Verb::Shutdown,
            "sleep" => Verb::Sleep,
            other => {
                out::complain(&format!("{other} is an invalid button identifier\n"));
                return Err(USAGE);
            }
        };
        if let Err(failure) = act(session, &target, verb)? {
            fail(&failure);
        }
        Ok(0)
    })
}
