//! The threads that put chunks where they belong and keep their digests true.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice, fallocate, posix_fadvise};

use super::buffer::{Buffer, CHUNK_LEN, Mask, PAGE_LEN, is_zero};
use super::reserve::{Reserve, retry};
use super::tree::{self, ALL_ZERO, GROUP_PAGES, GROUPS, Groups};
use super::{CHUNK, Digest, index};

/// Some hash while the others wait for the disk.
const WORKERS: u64 = 4;
/// Chunks on their way: one being filled, and two for each thread.
const BUFFERS: usize = 9;
/// From this many pages in a row on, the disk is given them directly. Below, the page cache puts
/// what is scattered together better than we could.
pub(super) const DIRECT: usize = 32;

/// So many bytes through the page cache before they are begun to be written.
const WRITEBACK: u64 = 8 << 20;

/// What became known of one chunk: pages with bytes in the buffer, and pages of zeros.
pub(super) struct Job {
    pub(super) chunk: u64,
    pub(super) buffer: Buffer,
    pub(super) data: Mask,
    pub(super) zero: Mask,
}

/// What the threads share.
struct Shared {
    /// Through the page cache, for reading too.
    file: File,
    /// Past it, where the file system can.
    direct: Option<File>,
    direct_works: AtomicBool,
    /// The group values of chunks that were written: kept so that a page that comes again costs
    /// its group and not its chunk. A file, because they are 2 MiB for each GiB of memory.
    scratch: File,
    /// Bytes that went through the page cache.
    cached: AtomicU64,
    /// Where memory begins in the file.
    base: u64,
    /// Bytes of the memory.
    size: u64,
    reserve: Arc<Reserve>,
    table: Mutex<Vec<Digest>>,
    failed: Mutex<Option<io::Error>>,
    stopped: AtomicBool,
}

/// The threads, and the way to them.
pub(super) struct Crew {
    shared: Arc<Shared>,
    /// A chunk always goes to the same thread, so that what came last for it is written last.
    queues: Vec<SyncSender<(Job, bool)>>,
    spare: Receiver<Buffer>,
    /// Buffers not made yet.
    unmade: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    pub(super) fn start(
        file: &File,
        scratch: File,
        base: u64,
        size: u64,
        reserve: Arc<Reserve>,
    ) -> io::Result<Self> {
        let chunks = usize::try_from(size.div_ceil(CHUNK)).map_err(io::Error::other)?;
        let direct = reopened(file, OFlag::O_DIRECT, true);
        let shared = Arc::new(Shared {
            file: file.try_clone()?,
            direct_works: AtomicBool::new(direct.is_some()),
            direct,
            scratch,
            cached: AtomicU64::new(0),
            base,
            size,
            reserve,
            table: Mutex::new(vec![ALL_ZERO; chunks]),
            failed: Mutex::new(None),
            stopped: AtomicBool::new(false),
        });
        let (back, spare) = channel();
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        for number in 0..WORKERS {
            let (queue, jobs) = sync_channel(BUFFERS);
            let (shared, back) = (Arc::clone(&shared), back.clone());
            let thread = std::thread::Builder::new()
                .name(format!("image-{number}"))
                .stack_size(256 << 10)
                .spawn(move || work(&shared, &jobs, &back))?;
            queues.push(queue);
            threads.push(thread);
        }
        Ok(Self { shared, queues, spare, unmade: BUFFERS, threads })
    }

    /// A buffer, when one is free.
    pub(super) fn buffer(&mut self) -> io::Result<Buffer> {
        if let Ok(buffer) = self.spare.try_recv() {
            return Ok(buffer);
        }
        if self.unmade > 0 {
            self.unmade -= 1;
            return Ok(Buffer::new());
        }
        self.spare.recv().map_err(|_| io::Error::other("the threads that write have ended"))
    }

    /// Hands a chunk over; `known` if one of the same number was handed over before.
    pub(super) fn put(&self, job: Job, known: bool) -> io::Result<()> {
        self.check()?;
        let queue = &self.queues[index(job.chunk % WORKERS)];
        queue.send((job, known)).map_err(|_| io::Error::other("a thread that writes has ended"))
    }

    /// The first failure of a thread.
    pub(super) fn check(&self) -> io::Result<()> {
        let failed = self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().map_or(Ok(()), |error| Err(same(error)))
    }

    /// Waits until all is written, and gives the digests of the chunks.
    pub(super) fn finish(mut self) -> io::Result<Vec<Digest>> {
        self.join();
        self.check()?;
        let mut table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut table))
    }

    fn join(&mut self) {
        self.queues.clear();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                self.shared.fail(io::Error::other("a thread that writes has panicked"));
            }
        }
    }
}

impl Drop for Crew {
    /// What is still queued is not written.
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.join();
    }
}

/// The same file again, with other flags; `None` where that is not to be had.
pub(super) fn reopened(file: &File, flags: OFlag, write: bool) -> Option<File> {
    use std::os::fd::AsRawFd;
    std::fs::OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(flags.bits())
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .ok()
}

/// An error once more: they cannot be copied.
fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(
        || io::Error::new(error.kind(), error.to_string()),
        io::Error::from_raw_os_error,
    )
}

