//! What QEMU tells of a migration, and the commands around it.

use std::cell::RefCell;

use kxl_backend::{BackendError, Result};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// A migration's status, by QEMU's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// There is none, or it goes on.
    None,
    /// It begins: from its end on every write of the guest is noticed.
    Setup,
    /// Memory is sent.
    Active,
    /// The guest stands still; QEMU waits for `migrate-continue`.
    PreSwitchover,
    /// The last memory and the devices are sent.
    Device,
    /// It is being cancelled.
    Cancelling,
    /// Done.
    Completed,
    /// It came to nothing.
    Failed,
}

impl Status {
    /// By QEMU's word.
    pub(super) fn of(word: &str) -> Self {
        match word {
            "none" => Self::None,
            "setup" => Self::Setup,
            "pre-switchover" => Self::PreSwitchover,
            "device" => Self::Device,
            "cancelling" => Self::Cancelling,
            "completed" => Self::Completed,
            "failed" | "cancelled" => Self::Failed,
            _ => Self::Active,
        }
    }

    /// Whether nothing more comes of it.
    pub(super) const fn over(self) -> bool {
        matches!(self, Self::None | Self::Completed | Self::Failed)
    }
}

/// Something told of the migration in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Its status has changed.
    Status(Status),
    /// Another pass over the memory begins; the first has number 1.
    Pass(u64),
    /// The processors stopped.
    Stopped,
    /// They go on.
    Resumed,
    /// The guest itself came to an end.
    GuestEnded,
}

/// The ear of a save in flight: hears what concerns it from the task that watches the events.
#[derive(Debug, Default)]
pub(crate) struct Ear {
    listener: RefCell<Option<mpsc::UnboundedSender<Told>>>,
}

impl Ear {
    /// From now on everything is told to the receiver.
    pub(super) fn listen(&self) -> mpsc::UnboundedReceiver<Told> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.listener.replace(Some(sender));
        receiver
    }

    /// Nobody listens any more.
    pub(super) fn rest(&self) {
        self.listener.replace(None);
    }

    /// Tells what an event says of a migration.
    pub(super) fn hear(&self, event: &kxl_qmp::Event) {
        let told = match event.name.as_str() {
            "MIGRATION" => {
                let word = event.data.get("status").and_then(Value::as_str).unwrap_or_default();
                Told::Status(Status::of(word))
            }
            "MIGRATION_PASS" => {
                Told::Pass(event.data.get("pass").and_then(Value::as_u64).unwrap_or(0))
            }
            "STOP" => Told::Stopped,
            "RESUME" => Told::Resumed,
            _ => return,
        };
        self.tell(told);
    }

    /// Tells one thing.
    pub(super) fn tell(&self, told: Told) {
        if let Some(listener) = self.listener.borrow().as_ref() {
            let _gone = listener.send(told);
        }
    }
}

/// Capabilities by name, as the command wants them.
pub(super) fn capabilities(names: &[(&str, bool)]) -> Value {
    let list: Vec<_> =
        names.iter().map(|(name, on)| json!({"capability": name, "state": on})).collect();
    json!({ "capabilities": list })
}

/// Status and error text out of the answer to `query-migrate`.
pub(super) fn progress(answer: &Value) -> (Status, Option<String>) {
    let word = answer.get("status").and_then(Value::as_str).unwrap_or("none");
    let why = answer.get("error-desc").and_then(Value::as_str).map(str::to_owned);
    (Status::of(word), why)
}

/// The failure of a migration in words.
pub(super) fn failed(command: &str, why: Option<String>) -> BackendError {
    let why = why.unwrap_or_else(|| "it came to nothing and says no more".into());
    BackendError::Control { command: command.into(), why }
}

/// Whether a refusal says that the last migration is not cleared away yet.
pub(super) fn not_finalized<T>(result: &Result<T>) -> bool {
    matches!(result, Err(BackendError::Control { why, .. }) if why.contains("not finalized"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: Value) -> kxl_qmp::Event {
        kxl_qmp::Event { name: name.into(), data, timestamp: None }
    }

    #[test]
    fn only_who_listens_is_told_and_only_of_migrations() {
        let ear = Ear::default();
        ear.hear(&event("MIGRATION_PASS", json!({"pass": 1})));
        let mut heard = ear.listen();
        ear.hear(&event("BALLOON_CHANGE", Value::Null));
        ear.hear(&event("MIGRATION", json!({"status": "pre-switchover"})));
        ear.hear(&event("MIGRATION_PASS", json!({"pass": 2})));
        assert_eq!(heard.try_recv().unwrap(), Told::Status(Status::PreSwitchover));
        assert_eq!(heard.try_recv().unwrap(), Told::Pass(2));
        ear.rest();
        ear.hear(&event("MIGRATION", json!({"status": "completed"})));
        heard.try_recv().unwrap_err();
    }

    #[test]
    fn a_status_that_is_not_known_goes_on() {
        assert_eq!((Status::of("setup"), Status::of("active")), (Status::Setup, Status::Active));
        assert_eq!(Status::of("a new one"), Status::Active);
        assert!(!Status::of("setup").over() && !Status::of("active").over());
        assert!(!Status::of("cancelling").over());
        assert!(Status::of("cancelled").over() && Status::of("none").over());
        let answer = json!({"status": "failed", "error-desc": "Broken pipe"});
        assert_eq!(progress(&answer), (Status::Failed, Some("Broken pipe".into())));
        assert_eq!(progress(&json!({})), (Status::None, None));
    }
}
