//! The main thread's loop.

use std::io;
use std::time::{Duration, Instant};

use kxl_qmp::server::{Incoming, Request, line};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use thiserror::Error;

use super::client::Client;
use super::commands::{self, Context, State};
use super::control::Control;
use super::event;
use super::listen::Listener;
use super::notices::{Cause, Notice, What};
use super::{PACKAGE, VERSION, signals};

/// How long clients may take to hear the last words of a process that ends.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// How long nobody is let in after the system had no descriptor for somebody.
const NO_ROOM: Duration = Duration::from_millis(100);

/// The loop cannot go on.
#[derive(Debug, Error)]
#[error("cannot wait for what happens")]
pub struct ServeError(#[source] io::Error);

/// The api-channel, listened on.
///
/// Each listener serves one client at a time, the next one when that has gone. What happens in the
/// machine is told to all of them.
#[derive(Debug)]
pub struct Api {
    ports: Vec<Port>,
    /// This process's user.
    own: u32,
}

impl Api {
    /// Greets those who wait already: they may say what they want while the machine is made.
    #[must_use]
    pub fn open(listeners: Vec<Listener>) -> Self {
        let own = rustix::process::geteuid().as_raw();
        let port = |listener| {
            let mut port = Port { listener, client: None, shut_until: None };
            port.let_in(own);
            port
        };
        Self { ports: listeners.into_iter().map(port).collect(), own }
    }

    /// Serves until the machine is to end; the process's exit status.
    ///
    /// # Errors
    /// The system's refusal to wait.
    pub fn serve(self, control: &mut dyn Control) -> Result<u8, ServeError> {
        let Self { ports, own } = self;
        Server { ports, control, state: State::default(), own, begins: true, exit: None }.run()
    }
}

/// A listener and who is connected.
#[derive(Debug)]
struct Port {
    listener: Listener,
    client: Option<Client>,
    shut_until: Option<Instant>,
}

struct Server<'a> {
    ports: Vec<Port>,
    control: &'a mut dyn Control,
    state: State,
    /// This process's user.
    own: u32,
    /// That the machine runs from the beginning on is no news.
    begins: bool,
    exit: Option<u8>,
}

