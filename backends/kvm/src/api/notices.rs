//! What happens in a machine, on its way to those who are connected.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustix::event::{EventfdFlags, eventfd};

use super::control::MigrationStatus;

/// Notices that may wait. The api thread takes them at once; should it be held up, those that a
/// guest can make any number of are dropped beyond this.
const MAX_WAITING: usize = 1024;

/// Why a machine ended or was reset, by QEMU's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The guest switched itself off.
    GuestShutdown,
    /// The guest asked for a reset.
    GuestReset,
    /// A processor gave up: three faults in one another. Some kernels reboot in this way, so it is
    /// handled as a reset; QEMU has no word of its own for it.
    GuestTripleFault,
    /// The guest panicked.
    GuestPanic,
    /// `quit`.
    HostQmpQuit,
    /// `system_reset`.
    HostQmpSystemReset,
    /// A signal.
    HostSignal,
    /// The process cannot go on.
    HostError,
}

impl Cause {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GuestShutdown => "guest-shutdown",
            Self::GuestReset => "guest-reset",
            Self::GuestTripleFault => "guest-triple-fault",
            Self::GuestPanic => "guest-panic",
            Self::HostQmpQuit => "host-qmp-quit",
            Self::HostQmpSystemReset => "host-qmp-system-reset",
            Self::HostSignal => "host-signal",
            Self::HostError => "host-error",
        }
    }

    /// Whether it came from inside.
    #[must_use]
    pub const fn guest(self) -> bool {
        matches!(
            self,
            Self::GuestShutdown | Self::GuestReset | Self::GuestTripleFault | Self::GuestPanic
        )
    }
}

/// What follows a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicAction {
    /// The machine stands still.
    Pause,
    /// The process ends.
    Poweroff,
}

impl PanicAction {
    /// QEMU's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Poweroff => "poweroff",
        }
    }
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The processors stopped.
    Stop,
    /// They go on.
    Resume,
    /// The machine was reset.
    Reset(Cause),
    /// The machine ends, or would if it were not told to stand still.
    Shutdown(Cause),
    /// The power button was pressed.
    Powerdown,
    /// The guest panicked. `Shutdown` follows where the process ends.
    Panicked(PanicAction),
    /// The guest panicked and handles that by itself: it saves a dump of its own.
    CrashLoaded,
    /// A device is gone.
    DeviceDeleted(String),
    /// The guest has another amount of memory now, in bytes.
    BalloonChange(u64),
    /// A disk could not be read or written, as the guest has been told. At most one in a second for
    /// each device.
    BlockIoError {
        /// The device.
        device: String,
        /// A write; otherwise a read.
        write: bool,
        /// The system's words.
        reason: String,
    },
    /// A save has reached this.
    Migration(MigrationStatus),
    /// A save begins this pass over memory; the first has number 1.
    MigrationPass(u64),
    /// The process is to end with this status: the last notice.
    Exit(u8),
}

impl What {
    /// Whether a guest can bring about any number of these.
    const fn of_no_account(&self) -> bool {
        matches!(self, Self::BlockIoError { .. })
    }
}

/// A notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// When it happened.
    pub at: SystemTime,
    /// What.
    pub what: What,
}

/// Where the threads of a machine tell what happens, and the api thread hears it. Cloning shares
/// it.
#[derive(Clone, Debug)]
pub struct Notices(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Mutex<VecDeque<Notice>>,
    wake: OwnedFd,
}

impl Notices {
    /// An empty board.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Inner { queue: Mutex::default(), wake })))
    }

    /// Tells something that happens now. Never waits for who hears it.
    pub fn post(&self, what: What) {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let What::BalloonChange(_) = what {
            // What it was before is of no interest to who has not heard it yet; the last is never
            // dropped.
            queue.retain(|waiting| !matches!(waiting.what, What::BalloonChange(_)));
        } else if what.of_no_account() && queue.len() >= MAX_WAITING {
            return;
        }
        queue.push_back(Notice { at: SystemTime::now(), what });
        drop(queue);
        self.wake();
    }

    /// Has the api thread look, for one that has a way of its own to leave it a notice.
    pub fn wake(&self) {
        // Full is as good as written: the reader is woken either way.
        let _full = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
    }

    /// Has the descriptor stop being readable until the next notice or [`wake`](Self::wake). What was
    /// told before is still there to be taken.
    pub fn calm(&self) {
        let mut count = [0; 8];
        let _calm_already = rustix::io::read(&self.0.wake, &mut count);
    }

    /// Everything told since the last call, in its order.
    #[must_use]
    pub fn take(&self) -> Vec<Notice> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

impl AsFd for Notices {
    /// Readable from a notice on, until [`Notices::calm`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn readable(notices: &Notices) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(notices, PollFlags::IN)], Some(&now)).unwrap() == 1
    }

    #[test]
    fn what_is_told_on_any_thread_is_heard_in_its_order() {
        let notices = Notices::new().unwrap();
        assert!(!readable(&notices) && notices.take().is_empty());
        let other = notices.clone();
        std::thread::spawn(move || {
            other.post(What::Stop);
            other.post(What::Exit(0));
        })
        .join()
        .unwrap();
        assert!(readable(&notices));
        let heard: Vec<_> = notices.take().into_iter().map(|notice| notice.what).collect();
        assert_eq!(heard, [What::Stop, What::Exit(0)]);
        notices.calm();
        assert!(!readable(&notices));
    }

    #[test]
    fn what_a_guest_repeats_is_bounded_and_an_end_is_told_all_the_same() {
        let notices = Notices::new().unwrap();
        for _ in 0..MAX_WAITING + 10 {
            let (device, reason) = ("vda".to_owned(), String::new());
            notices.post(What::BlockIoError { device, write: true, reason });
        }
        for bytes in 0..10 {
            notices.post(What::BalloonChange(bytes));
        }
        notices.post(What::Exit(1));
        let heard = notices.take();
        assert_eq!(heard.len(), MAX_WAITING + 2);
        let last: Vec<_> = heard.into_iter().skip(MAX_WAITING).map(|notice| notice.what).collect();
        assert_eq!(last, [What::BalloonChange(9), What::Exit(1)], "the latest of a balloon");
    }
}
