//! Saving a living QEMU, and bringing its guest back afterwards.
//!
//! The state is QEMU's own migration stream into a pipe of ours ([`super::stream`]). QEMU waits at
//! the switchover, where the guest stands still and its disks are quiet, for the snapshots that may
//! be wanted; then it sends the last pass and the devices.
//!
//! A guest that dirties its memory faster than the disk takes it would never be done. It gets
//! [`DOWNTIME_MS`] at first; from the [`PATIENCE`]th pass on twice as much with each pass; and at the
//! [`LAST_PASS`]th, or when [`MOST_TIMES`] its memory has been written, it stands still until the
//! rest is out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kxl_backend::{BackendError, Event, Result, SaveOrder, SavedState, StateSink, StateSize};
use kxl_domain::image::Moment;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::live::{COMMAND, Qemu, Shared};
use super::machine::Disk;
use super::memory;
use super::migration::{self, Status, Told};
use super::split::SplitError;
use super::stream::{Drain, Outcome};

// The guest's clock after it came back: QEMU 7.2 has no command that sets it, without an agent in
// the guest. `rtc-reset-reinjection` only forgets interrupts that are owed. The machine's own clock
// chip needs none: with `-rtc clock=host` what it holds is relative to the host's clock, so it shows
// the right time at once, however long the state lay. A guest's kernel reads it at boot and when it
// wakes; until then its time goes on from the moment of the save. `Live::set_clock` therefore keeps
// its answer that there is no way.

/// How long the guest may stand still for the last pass, in milliseconds.
const DOWNTIME_MS: u64 = 30;

/// The pass from which on that doubles.
const PATIENCE: u64 = 5;

/// The pass at which the guest is stopped for good.
const LAST_PASS: u64 = 12;

/// So many times the guest's memory, and it is stopped for good.
const MOST_TIMES: u64 = 3;

/// QEMU's longest downtime, in milliseconds: it switches over at its next look.
const NO_LIMIT_MS: u64 = 2_000_000;

/// QEMU's limit of bytes in a second, high enough to be none.
const NO_LIMIT_BYTES: u64 = 1 << 62;

/// How long a migration that was given up may take to show it.
const SETTLE: Duration = Duration::from_secs(30);

/// Between two looks at a migration that ends; nothing is told to a monitor that came later.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How long the stream may dry up while nothing keeps it back.
const DRY: Duration = Duration::from_secs(60);

/// Answers that wait for the last pass: as long as the disk takes.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(24 * 3600);

/// The name under which QEMU gets the pipe.
const PIPE_NAME: &str = "image";

/// A save in flight: what has to be taken back when it comes to nothing.
struct Attempt<'a> {
    shared: &'a Shared,
    drain: Option<Drain>,
    snapshot: Option<String>,
    /// Disks of which it was taken.
    taken: Vec<Disk>,
}

impl Drop for Attempt<'_> {
    /// Given up in the middle: what is left is taken back by [`Qemu::go_on_from_save`].
    fn drop(&mut self) {
        self.shared.ear.rest();
        if let Some(name) = self.snapshot.take() {
            let taken = std::mem::take(&mut self.taken);
            self.shared.leftover.borrow_mut().extend(taken.into_iter().map(|d| (d, name.clone())));
        }
    }
}

impl Qemu {
    /// What a save is going to need.
    pub(super) async fn state_needs(&self) -> Result<StateSize> {
        let layout = &self.facts.memory;
        let blocks = self.monitor_line("info ramblock").await.unwrap_or_default();
        Ok(StateSize {
            memory: Some(layout.clone()),
            touched: memory::touched(&self.process, layout.size, self.facts.memory_fd),
            device: memory::device_bound(&blocks, &layout.id),
        })
    }

    /// See [`kxl_backend::Live::save_state`].
    pub(super) async fn save(
        &self,
        order: SaveOrder,
        sink: Box<dyn StateSink>,
    ) -> Result<SavedState> {
        self.shared.quiet.set(true);
        let ran = match self.ready_to_save().await {
            Ok(ran) => ran,
            Err(error) => {
                self.shared.quiet.set(false);
                return Err(error);
            }
        };
        let mut attempt =
            Attempt { shared: &self.shared, drain: None, snapshot: None, taken: Vec::new() };
        match self.attempt(&order, sink, ran, &mut attempt).await {
            Ok(state) => {
                attempt.snapshot = None;
                Ok(state)
            }
            Err(error) => Err(self.undo(error, ran, attempt).await),
        }
    }

