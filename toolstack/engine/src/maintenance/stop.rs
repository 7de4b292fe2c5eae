//! Stopping many domains at once, those that others come after last.

use std::sync::Mutex;

use kxl_control::Moved;
use kxl_domain::{Failure, Kind};
use kxl_store::ListRow;

use super::order::{Circle, Rank, waves};
use super::plan::Way;
use super::run::{Desk, Done, Errand, Hands, Pace, run};
use crate::host::Host;
use crate::service::Stopped;

impl Host {
    /// Stops the domains of these rows ([`Host::stop`]): what others come after is stopped after
    /// them, and higher priorities before lower ones; those of one wave at once. `told` hears of
    /// each as it happens.
    ///
    /// # Errors
    /// [`Circle`] as a usage failure; when the configurations cannot be read.
    pub fn stop_all(
        &mut self,
        rows: &[ListRow],
        desk: &Desk,
        told: &mut (dyn FnMut(usize, &Result<Stopped, Failure>) + Send),
    ) -> Result<(), Failure> {
        let mut facts = Vec::new();
        for row in rows {
            let maintenance = self.config_of(row)?.map(|config| config.maintenance);
            let maintenance = maintenance.unwrap_or_default();
            let after: Vec<_> = maintenance.predecessors().cloned().collect();
            facts.push((maintenance.priority, after));
        }
        let ranks: Vec<_> = rows
            .iter()
            .zip(&facts)
            .map(|(row, (priority, after))| Rank { name: &row.name, priority: *priority, after })
            .collect();
        let mut order = waves(&ranks).map_err(|circle: Circle| {
            Failure::because(Kind::Usage, "there is no order for these domains", &circle)
        })?;
        order.reverse();
        let errands = vec![Errand { ways: vec![Way::Shutdown] }; rows.len()];
        let hands = Ceasing { rows, told: Mutex::new(told) };
        let pace = Pace { jobs: 1, until: None };
        run(&errands, &order, pace, desk, &hands, &mut |_| ());
        Ok(())
    }
}

/// What a thread needs to stop one domain.
struct Ceasing<'a> {
    rows: &'a [ListRow],
    #[allow(clippy::type_complexity, reason = "the callback of the caller, as it is given")]
    told: Mutex<&'a mut (dyn FnMut(usize, &Result<Stopped, Failure>) + Send)>,
}

impl Hands for Ceasing<'_> {
    fn act(&self, index: usize, _: Way, _: &mut dyn FnMut(Moved)) -> Result<Done, Failure> {
        let stopped = Host::open().and_then(|mut host| host.stop(&self.rows[index]));
        let mut told = self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        told(index, &stopped);
        drop(told);
        stopped.map(|how| if how == Stopped::Already { Done::Already } else { Done::Off })
    }

    fn give_up(&self) {}
}
