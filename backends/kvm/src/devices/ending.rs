//! How a guest's run came to its end, told once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The ways a guest ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// It switched itself off through ACPI.
    Poweroff = 1,
    /// It asked for a reset: ACPI's register or the keyboard controller's line.
    Reset = 2,
    /// A processor gave up: three faults in one another. Some kernels reboot in this way.
    TripleFault = 3,
    /// It said that it panicked.
    Panic = 4,
    /// KVM cannot go on with it.
    Broken = 5,
}

impl End {
    const ALL: [Self; 5] =
        [Self::Poweroff, Self::Reset, Self::TripleFault, Self::Panic, Self::Broken];
}

/// Where devices and processors say that the guest has ended; the first word counts until it is
/// taken back. Cloning shares it.
#[derive(Clone)]
pub struct Ending {
    how: Arc<AtomicU8>,
    /// Called once for every end, on the thread that tells it.
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ending").field(&self.how()).finish()
    }
}

impl Ending {
    /// Nothing has ended; `wake` is called when something has.
    #[must_use]
    pub fn new(wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { how: Arc::default(), wake }
    }

    /// The guest has ended in this way, unless it has ended already.
    pub fn tell(&self, how: End) {
        let first = self.how.compare_exchange(0, how as u8, Ordering::AcqRel, Ordering::Acquire);
        if first.is_ok() {
            (self.wake)();
        }
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn how(&self) -> Option<End> {
        let how = self.how.load(Ordering::Acquire);
        End::ALL.into_iter().find(|end| *end as u8 == how)
    }

    /// Whether it ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.how.load(Ordering::Acquire) != 0
    }

    /// It begins anew.
    pub fn forget(&self) {
        self.how.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_counts_until_a_new_beginning() {
        let woken = Arc::new(AtomicU8::new(0));
        let count = Arc::clone(&woken);
        let ending = Ending::new(Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        assert_eq!(ending.how(), None);
        ending.tell(End::Panic);
        ending.tell(End::Reset);
        assert_eq!(ending.how(), Some(End::Panic));
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        ending.forget();
        assert!(!ending.is_over());
        ending.tell(End::Reset);
        assert_eq!(ending.how(), Some(End::Reset));
    }
}
