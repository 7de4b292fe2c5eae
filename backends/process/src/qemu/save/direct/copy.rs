//! The thread that copies a guest's memory, pass for pass.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use kxl_backend::{StateSink, Watch};
use tokio::sync::oneshot;

use super::super::super::split::PAGE_BYTES;
use super::source::{Run, Source};

/// Bytes that are read at a time.
const PIECE: u64 = 1 << 20;

/// So little written during a pass, and the guest stands still for the next.
const ENOUGH: u64 = 8 << 20;

/// Passes while the guest runs, at most.
const PASSES: u32 = 12;

/// A pass that copies more than this share of what the one before did brings nothing.
const SHARE: (u64, u64) = (3, 4);

/// Bytes of the last pass that are kept until the guest may go on, so that it does not wait for
/// the disk.
const HELD: usize = 16 << 20;

/// Why a copy came to nothing.
#[derive(Debug)]
pub(in super::super) enum CopyError {
    /// The image could not be written.
    Sink(io::Error),
    /// The memory could not be read.
    Memory(io::Error),
    /// Nobody wants it any more.
    GivenUp,
}

type Result<T> = std::result::Result<T, CopyError>;

/// What the thread needs when the guest stands still.
pub(super) struct Last {
    /// The machine's name.
    pub(super) machine: String,
    /// See [`Composer::new`](super::super::super::split::compose::Composer::new).
    pub(super) page_bits: bool,
    /// The devices, by QEMU.
    pub(super) devices: Vec<u8>,
}

/// A running thread. Dropping this asks it to end; it is not waited for.
#[derive(Debug)]
pub(in super::super) struct Copying {
    thread: Option<JoinHandle<()>>,
    last: Option<Sender<Last>>,
    given_up: Arc<AtomicBool>,
    alive: Weak<()>,
    ready: oneshot::Receiver<()>,
    copied: oneshot::Receiver<()>,
    outcome: oneshot::Receiver<Result<()>>,
}

impl Copying {
    /// Starts it. `live` when the guest runs: then there are passes before the last; `goes_on` when
    /// it is going to need its memory afterwards.
    pub(super) fn start(
        source: Source,
        sink: Box<dyn StateSink>,
        watch: Arc<Watch>,
        live: bool,
        goes_on: bool,
    ) -> io::Result<Self> {
        let given_up = Arc::new(AtomicBool::new(false));
        let (is_ready, ready) = oneshot::channel();
        let (has_copied, copied) = oneshot::channel();
        let (told, outcome) = oneshot::channel();
        let (last, orders) = channel();
        let pages = usize::try_from(source.layout.size).map_err(io::Error::other)? / PAGE_BYTES;
        let mut copier = Copier {
            source,
            sink,
            watch,
            goes_on,
            given_up: Arc::clone(&given_up),
            saved: vec![0; pages.div_ceil(64)],
            held: Vec::new(),
            holds: 0,
        };
        let life = Arc::new(());
        let alive = Arc::downgrade(&life);
        let thread = std::thread::Builder::new().name("save".into()).spawn(move || {
            let outcome = copier.run(live, is_ready, &orders, has_copied);
            // Whoever is told finds the sink gone.
            drop((copier, life));
            let _given_up = told.send(outcome);
        })?;
        let (thread, last) = (Some(thread), Some(last));
        Ok(Self { thread, last, given_up, alive, ready, copied, outcome })
    }

    /// Can be upgraded as long as the thread reads memory.
    pub(super) fn alive(&self) -> Weak<()> {
        self.alive.clone()
    }

    /// Waits until the guest is to stand still; false when the thread has failed. Cancel-safe, once.
    pub(super) async fn ready(&mut self) -> bool {
        (&mut self.ready).await.is_ok()
    }

    /// The guest stands still.
    pub(super) fn finish(&mut self, last: Last) {
        if let Some(thread) = self.last.take() {
            let _failed = thread.send(last);
        }
    }

