//! A monitor that goes on although its domain is gone: one of an older version, whose records a newer
//! one has changed since, can end its emulator and not write that down.

use std::time::{Duration, Instant};

use kxl_control::client::Client;
use kxl_domain::{DomId, Failure, Op, Wanted};
use kxl_store::{ListRow, LiveChange};

use crate::asking::end_monitor;
use crate::host::Host;

/// How long a monitor may take to write down that its domain was destroyed.
const WRITES: Duration = Duration::from_secs(3);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(20);

impl Host {
    /// After a destroy that a monitor says it has carried out: sees to it that the record says so.
    /// Where the monitor does not write it and this command could, the next monitor does.
    pub(crate) fn see_it_recorded(
        &mut self,
        row: &ListRow,
        client: &Client,
        progress: &mut impl FnMut(&str),
    ) -> Result<(), Failure> {
        let Some(domid) = row.domid else { return Ok(()) };
        let until = Instant::now() + WRITES;
        while self.is_recorded_as(row, domid)? {
            if Instant::now() < until {
                std::thread::sleep(LOOK);
                continue;
            }
            let ended = LiveChange {
                op: Some(Some(Op::Stopping)),
                wanted: Some(Wanted::Halted),
                ..LiveChange::default()
            };
            // On a full disk nobody can, and the monitor is the only one that knows.
            if let Err(error) = self.store.change_live(row.uuid, &ended) {
                tracing::warn!(%error, "the end of a domain is not recorded yet");
                return Ok(());
            }
            progress("its monitor cannot write the record: another one takes its place");
            // It may have gone meanwhile.
            if let Err(failure) = end_monitor(client) {
                tracing::info!(%failure, "no monitor to be ended");
            }
            return self.in_charge(row.uuid, &row.name).map(drop);
        }
        Ok(())
    }

    fn is_recorded_as(&self, row: &ListRow, domid: DomId) -> Result<bool, Failure> {
        let now = self.row(row.uuid)?;
        Ok(now.is_some_and(|now| now.domid == Some(domid)))
    }
}
