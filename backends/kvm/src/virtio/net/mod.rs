//! A network interface: virtio-net over a tap, in this process or through vhost-net.
//!
//! A slot for an interface that is plugged in later is the same device without a tap: its link is
//! down, and what the guest sends is dropped.

mod rings;
#[allow(unsafe_code, reason = "ioctls of taps")]
pub mod tap;
#[allow(unsafe_code, reason = "ioctls of vhost-net")]
pub mod vhost;

use std::io;
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use super::{Device, DeviceState, Env, Gone, Handle, QueueError, Space, StateError};
use rings::Received;
pub use tap::{Tap, TapError};
pub use vhost::Vhost;

/// Features about what the host may leave to the guest, and the guest to the host.
pub(super) mod offload {
    pub(super) const CSUM: u64 = 1 << 0;
    pub(super) const GUEST_CSUM: u64 = 1 << 1;
    pub(super) const GUEST_TSO4: u64 = 1 << 7;
    pub(super) const GUEST_TSO6: u64 = 1 << 8;
    pub(super) const HOST_TSO4: u64 = 1 << 11;
    pub(super) const HOST_TSO6: u64 = 1 << 12;
}

const MAC: u64 = 1 << 5;
const MRG_RXBUF: u64 = 1 << 15;
const STATUS: u64 = 1 << 16;

const RX: usize = 0;
const TX: usize = 1;

/// Entries of each queue.
const QUEUE: u16 = 256;

/// Where the link's state is in the configuration space.
const LINK: usize = 6;

const TAP_TOKEN: u64 = 0;
/// The kernel's calls: one for each queue.
const CALL_TOKEN: u64 = 1;

/// The device.
#[derive(Debug)]
pub struct Net {
    tap: Option<Tap>,
    vhost: Option<Vhost>,
    mac: [u8; 6],
    /// The link is up if there is a tap and nobody has taken it down.
    link_down: bool,
    received: Received,
    /// The tap is watched.
    watched: bool,
    /// The kernel has the queues.
    in_kernel: bool,
    /// The kernel may not have the queues: what it writes is not noted in the bitmap of memory.
    noting: bool,
    dropped: u64,
}

impl Net {
    /// An interface with a tap, or a slot for one. Packets go through `vhost` where it is given.
    #[must_use]
    pub fn new(mac: [u8; 6], tap: Option<Tap>, vhost: Option<Vhost>) -> Self {
        Self {
            tap,
            vhost,
            mac,
            link_down: false,
            received: Received::default(),
            watched: false,
            in_kernel: false,
            noting: false,
            dropped: 0,
        }
    }

    fn is_up(&self) -> bool {
        self.tap.is_some() && !self.link_down
    }

    /// Takes up what tap, driver and link allow: in the kernel, here, or not at all.
    fn connect(&mut self, env: &mut Env) {
        if !env.is_running() || !self.is_up() {
            return;
        }
        if let Some(tap) = &self.tap
            && let Err(error) = tap.set_offloads(env.features)
        {
            env.errors.report(|| format!("the tap refuses offloads: {error}"));
        }
        if !self.noting && self.vhost.is_some() {
            match self.enter_kernel(env) {
                Ok(()) => return,
                Err(error) => {
                    self.leave_kernel(env);
                    env.errors.report(|| format!("vhost refuses the queues: {error}"));
                }
            }
        }
        self.watch(env, true);
    }

    /// Leaves the tap alone; afterwards nothing touches guest memory.
    fn disconnect(&mut self, env: &mut Env) {
        self.leave_kernel(env);
        self.watch(env, false);
    }

    fn watch(&mut self, env: &Env, watched: bool) {
        let Some(tap) = &self.tap else { return };
        if self.watched == watched {
            return;
        }
        if !watched {
            env.unwatch(tap);
        } else if let Err(error) = env.watch(tap, TAP_TOKEN, EventSet::IN) {
            env.errors.report(|| format!("cannot wait for packets: {error}"));
            return;
        }
        self.watched = watched;
    }

    fn enter_kernel(&mut self, env: &Env) -> io::Result<()> {
        let (Some(vhost), Some(tap)) = (&mut self.vhost, &self.tap) else { return Ok(()) };
        let part = |queue: usize| {
            let ring = env.queues.get(queue).and_then(Option::as_ref);
            ring.zip(env.bell(queue))
                .ok_or_else(|| io::Error::other("the driver has no such queue"))
        };
        let queues = [part(RX)?, part(TX)?];
        vhost.prepare(env.features, &env.memory, queues)?;
        // The packet that waits for room would come behind those that the kernel brings.
        if !self.received.packet().is_empty() {
            self.received.clear();
            self.dropped += 1;
        }
        // From here on it may have them, whatever it says.
        self.in_kernel = true;
        vhost.start(tap)?;
        for (token, queue) in (CALL_TOKEN..).zip([RX, TX]) {
            env.listen_to(queue, false);
            if let Some(call) = vhost.call(queue) {
                env.watch(call, token, EventSet::IN | EventSet::EDGE_TRIGGERED)?;
            }
            // What was rung before the kernel listened is not lost.
            env.again(queue);
        }
        Ok(())
    }

