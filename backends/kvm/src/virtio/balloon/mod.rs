//! A balloon: memory that the guest does without while the host needs it, and what the guest says
//! of its memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::{GuestAddress, GuestMemoryBackend, MemoryRegionAddress};

use super::discard::discard;
use super::queue::Chain;
use super::{Device, DeviceState, Env, Gone, Handle, QueueError, Space, StateError, Told};
use crate::memory::{Memory, PAGE};

const STATISTICS: u64 = 1 << 1;
const DEFLATE_ON_OOM: u64 = 1 << 2;
const REPORTING: u64 = 1 << 5;

/// Entries of each queue.
const QUEUE: u16 = 128;

/// What is done before orders are looked for again: so many requests, and so much work. One unit of
/// it is a page number, or so many bytes of a range.
const BURST: usize = 128;
const WORK: usize = 16 << 10;
const UNIT: usize = 64 << 10;

/// Fields of the configuration space: what the host wants, what the guest has given.
const WANTED: usize = 0;
const GIVEN: usize = 4;

/// Bytes of a page number, and of one statistic.
const NUMBER: usize = 4;
const STATISTIC: usize = 10;

/// Page numbers of one request that are looked at, and statistics.
const MAX_NUMBERS: usize = 16 << 10;
const MAX_STATISTICS: usize = 64;

/// Bytes of free ranges of one request that are given back; Linux reports 128 MiB at once.
const MAX_REPORTED: usize = 1 << 30;

/// What a queue is for. Which number it has depends on what was negotiated: queues of features
/// that are not in use are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Inflate,
    Deflate,
    Statistics,
    Reporting,
}

/// The device.
#[derive(Debug, Default)]
pub struct Balloon {
    statistics: Vec<(u16, u64)>,
    /// The request that statistics came with; it goes back when new ones are wanted.
    held: Option<u16>,
    /// The pages that the guest was last said to do without, and when.
    said: u32,
    said_at: Option<Instant>,
    /// It was brought back, and has told that where it was.
    brought_back: bool,
}

/// The guest's changes are told after one another with so much in between, and the last of those
/// that come meanwhile.
const PERIOD: Duration = Duration::from_secs(1);

fn usage(features: u64, queue: usize) -> Option<Use> {
    let statistics = (features & STATISTICS != 0).then_some(Use::Statistics);
    let reporting = (features & REPORTING != 0).then_some(Use::Reporting);
    let all = [Some(Use::Inflate), Some(Use::Deflate), statistics, reporting];
    all.into_iter().flatten().nth(queue)
}

/// Gives pages back to the host. Numbers of pages come in any order: neighbours go together. The
/// work that it was.
fn inflate(chain: &mut Chain, memory: &Memory) -> usize {
    let count = (chain.readable.total() / NUMBER).min(MAX_NUMBERS);
    let mut pages = Vec::with_capacity(count);
    let mut number = [0; NUMBER];
    for _ in 0..count {
        chain.readable.read(memory, &mut number);
        pages.push(u64::from(u32::from_le_bytes(number)));
    }
    pages.sort_unstable();
    pages.dedup();
    let mut rest = pages.as_slice();
    while let Some((first, _)) = rest.split_first() {
        let run = (0..).zip(rest).take_while(|(at, page)| first + at == **page).count();
        rest = &rest[run..];
        give_back(memory, GuestAddress(first * PAGE as u64), run * PAGE);
    }
    count
}

/// Gives ranges back that the guest does not use, as many as one request may name. The work that
/// it was.
fn report(chain: &Chain, memory: &Memory) -> usize {
    let (mut left, mut work) = (MAX_REPORTED, 0);
    for segment in chain.writable.segments() {
        if segment.length > left {
            break;
        }
        left -= segment.length;
        work += 1 + segment.length / UNIT;
        give_back(memory, segment.address, segment.length);
    }
    work
}

/// Gives a range back, as far as it is whole pages of guest memory.
fn give_back(memory: &Memory, start: GuestAddress, length: usize) {
    // Anything beyond guest memory is nobody's: there is nothing to do.
    if !memory.check_range(start, length) {
        return;
    }
    let mut at = start;
    for slice in memory.get_slices(start, length).map_while(Result::ok) {
        if let Some((region, offset)) = memory.to_region_addr(at)
            && whole_pages(offset, slice.len())
        {
            // What the host does not take is still there: it costs memory, nothing else.
            drop(discard(&region.get_mmap(), offset.0, slice.len()));
        }
        at = GuestAddress(at.0.wrapping_add(slice.len() as u64));
    }
}

fn whole_pages(offset: MemoryRegionAddress, length: usize) -> bool {
    offset.0.is_multiple_of(PAGE as u64) && length.is_multiple_of(PAGE)
}

impl Balloon {
    /// Tells what the guest does without, if that is not known.
    fn tell(&mut self, env: &Env, now: Instant) {
        let pages = env.space.get_u32(GIVEN as u64);
        if pages != self.said {
            (self.said, self.said_at) = (pages, Some(now));
            env.observer.tell(Told::Given(given(env)));
        }
    }

    /// Takes statistics; the request stays here until new ones are wanted.
    fn take_statistics(
        &mut self,
        mut chain: Chain,
        env: &mut Env,
        queue: usize,
    ) -> Result<(), QueueError> {
        let count = (chain.readable.total() / STATISTIC).min(MAX_STATISTICS);
        self.statistics.clear();
        let mut one = [0; STATISTIC];
        for _ in 0..count {
            chain.readable.read(&env.memory, &mut one);
            let (tag, value) = one.split_at(2);
            let tag = u16::from_le_bytes(tag.try_into().unwrap_or_default());
            let value = u64::from_le_bytes(value.try_into().unwrap_or_default());
            self.statistics.push((tag, value));
        }
        // A driver has one such request; if it sends another, the first goes back.
        match self.held.replace(chain.head) {
            Some(earlier) => give(env, queue, earlier),
            None => Ok(()),
        }
    }

