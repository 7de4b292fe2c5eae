//! What is asked of the domain by commands.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use kxl_backend::Watch;
use kxl_control::Save;
use kxl_domain::{Failure, Kind, Verb, Verdict};
use kxl_engine::{Next, Outcome};
use tokio::sync::oneshot;

use super::Driver;
use crate::jobs::{Answer, Job, Meanwhile, SaveAnswer, decided, interruptible};

/// How long a destroy waits for a save to let go of the emulator.
const LET_GO: Duration = Duration::from_secs(2);

/// How the emulator stands when something is asked of it.
enum Emulator {
    /// We have it.
    Held,
    /// It had ended, and its end is settled.
    Ended,
    /// It does not answer.
    Hangs(Failure),
    /// It was destroyed while it was asked whether it answers.
    Destroyed(Next),
}

impl Driver {
    /// Tries once more to take up an emulator that did not answer, or settles its end.
    async fn take_up(&mut self) -> Emulator {
        if self.orphan.is_none() {
            return Emulator::Held;
        }
        let adopt = self.domain.adopt();
        match interruptible(&mut self.jobs, Meanwhile::Keep(&mut self.kept), adopt).await {
            Ok(Ok(next)) => {
                self.orphan = None;
                if next == Next::Over {
                    return Emulator::Ended;
                }
                self.retake_streams();
                Emulator::Held
            }
            Ok(Err(failure)) => Emulator::Hangs(failure),
            Err(destroy) => Emulator::Destroyed(self.destroy(destroy).await),
        }
    }

    /// Asks the emulator whether it answers, once for all who want to know. A destroy does not wait
    /// for that, and whoever has given up is not asked for.
    pub(super) async fn probe(&mut self, answer: oneshot::Sender<bool>) -> Next {
        if answer.is_closed() {
            return Next::Continue;
        }
        let probe = self.domain.probe();
        match interruptible(&mut self.jobs, Meanwhile::Keep(&mut self.kept), probe).await {
            Ok(answering) => {
                let _left = answer.send(answering);
                for job in std::mem::take(&mut self.kept) {
                    match job {
                        Job::Probe(answer) => drop(answer.send(answering)),
                        job => self.kept.push_back(job),
                    }
                }
                Next::Continue
            }
            Err(destroy) => self.destroy(destroy).await,
        }
    }

    pub(super) async fn verb(&mut self, verb: Verb, answer: Answer) -> Next {
        if verb == Verb::Destroy {
            return self.destroy(answer).await;
        }
        match self.take_up().await {
            Emulator::Held => {}
            Emulator::Ended => {
                let _left = answer.send(decided(&self.snapshots.borrow(), verb));
                return Next::Over;
            }
            Emulator::Hangs(failure) => {
                let _left = answer.send(Err(failure));
                return Next::Continue;
            }
            Emulator::Destroyed(next) => {
                let _left = answer.send(Err(self.destroyed(verb)));
                return next;
            }
        }
        let act = self.domain.verb(verb);
        let meanwhile = Meanwhile::Refuse(&self.snapshots);
        let (result, next) = match interruptible(&mut self.jobs, meanwhile, act).await {
            Ok(Ok((Verdict::Already, next))) => (Ok(Outcome::Already), next),
            Ok(Ok((_, next))) => (Ok(Outcome::Done), next),
            Ok(Err(failure)) => (Err(failure), Next::Continue),
            Err(destroy) => {
                let next = self.destroy(destroy).await;
                let _left = answer.send(Err(self.destroyed(verb)));
                return next;
            }
        };
        let _left = answer.send(result);
        next
    }

