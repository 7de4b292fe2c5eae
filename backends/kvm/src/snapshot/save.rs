//! A machine's state on its way out, on a thread of its own.
//!
//! While the machine runs, memory is written in passes: all that was touched first, then what was
//! written meanwhile. When little is left, or no less comes of it, the machine is asked to stand
//! still and to give its devices' state; the last pages follow, then the devices.

mod target;

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::dirty::{self, Origin, Pages, Tracker};
use crate::api::Notices;
use crate::api::control::{Limits, Migration, MigrationStatus};
use crate::api::notices::What;
use crate::memory::{self, Memory, PAGE};
use crate::thread::{self, Kind};
pub use target::Target;

/// Passes after which the machine has to stand still, whatever is left: a guest that writes faster
/// than the disk is saved as well, and stands still for as long as that takes.
const MOST_PASSES: u64 = 30;

/// So few pages are left for the pause without another pass.
const FEW: u64 = 256;

/// Pages copied and written at once.
const BATCH: u64 = 256;

/// Why a save came to nothing.
#[derive(Debug, Error)]
pub enum SaveError {
    /// KVM.
    #[error("KVM does not say what was written")]
    Dirty(#[source] kvm_ioctls::Error),
    /// The target.
    #[error("cannot write the state")]
    Write(#[from] std::io::Error),
    /// The machine.
    #[error("{0}")]
    Machine(String),
    /// It was asked for.
    #[error("the save was given up")]
    Cancelled,
}

/// What a save works on.
#[derive(Debug)]
pub struct Job {
    /// Guest memory.
    pub memory: Memory,
    /// What it was mapped from.
    pub origin: Option<Origin>,
    /// The process's own pagemap, where it could be opened.
    pub pagemap: Option<File>,
    /// What is written from here on, also by a machine that stands still and goes on meanwhile.
    /// Begun and ended on the machine's own thread, as it changes the machine.
    pub tracker: Tracker,
    /// The machine runs: passes are made before it stands still.
    pub live: bool,
    /// Where it goes.
    pub target: Target,
    /// Wait for [`Saver::go_on`] when the machine stands still.
    pub wait: bool,
}

/// What the save wants of the machine's own thread.
#[derive(Debug)]
pub enum Wish {
    /// Stand still and give the devices' state.
    State(Sender<Result<Vec<u8>, String>>),
    /// It is over, and came to this. Nobody else hears of it before the machine's own thread: a client
    /// that sees the end may quit at once, and the state's file goes unless it was kept by then.
    Over(Box<Migration>),
}

#[derive(Debug)]
struct Shared {
    progress: Mutex<Migration>,
    limits: Arc<Mutex<Limits>>,
    wish: Mutex<Option<Wish>>,
    cancelled: AtomicBool,
    go_on: Mutex<bool>,
    went_on: Condvar,
    notices: Notices,
    began: Instant,
}

impl Shared {
    fn new(total: u64, limits: &Arc<Mutex<Limits>>, notices: &Notices) -> Self {
        let status = MigrationStatus::Setup;
        Self {
            progress: Mutex::new(Migration { status, total, ..Migration::default() }),
            limits: Arc::clone(limits),
            wish: Mutex::new(None),
            cancelled: AtomicBool::new(false),
            go_on: Mutex::new(false),
            went_on: Condvar::new(),
            notices: notices.clone(),
            began: Instant::now(),
        }
    }

    /// Hands the end of the save over.
    fn over(&self, end: &Result<Duration, SaveError>) {
        let mut ended = locked(&self.progress).clone();
        ended.total_ms = millis(self.began.elapsed());
        ended.remaining = 0;
        ended.status = match end {
            Ok(stood) => {
                ended.downtime_ms = Some(millis(*stood));
                MigrationStatus::Completed
            }
            Err(SaveError::Cancelled) => MigrationStatus::Cancelled,
            Err(error) => {
                ended.error = Some(crate::log::chain(error));
                MigrationStatus::Failed
            }
        };
        *locked(&self.wish) = Some(Wish::Over(Box::new(ended)));
        self.notices.wake();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A save in flight; its owner's end.
#[derive(Debug)]
pub struct Saver {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Job>>,
}

impl Saver {
    /// Begins.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn begin(
        job: Job,
        limits: &Arc<Mutex<Limits>>,
        notices: &Notices,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(memory::size(&job.memory), limits, notices));
        shared.notices.post(What::Migration(MigrationStatus::Setup));
        let inner = Arc::clone(&shared);
        let thread = thread::spawn(Kind::Save, "save", move || Run { job, shared: inner }.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// How it stands: under way, until its [`Wish::Over`] was taken.
    #[must_use]
    pub fn progress(&self) -> Migration {
        let mut progress = locked(&self.shared.progress).clone();
        progress.total_ms = millis(self.shared.began.elapsed());
        progress
    }

    /// What it wants, once.
    #[must_use]
    pub fn wish(&self) -> Option<Wish> {
        locked(&self.shared.wish).take()
    }

    /// Lets it go on from where it waits; whether it does.
    #[must_use]
    pub fn go_on(&self) -> bool {
        if locked(&self.shared.progress).status != MigrationStatus::PreSwitchover {
            return false;
        }
        *locked(&self.shared.go_on) = true;
        self.shared.went_on.notify_all();
        true
    }

    /// Asks for an early end.
    pub fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::Release);
        locked(&self.shared.progress).status = MigrationStatus::Cancelling;
        // Under the lock, or it could be missed between a look at the flag and the wait.
        let _between = locked(&self.shared.go_on);
        self.shared.went_on.notify_all();
    }

    /// Whether an early end was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::Acquire)
    }

    /// Waits for the thread of a save that is over, and takes back what it worked on.
    pub fn job(&mut self) -> Option<Job> {
        self.thread.take()?.join().ok()
    }
}

impl Drop for Saver {
    /// Has the thread clean up behind itself, as long as nobody keeps it waiting: the process ends.
    fn drop(&mut self) {
        const PATIENCE: Duration = Duration::from_millis(500);
        self.cancel();
        let until = Instant::now() + PATIENCE;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            // A wish that nobody will hear any more would be waited for.
            drop(self.wish());
            if Instant::now() > until {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

struct Run {
    job: Job,
    shared: Arc<Shared>,
}

impl Run {
    fn run(mut self) -> Job {
        let end = self.save();
        self.shared.over(&end);
        self.job
    }

    /// The save; how long the machine stood still for it.
    fn save(&mut self) -> Result<Duration, SaveError> {
        self.job.target.begin(memory::size(&self.job.memory))?;
        self.is(MigrationStatus::Active)?;
        let mut pages = self.touched();
        if self.job.live {
            pages = self.live(&self.job.tracker, pages)?;
        }
        let stood = Instant::now();
        let devices = self.devices()?;
        pages.add_all(&self.job.tracker.collect().map_err(SaveError::Dirty)?);
        if self.job.wait {
            self.is(MigrationStatus::PreSwitchover)?;
            self.wait()?;
        }
        self.is(MigrationStatus::Device)?;
        self.pass(&pages, true)?;
        let written = self.job.target.finish(&devices)?;
        locked(&self.shared.progress).transferred += written;
        Ok(stood.elapsed())
    }

    /// Passes while the machine runs; what the last one of them has left.
    fn live(&self, tracker: &Tracker, first: Pages) -> Result<Pages, SaveError> {
        let mut pages = first;
        let mut before = u64::MAX;
        for _ in 0..MOST_PASSES {
            let count = pages.count();
            let began = Instant::now();
            self.pass(&pages, false)?;
            pages = tracker.collect().map_err(SaveError::Dirty)?;
            let left = pages.count();
            let speed =
                count.max(1).checked_div(millis(began.elapsed()).max(1)).unwrap_or(1).max(1);
            let fits = left / speed <= locked(&self.shared.limits).downtime_ms;
            // Another pass as long as each leaves a good deal less than the one before.
            if left <= FEW || (fits && left > before / 4 * 3) {
                break;
            }
            before = left;
        }
        // What is on the disk already need not be waited for while the machine stands still.
        self.job.target.settle()?;
        let mut last = tracker.collect().map_err(SaveError::Dirty)?;
        last.add_all(&pages);
        if last.count() > FEW {
            self.pass(&last, false)?;
            last = tracker.collect().map_err(SaveError::Dirty)?;
        }
        Ok(last)
    }

    fn touched(&self) -> Pages {
        let (memory, origin) = (&self.job.memory, self.job.origin.as_ref());
        let known = self.job.pagemap.as_ref().map(|map| dirty::touched(memory, map, origin));
        match known {
            Some(Ok(pages)) => pages,
            Some(Err(_)) | None => Pages::all(memory::size(memory)),
        }
    }

    /// Has the machine stand still and give its devices' state.
    fn devices(&self) -> Result<Vec<u8>, SaveError> {
        let (say, said) = channel();
        *locked(&self.shared.wish) = Some(Wish::State(say));
        self.shared.notices.wake();
        said.recv().map_err(|_| SaveError::Cancelled)?.map_err(SaveError::Machine)
    }

    fn wait(&self) -> Result<(), SaveError> {
        let mut go_on = locked(&self.shared.go_on);
        while !*go_on {
            self.heed()?;
            go_on = self.shared.went_on.wait(go_on).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    fn heed(&self) -> Result<(), SaveError> {
        if self.shared.cancelled.load(Ordering::Acquire) {
            Err(SaveError::Cancelled)
        } else {
            Ok(())
        }
    }

    fn is(&self, status: MigrationStatus) -> Result<(), SaveError> {
        self.heed()?;
        locked(&self.shared.progress).status = status;
        self.shared.notices.post(What::Migration(status));
        Ok(())
    }

    /// Writes these pages.
    fn pass(&self, pages: &Pages, last: bool) -> Result<(), SaveError> {
        let mut left = pages.count();
        let number = {
            let mut progress = locked(&self.shared.progress);
            progress.passes += 1;
            progress.passes
        };
        self.shared.notices.post(What::MigrationPass(number));
        let target = &self.job.target;
        let mut written = target.begin_pass(last)?;
        let (mut from, mut first, began) = (0, true, Instant::now());
        let mut sum = 0;
        while let Some((page, count)) = pages.run(from, BATCH) {
            self.heed()?;
            let done =
                target.pages(&self.job.memory, page, count, std::mem::take(&mut first), number)?;
            written += done.bytes;
            left -= count;
            let mut progress = locked(&self.shared.progress);
            progress.transferred += std::mem::take(&mut written);
            progress.normal_pages += done.normal;
            progress.zero_pages += done.zero;
            progress.remaining = left * PAGE as u64;
            drop(progress);
            sum += done.bytes;
            self.brake(sum, began);
            from = page + count;
        }
        written += target.end_pass()?;
        locked(&self.shared.progress).transferred += written;
        Ok(())
    }

    /// Keeps to the limit of bytes in a second.
    fn brake(&self, written: u64, began: Instant) {
        let limit = locked(&self.shared.limits).bandwidth;
        if let Some(due) = written.saturating_mul(1000).checked_div(limit) {
            let due = Duration::from_millis(due);
            std::thread::sleep(due.saturating_sub(began.elapsed()).min(Duration::from_secs(1)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sees_the_end_of_a_save_before_its_machine() {
        let notices = Notices::new().unwrap();
        let shared = Arc::new(Shared::new(4096, &Arc::default(), &notices));
        let saver = Saver { shared: Arc::clone(&shared), thread: None };
        shared.over(&Ok(Duration::from_millis(7)));
        assert_eq!(saver.progress().status, MigrationStatus::Setup);
        let Some(Wish::Over(ended)) = saver.wish() else { panic!("it wants something else") };
        assert_eq!((ended.status, ended.downtime_ms), (MigrationStatus::Completed, Some(7)));
        // One that is given up too late is whole all the same, and is kept.
        shared.over(&Ok(Duration::ZERO));
        saver.cancel();
        assert_eq!(saver.progress().status, MigrationStatus::Cancelling);
        let Some(Wish::Over(ended)) = saver.wish() else { panic!("it wants something else") };
        assert_eq!(ended.status, MigrationStatus::Completed);
    }
}
