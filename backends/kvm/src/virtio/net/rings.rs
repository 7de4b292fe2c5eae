//! Packets between the tap and the rings.

use std::io;

use super::tap::HEADER;
use super::{MRG_RXBUF, Net, RX, TX};
use crate::memory::Memory;
use crate::virtio::queue::{Chain, MAX_SEGMENTS, VirtQueue};
use crate::virtio::{Env, QueueError, io as guest};

/// The longest packet, with its header: 64 KiB that a tap puts together, and the frames around.
const LONGEST: usize = 65_600 + HEADER;

/// Packets of one turn: orders are looked for in between.
const BURST: usize = 256;

/// Where the header says how many buffers a packet is in.
const BUFFERS: std::ops::Range<usize> = 10..12;

/// The packet that is on its way into the guest. It waits here while the guest has no room.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// Room for the longest packet from the first one on.
    buffer: Vec<u8>,
    length: usize,
}

/// What became of a packet.
enum Delivery {
    Done,
    /// It has to wait for buffers.
    Waits,
    /// It will never fit.
    Dropped,
}

impl Received {
    pub(super) fn clear(&mut self) {
        self.length = 0;
    }

    pub(super) fn packet(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }

    /// Whether it is one.
    pub(super) fn set_packet(&mut self, packet: &[u8]) -> bool {
        if packet.len() > LONGEST || (1..HEADER).contains(&packet.len()) {
            return false;
        }
        self.buffer.resize(LONGEST, 0);
        self.buffer[..packet.len()].copy_from_slice(packet);
        self.length = packet.len();
        true
    }

    /// Takes a packet from the tap, if there is one.
    fn fill(&mut self, mut tap: impl io::Read) -> io::Result<bool> {
        self.buffer.resize(LONGEST, 0);
        loop {
            match tap.read(&mut self.buffer) {
                // Nothing without a header is a packet.
                Ok(count) if count >= HEADER => {
                    self.length = count;
                    return Ok(true);
                }
                Ok(_) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts the packet into the guest's buffers: one, or several that are merged.
    fn deliver(
        &mut self,
        merge: bool,
        ring: &mut VirtQueue,
        memory: &Memory,
    ) -> Result<Delivery, QueueError> {
        let limit = if merge { usize::from(ring.size()) } else { 1 };
        let mut chains: Vec<Chain> = Vec::new();
        let (mut room, mut segments) = (0, 0);
        // A packet is not worth a walk over more buffers than one request may have.
        while room < self.length && chains.len() < limit && segments < MAX_SEGMENTS {
            if let Some(chain) = ring.pop(memory)? {
                if chain.writable.is_empty() {
                    return Err(ring.refuse(chain.head, "has no room for a packet"));
                }
                segments += chain.readable.segments().len() + chain.writable.segments().len();
                room += chain.writable.total();
                chains.push(chain);
            } else if !ring.listen(memory)? {
                ring.put_back(chains.len());
                return Ok(Delivery::Waits);
            }
        }
        if room < self.length {
            ring.put_back(chains.len());
            return Ok(Delivery::Dropped);
        }
        let count = u16::try_from(chains.len()).unwrap_or(u16::MAX);
        self.buffer[BUFFERS].copy_from_slice(&count.to_le_bytes());
        let mut rest = &self.buffer[..self.length];
        let mut used = Vec::with_capacity(chains.len());
        for mut chain in chains {
            let taken = chain.writable.write(memory, rest);
            rest = &rest[taken..];
            used.push((chain.head, taken));
        }
        ring.push_all(memory, &used)?;
        Ok(Delivery::Done)
    }
}

impl Net {
    /// Moves packets from the tap to the guest until one of them has no more.
    pub(super) fn receive(&mut self, env: &mut Env) -> Result<(), QueueError> {
        let merge = env.features & MRG_RXBUF != 0;
        for _ in 0..BURST {
            if !self.next_packet(env) {
                self.watch(env, self.is_up());
                return env.signal_used(RX);
            }
            let Some(Some(ring)) = env.queues.get_mut(RX) else { return Ok(()) };
            ring.hush(&env.memory)?;
            match self.received.deliver(merge, ring, &env.memory)? {
                Delivery::Done => self.received.clear(),
                Delivery::Dropped => {
                    self.received.clear();
                    self.dropped += 1;
                    env.errors.report(|| "a buffer that is too small for a packet".to_owned());
                }
                Delivery::Waits => {
                    // It goes on when the driver rings.
                    self.watch(env, false);
                    return env.signal_used(RX);
                }
            }
        }
        env.again(RX);
        env.signal_used(RX)
    }

    /// Whether there is a packet for the guest.
    fn next_packet(&mut self, env: &Env) -> bool {
        if self.received.length > 0 {
            return true;
        }
        let Some(tap) = self.tap.as_ref().filter(|_| !self.link_down) else { return false };
        match self.received.fill(tap.file()) {
            Ok(filled) => filled,
            Err(error) => {
                env.errors.report(|| format!("cannot read from the tap: {error}"));
                self.watch_no_more(env);
                false
            }
        }
    }

    /// A tap that fails would be ready for ever.
    fn watch_no_more(&mut self, env: &Env) {
        if let Some(tap) = &self.tap {
            env.unwatch(tap);
        }
        (self.tap, self.watched) = (None, false);
        env.space.set(super::LINK, &0u16.to_le_bytes());
        env.signal_changed();
    }

    /// Moves packets from the guest to the tap, or nowhere if there is none.
    pub(super) fn send(&mut self, env: &mut Env) -> Result<(), QueueError> {
        let mut left = BURST;
        loop {
            let Some(Some(ring)) = env.queues.get_mut(TX) else { return Ok(()) };
            ring.hush(&env.memory)?;
            while left > 0
                && let Some(chain) = ring.pop(&env.memory)?
            {
                if !self.transmit(&chain, &env.memory) {
                    self.dropped += 1;
                }
                ring.push(&env.memory, chain.head, 0)?;
                left -= 1;
            }
            let more = ring.listen(&env.memory)?;
            env.signal_used(TX)?;
            if left == 0 {
                env.again(TX);
                return Ok(());
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Whether somebody got it.
    fn transmit(&self, chain: &Chain, memory: &Memory) -> bool {
        let length = chain.readable.total();
        let Some(tap) = self.tap.as_ref().filter(|_| !self.link_down) else { return false };
        if length <= HEADER || length > LONGEST {
            return false;
        }
        // A tap takes a packet at once or not at all.
        if chain.readable.segments().len() > guest::BATCH {
            return false;
        }
        // A host that is full, or whose interface is down, loses packets as any wire does.
        let sent = guest::write(tap.fd(), memory, chain.readable.segments(), None);
        sent.is_ok_and(|sent| sent == length)
    }
}
