//! The thread of a device, and the orders it takes.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use thiserror::Error;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::errors::{self, Errors, Observer};
use super::queue::VirtQueue;
use super::signal::Signal;
use super::space::Space;
use super::state::QueueState;
use super::{Device, DeviceState, QueueError, Setup, StateError};
use crate::memory::Memory;
use crate::thread::{self, Kind};

/// The thread of a device has ended, which it does only together with the machine.
#[derive(Clone, Copy, Debug, Error)]
#[error("the thread of the device has ended")]
pub struct Gone;

/// Tokens of a device's own begin here; below are the queues.
const OWN: u64 = 1 << 16;

/// The token of the orders.
const ORDERS: u64 = u64::MAX;

/// The token of the configuration space.
const WRITTEN: u64 = u64::MAX - 1;

/// Edges: a bell that was rung need not be read to be silent again.
const EDGE: EventSet = EventSet::IN.union(EventSet::EDGE_TRIGGERED);

/// What the thread and the registers share.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) memory: Memory,
    pub(crate) signal: Arc<Signal>,
    pub(crate) space: Arc<Space>,
    pub(crate) errors: Arc<Errors>,
    /// What the guest rings, one for each queue.
    pub(crate) bells: Vec<EventFd>,
    /// Rung when the driver has written into the configuration space.
    pub(crate) written: EventFd,
}

/// What a device works with.
#[derive(Debug)]
pub struct Env {
    /// Guest memory.
    pub memory: Memory,
    /// The interrupt.
    pub signal: Arc<Signal>,
    /// The configuration space.
    pub space: Arc<Space>,
    /// What the guest does wrong.
    pub errors: Arc<Errors>,
    /// Who is told of what happens.
    pub observer: Observer,
    /// What was negotiated; 0 while there is no driver.
    pub features: u64,
    /// The queues that the driver has set up, by number; none while there is no driver.
    pub queues: Vec<Option<VirtQueue>>,
    bells: Vec<EventFd>,
    epoll: Epoll,
    /// When the device wants to be called, if nothing else comes.
    alarm: Option<Instant>,
    active: bool,
    paused: bool,
}

impl Env {
    /// Whether a driver is there.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// Whether a driver is there and the machine does not stand still.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.active && !self.paused
    }

    /// Has [`Device::ready`] called with `token` when `events` are there.
    ///
    /// # Errors
    /// The system's refusal.
    pub fn watch(&self, fd: &impl AsRawFd, token: u64, events: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Add, fd.as_raw_fd(), token, events)
    }

    /// Changes what is watched.
    ///
    /// # Errors
    /// The system's refusal.
    pub fn rewatch(&self, fd: &impl AsRawFd, token: u64, events: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Modify, fd.as_raw_fd(), token, events)
    }

    /// Ends it. What is not watched may be given.
    pub fn unwatch(&self, fd: &impl AsRawFd) {
        drop(self.control(ControlOperation::Delete, fd.as_raw_fd(), 0, EventSet::empty()));
    }

    fn control(
        &self,
        operation: ControlOperation,
        fd: RawFd,
        token: u64,
        events: EventSet,
    ) -> io::Result<()> {
        self.epoll.ctl(operation, fd, EpollEvent::new(events, OWN + token))
    }

    /// Whether the driver's ringing for a queue is heard here; somebody else may listen to it.
    pub fn listen_to(&self, queue: usize, heard: bool) {
        let (Some(bell), Ok(token)) = (self.bells.get(queue), u64::try_from(queue)) else { return };
        let operation = if heard { ControlOperation::Add } else { ControlOperation::Delete };
        // It may be so already.
        drop(self.epoll.ctl(operation, bell.as_raw_fd(), EpollEvent::new(EDGE, token)));
    }

    /// What the driver rings for a queue.
    #[must_use]
    pub fn bell(&self, queue: usize) -> Option<&EventFd> {
        self.bells.get(queue)
    }

    /// Has a queue served again as if the driver had rung.
    pub fn again(&self, queue: usize) {
        if let Some(bell) = self.bells.get(queue) {
            drop(bell.write(1));
        }
    }

    /// Has [`Device::woken`] called at this time, or as soon as the machine goes on after it. One
    /// that is set already stays.
    pub fn wake_at(&mut self, time: Instant) {
        self.alarm.get_or_insert(time);
    }

    /// The milliseconds that may be waited for events; -1 is for ever.
    fn patience(&self) -> i32 {
        let left = |alarm: Instant| alarm.saturating_duration_since(Instant::now());
        // One more: what is rounded down would be waited for in circles.
        self.alarm
            .map_or(-1, |alarm| i32::try_from(left(alarm).as_millis() + 1).unwrap_or(i32::MAX))
    }

    /// Interrupts the driver, if it wants to know of what was given back.
    ///
    /// # Errors
    /// When the ring is not in memory.
    pub fn signal_used(&mut self, queue: usize) -> Result<(), QueueError> {
        if let Some(Some(ring)) = self.queues.get_mut(queue)
            && ring.wants_signal(&self.memory)?
        {
            self.signal.used();
        }
        Ok(())
    }

    /// Tells the driver, if there is one, that the configuration has changed.
    pub fn signal_changed(&self) {
        if self.active {
            self.signal.changed();
        }
    }
}

