//! What a monitor writes into the record of events.

use kxl_store::{Event, Severity};

use crate::live::LiveDomain;

/// How many events wait for a full disk at most; the oldest go first, alerts last.
const MOST_UNTOLD: usize = 64;

impl LiveDomain {
    /// Writes an event; the log has it when the database does not take it.
    pub(crate) fn event(
        &mut self,
        severity: Severity,
        what: &str,
        action: Option<&str>,
        text: &str,
    ) {
        let event = self.compose(severity, what, action, text);
        self.write_event(&event);
    }

    /// An event of this moment, to be written later.
    pub(crate) fn compose(
        &self,
        severity: Severity,
        what: &str,
        action: Option<&str>,
        text: &str,
    ) -> Event {
        let mut event = Event::new(severity, what)
            .of(self.row.uuid, &self.row.name, Some(self.row.domid))
            .reason(self.row.reason)
            .text(text);
        event.action = action.map(str::to_owned);
        event
    }

    /// Writes an event. One that the disk does not take is kept until it does.
    pub(crate) fn write_event(&mut self, event: &Event) {
        let (name, what, text) = (&self.row.name, &event.what, &event.text);
        tracing::info!(domid = self.row.domid.0, %name, what, text, "event");
        self.tell_untold();
        let Err(error) = self.store.event(event) else { return };
        tracing::warn!(%error, "event not recorded");
        if self.untold.len() >= MOST_UNTOLD {
            let passing = self.untold.iter().position(|old| old.severity != Severity::Alert);
            drop(self.untold.remove(passing.unwrap_or_default()));
        }
        self.untold.push_back(event.clone());
    }

    /// Writes the events that the disk did not take, in their order; `true` when none is left.
    pub fn tell_untold(&mut self) -> bool {
        while let Some(event) = self.untold.front() {
            if let Err(error) = self.store.event(event) {
                tracing::debug!(%error, "an event still waits");
                return false;
            }
            self.untold.pop_front();
        }
        true
    }

    /// Whether events wait for room on the disk.
    #[must_use]
    pub fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }
}