fn work(shared: &Shared, jobs: &Receiver<(Job, bool)>, back: &Sender<Buffer>) {
    // Goes on after a failure without writing: whoever fills buffers must never wait for ever.
    for (mut job, known) in jobs {
        if !shared.stopped.load(Ordering::Relaxed)
            && let Err(error) = shared.process(&mut job, known)
        {
            shared.fail(error);
        }
        if back.send(job.buffer).is_err() {
            continue; // nobody fills buffers any more
        }
    }
}

impl Shared {
    fn fail(&self, error: io::Error) {
        self.stopped.store(true, Ordering::Relaxed);
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn process(&self, job: &mut Job, known: bool) -> io::Result<()> {
        let start = job.chunk * CHUNK;
        self.write(job, start)?;
        if known {
            self.punch(job, start)?;
        }
        let length = self.size.saturating_sub(start).min(CHUNK);
        let digest = if length < CHUNK {
            self.hash_tail(job, start, index(length))?
        } else {
            self.hash(job, start, known)?
        };
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table[index(job.chunk)] = digest;
        Ok(())
    }

    fn write(&self, job: &Job, start: u64) -> io::Result<()> {
        for run in job.data.runs() {
            let at = self.base + start + (run.start * PAGE_LEN) as u64;
            let bytes = job.buffer.pages(run.clone());
            if run.len() >= DIRECT
                && self.direct_works.load(Ordering::Relaxed)
                && let Some(direct) = &self.direct
            {
                match self.reserve.write(direct, bytes, at) {
                    Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                        self.direct_works.store(false, Ordering::Relaxed);
                    }
                    done => {
                        done?;
                        continue;
                    }
                }
            }
            self.reserve.write(&self.file, bytes, at)?;
            self.begin_writeback(bytes.len() as u64);
        }
        Ok(())
    }

    /// Has the kernel begin to write what is in the page cache, now and then: otherwise all of it
    /// would wait for the sync at the end, when the guest may be standing still.
    fn begin_writeback(&self, more: u64) {
        let before = self.cached.fetch_add(more, Ordering::Relaxed);
        if before / WRITEBACK == (before + more) / WRITEBACK {
            return;
        }
        let (start, length) = (self.base.cast_signed(), self.size.cast_signed());
        // Advice: where it is not taken, the sync does it all.
        if let Err(error) =
            posix_fadvise(&self.file, start, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
        {
            tracing::debug!(%error, "cannot begin to write an image back");
        }
    }

    /// Makes holes of pages that may have had bytes; where the file system has no holes, zeros.
    fn punch(&self, job: &Job, start: u64) -> io::Result<()> {
        for run in job.zero.runs() {
            let at = self.base + start + (run.start * PAGE_LEN) as u64;
            let end = self.base + self.size.min(start + (run.end * PAGE_LEN) as u64);
            let length = end.saturating_sub(at);
            if length == 0 {
                continue;
            }
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let (from, count) = (at.cast_signed(), length.cast_signed());
            match retry(|| fallocate(&self.file, flags, from, count)) {
                Ok(()) => {}
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                    self.reserve.write(&self.file, &vec![0; index(length)], at)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The digest of a whole chunk: the groups that the job touches anew, the others as they were.
    fn hash(&self, job: &mut Job, start: u64, known: bool) -> io::Result<Digest> {
        let mut groups: Groups = *tree::zeros();
        let place = job.chunk * size_of::<Groups>() as u64;
        if known {
            self.scratch.read_exact_at(groups.as_flattened_mut(), place)?;
        }
        for (group, value) in groups.iter_mut().enumerate() {
            let pages = group * GROUP_PAGES..(group + 1) * GROUP_PAGES;
            if !job.data.any(pages.clone()) && !job.zero.any(pages.clone()) {
                continue;
            }
            if known {
                self.fetch(job, start, pages.clone())?;
            } else {
                tree::fill(&mut job.buffer, &job.data, pages.clone());
            }
            let bytes = job.buffer.pages(pages.clone());
            // Pages of data hold something: those without were sorted out when they came.
            let zero = !job.data.any(pages) && (!known || is_zero(bytes));
            *value = if zero { tree::zeros()[group] } else { tree::value(group, bytes) };
        }
        self.reserve.write(&self.scratch, groups.as_flattened(), place)?;
        Ok(tree::root(&groups))
    }

    /// Fills the buffer up with pages that came earlier.
    fn fetch(&self, job: &mut Job, start: u64, pages: std::ops::Range<usize>) -> io::Result<()> {
        for page in pages {
            if job.zero.has(page) {
                job.buffer.pages_mut(page..page + 1).fill(0);
            } else if !job.data.has(page) {
                let at = self.base + start + (page * PAGE_LEN) as u64;
                self.file.read_exact_at(job.buffer.pages_mut(page..page + 1), at)?;
            }
        }
        Ok(())
    }

    /// The digest of the last chunk where it is not a whole one. There is one of them: it is read
    /// again each time.
    fn hash_tail(&self, job: &mut Job, start: u64, length: usize) -> io::Result<Digest> {
        debug_assert!(length < CHUNK_LEN && GROUPS > 1);
        let bytes = &mut job.buffer.bytes_mut()[..length];
        self.file.read_exact_at(bytes, self.base + start)?;
        Ok(if is_zero(bytes) { ALL_ZERO } else { blake3::hash(bytes).into() })
    }
}
