//! A console with ports: virtio-console. Port 0 is a console of the guest, the other one a channel
//! of bytes under a name, between a program in the guest and one on the host.

mod control;
mod port;

use std::collections::VecDeque;

use super::{Device, DeviceState, Env, QueueError, Space, StateError};
use crate::endpoint::Endpoint;
use control::Message;
use port::Port;

const MULTIPORT: u64 = 1 << 1;

/// Entries of each queue.
const QUEUE: u16 = 128;

/// Requests that are served before orders are looked for again.
const BURST: usize = 128;

/// Queues of the messages about ports.
const CONTROL_RX: usize = 2;
const CONTROL_TX: usize = 3;

/// Messages that wait for the driver: several for each port, and no more from a driver that asks
/// and does not listen.
const MESSAGES: usize = 64;

/// The longest message of a driver.
const LONGEST: usize = 64;

/// Two queues for each port, and two about them.
const QUEUES: usize = 6;

/// The device.
#[derive(Debug)]
pub struct Console {
    ports: Vec<Port>,
    /// The driver knows of ports.
    ready: bool,
    messages: VecDeque<Vec<u8>>,
}

/// The queues of a port: input and output of the guest.
fn queues(port: usize) -> (usize, usize) {
    if port == 0 { (0, 1) } else { (2 + 2 * port, 3 + 2 * port) }
}

impl Console {
    /// A console, if one is given, and a channel of that name, if one is given.
    #[must_use]
    pub fn new(console: Option<Endpoint>, channel: Option<(String, Endpoint)>) -> Self {
        let first = Port::new(None, console);
        let second = channel.map(|(name, end)| Port::new(Some(name), Some(end)));
        let ports = std::iter::once(first).chain(second).collect();
        Self { ports, ready: false, messages: VecDeque::new() }
    }

    /// Output that nobody got, port by port.
    #[must_use]
    pub fn dropped(&self) -> Vec<u64> {
        self.ports.iter().map(Port::dropped).collect()
    }

    fn say(&mut self, message: &Message, env: &Env) {
        if self.messages.len() < MESSAGES {
            self.messages.push_back(message.encode());
        } else {
            env.errors.report(|| "its driver asks and does not listen".to_owned());
        }
    }

    /// Moves messages to the driver as far as it has room.
    fn tell(&mut self, env: &mut Env) -> Result<(), QueueError> {
        let Some(Some(ring)) = env.queues.get_mut(CONTROL_RX) else { return Ok(()) };
        while let Some(message) = self.messages.front() {
            let Some(mut chain) = ring.pop(&env.memory)? else {
                if ring.listen(&env.memory)? {
                    continue;
                }
                break;
            };
            let written = chain.writable.write(&env.memory, message);
            ring.push(&env.memory, chain.head, written)?;
            self.messages.pop_front();
        }
        env.signal_used(CONTROL_RX)
    }

    /// Hears what the driver has to say.
    fn hear(&mut self, env: &mut Env) -> Result<(), QueueError> {
        for _ in 0..BURST {
            let Some(Some(ring)) = env.queues.get_mut(CONTROL_TX) else { return Ok(()) };
            let Some(mut chain) = ring.pop(&env.memory)? else {
                if ring.listen(&env.memory)? {
                    continue;
                }
                return env.signal_used(CONTROL_TX);
            };
            let mut bytes = [0; LONGEST];
            let length = chain.readable.read(&env.memory, &mut bytes);
            ring.push(&env.memory, chain.head, 0)?;
            self.answer(Message::decode(&bytes[..length]).as_ref(), env)?;
        }
        env.again(CONTROL_TX);
        env.signal_used(CONTROL_TX)
    }

    fn answer(&mut self, message: Option<&Message>, env: &mut Env) -> Result<(), QueueError> {
        match message {
            Some(Message { event: control::DEVICE_READY, value: 1, .. }) => {
                self.ready = true;
                for id in 0..self.ports.len() {
                    self.say(&Message::new(id, control::PORT_ADD, 1), env);
                }
            }
            Some(&Message { id, event, value, .. }) if self.port(id).is_some() => {
                self.port_event(usize::try_from(id).unwrap_or(0), event, value, env);
            }
            _ => env.errors.report(|| "a message about no port of the console".to_owned()),
        }
        self.tell(env)?;
        for port in 0..self.ports.len() {
            self.feed(port, env)?;
        }
        Ok(())
    }

    fn port(&mut self, id: u32) -> Option<&mut Port> {
        self.ports.get_mut(usize::try_from(id).ok()?)
    }