type Order<D> = Box<dyn FnOnce(&mut Worker<D>) + Send>;

/// What runs on the thread.
#[derive(Debug)]
pub(crate) struct Worker<D: Device> {
    device: D,
    env: Env,
    orders: Receiver<Order<D>>,
    bell: EventFd,
    /// The driver has written into the configuration space, and was heard during a pause.
    written: bool,
    ended: bool,
}

impl<D: Device> Worker<D> {
    fn run(mut self) {
        self.device.begin(&mut self.env);
        let mut events = [EpollEvent::default(); 16];
        while !self.ended {
            if self.env.paused {
                match self.orders.recv() {
                    Ok(order) => order(&mut self),
                    Err(_) => return,
                }
                continue;
            }
            let patience = self.env.patience();
            let count = match self.env.epoll.wait(patience, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Not possible with a descriptor and a buffer of our own; without events there
                // is nothing to serve.
                Err(_) => return,
            };
            for event in events.iter().take(count) {
                self.take(event.data());
            }
            if !self.env.paused
                && let Some(alarm) = self.env.alarm
                && alarm <= Instant::now()
            {
                self.env.alarm = None;
                self.device.woken(&mut self.env);
            }
        }
    }

    fn take(&mut self, token: u64) {
        if token == ORDERS {
            while let Ok(order) = self.orders.try_recv() {
                order(self);
            }
        } else if self.env.paused || self.ended {
            // Resuming serves every queue; what is watched is still ready then. This would be lost.
            self.written |= token == WRITTEN;
        } else if token == WRITTEN {
            self.device.written(&mut self.env);
        } else if token >= OWN {
            let served = self.device.ready(token - OWN, &mut self.env);
            self.check(served);
        } else if self.env.active
            && let Ok(queue) = usize::try_from(token)
        {
            let served = self.device.serve(queue, &mut self.env);
            self.check(served);
        }
    }

    /// A queue that makes no sense: nothing more is taken out of any until the driver has reset
    /// the device.
    fn check(&mut self, served: Result<(), QueueError>) {
        let Err(error) = served else { return };
        self.env.errors.report(|| errors::chain(&error));
        if self.env.active {
            self.device.deactivate(&mut self.env);
            self.env.active = false;
            self.env.signal.set_broken();
            self.env.signal.changed();
        }
    }

    fn activate(&mut self, features: u64, queues: Vec<Option<VirtQueue>>) {
        self.env.features = features;
        self.env.queues = queues;
        self.env.active = true;
        self.device.activate(&mut self.env);
        self.serve_all();
    }

    fn serve_all(&self) {
        for queue in 0..self.env.bells.len() {
            self.env.again(queue);
        }
    }

    fn reset(&mut self) {
        if self.env.active {
            self.device.deactivate(&mut self.env);
        }
        self.env.active = false;
        self.env.features = 0;
        self.env.queues.clear();
        self.env.signal.clear();
    }

    fn pause(&mut self) {
        if !self.env.paused {
            let paused = self.device.pause(&mut self.env);
            self.check(paused);
            self.env.paused = true;
        }
    }

    fn resume(&mut self) {
        if self.env.paused {
            self.env.paused = false;
            self.device.resume(&mut self.env);
            // Orders that came while it stood still have rung, but were taken without a look.
            drop(self.bell.write(1));
            self.serve_all();
            self.env.signal.again();
            if std::mem::take(&mut self.written) {
                self.device.written(&mut self.env);
            }
        }
    }
}

/// The way to a device's thread. The thread ends with the last of them.
#[derive(Debug)]
pub struct Handle<D: Device> {
    orders: Sender<Order<D>>,
    bell: EventFd,
    errors: Arc<Errors>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<D: Device> Handle<D> {
    /// Has something done on the device's thread, paused or not, and waits for it.
    ///
    /// # Errors
    /// When the thread has ended.
    pub fn call<R: Send + 'static>(
        &self,
        what: impl FnOnce(&mut D, &mut Env) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        self.order(|worker| what(&mut worker.device, &mut worker.env))
    }

    fn order<R: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Worker<D>) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        let (answer, answered) = sync_channel(1);
        let order: Order<D> = Box::new(move |worker| drop(answer.send(what(worker))));
        self.orders.send(order).map_err(|_| Gone)?;
        self.bell.write(1).map_err(|_| Gone)?;
        answered.recv().map_err(|_| Gone)
    }

    /// Errors of the guest so far.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.count()
    }
}