    /// Whether the guest runs; brings QEMU into a run state from which it migrates.
    async fn ready_to_save(&self) -> Result<bool> {
        self.give_migration_up().await?;
        match self.settled_status().await?.as_str() {
            "running" => Ok(true),
            "paused" | "prelaunch" | "io-error" => Ok(false),
            // QEMU refuses a second migration from here, and there is no way out but through
            // `cont`. The two commands are sent as one: the guest, which was saved standing still
            // and is asked to stand still, may run for a fraction of a millisecond in between.
            "postmigrate" => {
                let (on, off) = tokio::join!(
                    self.client.execute("cont", None, COMMAND),
                    self.client.execute("stop", None, COMMAND),
                );
                if let Err(error) = on.and(off) {
                    return Err(self.explained(error).await);
                }
                Ok(false)
            }
            other => Err(BackendError::Control {
                command: "migrate".into(),
                why: format!("a guest in run state {other} cannot be saved"),
            }),
        }
    }

    async fn attempt(
        &self,
        order: &SaveOrder,
        sink: Box<dyn StateSink>,
        ran: bool,
        attempt: &mut Attempt<'_>,
    ) -> Result<SavedState> {
        if order.watch.is_cancelled() {
            return Err(BackendError::Cancelled);
        }
        let machine = self.machine_now().await?;
        let wanted =
            migration::capabilities(&[("events", true), ("pause-before-switchover", true)]);
        self.command("migrate-set-capabilities", Some(wanted)).await?;
        let limits = json!({"max-bandwidth": NO_LIMIT_BYTES, "downtime-limit": DOWNTIME_MS});
        self.command("migrate-set-parameters", Some(limits)).await?;
        let size = self.state_needs().await?;
        order.watch.expect(order.watch.progress().0 + size.touched + size.device);
        if ran && !order.live {
            self.command("stop", None).await?;
        }
        let (drain, to) = Drain::start(&self.facts.memory.id, sink, order.watch.clone())
            .map_err(|error| BackendError::io("cannot read the state", error))?;
        let drain = attempt.drain.insert(drain);
        let heard = self.shared.ear.listen();
        let name = json!({"fdname": PIPE_NAME});
        if let Err(error) = self.client.execute_with_fd("getfd", Some(name), to, COMMAND).await {
            return Err(self.explained(error).await);
        }
        let uri = format!("fd:{PIPE_NAME}");
        self.command("migrate", Some(json!({ "uri": uri }))).await?;
        let follow = Follow {
            qemu: self,
            order,
            heard,
            completed: false,
            named: None,
            begun: drain.flow.dry(),
        };
        let named = follow.watched(drain, &mut attempt.snapshot, &mut attempt.taken).await?;
        if named != machine.machine {
            let why = format!("the stream is of a {named}, the domain of a {}", machine.machine);
            return Err(BackendError::Control { command: "migrate".into(), why });
        }
        let stopped_ms = self.shared.stopped_ms.get().unwrap_or_else(now_ms);
        Ok(SavedState {
            machine,
            moment: Moment { stopped_ms, running: ran },
            snapshots: attempt.taken.iter().map(|disk| disk.vdev.clone()).collect(),
            files: Vec::new(),
        })
    }

    /// Takes back what an attempt has done, and returns why it came to nothing.
    async fn undo(&self, error: BackendError, ran: bool, mut attempt: Attempt<'_>) -> BackendError {
        if let Some(drain) = &mut attempt.drain {
            drain.give_up();
        }
        let back = self.back(ran).await;
        let name = attempt.snapshot.take();
        for disk in std::mem::take(&mut attempt.taken) {
            self.delete_snapshot(&disk, name.as_deref().unwrap_or_default()).await;
        }
        if let Some(mut drain) = attempt.drain.take() {
            let _why = drain.ended().await;
        }
        self.shared.quiet.set(false);
        match back {
            Ok(()) => error,
            Err(ended @ BackendError::Exited { .. }) => ended,
            Err(back) => {
                if ran {
                    let _nobody_listens = self.shared.events.send(Event::Stopped);
                }
                BackendError::Control {
                    command: "migrate_cancel".into(),
                    why: format!("{back}; the save came to nothing before: {error}"),
                }
            }
        }
    }

    /// Ends a migration and brings the guest to where it was.
    async fn back(&self, run: bool) -> Result<()> {
        // A name that was not used up by a migration.
        let name = json!({"fdname": PIPE_NAME});
        let _used_up = self.client.execute("closefd", Some(name), COMMAND).await;
        self.give_migration_up().await?;
        self.bring(run).await
    }

    /// See [`kxl_backend::Live::go_on`].
    pub(super) async fn go_on_from_save(&self, run: bool) -> Result<()> {
        self.shared.quiet.set(true);
        let back = self.back(run).await;
        let leftover = std::mem::take(&mut *self.shared.leftover.borrow_mut());
        for (disk, name) in leftover {
            self.delete_snapshot(&disk, &name).await;
        }
        self.shared.quiet.set(false);
        back
    }

