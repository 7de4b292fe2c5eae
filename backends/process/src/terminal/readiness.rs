//! When an emulator counts as started.

use std::time::Duration;

use kxl_backend::{BackendError, Exit, Result};

use super::keeper::Phase;
use super::live::Terminal;
use super::outlet::Outlet;
use crate::ports;
use crate::profile::{Meaning, ReadyKind};

/// Pause between two looks at what changes without waking anybody; only while starting.
const LOOK: Duration = Duration::from_millis(3);

impl Terminal {
    /// Waits until the emulator has started, or says why it has not. `port` is what the profile's
    /// `ready.port` comes to.
    ///
    /// # Errors
    /// [`BackendError::Launch`] when it ended, [`BackendError::TimedOut`].
    pub(super) async fn ready(&self, program: &str, port: Option<u16>) -> Result<()> {
        let ready = self.shared.profile.ready.clone();
        let patience = Duration::from_millis(ready.timeout_ms);
        let (mut exit, awaited) = (self.exit.clone(), ready.text.clone());
        let sign = async {
            match ready.kind {
                ReadyKind::Alive => Ok(()),
                ReadyKind::GuestRuns => self.guest_runs(program).await,
                ReadyKind::ConsoleMatch => {
                    let text = ready.text.unwrap_or_default();
                    let shown = self.shared.ear.until(&text, patience).await;
                    let last = self.shared.ear.last_line();
                    self.shared.ear.close();
                    shown.then_some(()).ok_or_else(|| late(&format!("{text:?}"), &last, patience))
                }
                ReadyKind::Tcp => {
                    self.listens(port).await;
                    Ok(())
                }
                ReadyKind::Qmp => match &self.shared.channel {
                    Some(channel) => channel.connect(&self.process, patience).await,
                    None => Ok(()),
                },
            }?;
            // One that is refused something after its sign has not started.
            if ready.after_ms > 0 {
                tokio::time::sleep(Duration::from_millis(ready.after_ms)).await;
            }
            Ok(())
        };
        // Some signs are a while's work themselves.
        let whole = patience + Duration::from_millis(ready.after_ms);
        tokio::select! {
            biased;
            // A text is waited for as long as this: either may be the first to see its time over.
            signed = tokio::time::timeout(whole, sign) => signed.unwrap_or_else(|_| {
                Err(match &awaited {
                    Some(text) => late(&format!("{text:?}"), &self.shared.ear.last_line(), patience),
                    None => late("start of the guest", &self.shared.words(), patience),
                })
            }),
            ended = exit.wait_for(Option::is_some) => {
                let told = ended.ok().and_then(|told| told.clone());
                Err(Self::launch_failed(program, told.as_ref()))
            }
        }
    }

    fn launch_failed(program: &str, exit: Option<&Exit>) -> BackendError {
        let why = exit.map_or_else(|| "it ended".to_owned(), |exit| exit.text.clone());
        BackendError::Launch { program: program.to_owned(), why }
    }

    /// The emulator listens at a port, or its line is connected.
    async fn listens(&self, port: Option<u16>) {
        match (port, self.shared.outlet()) {
            (Some(port), _) => {
                while !ports::listens(self.process.identity().pid, port) {
                    tokio::time::sleep(LOOK * 5).await;
                }
            }
            (None, Outlet::Line(line)) => {
                line.connected().await;
            }
            (None, _) => {}
        }
    }

    /// The guest has taken the terminal out of cooked mode.
    async fn guest_runs(&self, program: &str) -> Result<()> {
        let shared = &self.shared;
        loop {
            shared.look();
            if let Some(exit) = self.exit.borrow().as_ref() {
                return Err(Self::launch_failed(program, Some(exit)));
            }
            match shared.phase.get() {
                Phase::Running => return Ok(()),
                // It ran and ended before we could look: a launch that succeeded.
                Phase::AtPrompt(Some(meaning)) if meaning != Meaning::Stopped => return Ok(()),
                Phase::AtPrompt(_) => {
                    let why = format!("it stands at its prompt: {}", shared.words());
                    return Err(BackendError::Launch { program: program.to_owned(), why });
                }
                Phase::Starting => tokio::time::sleep(LOOK).await,
            }
        }
    }
}

fn late(what: &str, said: &str, after: Duration) -> BackendError {
    let waited_for = format!("{what} ({said})");
    BackendError::TimedOut { waited_for, after }
}
