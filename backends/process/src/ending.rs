//! The end of a process, told to whoever waits for it.

use std::rc::Rc;
use std::time::Duration;

use kxl_backend::{BackendError, Exit, Process};
use kxl_domain::GuestEvent;
use tokio::sync::watch;

use crate::kill;

/// What a finished process left, before it is put into words.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Status {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

impl Status {
    /// Waits for the end of `process`. Cancel-safe.
    pub(crate) async fn of(process: &Process) -> Self {
        match process.wait().await {
            Ok((code, signal)) => Self { code, signal },
            Err(error) => {
                tracing::error!(%error, "cannot watch the emulator");
                Self::default()
            }
        }
    }

    /// One line for people, with the emulator's last words where there are any.
    pub(crate) fn text(self, last_words: &str) -> String {
        let how = match (self.code, self.signal) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => nix::sys::signal::Signal::try_from(signal).map_or_else(
                |_| format!("ended by signal {signal}"),
                |signal| format!("ended by {signal}"),
            ),
            (None, None) => "nobody saw how it ended".to_owned(),
        };
        if last_words.is_empty() { how } else { format!("{how}: {last_words}") }
    }

    /// The full report of an end.
    pub(crate) fn exit(self, meaning: Option<GuestEvent>, text: String) -> Exit {
        Exit { code: self.code, signal: self.signal, meaning, text }
    }
}

/// Kills `process` and waits until the task that watches it has told its end.
///
/// # Errors
/// [`BackendError::TimedOut`] when it hangs in the kernel.
pub(crate) async fn destroy(
    process: &Rc<Process>,
    mut ended: watch::Receiver<Option<Exit>>,
) -> Result<Exit, BackendError> {
    let told = ended.borrow().clone();
    if let Some(exit) = told {
        return Ok(exit);
    }
    kill::kill(process).map_err(|error| BackendError::io("cannot kill the emulator", error))?;
    let waited_for = || "end of the emulator".to_owned();
    tokio::time::timeout(kill::GRACE, process.gone())
        .await
        .map_err(|_| BackendError::TimedOut { waited_for: waited_for(), after: kill::GRACE })?
        .map_err(|error| BackendError::io("cannot watch the emulator", error))?;
    // The status of a process that another one reaps may come late or never: not worth waiting
    // for, we know why it ended.
    let told = tokio::time::timeout(STATUS, ended.wait_for(Option::is_some)).await;
    Ok(told.ok().and_then(|told| told.ok()?.clone()).unwrap_or_else(unseen))
}

fn unseen() -> Exit {
    Status::default().exit(None, "destroyed".into())
}

/// How long the status of a destroyed process is waited for.
const STATUS: Duration = Duration::from_millis(500);

/// How long a process that has closed its control channel may take to end.
pub(crate) const LAST_MOMENTS: Duration = Duration::from_secs(2);
