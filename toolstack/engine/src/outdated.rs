//! A monitor that goes on although its domain is gone: one of an older version, whose records a newer
//! one has changed since, can end its emulator and not write that down.

use std::time::{Duration, Instant};

use kxl_control::client::Client;
use kxl_control::{Answer, Call};
use kxl_domain::{DomId, DomainName, DomainUuid, Failure, GuestEvent, Op, Reason, State, Wanted};
use kxl_store::{LiveChange, socket};

use crate::asking::end_monitor;
use crate::host::Host;

/// How long a monitor may take to write down that its domain has ended.
const WRITES: Duration = Duration::from_secs(3);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// How long it may take to say how the domain ended.
const ANSWER: Duration = Duration::from_secs(1);

impl Host {
    /// After an end that a monitor says has come: sees to it that the record says so. Where the
    /// monitor does not write it and this command could, the next monitor does.
    pub(crate) fn see_it_recorded(
        &mut self,
        (uuid, name, domid): (DomainUuid, &DomainName, DomId),
        client: &mut Client,
        progress: &mut impl FnMut(&str),
    ) -> Result<(), Failure> {
        let until = Instant::now() + WRITES;
        while self.is_live_as(uuid, domid)? {
            if Instant::now() < until {
                std::thread::sleep(LOOK);
                continue;
            }
            // On a full disk nobody can, and the monitor is the only one that knows.
            if let Err(error) = self.store.change_live(uuid, &ended(client)) {
                tracing::warn!(%error, "the end of a domain is not recorded yet");
                return Ok(());
            }
            progress("its monitor cannot write the record: another one takes its place");
            // It may have gone meanwhile.
            if let Err(failure) = end_monitor(client) {
                tracing::info!(%failure, "no monitor to be ended");
            }
            return self.in_charge(uuid, name).map(drop);
        }
        Ok(())
    }

    /// The same where nobody has asked for an end: only a monitor that says so is looked after.
    pub(crate) fn settle_outdated(
        &mut self,
        uuid: DomainUuid,
        name: &DomainName,
    ) -> Result<(), Failure> {
        let Some(domid) = self.row(uuid)?.and_then(|row| row.domid) else { return Ok(()) };
        let Ok(stream) = socket::connect(&self.paths.control_socket(uuid)) else { return Ok(()) };
        let mut client = Client::new(stream);
        if end_of(&mut client).is_none() {
            return Ok(());
        }
        self.see_it_recorded((uuid, name, domid), &mut client, &mut |_: &str| ())
    }

    fn is_live_as(&self, uuid: DomainUuid, domid: DomId) -> Result<bool, Failure> {
        Ok(self.row(uuid)?.is_some_and(|now| now.domid == Some(domid)))
    }
}

/// How its domain has ended, where a monitor says that it has, and that nothing is left of it.
fn end_of(client: &mut Client) -> Option<Reason> {
    match client.call(Call::Status { probe: false }, Some(ANSWER), |_| ()) {
        Ok(Answer::Status(status)) if status.state == State::Halted && status.op.is_none() => {
            status
                .reason
                .filter(|reason| *reason == Reason::Destroyed || GuestEvent::of(*reason).is_some())
        }
        _ => None,
    }
}

/// What the next monitor is to find: an end of which only the record was cut off.
fn ended(client: &mut Client) -> LiveChange {
    let reason = end_of(client).unwrap_or(Reason::Destroyed);
    let done = matches!(reason, Reason::Destroyed | Reason::Poweroff);
    LiveChange {
        op: Some(Some(Op::Stopping)),
        state: Some(State::Shutdown),
        reason: Some(Some(reason)),
        wanted: done.then_some(Wanted::Halted),
        ..LiveChange::default()
    }
}
