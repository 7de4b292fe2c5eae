//! What a device tells its driver: that buffers were used, that its configuration changed, that it
//! must be reset.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// Buffers were used.
pub(crate) const USED: u32 = 1;
/// The configuration, or the status, has changed.
pub(crate) const CHANGED: u32 = 2;

/// The interrupt of one device. The registers read it, the device's thread raises it.
#[derive(Debug)]
pub struct Signal {
    status: AtomicU32,
    broken: AtomicBool,
    irq: EventFd,
}

impl Signal {
    pub(crate) fn new(irq: EventFd) -> Self {
        Self { status: AtomicU32::new(0), broken: AtomicBool::new(false), irq }
    }

    /// Tells the driver that buffers were used.
    pub fn used(&self) {
        self.raise(USED);
    }

    /// Tells the driver that the configuration has changed.
    pub fn changed(&self) {
        self.raise(CHANGED);
    }

    fn raise(&self, cause: u32) {
        self.status.fetch_or(cause, Ordering::SeqCst);
        self.fire();
    }

    /// The line again, for what is not acknowledged: an edge may have been lost on the way
    /// through a saved state.
    pub(crate) fn again(&self) {
        if self.status() != 0 {
            self.fire();
        }
    }

    fn fire(&self) {
        // The counter of an event descriptor is full only after 2^64 interrupts that nobody took.
        drop(self.irq.write(1));
    }

    pub(crate) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    pub(crate) fn acknowledge(&self, causes: u32) {
        self.status.fetch_and(!causes, Ordering::SeqCst);
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }

    /// The device cannot go on: `DEVICE_NEEDS_RESET`.
    pub(crate) fn set_broken(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    pub(crate) fn restore(&self, status: u32, broken: bool) {
        self.status.store(status, Ordering::SeqCst);
        self.broken.store(broken, Ordering::SeqCst);
    }

    pub(crate) fn clear(&self) {
        self.restore(0, false);
    }
}
