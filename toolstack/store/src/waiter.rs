//! Waiting for a flock(2) in the kernel's own queue, and yet not for ever.
//!
//! A flock(2) that blocks has no deadline: a writer that was stopped in the middle (Ctrl-Z) would
//! hold up everybody on the host. Asking again and again has no queue, and starves some of a
//! thousand. So a thread blocks in the caller's place and hands the lock over, and the caller
//! waits for the thread with a deadline.
//!
//! Each waiter has an open file description of its own, because that is what a lock belongs to: a
//! waiter whose caller has given up can neither get nor end what a later caller holds. It stays in
//! the queue, lets go of the lock as soon as it gets it, and is taken up by the next caller in
//! this process that waits for the same file: a lock that is never let go costs one thread, not
//! one for each try.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A file: device and inode.
type FileId = (u64, u64);

/// One thread that blocks in flock(2).
#[derive(Debug)]
struct Waiter {
    file: FileId,
    state: Mutex<State>,
    told: Condvar,
}

#[derive(Debug)]
enum State {
    /// A caller waits for it.
    Wanted,
    /// Its caller has given up.
    Left,
    /// It has the lock, or cannot have it.
    Done(io::Result<File>),
}

/// The waiters whose callers gave up. Locked before the state of any of them.
static LEFT: Mutex<Vec<Arc<Waiter>>> = Mutex::new(Vec::new());

/// Waits for the lock on this file for at most `patience` and gives the description that holds it,
/// which is not the one of `file`; `None` when the time has passed.
///
/// # Errors
/// When the file cannot be opened again, a thread cannot be made, or flock(2) fails.
pub(crate) fn wait(file: &File, patience: Duration) -> io::Result<Option<File>> {
    let until = Instant::now().checked_add(patience);
    Waiter::find(file)?.wait(until)
}

impl Waiter {
    /// A waiter that nobody waits for any more, or a new one.
    fn find(file: &File) -> io::Result<Arc<Self>> {
        let id = id(file)?;
        {
            let mut left = hold(&LEFT);
            if let Some(at) = left.iter().position(|waiter| waiter.file == id) {
                let waiter = left.swap_remove(at);
                *hold(&waiter.state) = State::Wanted;
                return Ok(waiter);
            }
        }
        // Read-only, which a lock does not mind: nobody is to take its closing for a write.
        let own = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let state = Mutex::new(State::Wanted);
        let waiter = Arc::new(Self { file: id, state, told: Condvar::new() });
        let theirs = Arc::clone(&waiter);
        std::thread::Builder::new()
            .name("kxl-lock".into())
            // It makes one system call.
            .stack_size(64 * 1024)
            .spawn(move || theirs.run(own))?;
        Ok(waiter)
    }

    /// The thread.
    fn run(self: &Arc<Self>, file: File) {
        let outcome = loop {
            match file.lock() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let mut left = hold(&LEFT);
        let mut state = hold(&self.state);
        if matches!(*state, State::Wanted) {
            *state = State::Done(outcome.map(|()| file));
            self.told.notify_one();
            return;
        }
        left.retain(|waiter| !Arc::ptr_eq(waiter, self));
        drop((state, left));
        // Not merely closed: a child forked meanwhile may hold a copy of the descriptor.
        if let Err(error) = outcome.and_then(|()| file.unlock()) {
            tracing::warn!(%error, "cannot let go of a lock that nobody waits for any more");
        }
    }

    fn wait(self: Arc<Self>, until: Option<Instant>) -> io::Result<Option<File>> {
        let mut state = hold(&self.state);
        loop {
            if let Some(outcome) = state.take() {
                return outcome.map(Some);
            }
            state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.told.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => break,
                Some(left) => {
                    let woken = self.told.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        drop(state);
        let mut left = hold(&LEFT);
        let mut state = hold(&self.state);
        // It may have come in between.
        if let Some(outcome) = state.take() {
            return outcome.map(Some);
        }
        *state = State::Left;
        drop(state);
        left.push(self);
        Ok(None)
    }
}

impl State {
    fn take(&mut self) -> Option<io::Result<File>> {
        matches!(self, Self::Done(_)).then(|| match std::mem::replace(self, Self::Left) {
            Self::Done(outcome) => outcome,
            Self::Wanted | Self::Left => unreachable!("looked at above"),
        })
    }
}

fn id(file: &File) -> io::Result<FileId> {
    let meta = file.metadata()?;
    Ok((meta.dev(), meta.ino()))
}

/// Nothing that could panic is done under these locks.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;

    use super::*;

    const SOON: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(60);

    /// Opens an unnamed file twice: as its holder and as somebody else.
    fn file() -> (File, File) {
        let path = std::env::temp_dir();
        let file = nix::fcntl::OFlag::O_TMPFILE | nix::fcntl::OFlag::O_RDWR;
        let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
        let holder: File = nix::fcntl::open(&path, file, mode).unwrap().into();
        let other = File::open(format!("/proc/self/fd/{}", holder.as_raw_fd())).unwrap();
        (holder, other)
    }

    fn waiting(file: &File) -> usize {
        let id = id(file).unwrap();
        hold(&LEFT).iter().filter(|waiter| waiter.file == id).count()
    }

    #[test]
    fn tries_that_give_up_leave_one_thread_which_lets_go_when_its_turn_comes() {
        let (holder, other) = file();
        holder.lock().unwrap();
        for _ in 0..5 {
            assert!(wait(&other, SOON).unwrap().is_none());
            assert_eq!(waiting(&other), 1);
        }
        holder.unlock().unwrap();
        // Would wait for ever if it kept the lock.
        other.lock().unwrap();
        other.unlock().unwrap();
        // It is no longer found before it lets go.
        while waiting(&other) > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_a_later_caller_holds_does_not_end_with_a_waiter_that_was_left() {
        let (holder, other) = file();
        holder.lock().unwrap();
        assert!(wait(&other, SOON).unwrap().is_none());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let lock = wait(&other, LONG).unwrap().unwrap();
                    assert!(matches!(holder.try_lock(), Err(TryLockError::WouldBlock)));
                    lock.unlock().unwrap();
                });
            }
            holder.unlock().unwrap();
        });
        assert_eq!(waiting(&other), 0);
    }

    #[test]
    fn a_waiter_of_one_file_is_not_taken_up_for_another() {
        let (one, one_again) = file();
        let (two, two_again) = file();
        one.lock().unwrap();
        two.lock().unwrap();
        assert!(wait(&one_again, SOON).unwrap().is_none());
        std::thread::scope(|scope| {
            let got = scope.spawn(|| wait(&two_again, LONG).unwrap().unwrap());
            two.unlock().unwrap();
            assert_eq!(id(&got.join().unwrap()).unwrap(), id(&two).unwrap());
        });
        assert_eq!(waiting(&one), 1);
        one.unlock().unwrap();
    }
}
