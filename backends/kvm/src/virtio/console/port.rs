//! One port: bytes between its queues and its end on the host.

use vmm_sys_util::epoll::EventSet;

use super::BURST;
use crate::endpoint::Endpoint;
use crate::virtio::state::PortState;
use crate::virtio::{Env, QueueError};

/// Bytes moved at once.
const BLOCK: usize = 4096;

/// Bytes of one request for output that are looked at before others get their turn; the rest of
/// so long a request is lost.
const LIMIT: usize = 1 << 20;

/// A port.
#[derive(Debug)]
pub(super) struct Port {
    /// A console has none.
    pub(super) name: Option<String>,
    pub(super) state: PortState,
    end: Option<Endpoint>,
}

impl Port {
    pub(super) fn new(name: Option<String>, end: Option<Endpoint>) -> Self {
        Self { name, end, state: PortState::default() }
    }

    pub(super) fn is_console(&self) -> bool {
        self.name.is_none()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.end.as_ref().is_some_and(Endpoint::is_connected)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.end.as_ref().map_or(0, Endpoint::dropped)
    }

    pub(super) fn watch(&self, token: u64, env: &Env) {
        if let Some(end) = &self.end
            && let Err(error) = env.watch(end, token, EventSet::IN)
        {
            env.errors.report(|| format!("cannot wait for the other end of a port: {error}"));
        }
    }

    pub(super) fn service(&mut self) {
        if let Some(end) = &mut self.end {
            end.service();
        }
    }

    /// The driver is gone.
    pub(super) fn forget(&mut self) {
        self.state = PortState::default();
        if let Some(end) = &mut self.end {
            end.want_input(false);
        }
    }

    /// Whether the guest would take input: a console from the moment it is set up, a channel when
    /// a program has it open. A driver drops what comes before.
    fn is_heard(&self, multiport: bool) -> bool {
        self.state.ready && (self.is_console() || !multiport || self.state.open)
    }

    pub(super) fn feed(
        &mut self,
        queue: usize,
        multiport: bool,
        env: &mut Env,
    ) -> Result<(), QueueError> {
        let heard = self.is_heard(multiport);
        let Some(end) = &mut self.end else { return Ok(()) };
        let Some(Some(ring)) = env.queues.get_mut(queue) else {
            end.want_input(false);
            return Ok(());
        };
        let mut wanted = heard;
        end.want_input(heard);
        for _ in 0..BURST {
            if !heard {
                break;
            }
            let Some(mut chain) = ring.pop(&env.memory)? else {
                if ring.listen(&env.memory)? {
                    continue;
                }
                // Input waits with whoever sends it until the driver rings.
                wanted = false;
                break;
            };
            let mut bytes = [0; BLOCK];
            let room = chain.writable.total().min(BLOCK);
            let count = end.read(&mut bytes[..room]);
            if count == 0 && room > 0 {
                ring.put_back(1);
                break;
            }
            let written = chain.writable.write(&env.memory, &bytes[..count]);
            ring.push(&env.memory, chain.head, written)?;
        }
        end.want_input(wanted);
        env.signal_used(queue)
    }

    pub(super) fn drain(&mut self, queue: usize, env: &mut Env) -> Result<(), QueueError> {
        for _ in 0..BURST {
            let Some(Some(ring)) = env.queues.get_mut(queue) else { return Ok(()) };
            let Some(mut chain) = ring.pop(&env.memory)? else {
                if ring.listen(&env.memory)? {
                    continue;
                }
                return env.signal_used(queue);
            };
            chain.readable.truncate(LIMIT);
            let mut bytes = [0; BLOCK];
            loop {
                let count = chain.readable.read(&env.memory, &mut bytes);
                if count == 0 {
                    break;
                }
                if let Some(end) = &mut self.end {
                    end.write(&bytes[..count]);
                }
            }
            ring.push(&env.memory, chain.head, 0)?;
        }
        env.again(queue);
        env.signal_used(queue)
    }
}
