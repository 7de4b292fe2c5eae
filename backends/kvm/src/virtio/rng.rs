//! A source of random numbers: virtio-rng over the kernel's.

use super::{Device, DeviceState, Env, QueueError, Space, StateError};
use crate::memory::Memory;
use crate::virtio::queue::Buffers;

/// Entries of the queue.
const QUEUE: u16 = 64;

/// Requests that are served before orders are looked for again.
const BURST: usize = 64;

/// Bytes that one request gets at most: a guest that wants more asks again.
const LIMIT: usize = 4096;

/// The device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rng;

/// Fills buffers from the front; the bytes written.
fn fill(buffers: &mut Buffers, memory: &Memory) -> usize {
    let mut bytes = [0; LIMIT];
    let wanted = buffers.total().min(LIMIT);
    let mut have = 0;
    while have < wanted {
        match rustix::rand::getrandom(
            &mut bytes[have..wanted],
            rustix::rand::GetRandomFlags::empty(),
        ) {
            Ok(count) if count > 0 => have += count,
            Err(rustix::io::Errno::INTR) => {}
            // The driver asks again for what it did not get.
            Ok(_) | Err(_) => break,
        }
    }
    buffers.write(memory, &bytes[..have])
}

impl Device for Rng {
    const ID: u32 = 4;

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE]
    }

    fn space(&self) -> Space {
        Space::new(Vec::new())
    }

    fn activate(&mut self, _env: &mut Env) {}

    fn serve(&mut self, queue: usize, env: &mut Env) -> Result<(), QueueError> {
        let Some(Some(ring)) = env.queues.get_mut(queue) else { return Ok(()) };
        let mut left = BURST;
        loop {
            while left > 0
                && let Some(mut chain) = ring.pop(&env.memory)?
            {
                let written = fill(&mut chain.writable, &env.memory);
                ring.push(&env.memory, chain.head, written)?;
                left -= 1;
            }
            if !ring.listen(&env.memory)? {
                break;
            }
            if left == 0 {
                env.again(queue);
                break;
            }
        }
        env.signal_used(queue)
    }

    fn save(&mut self, _env: &mut Env) -> Result<DeviceState, StateError> {
        Ok(DeviceState::Plain)
    }

    fn load(&mut self, state: DeviceState, _env: &mut Env) -> Result<(), StateError> {
        match state {
            DeviceState::Plain => Ok(()),
            _ => Err(StateError::Shape("it is not that of a random source")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::driver::Buffer::{In, Out};
    use crate::virtio::driver::{DATA, driven};

    #[test]
    fn buffers_are_filled_with_what_nobody_knows() {
        let mut driver = driven(Rng, 0);
        assert_eq!(driver.request(0, &[Out(DATA, 64), Out(DATA + 0x1000, 64)]), 128);
        let (one, two) = (driver.get(DATA, 64), driver.get(DATA + 0x1000, 64));
        assert!(one != two && one != [0; 64] && two != [0; 64]);
        assert_eq!(driver.request(0, &[Out(DATA, 1 << 20)]), 4096, "more is to be asked for again");
        assert_eq!(driver.request(0, &[In(DATA, 64)]), 0, "nothing to write to");
    }
}
