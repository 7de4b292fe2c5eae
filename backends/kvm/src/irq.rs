//! Interrupt lines that keep a level.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_ioctls::VmFd;

/// A level-triggered line into KVM's interrupt controllers. Devices outlive a reset of the machine,
/// which makes a new KVM VM: the line is then connected anew. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Line {
    gsi: u32,
    level: Arc<AtomicBool>,
    vm: Arc<Mutex<Option<Arc<VmFd>>>>,
}

impl Line {
    /// The line of this number, not yet connected.
    #[must_use]
    pub fn new(gsi: u32) -> Self {
        Self { gsi, level: Arc::default(), vm: Arc::default() }
    }

    /// A line that leads nowhere, for tests of devices.
    #[cfg(test)]
    pub(crate) fn unconnected() -> Self {
        Self::new(0)
    }

    /// Leads it into a VM, in which it is low.
    pub fn connect(&self, vm: &Arc<VmFd>) {
        self.level.store(false, Ordering::Release);
        *self.vm.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(vm));
    }

    /// Sets the level.
    pub fn set(&self, level: bool) {
        if self.level.swap(level, Ordering::AcqRel) == level {
            return;
        }
        if let Some(vm) = self.vm.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
            && let Err(error) = vm.set_irq_line(self.gsi, level)
        {
            crate::log::line(&format!("cannot set interrupt line {}: {error}", self.gsi));
        }
    }

    /// Takes over the level that the interrupt controllers already have: after a restore.
    pub fn assume(&self, level: bool) {
        self.level.store(level, Ordering::Release);
    }

    /// The level.
    #[must_use]
    pub fn level(&self) -> bool {
        self.level.load(Ordering::Acquire)
    }
}
