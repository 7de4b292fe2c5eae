//! A disk: virtio-blk over a raw file or a block device.
//!
//! A slot for a disk that is plugged in later is the same device without a file: its capacity is 0
//! and what is asked of it fails.

mod disk;
mod request;

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Device, DeviceState, Env, Gone, Handle, QueueError, Space, StateError};
pub use disk::{Disk, DiskError, open};
use request::{
    LARGEST, MAX_DISCARD_SECTORS, MAX_DISCARD_SEGMENTS, MAX_ZEROES_SECTORS, MAX_ZEROES_SEGMENTS,
    Request, Started,
};

/// Bytes of a sector, the unit of everything in the protocol.
pub(crate) const SECTOR: u64 = 512;

/// Entries of the queue.
const QUEUE: u16 = 256;

/// Buffers of one request, besides its header and its status.
const SEGMENTS: u32 = QUEUE as u32 - 2;

/// Bytes of one buffer: so many buffers of this size are a request of the largest size.
const SEGMENT: u32 = 128 << 10;

const _: () = assert!(SEGMENTS as usize * SEGMENT as usize <= LARGEST);

/// What is done before orders are looked for again: so many requests, and so much work, as
/// [`Request::work`] counts it. A guest that asks for all of the disk with each of its requests can
/// still be paused.
#[derive(Debug)]
struct Turn {
    requests: usize,
    work: usize,
}

impl Turn {
    fn new() -> Self {
        Self { requests: 2 * usize::from(QUEUE), work: 64 << 20 }
    }

    fn is_over(&self) -> bool {
        self.requests == 0 || self.work == 0
    }

    fn take(&mut self, request: Option<&Request>) {
        self.requests = self.requests.saturating_sub(1);
        self.work = self.work.saturating_sub(request.map_or(0, Request::work));
    }
}

mod feature {
    pub(super) const SIZE_MAX: u64 = 1 << 1;
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// The device.
#[derive(Debug)]
pub struct Block {
    disk: Option<Disk>,
    /// What the driver was told at the start, for good.
    readonly: bool,
    block_size: u32,
    serial: [u8; 20],
}

impl Block {
    /// A disk from the start, or a slot for one. `serial` is what a guest finds it by; the first
    /// 20 bytes of it.
    #[must_use]
    pub fn new(disk: Option<Disk>, serial: &str) -> Self {
        let mut bytes = [0; 20];
        for (to, from) in bytes.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        Self {
            readonly: disk.as_ref().is_some_and(Disk::is_readonly),
            block_size: disk.as_ref().map_or(512, Disk::block_size),
            disk,
            serial: bytes,
        }
    }

    /// Serves what is in the queue, at most one turn. What has to wait for the disk waits behind
    /// the rest, and all of it at the same time.
    fn drain(&self, queue: usize, env: &mut Env, turn: &mut Turn) -> Result<(), QueueError> {
        let disk = self.disk.as_ref();
        let mut waiting: VecDeque<(u16, Request)> = VecDeque::new();
        loop {
            while !turn.is_over()
                && let Some(Some(ring)) = env.queues.get_mut(queue)
                && let Some(chain) = ring.pop(&env.memory)?
            {
                let head = chain.head;
                let request = Request::new(chain, env);
                turn.take(request.as_ref());
                let started = request.map(|request| request.start(disk, &self.serial, env));
                match started {
                    Some(Started::Waits(request)) => {
                        // The first is read at once, so that the host may read ahead of it.
                        if !waiting.is_empty() {
                            request.fetch(disk);
                        }
                        waiting.push_back((head, request));
                    }
                    Some(Started::Done(written)) => give(env, queue, head, written)?,
                    None => give(env, queue, head, 0)?,
                }
            }
            let Some((head, request)) = waiting.pop_front() else { return Ok(()) };
            env.signal_used(queue)?;
            let written = request.execute(disk, &self.serial, env);
            give(env, queue, head, written)?;
        }
    }

