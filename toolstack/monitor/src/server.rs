//! The control socket: every connection is a small task that turns requests into answers. Status
//! and waiting are answered from the published snapshot, also while an operation is in flight;
//! verbs go through the queue of the one task that owns the domain.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kxl_backend::Watch;
use kxl_control::{
    Answer, Attach, Body, Call, MAX_LINE, MonitorStatus, Reply, Request, Save, Until, VERSION,
};
use kxl_domain::supervision::Word;
use kxl_domain::{DomId, Failure, Kind, State};
use kxl_engine::{Outcome, Snapshot};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::console::Hub;
use crate::jobs::Job;
use crate::progress::next_progress;

/// Longest wait in milliseconds, a year: a clock that far ahead still counts.
const LONGEST_WAIT_MS: u64 = 365 * 24 * 3600 * 1000;

/// Most connections at once; the next one is closed at once.
const MOST_CONNECTIONS: usize = 512;

/// How long the emulator may take to say that it is there, when somebody asks.
const PROBE: Duration = Duration::from_millis(150);

/// What a connection needs.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) jobs: mpsc::UnboundedSender<Job>,
    pub(crate) snapshots: watch::Receiver<Snapshot>,
    pub(crate) hub: Rc<Hub>,
    pub(crate) open: Rc<OpenCalls>,
}

/// How many requests are being answered, so that the monitor ends only after the last answer.
#[derive(Default)]
pub(crate) struct OpenCalls {
    count: Cell<usize>,
    none: Notify,
}

impl OpenCalls {
    fn begin(self: &Rc<Self>) -> OpenCall {
        self.count.set(self.count.get() + 1);
        OpenCall(Rc::clone(self))
    }

    /// Returns when no request is being answered.
    pub(crate) async fn drained(&self) {
        while self.count.get() > 0 {
            self.none.notified().await;
        }
    }
}

/// One request that is being answered.
pub(crate) struct OpenCall(Rc<OpenCalls>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0 {
            self.0.none.notify_waiters();
        }
    }
}

/// Accepts connections for as long as the monitor lives.
pub(crate) async fn serve(listener: UnixListener, desk: Desk) {
    let connections = Rc::new(());
    loop {
        match listener.accept().await {
            Ok(_) if Rc::strong_count(&connections) > MOST_CONNECTIONS => {
                tracing::warn!("too many connections at once: one was refused");
            }
            Ok((stream, _)) => {
                if kxl_store::socket::peer_allowed(&stream).unwrap_or(false) {
                    let (desk, connection) = (desk.clone(), Rc::clone(&connections));
                    tokio::task::spawn_local(async move {
                        if let Err(error) = converse(stream, desk).await {
                            tracing::debug!(%error, "a connection broke");
                        }
                        drop(connection);
                    });
                } else {
                    tracing::warn!("a connection of another user was refused");
                }
            }
            // Out of descriptors: the ones in use close soon.
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, desk: Desk) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::with_capacity(1024, read);
    loop {
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        if (&mut read).take(limit).read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let open = desk.open.begin();
        let request: Request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                let failure = Failure::because(Kind::Internal, "a request makes no sense", &error);
                return reply(&mut write, 0, Body::Failed(failure)).await;
            }
        };
        let id = request.id;
        if request.v != VERSION {
            let text = format!("this monitor speaks protocol {VERSION}, not {}", request.v);
            let failure = Failure::new(Kind::Internal, text).hint(
                "end the monitor with SIGTERM: the next command adopts the domain with a new one",
            );
            reply(&mut write, id, Body::Failed(failure)).await?;
            continue;
        }
        if let Call::Console(attach) = request.call {
            return attach_console(read, write, id, attach, &desk, open).await;
        }
        if let Call::Save(save) = request.call {
            let body = save_state(save, &desk, &mut read, &mut write, id).await;
            reply(&mut write, id, body).await?;
            continue;
        }
        let body = tokio::select! {
            body = answer(&request, &desk) => body,
            // Whoever has hung up waits no more. Bytes that come meanwhile are the next request.
            () = hung_up(&mut read) => return Ok(()),
        };
        reply(&mut write, id, body).await?;
    }
}

/// Has the state saved and tells how far that is. A client that closes its half of the connection
/// gives the save up, if its image is not committed yet, and may still hear how it ended.
async fn save_state(
    save: Box<Save>,
    desk: &Desk,
    read: &mut BufReader<OwnedReadHalf>,
    write: &mut OwnedWriteHalf,
    id: u64,
) -> Body {
    let watch = Arc::new(Watch::default());
    let saving = ask(desk, |back| Job::Save(save, Arc::clone(&watch), back));
    let mut saving = std::pin::pin!(saving);
    loop {
        let wanted = !watch.is_cancelled();
        tokio::select! {
            saved = &mut saving => return match saved {
                Some(Ok(Some(saved))) => Body::Done(Answer::Saved(saved)),
                Some(Ok(None)) => Body::Done(Answer::Already),
                Some(Err(failure)) => Body::Failed(failure),
                None => Body::Failed(Failure::new(Kind::Failed, "the domain has just ended")),
            },
            () = hung_up(read), if wanted => watch.cancel(),
            moved = next_progress(&watch), if wanted => {
                if reply(write, id, Body::Moved(moved)).await.is_err() {
                    watch.cancel();
                }
            }
        }
    }
}

