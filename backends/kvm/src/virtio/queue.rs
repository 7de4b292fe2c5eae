//! Queues as a device sees them. The ring is the crate's; what a guest may get wrong in it is
//! told apart here, where it is found.

use std::sync::atomic::{Ordering, fence};

use thiserror::Error;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::state::QueueState;
use crate::memory::Memory;

/// Buffers of one request at most; also what the system takes in one call.
pub const MAX_SEGMENTS: usize = 1024;

/// The flag of a driver that wants no interrupts for now.
const NO_INTERRUPT: u16 = 1;

/// Why a queue cannot be served any longer.
#[derive(Debug, Error)]
pub enum QueueError {
    /// The ring itself: an index beyond its size, an address outside memory.
    #[error("the ring of queue {queue} makes no sense")]
    Ring {
        /// Which.
        queue: usize,
        /// What is wrong with it.
        #[source]
        source: virtio_queue::Error,
    },
    /// A head that the table does not have.
    #[error("queue {queue} offers descriptor {head} of {size}")]
    Head {
        /// Which.
        queue: usize,
        /// The head.
        head: u16,
        /// Descriptors of the table.
        size: u16,
    },
    /// A chain that is empty, does not end, leaves its table or leaves memory.
    #[error("descriptor chain {head} of queue {queue} {what}")]
    Chain {
        /// Which.
        queue: usize,
        /// Its head.
        head: u16,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// A piece of guest memory that lies in one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub address: GuestAddress,
    /// Its bytes; never 0.
    pub length: usize,
}

/// The buffers of one direction, eaten from the front.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    segments: Vec<Segment>,
    /// Segments already eaten.
    eaten: usize,
}

impl Buffers {
    /// What is left.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        self.segments.get(self.eaten..).unwrap_or_default()
    }

    /// Bytes left.
    #[must_use]
    pub fn total(&self) -> usize {
        self.segments().iter().map(|segment| segment.length).sum()
    }

    fn push(&mut self, segment: Segment) {
        self.segments.push(segment);
    }

    /// Whether it never had a buffer, or all are eaten.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments().is_empty()
    }

    /// Eats `count` bytes; fewer if there are not so many.
    pub fn skip(&mut self, mut count: usize) {
        while count > 0 {
            let Some(first) = self.segments.get_mut(self.eaten) else { return };
            if count < first.length {
                first.address = GuestAddress(first.address.0.wrapping_add(count as u64));
                first.length -= count;
                return;
            }
            count -= first.length;
            self.eaten += 1;
        }
    }

    /// Keeps at most `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        let mut left = count;
        let mut keep = self.eaten;
        for segment in self.segments.iter_mut().skip(self.eaten) {
            if left == 0 {
                break;
            }
            segment.length = segment.length.min(left);
            left -= segment.length;
            keep += 1;
        }
        self.segments.truncate(keep);
    }

    /// Takes the last byte away, and says where it is.
    pub fn pop_last_byte(&mut self) -> Option<GuestAddress> {
        if self.segments().is_empty() {
            return None;
        }
        let last = self.segments.last_mut()?;
        last.length -= 1;
        let address = GuestAddress(last.address.0.wrapping_add(last.length as u64));
        if last.length == 0 {
            self.segments.pop();
        }
        Some(address)
    }

    /// Eats into `data`; the bytes it got.
    pub fn read(&mut self, memory: &Memory, data: &mut [u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            let Some(first) = self.segments().first().copied() else { break };
            let count = first.length.min(data.len() - done);
            if memory.read_slice(&mut data[done..done + count], first.address).is_err() {
                break;
            }
            self.skip(count);
            done += count;
        }
        done
    }

    /// Eats by writing `data`; the bytes it took.
    pub fn write(&mut self, memory: &Memory, data: &[u8]) -> usize {
        let mut done = 0;
        while done < data.len() {
            let Some(first) = self.segments().first().copied() else { break };
            let count = first.length.min(data.len() - done);
            if memory.write_slice(&data[done..done + count], first.address).is_err() {
                break;
            }
            self.skip(count);
            done += count;
        }
        done
    }
}