    /// Wants new statistics.
    fn ask(&mut self, env: &mut Env) -> Result<(), QueueError> {
        let queue = (0..4).find(|queue| usage(env.features, *queue) == Some(Use::Statistics));
        match (queue, self.held.take()) {
            (Some(queue), Some(held)) => {
                give(env, queue, held)?;
                env.signal_used(queue)
            }
            _ => Ok(()),
        }
    }

    /// Does what a request asks for; the work that it was.
    fn request(
        &mut self,
        usage: Use,
        mut chain: Chain,
        env: &mut Env,
        queue: usize,
    ) -> Result<usize, QueueError> {
        let head = chain.head;
        let work = match usage {
            Use::Statistics => return self.take_statistics(chain, env, queue).map(|()| 0),
            Use::Inflate => inflate(&mut chain, &env.memory),
            // The pages come back as they are touched.
            Use::Deflate => 0,
            Use::Reporting => report(&chain, &env.memory),
        };
        give(env, queue, head).map(|()| work)
    }
}

/// Bytes that the guest does without.
fn given(env: &Env) -> u64 {
    u64::from(env.space.get_u32(GIVEN as u64)) * PAGE as u64
}

fn give(env: &mut Env, queue: usize, head: u16) -> Result<(), QueueError> {
    match env.queues.get_mut(queue) {
        Some(Some(ring)) => ring.push(&env.memory, head, 0),
        _ => Ok(()),
    }
}

impl Device for Balloon {
    const ID: u32 = 5;

    fn features(&self) -> u64 {
        STATISTICS | DEFLATE_ON_OOM | REPORTING
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE; 4]
    }

    fn space(&self) -> Space {
        Space::with_writable(vec![0; 8], GIVEN..GIVEN + 4)
    }

    fn activate(&mut self, _env: &mut Env) {}

    fn deactivate(&mut self, _env: &mut Env) {
        self.held = None;
        self.statistics.clear();
    }

    fn serve(&mut self, queue: usize, env: &mut Env) -> Result<(), QueueError> {
        let Some(usage) = usage(env.features, queue) else { return Ok(()) };
        let (mut left, mut work) = (BURST, WORK);
        loop {
            let Some(Some(ring)) = env.queues.get_mut(queue) else { return Ok(()) };
            let Some(chain) = ring.pop(&env.memory)? else {
                if ring.listen(&env.memory)? {
                    continue;
                }
                break;
            };
            work = work.saturating_sub(self.request(usage, chain, env, queue)?);
            left -= 1;
            if left == 0 || work == 0 {
                env.again(queue);
                break;
            }
        }
        env.signal_used(queue)
    }

    fn written(&mut self, env: &mut Env) {
        let now = Instant::now();
        match self.said_at.map(|said| said + PERIOD).filter(|next| *next > now) {
            Some(next) => env.wake_at(next),
            None => self.tell(env, now),
        }
    }

    fn woken(&mut self, env: &mut Env) {
        self.tell(env, Instant::now());
    }

    fn resume(&mut self, env: &mut Env) {
        if std::mem::take(&mut self.brought_back) {
            self.said = env.space.get_u32(GIVEN as u64);
        }
    }

    fn pause(&mut self, env: &mut Env) -> Result<(), QueueError> {
        // There may be nobody any more to tell it later.
        self.tell(env, Instant::now());
        // It is served again after the pause, wherever that is.
        let queue = (0..4).find(|queue| usage(env.features, *queue) == Some(Use::Statistics));
        if self.held.take().is_some()
            && let Some(Some(ring)) =
                queue.and_then(|queue| env.queues.get_mut(queue)?.as_mut().map(Some))
        {
            ring.put_back(1);
        }
        Ok(())
    }

    fn save(&mut self, env: &mut Env) -> Result<DeviceState, StateError> {
        let target = env.space.get_u32(WANTED as u64);
        Ok(DeviceState::Balloon { target, statistics: self.statistics.clone() })
    }

    fn load(&mut self, state: DeviceState, env: &mut Env) -> Result<(), StateError> {
        let DeviceState::Balloon { target, statistics } = state else {
            return Err(StateError::Shape("it is not that of a balloon"));
        };
        self.statistics = statistics;
        self.brought_back = true;
        env.space.set(WANTED, &target.to_le_bytes());
        Ok(())
    }
}

/// What the machine does with a balloon.
impl Handle<Balloon> {
    /// How many bytes the guest shall do without.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn set_target(self: &Arc<Self>, bytes: u64) -> Result<(), Gone> {
        let pages = u32::try_from(bytes / PAGE as u64).unwrap_or(u32::MAX);
        self.call(move |_balloon, env| {
            env.space.set(WANTED, &pages.to_le_bytes());
            env.signal_changed();
        })
    }

    /// How many bytes the guest does without now.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn given(&self) -> Result<u64, Gone> {
        self.call(|_balloon, env| given(env))
    }

    /// The last statistics of the guest, tag and value (virtio 1.2, section 5.5.6.3), and asks for
    /// new ones. None come from a guest that knows none.
    ///
    /// # Errors
    /// When the device's thread has ended.
    pub fn statistics(self: &Arc<Self>) -> Result<Vec<(u16, u64)>, Gone> {
        self.call(|balloon, env| {
            let last = balloon.statistics.clone();
            if env.is_running()
                && let Err(error) = balloon.ask(env)
            {
                env.errors.report(|| super::errors::chain(&error));
            }
            last
        })
    }
}

#[cfg(test)]
mod tests;
