//! Saving a living QEMU, and bringing its guest back afterwards.
//!
//! Where the host and the machine allow it the memory is read past QEMU: see [`direct`]. Otherwise
//! the state is QEMU's own migration stream into a pipe of ours ([`super::stream`]). QEMU waits at
//! the switchover, where the guest stands still and its disks are quiet, for the snapshots that may
//! be wanted; then it sends the last pass and the devices.
//!
//! A guest that dirties its memory faster than the disk takes it would never be done. It gets
//! [`DOWNTIME_MS`] at first; from the [`PATIENCE`]th pass on twice as much with each pass; and at the
//! [`LAST_PASS`]th, or when [`MOST_TIMES`] its memory has been written, it stands still until the
//! rest is out.
//!
//! [`How`] tells of guests with which this does not go.

mod direct;
mod follow;
mod how;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kxl_backend::{BackendError, Event, Result, SaveOrder, SavedState, StateSink, StateSize};
use kxl_domain::image::Moment;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::live::{COMMAND, Qemu, Shared};
use super::machine::Disk;
use super::memory;
use super::migration::{self, Told};
use super::split::Splitter;
use super::stream::Drain;
use direct::Copying;
pub(super) use direct::Devices;
use follow::Follow;
use how::How;

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

/// The name under which QEMU gets the pipe.
const PIPE_NAME: &str = "image";

