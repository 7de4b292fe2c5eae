//! A balloon: memory that the guest does without while the host needs it, and what the guest says
//! of its memory.

use std::sync::Arc;

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
}

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
        env.observer.tell(Told::Given(given(env)));
    }

    fn pause(&mut self, env: &mut Env) -> Result<(), QueueError> {
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
mod tests {
    use vm_memory::Bytes;

    use super::*;
    use crate::virtio::driver::Buffer::{In, Out};
    use crate::virtio::driver::{DATA, Driver, driven};
    use crate::virtio::state::State;

    fn touch(driver: &Driver<Balloon>, page: u64) {
        driver.put(page * PAGE as u64, &[7; PAGE]);
    }

    fn is_empty(driver: &Driver<Balloon>, page: u64) -> bool {
        driver.get(page * PAGE as u64, PAGE) == [0; PAGE]
    }

    #[test]
    fn pages_in_the_balloon_are_given_back_and_no_others() {
        let mut driver = driven(Balloon::default(), 0);
        for page in 500..510 {
            touch(&driver, page);
        }
        let numbers = [505u32, 503, 504, 508, u32::MAX, 1 << 20];
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        driver.put(DATA, &bytes);
        let length = u32::try_from(bytes.len()).unwrap();
        assert_eq!(driver.request(0, &[In(DATA, length)]), 0);
        let empty: Vec<_> = (500..510).filter(|page| is_empty(&driver, *page)).collect();
        assert_eq!(empty, [503, 504, 505, 508]);
        touch(&driver, 503);
        driver.put(DATA, &503u32.to_le_bytes());
        driver.request(1, &[In(DATA, 4)]);
        assert!(!is_empty(&driver, 503), "a page that has come back is the guest's");
    }

    #[test]
    fn free_pages_that_are_reported_are_given_back() {
        let mut driver = driven(Balloon::default(), 0);
        for page in 500..510 {
            touch(&driver, page);
        }
        let page = PAGE as u64;
        let length = u32::try_from(PAGE).unwrap();
        let buffers =
            [Out(501 * page, 2 * length), Out(505 * page + 1, length), Out(508 * page, length - 1)];
        driver.request(3, &buffers);
        let empty: Vec<_> = (500..510).filter(|page| is_empty(&driver, *page)).collect();
        assert_eq!(empty, [501, 502], "only whole pages");
    }

    #[test]
    fn orders_are_looked_for_after_so_many_pages_however_few_requests_name_them() {
        let mut driver = driven(Balloon::default(), 0);
        // Pages apart from each other.
        let numbers: Vec<u8> =
            (0u32..16 << 10).flat_map(|number| (2 * number).to_le_bytes()).collect();
        driver.put(2 * DATA, &numbers);
        let length = u32::try_from(numbers.len()).unwrap();
        for _ in 0..4 {
            driver.offer(1, &[In(2 * DATA, length)]);
            driver.offer(0, &[In(2 * DATA + 0x2000, length - 0x2000)]);
        }
        let count = |driver: &Driver<Balloon>, queue: usize| {
            let count = driver.handle.call(move |balloon, env| {
                balloon.serve(queue, env).unwrap();
                env.queues[queue].as_ref().unwrap().state().next_used
            });
            count.unwrap()
        };
        assert_eq!(count(&driver, 0), 2, "of 4, each of 14 Ki pages");
        assert_eq!(count(&driver, 1), 4, "what comes back costs nothing");
        for _ in 0..4 {
            driver.wait(0);
        }
    }

    #[test]
    fn a_report_of_more_than_anybody_has_is_not_heard_to_its_end() {
        let mut driver = driven(Balloon::default(), 0);
        let page = u32::try_from(PAGE).unwrap();
        for (less, heard) in [(page, true), (0, false)] {
            touch(&driver, 400);
            let mut buffers = vec![Out(2 * DATA, 2 << 20); 511];
            buffers.extend([Out(2 * DATA, (2 << 20) - less), Out(400 * PAGE as u64, page)]);
            driver.offer_indirect(3, DATA, &buffers);
            driver.ring(3);
            driver.wait(3);
            assert_eq!(is_empty(&driver, 400), heard, "the last page of 1 GiB, or one more");
        }
    }

    #[test]
    fn reporting_takes_the_place_of_statistics_that_are_not_in_use() {
        let mut driver = driven(Balloon::default(), STATISTICS);
        touch(&driver, 600);
        driver.request(2, &[Out(600 * PAGE as u64, u32::try_from(PAGE).unwrap())]);
        assert!(is_empty(&driver, 600));
    }

    #[test]
    fn the_target_is_seen_and_the_answer_heard() {
        let mut driver = driven(Balloon::default(), 0);
        driver.handle.set_target(5 << 20).unwrap();
        driver.wait_changed();
        assert_eq!(u32::from_le_bytes(driver.config(0)), 1280);
        driver.write(0x100, 99);
        driver.write(0x104, 1280);
        assert_eq!(driver.handle.given().unwrap(), 5 << 20);
        assert_eq!(driver.told.recv().unwrap(), Told::Given(5 << 20));
        assert_eq!(u32::from_le_bytes(driver.config(0)), 1280, "the driver cannot change it");
        let mut driver = driver.moved(Balloon::default());
        assert_eq!(driver.handle.given().unwrap(), 5 << 20);
        assert_eq!(u32::from_le_bytes(driver.config(0)), 1280);
    }

    fn statistic(tag: u16, value: u64) -> Vec<u8> {
        [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()
    }

    #[test]
    fn statistics_come_when_they_are_asked_for_and_survive_a_move() {
        let mut driver = driven(Balloon::default(), 0);
        driver.put(DATA, &[statistic(4, 100), statistic(5, 200)].concat());
        driver.offer(2, &[In(DATA, 20)]);
        driver.ring(2);
        while driver.handle.statistics().unwrap().is_empty() {
            std::thread::yield_now();
        }
        // That has given the request back.
        driver.wait(2);
        driver.put(DATA, &statistic(4, 90));
        driver.offer(2, &[In(DATA, 10)]);
        driver.ring(2);
        driver.handle.call(|_, _| ()).unwrap();
        let mut driver = driver.moved(Balloon::default());
        // The first answers may come out of the state, before the request is taken here again.
        loop {
            let told = driver.handle.statistics().unwrap();
            if driver.used(2).is_some() {
                assert_eq!(told, [(4, 90)]);
                break;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_driver_that_sends_statistics_unasked_gets_its_requests_back() {
        let mut driver = driven(Balloon::default(), 0);
        driver.put(DATA, &statistic(0, 1));
        for _ in 0..5 {
            driver.offer(2, &[In(DATA, 10)]);
        }
        driver.ring(2);
        for _ in 0..4 {
            driver.wait(2);
        }
        assert_eq!(driver.used(2), None);
        let state: State = {
            driver.transport.pause().unwrap();
            driver.transport.state().unwrap()
        };
        assert_eq!((state.queues[2].next_available, state.queues[2].next_used), (4, 4));
        assert_eq!(driver.memory.read_obj::<u8>(GuestAddress(DATA + 2)).unwrap(), 1);
    }
}
