//! Saving a living mock: passes over its memory, then its state.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kxl_backend::{BackendError, Result, SaveOrder, SavedState, StateSink, StateSize, Watch};
use kxl_domain::image::Moment;
use kxl_domain::{Capability, State};

use crate::live::{COMMAND, MockLive};
use crate::memory::Memory;
use crate::protocol::{Status, With};
use crate::script::{Script, Step};
use crate::state;

/// What is on its way to the sink; handed to a thread of its own for every portion.
struct Sending {
    sink: Box<dyn StateSink>,
    memory: Option<Memory>,
    /// Writes of the guest whose pages were sent.
    sent: Option<u64>,
    watch: Arc<Watch>,
    /// The save was dropped: nobody waits for what the thread does.
    dropped: Arc<AtomicBool>,
}

/// Why a portion did not arrive.
enum Broken {
    Sink(io::Error),
    Cancelled,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Sink(error)
    }
}

impl From<Broken> for BackendError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Sink(error) => Self::Sink(error),
            Broken::Cancelled => Self::Cancelled,
        }
    }
}

impl Sending {
    /// Sends the pages that were written since the last time.
    fn pages(&mut self, writes: u64) -> Result<(), Broken> {
        let Some(memory) = self.memory else { return Ok(()) };
        let (watch, dropped) = (&self.watch, &self.dropped);
        let each = |bytes| {
            watch.moved(bytes);
            let ended = watch.is_cancelled() || dropped.load(Ordering::Relaxed);
            if ended { Err(Broken::Cancelled) } else { Ok(()) }
        };
        match self.sent {
            None => {
                self.sink.memory(&memory.layout())?;
                memory.put_all(writes, &mut *self.sink, each)?;
            }
            Some(before) => memory.put_written(before..writes, &mut *self.sink, each)?,
        }
        self.sent = Some(writes);
        Ok(())
    }

    /// Sends the device stream, in portions as they come from a real emulator.
    fn device(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        for portion in bytes.chunks(32 << 10) {
            self.sink.device(portion)?;
            self.watch.moved(portion.len() as u64);
            if self.watch.is_cancelled() || self.dropped.load(Ordering::Relaxed) {
                return Err(Broken::Cancelled);
            }
        }
        Ok(())
    }

    /// Does something with the sink on a thread where it may block.
    async fn on_a_thread(
        mut self,
        work: impl FnOnce(&mut Self) -> Result<(), Broken> + Send + 'static,
    ) -> Result<Self> {
        let done = tokio::task::spawn_blocking(move || work(&mut self).map(|()| self)).await;
        match done {
            Ok(sent) => Ok(sent?),
            Err(error) => Err(BackendError::Sink(io::Error::other(error))),
        }
    }
}

/// Ends the thread's work where the save is dropped.
struct Tether(Arc<AtomicBool>);

impl Drop for Tether {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the save of a domain with this script needs.
pub(crate) fn size(script: &Script, seed: u64) -> StateSize {
    let memory = memory(script, seed);
    StateSize {
        memory: memory.map(|memory| memory.layout()),
        touched: memory.map_or(0, |memory| memory.touched()),
        device: state::LONGEST + script.saving.padding,
    }
}

fn memory(script: &Script, seed: u64) -> Option<Memory> {
    script.saving.memory.map(|bytes| Memory::new(bytes, script.saving.touched, seed))
}

impl MockLive {
    /// [`kxl_backend::Live::save_state`].
    pub(crate) async fn save(
        &mut self,
        order: SaveOrder,
        sink: Box<dyn StateSink>,
    ) -> Result<SavedState> {
        self.needs(Capability::SaveState)?;
        let watch = Arc::clone(&order.watch);
        let before = or_cancelled(&watch, self.ask(Step::Save, COMMAND)).await?;
        let running = before.state == State::Running;
        match self.put(order, sink, before).await {
            Ok(saved) => Ok(saved),
            Err(error) => {
                // The guest as it was; a dead or silent emulator has nothing more to lose.
                if let Err(again) = self.stand_or_go(running).await {
                    tracing::warn!(error = %again, "the guest stands still after a failed save");
                }
                Err(error)
            }
        }
    }

    async fn put(
        &mut self,
        order: SaveOrder,
        sink: Box<dyn StateSink>,
        before: Status,
    ) -> Result<SavedState> {
        let watch = order.watch;
        let script = self.script.with_file(&self.rundir)?;
        let running = before.state == State::Running;
        let expected = size(&script, before.machine.seed);
        watch.expect(expected.touched + script.saving.padding);
        let tether = Tether(Arc::default());
        let mut sending = Sending {
            sink,
            memory: memory(&script, before.machine.seed),
            sent: None,
            watch: Arc::clone(&watch),
            dropped: Arc::clone(&tether.0),
        };
        if order.live && running && self.capabilities.has(Capability::LiveSave) {
            for _ in 0..script.saving.passes {
                let now = or_cancelled(&watch, self.ask(Step::SavePass, COMMAND)).await?;
                sending = sending.on_a_thread(move |sending| sending.pages(now.writes)).await?;
            }
        }
        let stopped = or_cancelled(&watch, self.ask(Step::SaveStop, COMMAND)).await?;
        let moment = Moment { stopped_ms: now_ms(), running };
        let Some(saved) = stopped.saved else {
            let why = "the emulator did not tell the guest's state".to_owned();
            return Err(BackendError::Control { command: Step::SaveStop.as_str().into(), why });
        };
        let padding = script.saving.padding;
        sending
            .on_a_thread(move |sending| {
                sending.pages(saved.writes)?;
                let stream = state::stream(*saved, padding)?;
                sending.device(&stream)
            })
            .await?;
        or_cancelled(&watch, self.ask(Step::SaveEnd, COMMAND)).await?;
        if watch.is_cancelled() {
            return Err(BackendError::Cancelled);
        }
        let machine = state::machine(&self.config, &script);
        Ok(SavedState {
            machine,
            moment,
            went_on_ms: None,
            snapshots: Vec::new(),
            files: Vec::new(),
        })
    }

    /// [`kxl_backend::Live::go_on`].
    pub(crate) async fn stand_or_go(&mut self, run: bool) -> Result<()> {
        self.ask_with(Step::GoOn, With::Run(run), COMMAND).await.map(|_| ())
    }

    /// [`kxl_backend::Live::state_size`].
    pub(crate) async fn size(&mut self, deadline: Duration) -> Result<StateSize> {
        self.needs(Capability::SaveState)?;
        let seed = self.ask(Step::Status, deadline).await?.machine.seed;
        Ok(size(&self.script.with_file(&self.rundir)?, seed))
    }
}

/// The outcome of a step, or the end that was asked for meanwhile.
async fn or_cancelled<T>(watch: &Watch, step: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        done = step => done,
        () = watch.cancelled() => Err(BackendError::Cancelled),
    }
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