/// A save in flight: what has to be taken back when it comes to nothing.
struct Attempt<'a> {
    shared: &'a Shared,
    drain: Option<Drain>,
    copying: Option<Copying>,
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
        let device = match self.facts.device_bound {
            Some(bound) => bound,
            None => {
                let blocks = self.monitor_line("info ramblock").await.unwrap_or_default();
                memory::device_bound(&blocks, &layout.id)
            }
        };
        Ok(StateSize {
            memory: Some(layout.clone()),
            touched: memory::touched(&self.process, layout.size, self.facts.memory_fd),
            device,
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
        let mut attempt = Attempt {
            shared: &self.shared,
            drain: None,
            copying: None,
            snapshot: None,
            taken: Vec::new(),
        };
        match self.attempt(&order, sink, ran, &mut attempt).await {
            Ok(state) => {
                attempt.snapshot = None;
                if state.went_on_ms.is_some() {
                    self.shared.quiet.set(false);
                }
                Ok(state)
            }
            Err(error) => Err(self.undo(error, ran, attempt).await),
        }
    }

    /// Whether the guest runs; brings QEMU into a run state from which it migrates.
    async fn ready_to_save(&self) -> Result<bool> {
        self.give_migration_up().await?;
        self.earlier_copy().await?;
        match self.settled_status().await?.as_str() {
            "running" => Ok(true),
            "paused" | "prelaunch" | "io-error" => Ok(false),
            // QEMU refuses a second migration from here.
            "postmigrate" => self.take_disks_up().await.map(|()| false),
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
        let size = self.state_needs().await?;
        order.watch.expect(order.watch.progress().0 + size.touched + size.device);
        let source = self.source(ran && order.live).await?;
        // Disks that QEMU has let go of are written by a snapshot, and let go of by a stream.
        let writes = source.is_none() || (order.snapshot.is_some() && !self.facts.disks.is_empty());
        if writes && !ran && self.shared.released.get() {
            self.take_disks_up().await?;
        }
        let went_on_ms = match source {
            Some(source) => {
                let to = (source, sink);
                self.save_directly(order, ran, &machine.machine, to, attempt).await?
            }
            None => self.stream(order, ran, &machine.machine, sink, attempt).await?,
        };
        let stopped_ms = self.shared.stopped_ms.get().unwrap_or_else(now_ms);
        Ok(SavedState {
            machine,
            moment: Moment { stopped_ms, running: ran },
            went_on_ms,
            snapshots: vdevs(&attempt.taken),
            files: Vec::new(),
        })
    }

    /// Has QEMU stream the state. Returns when the guest went on, if it did.
    async fn stream(
        &self,
        order: &SaveOrder,
        ran: bool,
        machine: &str,
        sink: Box<dyn StateSink>,
        attempt: &mut Attempt<'_>,
    ) -> Result<Option<i64>> {
        let how = self.how(ran, order).await?;
        let downtime = if how == How::OnePass { 0 } else { DOWNTIME_MS };
        let limits = json!({"max-bandwidth": NO_LIMIT_BYTES, "downtime-limit": downtime});
        self.command("migrate-set-parameters", Some(limits)).await?;
        let stop = match how {
            How::Still => ran,
            How::Passes => false,
            How::OnePass => true,
            How::Background => self.facts.writes,
        };
        if stop {
            self.command("stop", None).await?;
        }
        let mut splitter = Splitter::new(&self.facts.memory.id);
        if how == How::Background {
            splitter = splitter.endless();
            self.snapshots(order, &mut attempt.snapshot, &mut attempt.taken).await?;
            if let Some(pause) = &order.go_on {
                (pause.0)(vdevs(&attempt.taken)).await;
            }
        }
        let (drain, to) = Drain::start(splitter, sink, order.watch.clone())
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
            how,
            completed: false,
            went_on_ms: None,
            named: None,
            begun: drain.flow.dry(),
        };
        let (named, went_on_ms) =
            follow.watched(drain, &mut attempt.snapshot, &mut attempt.taken).await?;
        if named != machine {
            let why = format!("the stream is of a {named}, the domain of a {machine}");
            return Err(BackendError::Control { command: "migrate".into(), why });
        }
        Ok(went_on_ms)
    }

    /// Takes back what an attempt has done, and returns why it came to nothing.
    async fn undo(&self, error: BackendError, ran: bool, mut attempt: Attempt<'_>) -> BackendError {
        if let Some(drain) = &mut attempt.drain {
            drain.give_up();
        }
        if let Some(copying) = &mut attempt.copying {
            copying.give_up();
        }
        let back = self.back(ran).await;
        let name = attempt.snapshot.take();
        for disk in std::mem::take(&mut attempt.taken) {
            self.delete_snapshot(&disk, name.as_deref().unwrap_or_default()).await;
        }
        if let Some(mut drain) = attempt.drain.take() {
            let _why = drain.ended().await;
        }
        if let Some(mut copying) = attempt.copying.take() {
            let _why = copying.ended().await;
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

    /// Has QEMU take its disks up again that it has let go of for a save. There is no way but through
    /// `cont`. The two commands are sent as one: the guest, which was saved standing still and is
    /// asked to stand still, may run for a fraction of a millisecond in between.
    async fn take_disks_up(&self) -> Result<()> {
        let (on, off) = tokio::join!(
            self.client.execute("cont", None, COMMAND),
            self.client.execute("stop", None, COMMAND),
        );
        match on.and(off) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explained(error).await),
        }
    }

    /// Waits until the thread of a save that was dropped has noticed it: what it is told of the
    /// memory, the next one would not be told.
    async fn earlier_copy(&self) -> Result<()> {
        let until = Instant::now() + SETTLE;
        while self.shared.copying.borrow().strong_count() > 0 {
            if Instant::now() > until {
                return Err(late("end of an earlier save"));
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
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

    /// Deletes the snapshots of this name, of which there may be none.
    pub(super) async fn delete_snapshots(&self, name: &str) {
        for disk in &self.facts.disks {
            self.delete_snapshot(disk, name).await;
        }
    }

    async fn delete_snapshot(&self, disk: &Disk, name: &str) {
        let arguments = json!({"device": disk.node, "name": name});
        let command = "blockdev-snapshot-delete-internal-sync";
        if let Err(error) = self.client.execute(command, Some(arguments), COMMAND).await {
            if error.to_string().contains("does not exist") {
                return;
            }
            tracing::warn!(%error, disk = disk.vdev, name, "a snapshot is left on the disk");
            let text = format!("{}: the snapshot {name} is left on the disk: {error}", disk.vdev);
            let _nobody_listens = self.shared.events.send(Event::Note(text));
        }
    }
}

fn vdevs(disks: &[Disk]) -> Vec<String> {
    disks.iter().map(|disk| disk.vdev.clone()).collect()
}

fn late(what: &str) -> BackendError {
    BackendError::TimedOut { waited_for: what.into(), after: SETTLE }
}

/// The host's clock in milliseconds since 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
