//! Taking up what an earlier monitor left.

use std::time::{Duration, Instant};

use kxl_backend::{BackendError, Identity, Live, Process, Report};
use kxl_domain::{Failure, Op, State, Verb, Wanted};
use kxl_store::{ListRow, LiveChange, Severity};

use crate::live::{LiveDomain, Next, error_kind};
use crate::recorder::{identity_of, to_row};
use crate::spec::launch_spec;

/// How long an adopted emulator is asked again where it stands: it has just answered, so it is
/// more likely slow than hung.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long an emulator that was killed may take to go: its memory is given back first.
const DYING: Duration = Duration::from_secs(2);

impl LiveDomain {
    /// Takes up the emulator that an earlier monitor left, or settles the record when there is
    /// none. What the policy says about a guest that ended meanwhile is done by the events that
    /// the backend reports next.
    ///
    /// # Errors
    /// When the emulator lives and cannot be taken up; the domain is left as it is.
    pub async fn adopt(&mut self) -> Result<Next, Failure> {
        let identity = self.row.process.clone().map(|row| identity_of(&row));
        let recorded = identity.filter(Identity::alive);
        let identity = recorded.or_else(|| self.successor());
        let Some(identity) = identity else {
            return self.emulator_was_lost().await;
        };
        let spec = launch_spec(&self.paths, &self.conf, &self.row, Vec::new());
        let attachments = self.attachments.clone();
        match self.backend.adopt(&spec, identity, &attachments).await {
            Ok(live) => {
                let process = to_row(live.process().identity());
                self.live = Some(live);
                if self.row.process.as_ref() != Some(&process) {
                    self.row.process = Some(process.clone());
                    let process = Some(Some(process));
                    self.change(&LiveChange { process, ..LiveChange::default() });
                }
                self.take_stock().await
            }
            Err(BackendError::Exited { .. }) => self.emulator_was_lost().await,
            // The monitor before may have died while it was ending its emulator, or both were
            // killed: one that is on its way out refuses at once, or closes what it has accepted.
            Err(error) if !was_given_time(&error) && ends(self.orphan()).await => {
                self.emulator_was_lost().await
            }
            Err(error) => Err(Failure::because(
                error_kind(&error),
                format!("cannot adopt domain \"{}\"", self.row.name),
                &error,
            )
            .hint(format!("kxl destroy {}", self.row.name))),
        }
    }

    /// The process that has come to the place of the recorded one; never one of another domain.
    fn successor(&self) -> Option<Identity> {
        let found = self.backend.successor(&self.attachments)?;
        let others = self.store.list().inspect_err(|error| {
            tracing::warn!(%error, "whose a process is cannot be read");
        });
        let row = to_row(&found);
        let theirs =
            |other: &ListRow| other.uuid != self.row.uuid && other.process.as_ref() == Some(&row);
        (!others.ok()?.iter().any(theirs)).then_some(found)
    }

    /// Asks the adopted emulator where it stands and writes that down.
    async fn take_stock(&mut self) -> Result<Next, Failure> {
        let interrupted = self.row.op;
        let Some(live) = self.live.as_mut() else { return Ok(Next::Continue) };
        let seen = match stand_of(live.as_mut()).await {
            // Who put it to sleep knew that it sleeps; the emulator may know no difference.
            Ok(report) if (self.row.state, report.state) == (State::Asleep, State::Paused) => {
                State::Asleep
            }
            Ok(report) => report.state,
            // It is stopped or slow: what was recorded stays the best knowledge.
            Err(error) if error.is_timeout() && self.row.state.is_live() => self.row.state,
            Err(error) if error.is_timeout() => State::Running,
            Err(error) => {
                let attempt = format!("cannot adopt domain \"{}\"", self.row.name);
                return Err(Failure::because(error_kind(&error), attempt, &error));
            }
        };
        if interrupted == Some(Op::Stopping) {
            // A destroy that was cut off between its record and its signal is carried through.
            self.event(Severity::Info, "adopted", None, "finishing what was cut off");
            return self.go_on_stopping().await;
        }
        match interrupted {
            Some(Op::Saving | Op::Suspending) => return self.after_cut_off_save().await,
            Some(Op::Restoring | Op::Resuming) if !self.has_gone_on() => {
                return self.undo_cut_off_return().await;
            }
            _ => self.check_again(),
        }
        if interrupted == Some(Op::Starting) {
            self.has_begun_start();
        }
        let mut state = seen;
        // A launch and a reset let the guest run as their last step, which may have been cut off. A
        // guest that runs already is none the worse; one that did not tell may stand still.
        let was_to_run = match interrupted {
            Some(Op::Starting | Op::Restoring | Op::Resuming) => self.row.wanted != Wanted::Paused,
            Some(Op::Resetting) => self.row.state == State::Running,
            _ => false,
        };
        if was_to_run
            && seen != State::Shutdown
            && let Some(live) = self.live.as_mut()
            && live.unpause().await.is_ok()
        {
            state = State::Running;
        }
        // A guest's end is written by the event that follows, with its reason.
        if state != State::Shutdown {
            self.rest(state, None, LiveChange::default());
        }
        self.event(Severity::Warning, "adopted", None, "it had no monitor");
        if state == State::Shutdown && self.row.state == State::Shutdown {
            // The end is written already, so its event is passed over; what follows may not be.
            return self.follow_recorded_end().await;
        }
        Ok(Next::Continue)
    }

    /// Op `stopping` of an earlier monitor: a person's destroy, or the clean-up after a guest that
    /// had ended, which its policy may want to be followed by a restart.
    pub(crate) async fn go_on_stopping(&mut self) -> Result<Next, Failure> {
        let ended = self.row.reason.filter(|_| self.row.state == State::Shutdown);
        match ended {
            Some(_) if self.row.wanted != Wanted::Halted => self.follow_recorded_end().await,
            Some(reason) => {
                self.end_emulator(Verb::Destroy).await?;
                Ok(self.settle(State::Halted, reason, "", Some(Wanted::Halted)))
            }
            None => self.finish_stopping(None).await,
        }
    }

    /// The emulator that could not be adopted (it hangs), so that somebody watches for its end.
    #[must_use]
    pub fn orphan(&self) -> Option<Process> {
        let row = self.row.process.as_ref().filter(|_| self.live.is_none())?;
        Process::open(identity_of(row)).ok()
    }
}

/// Where the guest stands, by the first answer that comes in time.
async fn stand_of(live: &mut dyn Live) -> Result<Report, BackendError> {
    let end = Instant::now() + PATIENCE;
    loop {
        match live.query().await {
            Err(error) if error.is_timeout() && Instant::now() < end => {}
            answer => return answer,
        }
    }
}

/// Whether an emulator had time to answer and did not: it hangs. One that refuses at once may be
/// about to end.
fn was_given_time(error: &BackendError) -> bool {
    matches!(error, BackendError::TimedOut { after, .. } if !after.is_zero())
}

/// Whether an emulator that closed its channel is gone, or goes within a moment.
async fn ends(emulator: Option<Process>) -> bool {
    match emulator {
        Some(process) => tokio::time::timeout(DYING, process.gone()).await.is_ok(),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulator_that_refuses_at_once_may_be_about_to_end() {
        let timed_out = |after| BackendError::TimedOut { waited_for: "connection".into(), after };
        assert!(!was_given_time(&timed_out(Duration::ZERO)));
        assert!(was_given_time(&timed_out(Duration::from_secs(5))));
        assert!(!was_given_time(&BackendError::Cancelled));
    }
}
