//! Virtio devices behind memory-mapped registers (virtio 1.2, section 4.2, version 2 only).
//!
//! A device is a [`Device`]: what it offers and what it does with its queues. [`attach`] gives it a
//! thread of its own, which alone touches it, and a [`Transport`], which the guest sees on the bus.
//! Whoever wants something of a device sends its thread an order through a [`Handle`]: a disk to
//! plug, a pause, a state. A thread that has answered a pause waits for the next order and for
//! nothing else, so that nothing of the device touches guest memory until it is resumed.

pub mod balloon;
pub mod block;
pub mod console;
#[allow(unsafe_code, reason = "advice about guest memory")]
mod discard;
pub mod errors;
#[allow(unsafe_code, reason = "vectored reads and writes straight from and to guest memory")]
pub(crate) mod io;
pub mod net;
pub mod queue;
pub mod rng;
pub mod signal;
pub mod space;
pub mod state;
pub mod transport;
pub mod worker;

#[cfg(test)]
pub(crate) mod driver;
#[cfg(test)]
mod tests;

use std::io as stdio;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::memory::Memory;

pub use errors::{Errors, Log, Observer, Told};
pub use queue::QueueError;
pub use space::Space;
pub use state::{DeviceState, State, StateError};
pub use transport::{Notify, Transport};
pub use worker::{Env, Gone, Handle};

/// The device speaks virtio 1.0 or later; without it a driver is refused.
pub const VERSION_1: u64 = 1 << 32;
/// Descriptors may be in a table of their own.
pub const INDIRECT_DESC: u64 = 1 << 28;
/// Either side says from which entry on it wants to be told.
pub const EVENT_IDX: u64 = 1 << 29;

/// What every device of ours offers.
pub const COMMON_FEATURES: u64 = VERSION_1 | INDIRECT_DESC | EVENT_IDX;

/// A virtio device. Only its own thread calls it.
pub trait Device: std::fmt::Debug + Send + Sized + 'static {
    /// The number of its kind (virtio 1.2, section 5).
    const ID: u32;

    /// The features it offers; the same for the whole life of the machine.
    fn features(&self) -> u64;

    /// The largest size of each of its queues.
    fn queues(&self) -> Vec<u16>;

    /// Its configuration space as it is at the start.
    fn space(&self) -> Space;

    /// The thread has begun; no driver is there.
    fn begin(&mut self, env: &mut Env) {
        let _nothing_to_watch = env;
    }

    /// The driver is there: features and queues are in `env`.
    fn activate(&mut self, env: &mut Env);

    /// The driver is gone, or its queues can no longer be trusted. They are still in `env`, but
    /// may not be used.
    fn deactivate(&mut self, env: &mut Env) {
        let _nothing_held = env;
    }

    /// There may be something in a queue.
    ///
    /// # Errors
    /// When the queue makes no sense: the driver has to reset the device.
    fn serve(&mut self, queue: usize, env: &mut Env) -> Result<(), QueueError>;

    /// What was watched under this token is ready.
    ///
    /// # Errors
    /// As for [`Device::serve`].
    fn ready(&mut self, token: u64, env: &mut Env) -> Result<(), QueueError> {
        let _nothing_watched = (token, env);
        Ok(())
    }

    /// The driver has written into the configuration space.
    fn written(&mut self, env: &mut Env) {
        let _of_no_interest = env;
    }

    /// It is the time that was given to [`Env::wake_at`].
    fn woken(&mut self, env: &mut Env) {
        let _nothing_waited_for = env;
    }

    /// Finishes or puts back whatever is in flight: afterwards nothing touches guest memory.
    ///
    /// # Errors
    /// As for [`Device::serve`].
    fn pause(&mut self, env: &mut Env) -> Result<(), QueueError> {
        let _nothing_in_flight = env;
        Ok(())
    }

    /// Goes on. Every queue is served afterwards.
    fn resume(&mut self, env: &mut Env) {
        let _nothing_stood_still = env;
    }

    /// What is to be known besides registers and queues. Only while paused. What the driver believes
    /// to be written is written for good afterwards.
    ///
    /// # Errors
    /// When it cannot be; the device can go on all the same.
    fn save(&mut self, env: &mut Env) -> Result<DeviceState, StateError>;

    /// Takes such a state back, before the device is activated.
    ///
    /// # Errors
    /// When it is that of another kind of device, or does not fit.
    fn load(&mut self, state: DeviceState, env: &mut Env) -> Result<(), StateError>;
}

/// What a device is attached to.
#[derive(Debug)]
pub struct Setup {
    /// The name of its thread, and in messages.
    pub name: String,
    /// Guest memory.
    pub memory: Memory,
    /// An irqfd of the slot's interrupt.
    pub irq: EventFd,
    /// Where messages go.
    pub log: Log,
    /// Who is told of what happens.
    pub observer: Observer,
}

/// Starts a device's thread and makes the registers that the guest sees.
///
/// # Errors
/// The system's refusal of an event descriptor or a thread.
pub fn attach<D: Device>(device: D, setup: Setup) -> stdio::Result<(Transport, Arc<Handle<D>>)> {
    let (features, sizes, id) = (device.features(), device.queues(), D::ID);
    let space = Arc::new(device.space());
    let (handle, board) = worker::start(device, setup, &sizes, space)?;
    let handle = Arc::new(handle);
    Ok((Transport::new(id, features, &sizes, board, handle.clone()), handle))
}
