//! A domain's state on its way out of and into an emulator.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kxl_domain::image::{Machine, MemoryLayout, Moment};

use crate::Local;

/// Where a backend puts a domain's state. Called from one thread at a time, of the backend's
/// choosing and never the monitor's own: every call may block for the disk.
///
/// Memory may come in any order and any number of times: what comes last for a page counts. What
/// never comes is zero. An error ends the save; nothing that was put is kept then.
pub trait StateSink: Send {
    /// Announces the memory block, once and before its first page. Not called by backends whose
    /// state file holds the memory as well.
    ///
    /// # Errors
    /// No space, or the system's refusal.
    fn memory(&mut self, layout: &MemoryLayout) -> io::Result<()>;

    /// Whole pages at a page-aligned offset of the block.
    ///
    /// # Errors
    /// No space, a size or offset outside the block, or the system's refusal.
    fn pages(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Pages like [`pages`](Self::pages), put by `read` to where the sink wants them: it is called
    /// with an offset of the block and room for whole pages, in ascending order until all of the
    /// range was read. For sources that can read to anywhere, which saves a copy.
    ///
    /// # Errors
    /// As `pages`; the first error of `read`.
    fn read(&mut self, offset: u64, length: u64, read: &mut ReadPages<'_>) -> io::Result<()> {
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        read(offset, &mut bytes)?;
        self.pages(offset, &bytes)
    }

    /// Pages of zeros.
    ///
    /// # Errors
    /// As [`pages`](Self::pages).
    fn zeros(&mut self, offset: u64, length: u64) -> io::Result<()>;

    /// The next bytes of the device stream.
    ///
    /// # Errors
    /// No space, or the system's refusal.
    fn device(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Reads pages at an offset of the memory block.
pub type ReadPages<'a> = dyn FnMut(u64, &mut [u8]) -> io::Result<()> + 'a;

/// How a state is to be saved.
#[derive(Clone, Debug)]
pub struct SaveOrder {
    /// The guest runs while its memory is read, and stands still for the last pass only. Backends
    /// without that capability save standing still.
    pub live: bool,
    /// Name of a snapshot to take of every writable disk whose format has snapshots, in the pause.
    pub snapshot: Option<String>,
    /// The guest is to go on afterwards, and this has to be done first while it stands still. A
    /// backend that can have the state of one moment although the guest goes on calls it and lets
    /// the guest go on; others leave both to the caller.
    pub go_on: Option<Pause>,
    /// Counters and the wish to stop, shared with whoever watches.
    pub watch: Arc<Watch>,
}

/// What the caller of a save does while the guest stands still, with the disks (by vdev) of which
/// the snapshot was taken.
#[derive(Clone)]
pub struct Pause(pub Rc<dyn Fn(Vec<String>) -> Local<'static, ()>>);

impl std::fmt::Debug for Pause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pause")
    }
}

/// What can be seen of a save or restore while it goes on, and the way to give it up.
#[derive(Debug, Default)]
pub struct Watch {
    done: AtomicU64,
    total: AtomicU64,
    cancelled: AtomicBool,
    waker: tokio::sync::Notify,
}

impl Watch {
    /// Adds bytes that were moved.
    pub fn moved(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Sets how many bytes there will be, as far as that is known; it may grow.
    pub fn expect(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    /// Bytes moved and expected. More may move than was expected: a guest dirties memory.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// Asks for an end. The save fails with [`crate::BackendError::Cancelled`] if it has not come
    /// to its end already.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.waker.notify_waiters();
        self.waker.notify_one();
    }

    /// Whether an end was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Returns when an end is asked for. Cancel-safe.
    pub async fn cancelled(&self) {
        while !self.is_cancelled() {
            self.waker.notified().await;
        }
    }
}

/// What a save is going to need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSize {
    /// The memory block, where it is kept apart.
    pub memory: Option<MemoryLayout>,
    /// Bytes of memory that the guest has touched, as far as the host can tell: at most this much
    /// is written for the memory as it is now.
    pub touched: u64,
    /// An upper bound of the device stream in bytes.
    pub device: u64,
}

/// A state that was put into its sink. The guest stands still and its disks are flushed, unless
/// it goes on already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedState {
    /// The machine it belongs to.
    pub machine: Machine,
    /// When it stood still, and whether it ran before.
    pub moment: Moment,
    /// When the guest went on, if it did; milliseconds since 1970.
    pub went_on_ms: Option<i64>,
    /// The disks (by vdev) of which the snapshot was taken.
    pub snapshots: Vec<String>,
    /// Files that the emulator has open for its guest beside the configuration's disks, such as
    /// those that a simulator attaches by its own commands. As with disks, a state comes back only
    /// to files that are what they were.
    pub files: Vec<OpenFile>,
}

/// A file that an emulator has open for its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// Where it is on the host.
    pub path: std::path::PathBuf,
    /// The guest may write it.
    pub writable: bool,
}

/// A state to come back from, in [`crate::LaunchSpec::image`].
#[derive(Clone, Debug)]
pub struct StateSource {
    /// The machine it belongs to.
    pub machine: Machine,
    /// The device stream: a file of its own, at its start. Verified already.
    pub device: Arc<OwnedFd>,
    /// The memory block, where it is kept apart.
    pub memory: Option<MemorySource>,
}

/// Memory to come back from.
#[derive(Clone, Debug)]
pub struct MemorySource {
    /// The block.
    pub layout: MemoryLayout,
    /// A file that holds the block and nothing else.
    pub file: Arc<OwnedFd>,
    /// The file is this domain's own (a memfd): it may be mapped shared and written. Otherwise it
    /// is an image that must never change, to be mapped privately.
    pub own: bool,
}