    fn port_event(&mut self, id: usize, event: u16, value: u16, env: &Env) {
        let Some(port) = self.ports.get_mut(id) else { return };
        match event {
            control::PORT_READY if value == 1 => {
                port.state.ready = true;
                let name = port.name.clone();
                if let Some(name) = name {
                    self.say(&Message::named(id, control::PORT_NAME, &name), env);
                } else {
                    self.say(&Message::new(id, control::CONSOLE_PORT, 1), env);
                }
                self.tell_connected(id, env);
            }
            control::PORT_OPEN => port.state.open = value != 0,
            _ => {}
        }
    }

    /// Says whether somebody is at the other end. A console counts as always there: what it
    /// shows is kept for whoever comes.
    fn tell_connected(&mut self, id: usize, env: &Env) {
        let Some(port) = self.ports.get_mut(id) else { return };
        let connected = port.is_console() || port.is_connected();
        if port.state.ready && port.state.told_connected != connected {
            port.state.told_connected = connected;
            self.say(&Message::new(id, control::PORT_OPEN, u16::from(connected)), env);
        }
    }

    /// Moves input to the guest, as far as it has room and wants it.
    fn feed(&mut self, id: usize, env: &mut Env) -> Result<(), QueueError> {
        let multiport = env.features & MULTIPORT != 0;
        let Some(port) = self.ports.get_mut(id) else { return Ok(()) };
        port.feed(queues(id).0, multiport, env)
    }

    /// Moves output from the guest.
    fn drain(&mut self, id: usize, env: &mut Env) -> Result<(), QueueError> {
        let Some(port) = self.ports.get_mut(id) else { return Ok(()) };
        port.drain(queues(id).1, env)
    }
}

impl Device for Console {
    const ID: u32 = 3;

    fn features(&self) -> u64 {
        MULTIPORT
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE; QUEUES]
    }

    fn space(&self) -> Space {
        let mut bytes = vec![0; 12];
        // Columns and rows are not offered; ports are.
        let ports = u32::try_from(self.ports.len()).unwrap_or(1);
        bytes[4..8].copy_from_slice(&ports.to_le_bytes());
        Space::new(bytes)
    }

    fn begin(&mut self, env: &mut Env) {
        for (token, port) in (0..).zip(&mut self.ports) {
            port.watch(token, env);
        }
    }

    fn activate(&mut self, env: &mut Env) {
        if env.features & MULTIPORT == 0
            && let Some(port) = self.ports.first_mut()
        {
            port.state.ready = true;
        }
    }

    fn deactivate(&mut self, _env: &mut Env) {
        self.ready = false;
        self.messages.clear();
        for port in &mut self.ports {
            port.forget();
        }
    }

    fn serve(&mut self, queue: usize, env: &mut Env) -> Result<(), QueueError> {
        match queue {
            CONTROL_RX => self.tell(env),
            CONTROL_TX => self.hear(env),
            _ => {
                for port in 0..self.ports.len() {
                    let (input, output) = queues(port);
                    if queue == input {
                        self.feed(port, env)?;
                    } else if queue == output {
                        self.drain(port, env)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn ready(&mut self, token: u64, env: &mut Env) -> Result<(), QueueError> {
        let Ok(id) = usize::try_from(token) else { return Ok(()) };
        let Some(port) = self.ports.get_mut(id) else { return Ok(()) };
        port.service();
        if env.is_active() {
            self.feed(id, env)?;
            self.tell_connected(id, env);
            self.tell(env)?;
        }
        Ok(())
    }

    fn resume(&mut self, env: &mut Env) {
        // Who is at the other end may have changed on the way.
        for id in 0..self.ports.len() {
            self.tell_connected(id, env);
        }
    }

    fn save(&mut self, _env: &mut Env) -> Result<DeviceState, StateError> {
        Ok(DeviceState::Console {
            ready: self.ready,
            ports: self.ports.iter().map(|port| port.state).collect(),
            messages: self.messages.iter().cloned().collect(),
        })
    }

    fn load(&mut self, state: DeviceState, _env: &mut Env) -> Result<(), StateError> {
        let DeviceState::Console { ready, ports, messages } = state else {
            return Err(StateError::Shape("it is not that of a console"));
        };
        if ports.len() != self.ports.len() {
            return Err(StateError::Shape("its console has other ports"));
        }
        if messages.len() > MESSAGES {
            return Err(StateError::Shape("it holds too many messages"));
        }
        self.ready = ready;
        self.messages = messages.into();
        for (port, state) in self.ports.iter_mut().zip(ports) {
            port.state = state;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
