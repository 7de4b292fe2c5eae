//! What has happened, as events.

use serde_json::{Value, json};

use super::commands::Migrations;
use super::notices::{Cause, What};

/// Every event there is, for `query-events`.
pub(super) const NAMES: &[&str] = &[
    "BALLOON_CHANGE",
    "BLOCK_IO_ERROR",
    "DEVICE_DELETED",
    "GUEST_CRASHLOADED",
    "GUEST_PANICKED",
    "MIGRATION",
    "MIGRATION_PASS",
    "POWERDOWN",
    "RESET",
    "RESUME",
    "SHUTDOWN",
    "STOP",
];

/// Name and data of an event; `None` for what is not told.
pub(super) fn of(what: &What, migrations: &Migrations) -> Option<(&'static str, Value)> {
    let cause = |cause: &Cause| json!({"guest": cause.guest(), "reason": cause.as_str()});
    let event = match what {
        What::Stop => ("STOP", json!({})),
        What::Resume => ("RESUME", json!({})),
        What::Reset(why) => ("RESET", cause(why)),
        What::Shutdown(why) => ("SHUTDOWN", cause(why)),
        What::Powerdown => ("POWERDOWN", json!({})),
        What::Panicked(action) => ("GUEST_PANICKED", json!({"action": action.as_str()})),
        What::CrashLoaded => ("GUEST_CRASHLOADED", json!({"action": "run"})),
        What::DeviceDeleted(id) => ("DEVICE_DELETED", json!({"device": id, "path": id})),
        What::BalloonChange(actual) => ("BALLOON_CHANGE", json!({"actual": actual})),
        What::BlockIoError { device, write, reason } => {
            let operation = if *write { "write" } else { "read" };
            let data = json!({"device": device, "node-name": device, "operation": operation,
                "action": "report", "reason": reason});
            ("BLOCK_IO_ERROR", data)
        }
        // As QEMU has it: only those hear of these who have asked for it.
        What::Migration(_) | What::MigrationPass(_) if !migrations.events => return None,
        What::Migration(status) => ("MIGRATION", json!({"status": status.as_str()})),
        What::MigrationPass(pass) => ("MIGRATION_PASS", json!({"pass": pass})),
        What::Exit(_) => return None,
    };
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::super::control::MigrationStatus;
    use super::super::notices::PanicAction;
    use super::*;

    #[test]
    fn every_event_is_among_the_names_and_those_of_migrations_are_asked_for() {
        let on = Migrations { events: true, ..Migrations::default() };
        let all = [
            What::Stop,
            What::Resume,
            What::Reset(Cause::GuestReset),
            What::Shutdown(Cause::HostQmpQuit),
            What::Powerdown,
            What::Panicked(PanicAction::Pause),
            What::CrashLoaded,
            What::DeviceDeleted("net0".into()),
            What::BalloonChange(5),
            What::BlockIoError { device: "vda".into(), write: true, reason: "no space".into() },
            What::Migration(MigrationStatus::Active),
            What::MigrationPass(1),
        ];
        let mut names: Vec<_> = all.iter().map(|what| of(what, &on).unwrap().0).collect();
        names.sort_unstable();
        assert_eq!(names, NAMES);
        assert_eq!(of(&What::Migration(MigrationStatus::Active), &Migrations::default()), None);
        assert_eq!(of(&What::Exit(0), &on), None);
    }

    #[test]
    fn an_end_tells_who_wanted_it() {
        let data = |cause| of(&What::Shutdown(cause), &Migrations::default()).unwrap().1;
        assert_eq!(data(Cause::HostQmpQuit), json!({"guest": false, "reason": "host-qmp-quit"}));
        assert_eq!(data(Cause::GuestShutdown), json!({"guest": true, "reason": "guest-shutdown"}));
    }
}