    fn set_disk(&mut self, disk: Option<Disk>, env: &Env) {
        let sectors = disk.as_ref().map_or(0, Disk::sectors);
        self.disk = disk;
        env.space.set(0, &sectors.to_le_bytes());
        env.signal_changed();
    }
}

fn give(env: &mut Env, queue: usize, head: u16, written: usize) -> Result<(), QueueError> {
    match env.queues.get_mut(queue) {
        Some(Some(ring)) => ring.push(&env.memory, head, written),
        _ => Ok(()),
    }
}

/// The configuration space (virtio 1.2, section 5.2.4).
fn space(sectors: u64, block_size: u32) -> Space {
    let mut bytes = vec![0; 60];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &sectors.to_le_bytes());
    put(8, &SEGMENT.to_le_bytes());
    put(12, &SEGMENTS.to_le_bytes());
    put(20, &block_size.to_le_bytes());
    let alignment = block_size / 512;
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &MAX_DISCARD_SEGMENTS.to_le_bytes());
    put(44, &alignment.to_le_bytes());
    put(48, &MAX_ZEROES_SECTORS.to_le_bytes());
    put(52, &MAX_ZEROES_SEGMENTS.to_le_bytes());
    // Zeroes may be written by giving the space back.
    put(56, &[1]);
    Space::new(bytes)
}

impl Device for Block {
    const ID: u32 = 2;

    fn features(&self) -> u64 {
        use feature::{BLK_SIZE, DISCARD, FLUSH, RO, SEG_MAX, SIZE_MAX, WRITE_ZEROES};
        let kind = if self.readonly { RO } else { DISCARD | WRITE_ZEROES };
        SIZE_MAX | SEG_MAX | BLK_SIZE | FLUSH | kind
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE]
    }

    fn space(&self) -> Space {
        space(self.disk.as_ref().map_or(0, Disk::sectors), self.block_size)
    }

    fn activate(&mut self, _env: &mut Env) {}

    fn serve(&mut self, queue: usize, env: &mut Env) -> Result<(), QueueError> {
        let mut turn = Turn::new();
        loop {
            let Some(Some(ring)) = env.queues.get_mut(queue) else { return Ok(()) };
            ring.hush(&env.memory)?;
            self.drain(queue, env, &mut turn)?;
            env.signal_used(queue)?;
            let Some(Some(ring)) = env.queues.get_mut(queue) else { return Ok(()) };
            let more = ring.listen(&env.memory)?;
            if turn.is_over() {
                // Orders come in between: a guest that never stops asking can still be paused.
                env.again(queue);
                return Ok(());
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn save(&mut self, _env: &mut Env) -> Result<DeviceState, StateError> {
        // The guest's memory, which goes into the state, has pages that it counts as clean: they may
        // not be lost with the host's.
        if let Some(disk) = self.disk.as_ref().filter(|disk| !disk.is_readonly()) {
            let flush = |source| StateError::Flush { disk: disk.id().to_owned(), source };
            disk.flush().map_err(flush)?;
        }
        Ok(DeviceState::Plain)
    }

    fn load(&mut self, state: DeviceState, _env: &mut Env) -> Result<(), StateError> {
        match state {
            DeviceState::Plain => Ok(()),
            _ => Err(StateError::Shape("it is not that of a disk")),
        }
    }
}

/// What the machine does with a disk's slot at run time.
impl Handle<Block> {
    /// Puts a disk in. The one that was there is out.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn plug(self: &Arc<Self>, disk: Disk) -> Result<(), Gone> {
        self.call(|block, env| block.set_disk(Some(disk), env))
    }

    /// Takes the disk out: what is asked of it from now on fails. When this returns, nothing is in
    /// flight to it.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn unplug(self: &Arc<Self>) -> Result<(), Gone> {
        self.call(|block, env| block.set_disk(None, env))
    }

    /// Bytes that the guest sees.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn capacity(&self) -> Result<u64, Gone> {
        self.call(|block, _env| block.disk.as_ref().map_or(0, |disk| disk.sectors() * SECTOR))
    }

    /// Has the guest see the size that the file has now.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn resized(&self) -> Result<(), Gone> {
        self.call(|block, env| {
            if let Some(disk) = block.disk.take() {
                let disk = disk.measured_again();
                block.set_disk(Some(disk), env);
            }
        })
    }
}

#[cfg(test)]
mod tests;
