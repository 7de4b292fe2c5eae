//! One hook, or the mail, with its cursor and the events that wait for it.

use std::collections::VecDeque;
use std::path::PathBuf;

use kxl_engine::hooks::Tells;
use kxl_store::{EventRow, HookRow, Store, StoreError};

/// Events about the telling itself, of which nobody is told this way: it would have no end.
pub(crate) const OWN: [&str; 3] = ["hook-failed", "hook-refused", "mail-failed"];

/// How many events are read at once.
const BATCH: u32 = 64;

/// How an event is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Teller {
    /// By running this program.
    Hook(PathBuf),
    /// By mail.
    Mail,
}

/// One way of telling events.
#[derive(Debug)]
pub(crate) struct Lane {
    /// How.
    pub(crate) teller: Teller,
    /// Of which events.
    pub(crate) tells: Tells,
    /// How far it has come.
    pub(crate) cursor: HookRow,
    /// Those that come next.
    queue: VecDeque<EventRow>,
    /// Up to where events were looked at.
    scanned: i64,
}

impl Lane {
    pub(crate) fn new(teller: Teller, tells: Tells, cursor: HookRow) -> Self {
        let scanned = cursor.told;
        Self { teller, tells, cursor, queue: VecDeque::new(), scanned }
    }

    /// The same by another program.
    pub(crate) fn by(self, teller: Teller) -> Self {
        Self { teller, ..self }
    }

    /// The event that comes next, if there is one.
    pub(crate) fn next(&mut self, store: &Store) -> Result<Option<&EventRow>, StoreError> {
        while self.queue.is_empty() {
            let rows = store.events_after(self.scanned, BATCH)?;
            let Some(last) = rows.last() else { break };
            self.scanned = last.id;
            let tells = self.tells;
            self.queue.extend(rows.into_iter().filter(|row| wants(tells, row)));
        }
        Ok(self.queue.front())
    }

    /// Is done with the event that came next.
    pub(crate) fn pass(&mut self, store: &Store) -> Result<(), StoreError> {
        if let Some(row) = self.queue.pop_front() {
            let HookRow { told, tries, next_ms, .. } = &mut self.cursor;
            (*told, *tries, *next_ms) = (row.id, 0, 0);
            store.set_hook(&self.cursor)?;
        }
        Ok(())
    }

    /// Passes over what it is not told of, when nothing else is left.
    pub(crate) fn settle(&mut self, store: &Store) -> Result<(), StoreError> {
        if self.queue.is_empty() && self.scanned > self.cursor.told {
            self.cursor.told = self.scanned;
            store.set_hook(&self.cursor)?;
        }
        Ok(())
    }
}

fn wants(tells: Tells, row: &EventRow) -> bool {
    let event = &row.event;
    // While an alert is open, those who are told of alerts only are told of it once.
    let again = tells == Tells::Alerts && row.repeat_of.is_some();
    !again && tells.includes(event.severity) && !OWN.contains(&event.what.as_str())
}

#[cfg(test)]
mod tests {
    use kxl_store::{Event, Severity};

    use super::*;

    fn row(severity: Severity, what: &str, repeat_of: Option<i64>) -> EventRow {
        EventRow { repeat_of, ..EventRow::new(9, Event::new(severity, what)) }
    }

    #[test]
    fn a_lane_wants_what_it_tells_and_nothing_about_telling() {
        let repeated = row(Severity::Alert, "crash", Some(3));
        assert!(wants(Tells::All, &repeated) && wants(Tells::Warnings, &repeated));
        assert!(!wants(Tells::Alerts, &repeated), "told already");
        assert!(wants(Tells::Alerts, &row(Severity::Alert, "crash", None)));
        assert!(!wants(Tells::Alerts, &row(Severity::Warning, "settled", None)));
        assert!(wants(Tells::All, &row(Severity::Info, "started", None)));
        for what in OWN {
            assert!(!wants(Tells::All, &row(Severity::Alert, what, None)), "{what}");
        }
    }
}