    fn leave_kernel(&mut self, env: &mut Env) {
        let Some(vhost) = self.vhost.take_if(|_| self.in_kernel) else { return };
        self.in_kernel = false;
        let stopped = vhost.stop();
        for queue in [RX, TX] {
            if let Some(call) = vhost.call(queue) {
                env.unwatch(call);
            }
        }
        if stopped.iter().all(Result::is_ok) {
            self.vhost = Some(vhost);
        } else {
            // Closed, it serves nothing; packets go through this process from here on.
            drop(vhost);
        }
        for (queue, position) in stopped.into_iter().enumerate() {
            if let Err(error) = &position {
                env.errors.report(|| format!("vhost keeps queue {queue} and is closed: {error}"));
            }
            if let Some(Some(ring)) = env.queues.get_mut(queue) {
                ring.move_to(&env.memory, position.ok());
            }
            env.listen_to(queue, true);
            env.again(queue);
        }
        // A call that came last is not lost.
        env.signal.used();
    }

    fn set_link(&self, env: &Env) {
        env.space.set(LINK, &u16::from(self.is_up()).to_le_bytes());
        env.signal_changed();
    }

    fn change(&mut self, env: &mut Env, change: impl FnOnce(&mut Self)) {
        self.disconnect(env);
        change(self);
        self.connect(env);
        self.set_link(env);
        for queue in [RX, TX] {
            env.again(queue);
        }
    }
}

impl Device for Net {
    const ID: u32 = 1;

    fn features(&self) -> u64 {
        use offload::{CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6};
        let guest = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6;
        MAC | STATUS | MRG_RXBUF | CSUM | HOST_TSO4 | HOST_TSO6 | guest
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE; 2]
    }

    fn space(&self) -> Space {
        let mut bytes = self.mac.to_vec();
        bytes.extend(u16::from(self.is_up()).to_le_bytes());
        Space::new(bytes)
    }

    fn activate(&mut self, env: &mut Env) {
        self.connect(env);
    }

    fn deactivate(&mut self, env: &mut Env) {
        self.disconnect(env);
        self.received.clear();
    }

    fn serve(&mut self, queue: usize, env: &mut Env) -> Result<(), QueueError> {
        match queue {
            _ if self.in_kernel => Ok(()),
            RX => self.receive(env),
            TX => self.send(env),
            _ => Ok(()),
        }
    }

    fn ready(&mut self, token: u64, env: &mut Env) -> Result<(), QueueError> {
        if token != TAP_TOKEN {
            env.signal.used();
            return Ok(());
        }
        if self.in_kernel || !env.is_active() { Ok(()) } else { self.receive(env) }
    }

    fn pause(&mut self, env: &mut Env) -> Result<(), QueueError> {
        self.disconnect(env);
        Ok(())
    }

    fn resume(&mut self, env: &mut Env) {
        self.connect(env);
    }

    fn save(&mut self, _env: &mut Env) -> Result<DeviceState, StateError> {
        let packet = self.received.packet().to_vec();
        Ok(DeviceState::Net { packet, link_down: self.link_down })
    }

    fn load(&mut self, state: DeviceState, env: &mut Env) -> Result<(), StateError> {
        let DeviceState::Net { packet, link_down } = state else {
            return Err(StateError::Shape("it is not that of a network interface"));
        };
        if !self.received.set_packet(&packet) {
            return Err(StateError::Shape("it holds a packet that is too long"));
        }
        self.link_down = link_down;
        env.space.set(LINK, &u16::from(self.is_up()).to_le_bytes());
        Ok(())
    }
}

/// What the machine does with an interface at run time.
impl Handle<Net> {
    /// Plugs a tap in. The one that was there is closed.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn plug(self: &Arc<Self>, tap: Tap, vhost: Option<Vhost>) -> Result<(), Gone> {
        self.call(|net, env| {
            net.change(env, |net| {
                net.received.clear();
                (net.tap, net.vhost, net.link_down) = (Some(tap), vhost, false);
            });
        })
    }

    /// Closes the tap; the link is down.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn unplug(self: &Arc<Self>) -> Result<(), Gone> {
        self.call(|net, env| {
            net.change(env, |net| {
                net.received.clear();
                (net.tap, net.vhost) = (None, None);
            });
        })
    }

    /// Takes the link up or down, as if somebody pulled the cable.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn set_link(self: &Arc<Self>, up: bool) -> Result<(), Gone> {
        self.call(move |net, env| net.change(env, |net| net.link_down = !up))
    }

    /// Whether the guest sees the link up.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn is_up(&self) -> Result<bool, Gone> {
        self.call(|net, _env| net.is_up())
    }

    /// Whether what is written into guest memory has to be noted in its bitmap: during a live
    /// save. The kernel would not; it gives the queues back for so long.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn note_writes(self: &Arc<Self>, noting: bool) -> Result<(), Gone> {
        self.call(move |net, env| {
            if net.noting != noting {
                net.noting = noting;
                if env.is_running() && net.vhost.is_some() {
                    net.disconnect(env);
                    net.connect(env);
                }
            }
        })
    }

    /// Packets that nobody got.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn dropped(&self) -> Result<u64, Gone> {
        self.call(|net, _env| net.dropped)
    }
}

#[cfg(test)]
mod tests;