    /// Lets the processors run or stand still, as soon as QEMU has cleared the last migration away.
    async fn bring(&self, run: bool) -> Result<()> {
        let runs = match self.settled_status().await?.as_str() {
            "running" => true,
            // It has come to its end; the event tells.
            "shutdown" | "guest-panicked" | "internal-error" | "watchdog" => return Ok(()),
            _ => false,
        };
        if runs == run {
            return Ok(());
        }
        let mut heard = self.shared.ear.listen();
        let (command, told) = if run { ("cont", Told::Resumed) } else { ("stop", Told::Stopped) };
        let until = Instant::now() + SETTLE;
        loop {
            let done = self.command(command, None).await;
            if !migration::not_finalized(&done) || Instant::now() > until {
                done?;
                break;
            }
            sleep(LOOK_AGAIN).await;
        }
        // The event is on its way and must not look like news when it comes.
        let heard = async { while heard.recv().await.is_some_and(|other| other != told) {} };
        let _late = tokio::time::timeout(COMMAND, heard).await;
        self.shared.ear.rest();
        Ok(())
    }

    /// QEMU's run state, once it is none that passes by itself.
    async fn settled_status(&self) -> Result<String> {
        let until = Instant::now() + SETTLE;
        loop {
            let answer = self.command("query-status", None).await?;
            let word = answer.get("status").and_then(Value::as_str).unwrap_or_default();
            if word != "finish-migrate" {
                return Ok(word.to_owned());
            }
            if Instant::now() > until {
                return Err(late("end of a migration"));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Cancels a migration in flight, whoever began it, and waits for its end.
    async fn give_migration_up(&self) -> Result<()> {
        let until = Instant::now() + SETTLE;
        let mut asked = false;
        loop {
            let answer = self.command("query-migrate", None).await?;
            if migration::progress(&answer).0.over() {
                return Ok(());
            }
            if !std::mem::replace(&mut asked, true) {
                self.command("migrate_cancel", None).await?;
            }
            if Instant::now() > until {
                return Err(late("end of a cancelled migration"));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    async fn delete_snapshot(&self, disk: &Disk, name: &str) {
        let arguments = json!({"device": disk.node, "name": name});
        let command = "blockdev-snapshot-delete-internal-sync";
        if let Err(error) = self.client.execute(command, Some(arguments), COMMAND).await {
            tracing::warn!(%error, disk = disk.vdev, name, "a snapshot is left on the disk");
            let text = format!("{}: the snapshot {name} is left on the disk: {error}", disk.vdev);
            let _nobody_listens = self.shared.events.send(Event::Note(text));
        }
    }
}

/// Follows a migration to its end.
struct Follow<'a> {
    qemu: &'a Qemu,
    order: &'a SaveOrder,
    heard: mpsc::UnboundedReceiver<Told>,
    completed: bool,
    /// The machine by the stream, once the thread is through with it.
    named: Option<String>,
    /// Bytes when the stream was last seen to dry up.
    begun: Option<u64>,
}

impl Follow<'_> {
    /// Returns the machine's name in the stream.
    async fn watched(
        mut self,
        drain: &mut Drain,
        snapshot: &mut Option<String>,
        taken: &mut Vec<Disk>,
    ) -> Result<String> {
        let (mut exit, watch) = (self.qemu.exit.clone(), self.order.watch.clone());
        let mut switching = std::pin::pin!(Switch::default());
        let mut dry_since = Instant::now();
        loop {
            if self.completed
                && let Some(named) = self.named.take()
            {
                return Ok(named);
            }
            tokio::select! {
                biased;
                told = self.heard.recv() => match told {
                    Some(Told::Status(Status::PreSwitchover)) => {
                        self.snapshots(snapshot, taken).await?;
                        switching.set(Switch::go(self.qemu));
                    }
                    Some(Told::Status(Status::Failed)) => return Err(self.failed(drain).await),
                    Some(Told::Status(Status::Completed)) => self.completed = true,
                    Some(Told::Pass(number)) => self.pass(number).await?,
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

    /// Takes the snapshots; the guest stands still and its disks are still ours.
    async fn snapshots(&self, name: &mut Option<String>, taken: &mut Vec<Disk>) -> Result<()> {
        let Some(wanted) = &self.order.snapshot else { return Ok(()) };
        *name = Some(wanted.clone());
        for disk in &self.qemu.facts.disks {
            let arguments = json!({"device": disk.node, "name": wanted});
            self.qemu.command("blockdev-snapshot-internal-sync", Some(arguments)).await?;
            taken.push(disk.clone());
        }
        Ok(())
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

fn late(what: &str) -> BackendError {
    BackendError::TimedOut { waited_for: what.into(), after: SETTLE }
}

/// The host's clock in milliseconds since 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
