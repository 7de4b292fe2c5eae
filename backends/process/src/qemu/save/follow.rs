//! A migration in flight, until its stream is whole.

use std::time::Duration;

use kxl_backend::{BackendError, Result, SaveOrder};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::super::live::{COMMAND, Qemu};
use super::super::machine::Disk;
use super::super::migration::{self, Status, Told};
use super::super::split::SplitError;
use super::super::stream::{Drain, Outcome};
use super::how::How;
use super::{DOWNTIME_MS, LAST_PASS, MOST_TIMES, NO_LIMIT_MS, PATIENCE, late, now_ms};

/// How long the stream may dry up while nothing keeps it back.
const DRY: Duration = Duration::from_secs(60);

/// Answers that wait for the last pass: as long as the disk takes.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(24 * 3600);

/// Follows a migration to its end.
pub(super) struct Follow<'a> {
    pub(super) qemu: &'a Qemu,
    pub(super) order: &'a SaveOrder,
    pub(super) heard: mpsc::UnboundedReceiver<Told>,
    pub(super) how: How,
    pub(super) completed: bool,
    /// When the guest went on before the end.
    pub(super) went_on_ms: Option<i64>,
    /// The machine by the stream, once the thread is through with it.
    pub(super) named: Option<String>,
    /// Bytes when the stream was last seen to dry up.
    pub(super) begun: Option<u64>,
}

impl Follow<'_> {
    /// Returns the machine's name in the stream, and when the guest went on if it did.
    pub(super) async fn watched(
        mut self,
        drain: &mut Drain,
        snapshot: &mut Option<String>,
        taken: &mut Vec<Disk>,
    ) -> Result<(String, Option<i64>)> {
        let (mut exit, watch) = (self.qemu.exit.clone(), self.order.watch.clone());
        let mut switching = std::pin::pin!(Switch::default());
        let mut dry_since = Instant::now();
        loop {
            if self.completed
                && let Some(named) = self.named.take()
            {
                return Ok((named, self.went_on_ms));
            }
            tokio::select! {
                biased;
                told = self.heard.recv() => match told {
                    Some(Told::Status(Status::PreSwitchover)) => {
                        self.qemu.snapshots(self.order, snapshot, taken).await?;
                        switching.set(Switch::go(self.qemu));
                    }
                    Some(Told::Status(Status::Failed)) => return Err(self.failed(drain).await),
                    Some(Told::Status(Status::Completed)) => self.completed = true,
                    Some(Told::Status(Status::Active)) if self.how == How::OnePass => {
                        let run = self.qemu.command("cont", None).await;
                        // So little memory that the one pass is over.
                        if !migration::not_finalized(&run) {
                            run?;
                        }
                    }
                    Some(Told::Pass(number)) if self.how == How::Passes => {
                        self.pass(number).await?;
                    }
                    Some(Told::Resumed) if self.how == How::Background => {
                        self.went_on_ms = Some(now_ms());
                    }
                    Some(Told::GuestEnded) => return Err(BackendError::Control {
                        command: "migrate".into(),
                        why: "the guest came to its end meanwhile".into(),
                    }),
                    Some(_) => {}
                    None => return Err(migration::failed("migrate", None)),
                },
                outcome = drain.ended(), if self.named.is_none() => match outcome {
                    Ok(named) => self.named = Some(named),
                    Err(error) => return Err(self.cut(error).await),
                },
                done = switching.as_mut() => {
                    switching.set(Switch::default());
                    done?;
                }
                gone = exit.wait_for(Option::is_some) => {
                    let exit = gone.ok().and_then(|exit| exit.clone());
                    let text = exit.map_or_else(String::new, |exit| exit.text);
                    return Err(BackendError::Exited { text });
                }
                () = watch.cancelled(), if !self.completed => return Err(BackendError::Cancelled),
                () = sleep(Duration::from_secs(1)) => {
                    let now = drain.flow.dry();
                    if now.is_none() || now != self.begun || self.named.is_some() {
                        (self.begun, dry_since) = (now, Instant::now());
                    } else if dry_since.elapsed() > DRY {
                        return Err(late("more of the state from the emulator"));
                    }
                }
            }
        }
    }

    /// Another pass over the memory begins: the guest gets less time the longer this lasts.
    async fn pass(&mut self, number: u64) -> Result<()> {
        let qemu = self.qemu;
        let Ok(answer) = qemu.client.execute("query-migrate", None, COMMAND).await else {
            // What is wrong shows in what follows.
            return Ok(());
        };
        let ram =
            |key: &str| answer.get("ram").and_then(|ram| ram.get(key)).and_then(Value::as_u64);
        if let Some(left) = ram("remaining") {
            self.order.watch.expect(self.order.watch.progress().0 + left);
        }
        let much = ram("transferred").unwrap_or(0) > MOST_TIMES * qemu.facts.memory.size;
        let limit = if number >= LAST_PASS || much {
            NO_LIMIT_MS
        } else if number > PATIENCE {
            DOWNTIME_MS << (number - PATIENCE)
        } else {
            return Ok(());
        };
        let limit = json!({ "downtime-limit": limit });
        qemu.command("migrate-set-parameters", Some(limit)).await.map(drop)
    }

    /// The stream broke off on our side: why.
    async fn cut(&self, error: SplitError) -> BackendError {
        let error = match error {
            SplitError::Sink(error) => return BackendError::Sink(error),
            other => other,
        };
        // QEMU closes the pipe also where it gives up or ends.
        match self.qemu.command("query-migrate", None).await {
            Err(ended) => ended,
            Ok(answer) => match migration::progress(&answer) {
                (Status::Failed, why @ Some(_)) => migration::failed("migrate", why),
                _ => migration::failed("migrate", Some(error.to_string())),
            },
        }
    }

    /// QEMU says that it failed: why, unless we were the reason.
    async fn failed(&self, drain: &mut Drain) -> BackendError {
        let outcome: Option<Outcome> =
            if self.named.is_none() { Some(drain.ended().await) } else { None };
        if let Some(Err(SplitError::Sink(error))) = outcome {
            return BackendError::Sink(error);
        }
        match self.qemu.command("query-migrate", None).await {
            Ok(answer) => migration::failed("migrate", migration::progress(&answer).1),
            Err(error) => error,
        }
    }
}

