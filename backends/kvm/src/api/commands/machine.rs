//! The machine as a whole.

use serde::Deserialize;
use serde_json::Value;

use super::{Context, Nothing, done};
use crate::api::control::Outcome;
use crate::api::notices::Cause;
use crate::config::{AfterEnd, AfterReboot};

pub(super) fn stop(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    context.control.stop()?;
    done()
}

pub(super) fn cont(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    context.control.cont()?;
    done()
}

pub(super) fn reset(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    context.control.reset()?;
    done()
}

pub(super) fn powerdown(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    context.control.powerdown()?;
    done()
}

pub(super) fn quit(context: &mut Context<'_>, _: Nothing) -> Outcome<Value> {
    context.control.quit(Cause::HostQmpQuit);
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Balloon {
    /// Bytes that the guest is left.
    value: u64,
}

pub(super) fn balloon(context: &mut Context<'_>, balloon: Balloon) -> Outcome<Value> {
    context.control.set_balloon(balloon.value)?;
    done()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetAction {
    reboot: Option<Reboot>,
    shutdown: Option<Shutdown>,
    panic: Option<Panic>,
    /// There is no watchdog: any of its actions is in force already.
    #[serde(rename = "watchdog")]
    _watchdog: Option<Watchdog>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reboot {
    Reset,
    Shutdown,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Shutdown {
    Poweroff,
    Pause,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Panic {
    Pause,
    Shutdown,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Watchdog {
    Reset,
    Shutdown,
    Poweroff,
    Pause,
    Debug,
    None,
    InjectNmi,
}

pub(super) fn set_action(context: &mut Context<'_>, wanted: SetAction) -> Outcome<Value> {
    let mut actions = context.control.actions();
    match wanted.reboot {
        Some(Reboot::Reset) => actions.reboot = AfterReboot::Reset,
        Some(Reboot::Shutdown) => actions.reboot = AfterReboot::Shutdown,
        None => {}
    }
    match wanted.shutdown {
        Some(Shutdown::Poweroff) => actions.shutdown = AfterEnd::Exit,
        Some(Shutdown::Pause) => actions.shutdown = AfterEnd::Pause,
        None => {}
    }
    match wanted.panic {
        Some(Panic::Shutdown) => actions.panic = AfterEnd::Exit,
        Some(Panic::Pause) => actions.panic = AfterEnd::Pause,
        None => {}
    }
    context.control.set_actions(actions);
    done()
}