    /// Waits until the guest may go on; false when the thread has failed. Cancel-safe, once.
    pub(super) async fn copied(&mut self) -> bool {
        (&mut self.copied).await.is_ok()
    }

    /// Asks the thread to end at once.
    pub(in super::super) fn give_up(&mut self) {
        self.given_up.store(true, Ordering::Relaxed);
        drop(self.last.take());
    }

    /// Waits for the end of the thread. Cancel-safe; the outcome is told once.
    pub(in super::super) async fn ended(&mut self) -> Result<()> {
        let failed = || CopyError::Memory(io::Error::other("the thread that reads it failed"));
        if self.thread.is_none() {
            return Err(failed());
        }
        let outcome = (&mut self.outcome).await;
        if let Some(thread) = self.thread.take() {
            // It has told its outcome, or panicked: it ends at this moment.
            let _panicked = thread.join();
        }
        outcome.unwrap_or_else(|_| Err(failed()))
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.give_up();
    }
}

struct Copier {
    source: Source,
    sink: Box<dyn StateSink>,
    watch: Arc<Watch>,
    goes_on: bool,
    given_up: Arc<AtomicBool>,
    /// Pages that were copied out of the emulator, one bit each.
    saved: Vec<u64>,
    /// Pages of the last pass, by offset.
    held: Vec<(u64, Vec<u8>)>,
    holds: usize,
}

impl Copier {
    fn run(
        &mut self,
        live: bool,
        ready: oneshot::Sender<()>,
        orders: &Receiver<Last>,
        copied: oneshot::Sender<()>,
    ) -> Result<()> {
        self.sink.memory(&self.source.layout).map_err(CopyError::Sink)?;
        if live {
            self.passes()?;
        }
        let _given_up = ready.send(());
        let last = orders.recv().map_err(|_| CopyError::GivenUp)?;
        if live {
            self.last_pass()?;
        } else {
            self.first_pass()?;
        }
        let stream = self.source.compose(&last.machine, last.page_bits, &last.devices);
        let stream = stream.map_err(CopyError::Memory)?;
        let _given_up = copied.send(());
        for (offset, bytes) in std::mem::take(&mut self.held) {
            self.sink.pages(offset, &bytes).map_err(CopyError::Sink)?;
        }
        self.watch.moved(stream.len() as u64);
        self.sink.device(&stream).map_err(CopyError::Sink)
    }

    /// Copies until little changes while that is done.
    fn passes(&mut self) -> Result<()> {
        let size = self.source.layout.size;
        let (mut last, mut all, mut vain) = (self.first_pass()?, 0, 0);
        for _ in 1..PASSES {
            self.watch.expect(self.watch.progress().0 + last.min(size));
            let now = self.pass()?;
            all += now;
            vain += u32::from(now > last / SHARE.1 * SHARE.0);
            if now <= ENOUGH || vain == 2 || all > 2 * size {
                break;
            }
            last = now;
        }
        Ok(())
    }

    fn first_pass(&mut self) -> Result<u64> {
        let mut bytes = 0;
        for part in self.source.parts() {
            self.go_on()?;
            for run in self.source.everything(part.clone()).map_err(CopyError::Memory)? {
                bytes += self.copy(&run)?;
            }
            if !self.goes_on {
                self.source.let_go(part);
            }
        }
        Ok(bytes)
    }

    fn pass(&mut self) -> Result<u64> {
        let mut bytes = 0;
        for part in self.source.parts() {
            self.go_on()?;
            for run in self.source.written(part).map_err(CopyError::Memory)? {
                bytes += self.copy(&run)?;
            }
        }
        Ok(bytes)
    }

    /// The guest stands still.
    fn last_pass(&mut self) -> Result<()> {
        for part in self.source.parts() {
            self.go_on()?;
            for run in self.source.written(part.clone()).map_err(CopyError::Memory)? {
                self.hold(&run)?;
            }
            let own = self.source.own(part.clone()).map_err(CopyError::Memory)?;
            for pages in gone(&self.saved, part, &own) {
                self.copy(&Run { pages, own: false })?;
            }
        }
        Ok(())
    }