impl<D: Device> Drop for Handle<D> {
    fn drop(&mut self) {
        let _or_ended_already = self.order(|worker| worker.ended = true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            drop(thread.join());
        }
    }
}

/// What the registers want of a device's thread, whatever the device.
pub(crate) trait Work: Send + Sync + std::fmt::Debug {
    fn activate(&self, features: u64, queues: Vec<Option<VirtQueue>>) -> Result<(), Gone>;
    fn reset(&self) -> Result<(), Gone>;
    fn pause(&self) -> Result<(), Gone>;
    fn resume(&self) -> Result<(), Gone>;
    /// The queues in use, by number, and what is the device's own.
    fn save(&self) -> Result<(Vec<Option<QueueState>>, DeviceState), StateError>;
    /// Takes the device's own back.
    fn load(&self, state: DeviceState) -> Result<(), StateError>;
}

impl<D: Device> Work for Handle<D> {
    fn activate(&self, features: u64, queues: Vec<Option<VirtQueue>>) -> Result<(), Gone> {
        self.order(move |worker| worker.activate(features, queues))
    }

    fn reset(&self) -> Result<(), Gone> {
        self.order(Worker::reset)
    }

    fn pause(&self) -> Result<(), Gone> {
        self.order(Worker::pause)
    }

    fn resume(&self) -> Result<(), Gone> {
        self.order(Worker::resume)
    }

    fn save(&self) -> Result<(Vec<Option<QueueState>>, DeviceState), StateError> {
        self.order(|worker| {
            let device = worker.device.save(&mut worker.env)?;
            let queues = worker.env.queues.iter();
            Ok((queues.map(|queue| queue.as_ref().map(VirtQueue::state)).collect(), device))
        })
        .map_err(StateError::Gone)?
    }

    fn load(&self, state: DeviceState) -> Result<(), StateError> {
        self.order(move |worker| worker.device.load(state, &mut worker.env))
            .map_err(StateError::Gone)?
    }
}

/// Starts the thread of a device.
pub(crate) fn start<D: Device>(
    device: D,
    setup: Setup,
    sizes: &[u16],
    space: Arc<Space>,
) -> io::Result<(Handle<D>, Board)> {
    let bells = sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK)).collect::<io::Result<Vec<_>>>()?;
    let copies = || bells.iter().map(EventFd::try_clone).collect::<io::Result<Vec<_>>>();
    let signal = Arc::new(Signal::new(setup.irq));
    let errors = Arc::new(Errors::new(&setup.name, setup.log));
    let (orders, received) = channel();
    let bell = EventFd::new(EFD_NONBLOCK)?;
    let epoll = Epoll::new()?;
    let add = |bell: &EventFd, token| {
        epoll.ctl(ControlOperation::Add, bell.as_raw_fd(), EpollEvent::new(EDGE, token))
    };
    add(&bell, ORDERS)?;
    let written = EventFd::new(EFD_NONBLOCK)?;
    add(&written, WRITTEN)?;
    for (token, bell) in (0..).zip(&bells) {
        add(bell, token)?;
    }
    let board = Board {
        memory: setup.memory.clone(),
        signal: signal.clone(),
        space: space.clone(),
        errors: errors.clone(),
        bells: copies()?,
        written,
    };
    let env = Env {
        memory: setup.memory,
        signal,
        space,
        errors: errors.clone(),
        observer: setup.observer,
        features: 0,
        queues: Vec::new(),
        bells,
        epoll,
        alarm: None,
        active: false,
        paused: false,
    };
    let own_bell = bell.try_clone()?;
    let worker =
        Worker { device, env, orders: received, bell: own_bell, written: false, ended: false };
    let thread = thread::spawn(Kind::Device, &setup.name, move || worker.run())?;
    Ok((Handle { orders, bell, errors, thread: Mutex::new(Some(thread)) }, board))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::Told;
    use crate::virtio::balloon::Balloon;
    use crate::virtio::driver::driven;

    #[test]
    fn what_is_written_into_the_configuration_during_a_pause_is_heard_after_it() {
        let driver = driven(Balloon::default(), 0);
        driver
            .handle
            .order(|worker| {
                worker.pause();
                assert!(worker.env.space.write(4, &9u32.to_le_bytes()));
                // As it comes together with the order to pause, behind it.
                worker.take(WRITTEN);
                worker.resume();
            })
            .unwrap();
        assert_eq!(driver.told.try_recv(), Ok(Told::Given(9 << 12)));
        driver
            .handle
            .order(|worker| {
                worker.pause();
                worker.resume();
            })
            .unwrap();
        assert!(driver.told.try_recv().is_err(), "once");
    }
}
