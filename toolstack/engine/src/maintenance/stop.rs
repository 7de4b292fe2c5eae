//! Stopping many domains at once, those that others come after last.

use std::sync::Mutex;

use kxl_control::Moved;
use kxl_domain::Failure;
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
    /// A domain whose configuration cannot be read is one like any other, and where `after=` of some
    /// runs in a circle all are stopped at once: stopping works whatever a configuration says. Such
    /// a circle is given back.
    pub fn stop_all(
        &mut self,
        rows: &[ListRow],
        desk: &Desk,
        told: &mut (dyn FnMut(usize, &Result<Stopped, Failure>) + Send),
    ) -> Option<Circle> {
        let mut facts = Vec::new();
        for row in rows {
            let config = self.config_of(row).unwrap_or_else(|failure| {
                tracing::warn!(%failure, "a domain is stopped without its place among others");
                None
            });
            let maintenance = config.map(|config| config.maintenance).unwrap_or_default();
            let after: Vec<_> = maintenance.predecessors().cloned().collect();
            facts.push((maintenance.priority, after));
        }
        let ranks: Vec<_> = rows
            .iter()
            .zip(&facts)
            .map(|(row, (priority, after))| Rank { name: &row.name, priority: *priority, after })
            .collect();
        let (mut order, circle) = match waves(&ranks) {
            Ok(order) => (order, None),
            Err(circle) => (vec![(0..rows.len()).collect()], Some(circle)),
        };
        order.reverse();
        let errands = vec![Errand { ways: vec![Way::Shutdown] }; rows.len()];
        let hands = Ceasing { rows, told: Mutex::new(told) };
        let pace = Pace { jobs: 1, until: None };
        run(&errands, &order, pace, desk, &hands, &mut |_| ());
        circle
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
