//! Taking charge of a domain in this very process, for a monitor that somebody starts by hand or
//! from a service manager.

use std::time::{Duration, Instant};

use kxl_domain::{DomainName, DomainUuid, Failure, Kind, Verb};
use kxl_store::DomainLock;

use crate::StartOpts;
use crate::handover::Mission;
use crate::host::{Host, stored};
use crate::resting::Launch;

/// How long commands at work on the domain are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A domain whose lock is ours.
#[derive(Debug)]
pub struct Charge {
    /// Its lock.
    pub lock: DomainLock,
    /// Durable identity.
    pub uuid: DomainUuid,
    /// Name.
    pub name: DomainName,
    /// Launch its emulator, or take up the one that runs.
    pub mission: Mission,
}

impl Host {
    /// Takes charge of a domain: a resting one is claimed for its start, a live one is taken over
    /// from its monitor, which is told to leave, if there is one.
    ///
    /// # Errors
    /// What [`Host::start`] is refused for; [`Kind::TimedOut`] when a monitor does not leave.
    pub fn take_charge(&mut self, who: &str) -> Result<Charge, Failure> {
        let until = Instant::now() + PATIENCE;
        loop {
            let row = self.find(who)?;
            let (uuid, name) = (row.uuid, row.name.clone());
            if row.domid.is_none() {
                let lock = self.resting_lock(uuid, &name, Verb::Start)?;
                let opts = StartOpts { paused: false, deadline: PATIENCE };
                let managed = self.store.managed(uuid);
                let managed = managed
                    .map_err(|e| stored(format!("cannot read domain \"{name}\""), &e))?
                    .ok_or_else(|| {
                        let text = format!("domain \"{name}\" is not registered any more");
                        Failure::new(Kind::NoSuchDomain, text)
                    })?;
                let launch = Launch::boot(managed.config, uuid, true, Verb::Start, opts);
                let lock = self.claim(lock, launch)?;
                return Ok(Charge { lock, uuid, name, mission: Mission::Launch });
            }
            self.release(&row)?;
            let unlocked = |e: &_| stored(format!("cannot lock domain \"{name}\""), e);
            let lock = DomainLock::try_acquire(&self.paths, uuid).map_err(|e| unlocked(&e))?;
            let live = self.store.live(uuid);
            let live = live.map_err(|e| stored(format!("cannot read domain \"{name}\""), &e))?;
            if let (Some(lock), Some(_)) = (lock, live) {
                return Ok(Charge { lock, uuid, name, mission: Mission::Adopt });
            }
            // It has come to rest meanwhile, or another command was faster and adopts it.
            if Instant::now() > until {
                let text = format!("domain \"{name}\" stays locked by another command");
                return Err(Failure::new(Kind::TimedOut, text));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
