//! The queue of the task that owns the domain: what can be asked of it, and what becomes of requests
//! that come while something is in flight.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use kxl_backend::Watch;
use kxl_control::{Save, Saved};
use kxl_domain::{Failure, Kind, Verb, Verdict, decide};
use kxl_engine::{Outcome, Snapshot};
use tokio::sync::{mpsc, oneshot, watch};

/// Where the answer to a verb goes.
pub(crate) type Answer = oneshot::Sender<Result<Outcome, Failure>>;

/// Where the outcome of a save goes; `None` inside when the wish was met already.
pub(crate) type SaveAnswer = oneshot::Sender<Result<Option<Saved>, Failure>>;

/// A request to the task that owns the domain.
#[derive(Debug)]
pub(crate) enum Job {
    /// Carry out a verb.
    Verb(Verb, Answer),
    /// Shut the domain down, and see to it that it is off.
    Stop(Answer),
    /// Save the state; the watch tells how far it is, and gives it up.
    Save(Box<Save>, Arc<Watch>, SaveAnswer),
    /// Ask the emulator whether it answers.
    Probe(oneshot::Sender<bool>),
    /// End the monitor, leave the domain.
    Release,
}

/// The oldest request that was kept, else the next one that comes.
pub(crate) async fn next_job(
    kept: &mut VecDeque<Job>,
    jobs: &mut mpsc::UnboundedReceiver<Job>,
) -> Option<Job> {
    match kept.pop_front() {
        Some(job) => Some(job),
        None => jobs.recv().await,
    }
}

/// What becomes of verbs that come while something is in flight.
pub(crate) enum Meanwhile<'a> {
    /// They are refused: somebody else's command is at work.
    Refuse(&'a watch::Receiver<Snapshot>),
    /// They wait: what is in flight is nobody's command.
    Keep(&'a mut VecDeque<Job>),
}

/// Waits for `work` and deals with what comes meanwhile; a destroy ends the wait, dropping `work`,
/// and is given back.
pub(crate) async fn interruptible<T>(
    jobs: &mut mpsc::UnboundedReceiver<Job>,
    mut meanwhile: Meanwhile<'_>,
    work: impl Future<Output = T>,
) -> Result<T, Answer> {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            Some(job) = jobs.recv() => match (job, &mut meanwhile) {
                (Job::Verb(Verb::Destroy, answer), _) => return Err(answer),
                // Nothing is there but a wait for the next launch: it is kept from coming.
                (
                    Job::Verb(Verb::Shutdown, answer) | Job::Stop(answer),
                    Meanwhile::Refuse(snapshots),
                ) if snapshots.borrow().pausing => return Err(answer),
                (
                    job @ (Job::Verb(..) | Job::Stop(_) | Job::Save(..) | Job::Probe(_)),
                    Meanwhile::Keep(kept),
                ) => kept.push_back(job),
                (Job::Stop(answer), Meanwhile::Refuse(snapshots)) => {
                    let _left = answer.send(Err(busy(&snapshots.borrow(), Verb::Shutdown)));
                }
                (Job::Verb(verb, answer), Meanwhile::Refuse(snapshots)) => {
                    let _left = answer.send(Err(busy(&snapshots.borrow(), verb)));
                }
                (Job::Save(save, _, answer), Meanwhile::Refuse(snapshots)) => {
                    let _left = answer.send(Err(busy(&snapshots.borrow(), save.verb)));
                }
                // Not asked while something is in flight: dropping the sender says so.
                (Job::Probe(_), Meanwhile::Refuse(_)) => {}
                (Job::Release, _) => tracing::info!("not leaving in the middle of an operation"),
            },
        }
    }
}

pub(crate) fn busy(now: &Snapshot, verb: Verb) -> Failure {
    decided(now, verb).err().unwrap_or_else(|| {
        let text =
            format!("cannot {verb} domain \"{}\": another command is at work", now.status.name);
        Failure::new(Kind::Denied, text).hint("run it again in a moment")
    })
}

/// What the table alone says about a verb at this moment.
pub(crate) fn decided(now: &Snapshot, verb: Verb) -> Result<Outcome, Failure> {
    match decide(now.status.status(), verb) {
        Verdict::Denied(denied) => Err(kxl_engine::denied(&now.status.name, denied)),
        Verdict::Already => Ok(Outcome::Already),
        Verdict::Go(_) => Ok(Outcome::Done),
    }
}
