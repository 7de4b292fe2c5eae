//! The ways to save a guest.

use kxl_backend::{BackendError, Result, SaveOrder};

use super::super::live::Qemu;
use super::super::migration;

/// What the guest does while its memory is streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It stands still.
    Still,
    /// It runs, and what it writes is streamed again.
    Passes,
    /// It runs, and what it writes is streamed when it stands still. With no downtime allowed QEMU
    /// looks for dirty pages only when it begins and at the end. The guest also stands still for the
    /// beginning, some milliseconds, because translated code that runs meanwhile is told a little
    /// late. See [`Facts::one_pass`](super::super::machine::Facts::one_pass).
    OnePass,
    /// It goes on after the moment that is saved; QEMU saves each page before it is written.
    Background,
}

impl Qemu {
    /// The way to save this guest; sets QEMU's capabilities for it.
    pub(super) async fn how(&self, ran: bool, order: &SaveOrder) -> Result<How> {
        let live = ran && order.live;
        if live && order.go_on.is_some() && self.facts.background {
            let wanted = [("events", true), (PAUSE, false), (BACKGROUND, true)];
            match self.capable(&wanted).await {
                Ok(()) => return Ok(How::Background),
                // Memory that was mapped from an image, or a host without write protection for it.
                Err(BackendError::Control { why, .. }) => {
                    tracing::debug!(why, "the guest cannot go on while it is saved");
                }
                Err(error) => return Err(error),
            }
        }
        let mut wanted = vec![("events", true), (PAUSE, true)];
        if self.facts.background {
            // Left by an earlier save.
            wanted.push((BACKGROUND, false));
        }
        self.capable(&wanted).await?;
        Ok(match (live, self.facts.one_pass) {
            (false, _) => How::Still,
            (true, true) => How::OnePass,
            (true, false) => How::Passes,
        })
    }

    async fn capable(&self, wanted: &[(&str, bool)]) -> Result<()> {
        let wanted = migration::capabilities(wanted);
        self.command("migrate-set-capabilities", Some(wanted)).await.map(drop)
    }
}

/// Names of capabilities.
const PAUSE: &str = "pause-before-switchover";
const BACKGROUND: &str = "background-snapshot";