/// One request: the buffers of a descriptor chain.
#[derive(Clone, Debug)]
pub struct Chain {
    /// What it is given back by.
    pub head: u16,
    /// Written by the driver.
    pub readable: Buffers,
    /// To be written by the device.
    pub writable: Buffers,
}

/// A queue in use.
#[derive(Debug)]
pub struct VirtQueue {
    index: usize,
    inner: Queue,
    /// The entry behind the last one that the driver was asked about.
    asked: u16,
}

impl VirtQueue {
    /// # Errors
    /// When its parts do not lie in memory as they should.
    pub(crate) fn new(
        index: usize,
        state: &QueueState,
        memory: &Memory,
    ) -> Result<Self, QueueError> {
        let ring = |source| QueueError::Ring { queue: index, source };
        let inner = Queue::try_from(virtio_queue::QueueState::from(state)).map_err(ring)?;
        // Address 0 is what a driver leaves that says nothing, and the crate takes it for that.
        if inner.avail_ring() == 0 || !inner.is_valid(memory) {
            return Err(ring(virtio_queue::Error::QueueNotReady));
        }
        Ok(Self { index, asked: inner.next_used(), inner })
    }

    fn ring(&self) -> impl FnOnce(virtio_queue::Error) -> QueueError + use<> {
        let queue = self.index;
        move |source| QueueError::Ring { queue, source }
    }

    /// Its number among the queues of the device.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Entries of its ring.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.inner.size()
    }

    /// The next request, if there is one.
    ///
    /// # Errors
    /// When ring or chain make no sense.
    pub fn pop(&mut self, memory: &Memory) -> Result<Option<Chain>, QueueError> {
        let (ring, index, size) = (self.ring(), self.index, self.inner.size());
        let chain = self.inner.iter(memory).map_err(ring)?.next();
        let Some(chain) = chain else { return Ok(None) };
        let head = chain.head_index();
        if head >= size {
            return Err(QueueError::Head { queue: index, head, size });
        }
        walk(chain, memory).map(Some).map_err(|what| QueueError::Chain { queue: index, head, what })
    }

    /// Whether there is a request. An index that makes no sense is one: [`VirtQueue::pop`] says so.
    #[must_use]
    pub fn has_more(&self, memory: &Memory) -> bool {
        self.inner
            .avail_idx(memory, Ordering::Acquire)
            .map_or(true, |index| index.0 != self.inner.next_avail())
    }

    /// Puts the requests that were taken last back.
    pub fn put_back(&mut self, count: usize) {
        for _ in 0..count {
            self.inner.go_to_previous_position();
        }
    }

    /// Gives a request back, with so many bytes written into it.
    ///
    /// # Errors
    /// When the ring is not in memory.
    pub fn push(&mut self, memory: &Memory, head: u16, written: usize) -> Result<(), QueueError> {
        let ring = self.ring();
        self.inner.add_used(memory, head, length(written)).map_err(ring)
    }

    /// Gives several requests back at once: the driver sees all of them or none.
    ///
    /// # Errors
    /// When the ring is not in memory.
    pub fn push_all(&mut self, memory: &Memory, all: &[(u16, usize)]) -> Result<(), QueueError> {
        let Some(((last, written), others)) = all.split_last() else { return Ok(()) };
        let (ring, size, next) = (self.ring(), self.inner.size(), self.inner.next_used());
        let mut at = next;
        let mut write = || {
            for (head, written) in others {
                // Behind the flags and the index, eight bytes each.
                let place = 4 + 8 * u64::from(at % size);
                let place = self.inner.used_ring().checked_add(place);
                let place = GuestAddress(place.ok_or(virtio_queue::Error::AddressOverflow)?);
                let element = u64::from(*head) | u64::from(length(*written)) << 32;
                let bytes = element.to_le_bytes();
                memory.write_slice(&bytes, place).map_err(virtio_queue::Error::GuestMemory)?;
                at = at.wrapping_add(1);
            }
            Ok(())
        };
        write().map_err(ring)?;
        // The index goes over all of them with the last.
        self.inner.set_next_used(at);
        self.push(memory, *last, *written)
    }

    /// Why the queue cannot be served after a chain like this.
    #[must_use]
    pub fn refuse(&self, head: u16, what: &'static str) -> QueueError {
        QueueError::Chain { queue: self.index, head, what }
    }

    /// Asks to be told of the next request; true if one is there already.
    ///
    /// # Errors
    /// When the ring is not in memory.
    pub fn listen(&mut self, memory: &Memory) -> Result<bool, QueueError> {
        let ring = self.ring();
        self.inner.enable_notification(memory).map_err(ring)
    }

    /// Asks not to be told for now.
    ///
    /// # Errors
    /// When the ring is not in memory.
    pub fn hush(&mut self, memory: &Memory) -> Result<(), QueueError> {
        let ring = self.ring();
        self.inner.disable_notification(memory).map_err(ring)
    }

    /// Whether the driver wants to know of what was given back since the last question.
    ///
    /// # Errors
    /// When the ring is not in memory.
    pub fn wants_signal(&mut self, memory: &Memory) -> Result<bool, QueueError> {
        let (new, old) = (self.inner.next_used(), self.asked);
        self.asked = new;
        if new == old {
            return Ok(false);
        }
        // What was given back must be seen before what the driver wants is read.
        fence(Ordering::SeqCst);
        let load = |offset: u64| -> Result<u16, QueueError> {
            let place = GuestAddress(self.inner.avail_ring().wrapping_add(offset));
            let value = memory.load(place, Ordering::Relaxed);
            value
                .map(u16::from_le)
                .map_err(|error| self.ring()(virtio_queue::Error::GuestMemory(error)))
        };
        if self.inner.event_idx_enabled() {
            // Behind the ring is the entry that it waits for.
            let event = load(4 + 2 * u64::from(self.inner.size()))?;
            Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
        } else {
            Ok(load(0)? & NO_INTERRUPT == 0)
        }
    }

    /// Goes on where somebody else has stopped serving the ring: with this entry of the driver, or
    /// behind what was given back, if that is all that is known.
    pub(crate) fn move_to(&mut self, memory: &Memory, available: Option<u16>) {
        if let Ok(used) = self.inner.used_idx(memory, Ordering::Acquire) {
            self.inner.set_next_used(used.0);
        }
        self.inner.set_next_avail(available.unwrap_or(self.inner.next_used()));
        self.asked = self.inner.next_used();
    }

    /// As it is to be saved.
    #[must_use]
    pub fn state(&self) -> QueueState {
        QueueState::from(&self.inner.state())
    }
}

