//! The end of a monitor whose domain is at rest.

use std::time::Duration;

use kxl_domain::Verb;

use super::{Driver, LAST_OUTPUT};
use crate::jobs::{Job, decided, next_job};
use crate::server::Desk;

/// How long the last answers may take to leave before the monitor ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// After how long events are tried again that a full disk did not take.
pub(super) const UNTOLD: Duration = Duration::from_secs(10);

/// How often they are tried by a monitor whose domain is at rest.
const UNTOLD_TRIES: u32 = 360;

impl Driver {
    /// Stays until the end of the domain is written: a disk that is full has room again some time,
    /// and until then the monitor is the only one that knows.
    pub(super) async fn insist_on_record(&mut self) {
        let mut pause = Duration::from_millis(250);
        while !self.domain.settle_again() {
            pause = (pause * 2).min(Duration::from_secs(10));
            let _time_is_up = tokio::time::timeout(pause, self.answer_late_comers()).await;
        }
    }

    /// Tells what a full disk has kept from being told, for an hour at most.
    pub(super) async fn tell_untold(&mut self) {
        for _ in 0..UNTOLD_TRIES {
            if self.domain.tell_untold() {
                return;
            }
            tokio::time::sleep(UNTOLD).await;
        }
    }

    /// Answers by the table alone what is asked of a domain that is at rest. Never returns.
    async fn answer_late_comers(&mut self) {
        loop {
            match next_job(&mut self.kept, &mut self.jobs).await {
                Some(Job::Verb(verb, answer)) => {
                    let _left = answer.send(decided(&self.snapshots.borrow(), verb));
                }
                Some(Job::Stop(answer)) => {
                    let _left = answer.send(decided(&self.snapshots.borrow(), Verb::Shutdown));
                }
                Some(Job::Save(save, _, answer)) => {
                    let at_rest = decided(&self.snapshots.borrow(), save.verb);
                    let _left = answer.send(at_rest.map(|_| None));
                }
                Some(Job::Probe(_) | Job::Release) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Lets the last answers and the viewers' last frames leave.
    pub(super) async fn say_goodbye(&mut self, desk: &Desk) {
        self.hub.drained(LAST_OUTPUT).await;
        desk.hub.end(&self.last_words());
        self.ear.end();
        let script = self.domain.leave_stop_script();
        let drained = async {
            let _late = tokio::time::timeout(LAST_WORDS, desk.open.drained()).await;
            script.await;
        };
        tokio::select! {
            () = drained => {}
            () = self.answer_late_comers() => {}
        }
    }

    fn last_words(&self) -> String {
        let row = self.domain.row();
        let reason = row.reason.map_or_else(String::new, |reason| format!(" ({reason})"));
        format!("domain {} is {}{reason}", row.name, row.state)
    }
}
