//! What connects COM1 with the endpoint on the host: output goes to it from the processors' own
//! threads, input comes from it on a thread of the line's.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::serial::{Com1, Host};
use crate::bus::Shared;
use crate::endpoint::Endpoint;
use crate::thread::{self, Kind};

/// The endpoint as COM1 uses it.
#[derive(Debug)]
struct Wire(Mutex<Endpoint>);

impl Wire {
    fn end(&self) -> MutexGuard<'_, Endpoint> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host for Wire {
    fn output(&self, bytes: &[u8]) {
        self.end().write(bytes);
    }

    fn room(&self) {
        self.end().want_input(true);
    }
}

/// The line, not yet connected: what COM1 is made with.
#[derive(Debug)]
pub struct Line(Arc<Wire>);

impl Line {
    /// A line to this endpoint.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self(Arc::new(Wire(Mutex::new(endpoint))))
    }

    /// The host's side of it, for COM1.
    #[must_use]
    pub fn host(&self) -> Arc<dyn Host> {
        Arc::clone(&self.0) as Arc<dyn Host>
    }

    /// Starts the thread that carries input.
    ///
    /// # Errors
    /// The system's refusal of a descriptor or of a thread.
    pub fn connect(self, com1: Shared<Com1>) -> io::Result<Connected> {
        let (epoll, wake) = (Epoll::new()?, EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?);
        let watched = [self.0.end().as_raw_fd(), wake.as_raw_fd()];
        for fd in watched {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0))?;
        }
        self.0.end().want_input(true);
        let over = Arc::new(AtomicBool::new(false));
        let carrier = Carrier { wire: self.0, com1, epoll, over: Arc::clone(&over) };
        let thread = thread::spawn(Kind::Device, "com1", move || carrier.carry())?;
        Ok(Connected { over, wake, thread: Some(thread) })
    }
}

/// A line that carries input; ends with this.
#[derive(Debug)]
pub struct Connected {
    over: Arc<AtomicBool>,
    wake: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // A counter that is full has woken it.
        let _full = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

struct Carrier {
    wire: Arc<Wire>,
    com1: Shared<Com1>,
    epoll: Epoll,
    over: Arc<AtomicBool>,
}

impl Carrier {
    fn carry(&self) {
        let mut events = [EpollEvent::default(); 2];
        while !self.over.load(Ordering::Acquire) {
            match self.epoll.wait(-1, &mut events) {
                Ok(_) => self.move_input(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    crate::log::line(&format!("the serial line takes no more input: {error}"));
                    return;
                }
            }
        }
    }

    /// Moves what fits. The locks are taken in the order in which a processor takes them: COM1's
    /// first, as its output goes to the endpoint under it.
    fn move_input(&self) {
        self.wire.end().service();
        let mut bytes = [0; 64];
        loop {
            let mut com1 = self.com1.lock().unwrap_or_else(PoisonError::into_inner);
            let room = com1.room().min(bytes.len());
            if room == 0 {
                com1.tell_of_room();
                self.wire.end().want_input(false);
                return;
            }
            let count = self.wire.end().read(&mut bytes[..room]);
            if count == 0 {
                return;
            }
            com1.receive(&bytes[..count]);
        }
    }
}