    /// Copies a run into the image; returns its bytes.
    fn copy(&mut self, run: &Run) -> Result<u64> {
        let Range { start, end } = run.pages;
        let mut offset = start;
        while offset < end {
            let length = PIECE.min(end - offset);
            self.go_on()?;
            let (source, mut unread) = (&self.source, None);
            let put = self.sink.read(offset, length, &mut |offset, bytes| {
                source.fetch(offset, run.own, bytes).map_err(|error| {
                    unread = Some(error);
                    io::ErrorKind::Other.into()
                })
            });
            put.map_err(|error| unread.map_or(CopyError::Sink(error), CopyError::Memory))?;
            self.watch.moved(length);
            offset += length;
        }
        self.mark(run);
        Ok(end - start)
    }

    /// Keeps a run for the image, as far as there is room.
    fn hold(&mut self, run: &Run) -> Result<()> {
        let length = index(run.pages.end - run.pages.start);
        if self.holds + length > HELD {
            return self.copy(run).map(drop);
        }
        self.go_on()?;
        let mut bytes = vec![0; length];
        let fetched = self.source.fetch(run.pages.start, run.own, &mut bytes);
        fetched.map_err(CopyError::Memory)?;
        self.held.push((run.pages.start, bytes));
        self.holds += length;
        self.watch.moved(length as u64);
        self.mark(run);
        Ok(())
    }

    fn mark(&mut self, run: &Run) {
        if run.own {
            for page in page(run.pages.start)..page(run.pages.end) {
                self.saved[page / 64] |= 1 << (page % 64);
            }
        }
    }

    fn go_on(&self) -> Result<()> {
        if self.given_up.load(Ordering::Relaxed) { Err(CopyError::GivenUp) } else { Ok(()) }
    }
}

/// Pages of a part that were copied out of the emulator and are no longer there: a balloon gave them
/// back (but for those over an image, where it cannot). In their place is what they were mapped from. `saved` has a bit for each page of the
/// block, `own` what of the part is there.
fn gone(saved: &[u64], part: Range<u64>, own: &[Run]) -> Vec<Range<u64>> {
    let first = page(part.start) / 64;
    let mut left = saved[first..page(part.end).div_ceil(64)].to_vec();
    for run in own {
        for page in page(run.pages.start)..page(run.pages.end) {
            left[page / 64 - first] &= !(1 << (page % 64));
        }
    }
    let mut gone = Vec::new();
    for (word, mut left) in (first..).zip(left) {
        while left != 0 {
            let offset = ((word * 64 + left.trailing_zeros() as usize) * PAGE_BYTES) as u64;
            gone.push(offset..offset + PAGE_BYTES as u64);
            left &= left - 1;
        }
    }
    gone
}

/// Memory that is mapped fits into an index.
#[allow(clippy::cast_possible_truncation, reason = "on every host that has it mapped")]
const fn index(bytes: u64) -> usize {
    bytes as usize
}

/// The number of the page at an offset.
const fn page(offset: u64) -> usize {
    index(offset) / PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_were_given_back_are_those_that_were_saved_and_are_no_longer_there() {
        const PAGE: u64 = PAGE_BYTES as u64;
        let part = 128 * PAGE..300 * PAGE;
        let mut saved = vec![0u64; 5];
        for page in [127, 128, 130, 131, 255, 299] {
            saved[page / 64] |= 1 << (page % 64);
        }
        let own = [Run { pages: 129 * PAGE..131 * PAGE, own: true }];
        let found: Vec<_> = gone(&saved, part, &own).iter().map(|run| run.start / PAGE).collect();
        assert_eq!(found, [128, 131, 255, 299], "127 is of another part");
    }
}