/// A length as the ring holds it.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// The buffers of a chain, or what is wrong with it. The crate's iterator just ends where a chain
/// cannot be followed: a last descriptor that names a next one is how that shows.
fn walk(chain: DescriptorChain<&Memory>, memory: &Memory) -> Result<Chain, &'static str> {
    let head = chain.head_index();
    let mut out = Chain { head, readable: Buffers::default(), writable: Buffers::default() };
    let (mut count, mut ended) = (0, false);
    for descriptor in chain {
        count += 1;
        if count > MAX_SEGMENTS {
            return Err("has too many buffers");
        }
        ended = !descriptor.has_next();
        let buffers = if descriptor.is_write_only() {
            &mut out.writable
        } else if out.writable.segments.is_empty() {
            &mut out.readable
        } else {
            return Err("has a buffer to read behind one to write");
        };
        for slice in pieces(memory, descriptor.addr(), descriptor.len() as usize) {
            buffers.push(slice?);
        }
    }
    if ended { Ok(out) } else { Err("does not end") }
}

/// A range cut at the borders of regions.
fn pieces(
    memory: &Memory,
    start: GuestAddress,
    length: usize,
) -> impl Iterator<Item = Result<Segment, &'static str>> {
    let mut at = start;
    memory.get_slices(start, length).map(move |slice| {
        let slice = slice.map_err(|_| "leaves guest memory")?;
        let segment = Segment { address: at, length: slice.len() };
        at = GuestAddress(at.0.wrapping_add(slice.len() as u64));
        Ok(segment)
    })
}