    /// Shuts the domain down and sees to it that it is off. One that hangs is not waited for longer
    /// than its guest would be.
    pub(super) async fn stop(&mut self, answer: Answer) -> Next {
        let trouble = match self.take_up().await {
            Emulator::Held => None,
            Emulator::Ended => {
                let _left = answer.send(decided(&self.snapshots.borrow(), Verb::Shutdown));
                return Next::Over;
            }
            Emulator::Hangs(failure) => Some(failure),
            Emulator::Destroyed(next) => {
                let _left = answer.send(Ok(Outcome::Done));
                return next;
            }
        };
        let act = self.domain.stop(trouble);
        let meanwhile = Meanwhile::Refuse(&self.snapshots);
        let (result, next) = match interruptible(&mut self.jobs, meanwhile, act).await {
            Ok(Ok((Verdict::Already, next))) => (Ok(Outcome::Already), next),
            Ok(Ok((_, next))) => (Ok(Outcome::Done), next),
            Ok(Err(failure)) => (Err(failure), Next::Continue),
            Err(destroy) => (Ok(Outcome::Done), self.destroy(destroy).await),
        };
        let _left = answer.send(result);
        next
    }

    /// Saves the state. A destroy gives the save up and comes next; it waits for the save to let go,
    /// for a moment, so that a commit is either whole or not there.
    pub(super) async fn save(
        &mut self,
        save: &Save,
        watch: Arc<Watch>,
        answer: SaveAnswer,
    ) -> Next {
        match self.take_up().await {
            Emulator::Held => {}
            Emulator::Ended => {
                let at_rest = decided(&self.snapshots.borrow(), save.verb);
                let _left = answer.send(at_rest.map(|_| None));
                return Next::Over;
            }
            Emulator::Hangs(failure) => {
                let _left = answer.send(Err(failure));
                return Next::Continue;
            }
            Emulator::Destroyed(next) => {
                let _left = answer.send(Err(self.destroyed(save.verb)));
                return next;
            }
        }
        let (saved, destroy) = {
            let mut work = pin!(self.domain.save(save, Arc::clone(&watch)));
            let meanwhile = Meanwhile::Refuse(&self.snapshots);
            match interruptible(&mut self.jobs, meanwhile, &mut work).await {
                Ok(saved) => (Some(saved), None),
                Err(destroy) => {
                    watch.cancel();
                    let saved = tokio::time::timeout(LET_GO, work).await;
                    (saved.ok(), Some(destroy))
                }
            }
        };
        match (saved, destroy) {
            (Some(Ok((saved, Next::Over))), destroy) => {
                let _left = answer.send(Ok(saved));
                if let Some(destroy) = destroy {
                    let at_rest = decided(&self.snapshots.borrow(), Verb::Destroy);
                    let _left = destroy.send(at_rest);
                }
                Next::Over
            }
            (Some(Ok((saved, next))), destroy) => {
                let _left = answer.send(Ok(saved));
                match destroy {
                    Some(destroy) => self.destroy(destroy).await,
                    None => next,
                }
            }
            // Given up for the destroy, or not over in time: what has happened is the destroy.
            (_, Some(destroy)) => {
                let next = self.destroy(destroy).await;
                let _left = answer.send(Err(self.destroyed(save.verb)));
                next
            }
            (Some(Err(failure)), None) => {
                let _left = answer.send(Err(failure));
                Next::Continue
            }
            (None, None) => Next::Continue,
        }
    }

    /// Takes the power away; nothing interrupts this, and it ends within 3 s.
    pub(super) async fn destroy(&mut self, answer: Answer) -> Next {
        let (result, next) = match self.domain.verb(Verb::Destroy).await {
            Ok((Verdict::Already, next)) => (Ok(Outcome::Already), next),
            Ok((_, next)) => (Ok(Outcome::Done), next),
            Err(failure) => (Err(failure), Next::Continue),
        };
        let _left = answer.send(result);
        next
    }

    /// The answer to a command whose domain was destroyed in the middle of it: the one that it would
    /// get if it came now.
    fn destroyed(&self, verb: Verb) -> Failure {
        let row = self.domain.row();
        let kind = if row.managed { Kind::Denied } else { Kind::NoSuchDomain };
        let text = format!("cannot {verb} domain \"{}\": it was destroyed meanwhile", row.name);
        Failure::new(kind, text).hint(format!("kxl why {} tells what became of it", row.name))
    }
}