impl Qemu {
    /// Takes the snapshots; the guest stands still and its disks are still its own.
    pub(super) async fn snapshots(
        &self,
        order: &SaveOrder,
        name: &mut Option<String>,
        taken: &mut Vec<Disk>,
    ) -> Result<()> {
        let Some(wanted) = &order.snapshot else { return Ok(()) };
        *name = Some(wanted.clone());
        for disk in &self.facts.disks {
            let arguments = json!({"device": disk.node, "name": wanted});
            self.command("blockdev-snapshot-internal-sync", Some(arguments)).await?;
            taken.push(disk.clone());
        }
        Ok(())
    }
}

/// The answer to `migrate-continue`, which may come only when the last pass is out.
#[derive(Default)]
struct Switch<'a>(Option<kxl_backend::Local<'a, Result<()>>>);

impl<'a> Switch<'a> {
    fn go(qemu: &'a Qemu) -> Self {
        Self(Some(Box::pin(async {
            let state = json!({"state": "pre-switchover"});
            let answer =
                qemu.client.execute("migrate-continue", Some(state), AS_LONG_AS_IT_TAKES).await;
            match answer {
                Ok(_) => Ok(()),
                Err(error) => Err(qemu.explained(error).await),
            }
        })))
    }
}

impl Future for Switch<'_> {
    type Output = Result<()>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        match &mut self.0 {
            Some(answer) => answer.as_mut().poll(context),
            None => std::task::Poll::Pending,
        }
    }
}