/// Returns when the other side has closed its end.
async fn hung_up(read: &mut BufReader<OwnedReadHalf>) {
    match read.fill_buf().await {
        Ok(more) if !more.is_empty() => std::future::pending().await,
        _ => {}
    }
}

async fn reply(write: &mut OwnedWriteHalf, id: u64, body: Body) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(&Reply { id, body })?;
    line.push(b'\n');
    write.write_all(&line).await
}

async fn answer(request: &Request, desk: &Desk) -> Body {
    match &request.call {
        Call::Status { probe } => Body::Done(Answer::Status(Box::new(status(*probe, desk).await))),
        Call::Verb(verb) => match ask(desk, |back| Job::Verb(*verb, back)).await {
            Some(Ok(Outcome::Done)) => Body::Done(Answer::Ok),
            Some(Ok(Outcome::Already)) => Body::Done(Answer::Already),
            Some(Err(failure)) => Body::Failed(failure),
            None => Body::Failed(Failure::new(Kind::Failed, "the domain has just ended")),
        },
        Call::Stop => match ask(desk, Job::Stop).await {
            Some(Ok(Outcome::Done)) => {
                let unheard = desk.snapshots.borrow().unheard.clone();
                Body::Done(unheard.map_or(Answer::Ok, Answer::Unheard))
            }
            Some(Ok(Outcome::Already)) => Body::Done(Answer::Already),
            Some(Err(failure)) => Body::Failed(failure),
            None => Body::Failed(Failure::new(Kind::Failed, "the domain has just ended")),
        },
        Call::Wait(until) => {
            let mut snapshots = desk.snapshots.clone();
            let deadline = Duration::from_millis(request.deadline_ms.min(LONGEST_WAIT_MS));
            let waited = tokio::time::timeout(deadline, wait(&mut snapshots, *until)).await;
            waited.unwrap_or_else(|_| {
                Body::Failed(Failure::new(Kind::TimedOut, "the domain has not come to that"))
            })
        }
        Call::Release => {
            // Answered first: the queue's end comes after this connection's last line.
            let _gone = desk.jobs.send(Job::Release);
            Body::Done(Answer::Ok)
        }
        Call::Save(_) | Call::Console(_) => {
            Body::Failed(Failure::new(Kind::Internal, "this call has a conversation of its own"))
        }
    }
}

async fn ask<T>(desk: &Desk, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Option<T> {
    let (back, answer) = oneshot::channel();
    desk.jobs.send(job(back)).ok()?;
    answer.await.ok()
}

async fn status(probe: bool, desk: &Desk) -> MonitorStatus {
    let answering = if probe {
        // An emulator that is being started or ended is not asked: `None`.
        match tokio::time::timeout(PROBE, ask(desk, Job::Probe)).await {
            Ok(answer) => answer,
            Err(_) => Some(false),
        }
    } else {
        None
    };
    MonitorStatus { answering, ..desk.snapshots.borrow().status.clone() }
}

/// Waits until supervision has another word for the domain.
async fn wait_for_word(snapshots: &mut watch::Receiver<Snapshot>, word: Word) -> Body {
    loop {
        {
            let now = snapshots.borrow_and_update();
            if now.status.word() != word {
                return Body::Done(Answer::Status(Box::new(now.status.clone())));
            }
        }
        if snapshots.changed().await.is_err() {
            return Body::Failed(Failure::new(Kind::Failed, "the monitor is leaving"));
        }
    }
}

/// Waits for the end of the run that was in progress when the wait began.
async fn wait(snapshots: &mut watch::Receiver<Snapshot>, until: Until) -> Body {
    if let Until::Leaves(word) = until {
        return wait_for_word(snapshots, word).await;
    }
    let (domid, before) = {
        let now = snapshots.borrow_and_update();
        // A guest that has ended and is kept has ended for this wait as well.
        let kept = now.status.state == State::Shutdown && now.ends > 0;
        (now.status.domid, now.ends - u64::from(kept))
    };
    loop {
        {
            let now = snapshots.borrow_and_update();
            if let Some(ended) = ended(&now, domid, before, until) {
                return Body::Done(ended);
            }
        }
        if snapshots.changed().await.is_err() {
            return Body::Failed(Failure::new(Kind::Failed, "the monitor is leaving"));
        }
    }
}

fn ended(now: &Snapshot, domid: DomId, before: u64, until: Until) -> Option<Answer> {
    let anew = now.status.domid != domid;
    let over = now.over || anew;
    let shut = now.ends > before;
    let done = match until {
        Until::Shutdown => over || shut,
        Until::Gone => over,
        // Kept or reset in place, it has come to its end without a new domid.
        Until::Restarted => now.over || ((anew || shut) && now.status.op.is_none()),
        Until::Leaves(word) => now.status.word() != word,
    };
    let reason = now.last_end.filter(|(of, _)| *of == domid).map(|(_, reason)| reason);
    let state = match until {
        Until::Shutdown | Until::Gone if over => State::Halted,
        _ => now.status.state,
    };
    done.then_some(Answer::Ended { state, reason, domid })
}

async fn attach_console(
    read: BufReader<OwnedReadHalf>,
    mut write: OwnedWriteHalf,
    id: u64,
    attach: Attach,
    desk: &Desk,
    open: OpenCall,
) -> std::io::Result<()> {
    let viewer = desk.hub.attach(attach);
    reply(&mut write, id, Body::Done(Answer::Attached { writer: viewer.is_writer() })).await?;
    viewer.serve(read, write, open).await
}

impl std::fmt::Debug for OpenCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenCall")
    }
}