impl Server<'_> {
    fn run(mut self) -> Result<u8, ServeError> {
        loop {
            // In this order: what is left for us meanwhile makes the descriptor readable again.
            self.control.notices().calm();
            if signals::asked() {
                self.control.quit(Cause::HostSignal);
            }
            self.control.attend();
            self.tell_notices();
            self.begins = false;
            if let Some(status) = self.exit {
                self.last_words()?;
                return Ok(status);
            }
            let ready = self.wait()?;
            for (index, flags) in ready.into_iter().enumerate() {
                self.attend(index, flags);
            }
            self.let_go();
        }
    }

    /// Waits until something happens; what happened at each port.
    fn wait(&mut self) -> Result<Vec<PollFlags>, ServeError> {
        let now = Instant::now();
        let mut until = None;
        for port in &mut self.ports {
            if port.shut_until.is_some_and(|shut| now >= shut) {
                port.shut_until = None;
            }
            let client = port.client.as_ref().and_then(Client::until);
            until = [until, port.shut_until, client].into_iter().flatten().min();
        }
        // Up to the next millisecond: the kernel rounds down, and a loop would spin for the rest.
        let timeout = until.map(|until| {
            let left = until.saturating_duration_since(now) + Duration::from_millis(1);
            Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 })
        });
        let mut fds: Vec<PollFd<'_>> = self.ports.iter().map(Port::watched).collect();
        fds.push(PollFd::new(self.control.notices(), PollFlags::IN));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => Ok(fds[..self.ports.len()].iter().map(PollFd::revents).collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(ServeError(error.into())),
        }
    }

    fn attend(&mut self, index: usize, flags: PollFlags) {
        if flags.is_empty() || self.exit.is_some() {
            return;
        }
        let port = &mut self.ports[index];
        let Some(client) = &mut port.client else {
            port.let_in(self.own);
            return;
        };
        if client.wants().contains(PollFlags::IN) {
            for incoming in client.hear() {
                let answer = match incoming {
                    Incoming::Answer(line) => line,
                    Incoming::Request(request) => self.carry_out(index, request),
                };
                self.tell(index, &answer);
                if self.exit.is_some() {
                    break;
                }
            }
        }
        if let Some(client) = &mut self.ports[index].client {
            client.send();
        }
    }

    /// Carries a command out, tells everybody what it brought about, and returns the answer.
    fn carry_out(&mut self, index: usize, request: Request) -> String {
        let Request { command, arguments, id } = request;
        let Some(client) = &mut self.ports[index].client else { return String::new() };
        let mut context =
            Context { control: &mut *self.control, state: &mut self.state, fds: client.fds() };
        let outcome = match commands::find(&command) {
            Some(found) => (found.run)(&mut context, arguments),
            None => Err(commands::unknown(&command)),
        };
        self.tell_notices();
        match outcome {
            Ok(value) => line::returned(&value, id.as_ref()),
            Err(refusal) => line::refused(refusal.class, &refusal.text, id.as_ref()),
        }
    }

    /// Tells everybody what has happened.
    fn tell_notices(&mut self) {
        for Notice { at, what } in self.control.notices().take() {
            match &what {
                What::Exit(status) => self.exit = self.exit.or(Some(*status)),
                What::DeviceDeleted(id) => self.state.parts.released(id),
                What::Resume if self.begins => continue,
                _ => {}
            }
            let Some((name, data)) = event::of(&what, &self.state.migrations) else { continue };
            let line = line::event(name, &data, at);
            for index in 0..self.ports.len() {
                self.tell(index, &line);
            }
        }
        for port in &mut self.ports {
            port.client.iter_mut().for_each(Client::send);
        }
    }

    fn tell(&mut self, index: usize, line: &str) {
        if let Some(client) = &mut self.ports[index].client {
            client.tell(line);
        }
    }

    /// Hangs up on those of whom nothing more is to be had.
    fn let_go(&mut self) {
        let now = Instant::now();
        for port in &mut self.ports {
            if port.client.as_ref().is_some_and(|client| client.over(now)) {
                port.client = None;
            }
        }
    }

    /// Lets everybody hear the rest, for a moment.
    fn last_words(&mut self) -> Result<(), ServeError> {
        let end = Instant::now() + LAST_WORDS;
        loop {
            for port in &mut self.ports {
                port.client.iter_mut().for_each(Client::send);
                // Dropped in this order: the reply has gone out before the connection ends.
                port.client = port.client.take().filter(|client| client.waiting() > 0);
            }
            let heard = self.ports.iter().all(|port| port.client.is_none());
            if heard || Instant::now() >= end {
                return Ok(());
            }
            let mut fds: Vec<PollFd<'_>> = self
                .ports
                .iter()
                .filter_map(|port| port.client.as_ref())
                .map(|client| PollFd::new(client, PollFlags::OUT))
                .collect();
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
            match poll(&mut fds, Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(ServeError(error.into())),
            }
        }
    }
}

impl Port {
    fn watched(&self) -> PollFd<'_> {
        match &self.client {
            Some(client) => PollFd::new(client, client.wants()),
            None if self.shut_until.is_some() => PollFd::new(&self.listener, PollFlags::empty()),
            None => PollFd::new(&self.listener, PollFlags::IN),
        }
    }

    fn let_in(&mut self, own: u32) {
        match self.listener.accept(own) {
            Ok(Some(socket)) => {
                let mut client = Client::new(socket);
                client.tell(&line::greeting(VERSION, PACKAGE));
                client.send();
                self.client = Some(client);
            }
            Ok(None) => {}
            // Whoever waits keeps waiting.
            Err(_) => self.shut_until = Some(Instant::now() + NO_ROOM),
        }
    }
}
