//! The console of a domain: one stream from the emulator, a ring of what was last said, a log, and
//! any number of viewers of which one may write.
//!
//! The emulator is never blocked by a viewer: whoever cannot follow is dropped. Viewers stay
//! attached over reboots; each new emulator is connected to the same hub.

mod log;
mod stream;
mod telnet;
mod viewer;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::TcpListener;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::Duration;

use kxl_backend::ConsoleEnd;
use kxl_control::Attach;
use kxl_control::frame::Frame;
use kxl_domain::config::model::Console;
use kxl_domain::guest::Marked;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};

use self::log::Log;
pub(crate) use self::viewer::Viewer;
use crate::guest::Ear;

/// How much of the past a new viewer is shown, in bytes.
const RING: usize = 64 * 1024;

/// How many frames a viewer may lag behind.
const LAG: usize = 512;

/// How many chunks of input may wait for the emulator.
const INPUT: usize = 64;

/// The console of one domain.
pub(crate) struct Hub(RefCell<Inner>);

struct Inner {
    ring: VecDeque<u8>,
    log: Log,
    pace_ms: Option<u32>,
    viewers: Vec<Slot>,
    next_id: u64,
    input: Option<mpsc::Sender<Vec<u8>>>,
    window: Option<stream::Window>,
    tasks: Vec<AbortHandle>,
    /// Takes viewers by telnet, while the emulator lives.
    published: Option<AbortHandle>,
    /// Ends when the emulator's side is closed and all that it said was read.
    reading: Option<JoinHandle<()>>,
    /// Who wants the lines by which a guest tells how it stands.
    ear: Option<Rc<Ear>>,
    marked: Marked,
}

struct Slot {
    id: u64,
    frames: mpsc::Sender<Frame>,
    /// Asked to be the writer.
    wants: bool,
    writer: bool,
    /// Has typed since it is the writer, or has taken the keyboard from another one.
    holds: bool,
    size: Option<(u16, u16)>,
}

impl Hub {
    pub(crate) fn new(log: PathBuf, config: &Console, ear: Option<Rc<Ear>>) -> Self {
        Self(RefCell::new(Inner {
            ring: VecDeque::new(),
            log: Log::new(log, u64::from(config.log_kib) * 1024, config.keep),
            pace_ms: config.pace_ms,
            viewers: Vec::new(),
            next_id: 1,
            input: None,
            window: None,
            tasks: Vec::new(),
            published: None,
            reading: None,
            ear,
            marked: Marked::default(),
        }))
    }

    /// Fills the ring with the end of the log, for a monitor that comes after another one.
    pub(crate) fn recall(&self) {
        let mut inner = self.0.borrow_mut();
        match inner.log.tail(RING) {
            Ok(bytes) => inner.ring = bytes.into(),
            Err(error) => tracing::info!(%error, "the past of the console is not shown"),
        }
    }

    /// Connects the console of a new emulator; `marker` goes into the log.
    pub(crate) fn connect(self: &Rc<Self>, console: ConsoleEnd, marker: &str) {
        let mut inner = self.0.borrow_mut();
        for task in inner.tasks.drain(..) {
            task.abort();
        }
        inner.log.marker(marker);
        inner.marked.reset();
        let (sender, receiver) = mpsc::channel(INPUT);
        match stream::split(console, inner.pace_ms) {
            Ok(stream) => {
                let hub: Weak<Self> = Rc::downgrade(self);
                let reading = tokio::task::spawn_local(stream::read(stream.read, hub));
                let writing =
                    tokio::task::spawn_local(stream::write(stream.write, stream.pace, receiver));
                inner.tasks = vec![reading.abort_handle(), writing.abort_handle()];
                inner.reading = Some(reading);
                inner.input = Some(sender);
                inner.window = stream.window;
                inner.resize();
            }
            Err(error) => tracing::warn!(%error, "the console cannot be read"),
        }
    }

    /// Offers the console to viewers by telnet, until the emulator's side is closed.
    pub(crate) fn publish(self: &Rc<Self>, listener: TcpListener) {
        let task = tokio::task::spawn_local(telnet::listen(listener, Rc::downgrade(self)));
        let before = self.0.borrow_mut().published.replace(task.abort_handle());
        before.inspect(AbortHandle::abort);
    }

    /// The emulator's side is closed: no more viewers by telnet until the next one is there. Those
    /// who are stay.
    fn closed(&self) {
        self.0.borrow_mut().published.take().inspect(AbortHandle::abort);
    }

    /// What the emulator said.
    fn output(&self, bytes: &[u8]) {
        let mut inner = self.0.borrow_mut();
        inner.ring.extend(bytes);
        let excess = inner.ring.len().saturating_sub(RING);
        inner.ring.drain(..excess);
        inner.log.write(bytes);
        inner.tell(&Frame::Data(bytes.to_vec()));
        // Listened to beside it: the bytes are on their way, whatever they are.
        let Inner { ear, marked, .. } = &mut *inner;
        if let Some(ear) = ear {
            marked.push(bytes, |piece| ear.hear(piece));
        }
    }

    /// A new viewer.
    pub(crate) fn attach(self: &Rc<Self>, attach: Attach) -> Viewer {
        let mut inner = self.0.borrow_mut();
        let (frames, receiver) = mpsc::channel(LAG);
        let id = inner.next_id;
        inner.next_id += 1;
        if attach.steal {
            for slot in inner.viewers.iter_mut().filter(|slot| slot.writer) {
                (slot.writer, slot.holds) = (false, false);
                let notice = "another viewer has taken the keyboard: you can only read now";
                let _full = slot.frames.try_send(Frame::Notice(notice.to_owned()));
            }
        }
        let writer = attach.write && !inner.viewers.iter().any(|slot| slot.writer);
        if attach.replay && !inner.ring.is_empty() {
            let (a, b) = inner.ring.as_slices();
            for part in [a, b].into_iter().flat_map(|part| part.chunks(16 * 1024)) {
                let _roomy = frames.try_send(Frame::Data(part.to_vec()));
            }
        }
        let (wants, size) = (attach.write, attach.window);
        inner.viewers.push(Slot { id, frames, wants, writer, holds: attach.steal, size });
        if writer {
            inner.resize();
        }
        Viewer::new(Rc::clone(self), id, writer, receiver)
    }

    fn detach(&self, id: u64) {
        let mut inner = self.0.borrow_mut();
        let Some(at) = inner.viewers.iter().position(|slot| slot.id == id) else { return };
        if inner.viewers.swap_remove(at).writer {
            inner.pass_the_keyboard();
        }
    }

    /// A viewer that has not asked for the keyboard types: it gets it where nobody has it, or where
    /// one that came later has it and has not typed. Whether it is the writer.
    fn claim(&self, id: u64) -> bool {
        let mut inner = self.0.borrow_mut();
        let Some(at) = inner.viewers.iter().position(|slot| slot.id == id) else { return false };
        let before = inner.viewers.iter_mut().find(|slot| slot.writer && slot.id != id);
        if let Some(before) = before {
            if before.holds || before.id < id {
                return false;
            }
            before.writer = false;
            let notice = "another viewer has the keyboard: you can only read now";
            let _full = before.frames.try_send(Frame::Notice(notice.to_owned()));
        }
        (inner.viewers[at].writer, inner.viewers[at].holds) = (true, true);
        inner.resize();
        true
    }

    /// Whether what a viewer types now goes anywhere; it holds the keyboard from then on.
    fn types(&self, id: u64) -> bool {
        let mut inner = self.0.borrow_mut();
        let connected = inner.input.is_some();
        let writer = inner.viewers.iter_mut().find(|slot| slot.id == id && slot.writer);
        writer.is_some_and(|slot| {
            slot.holds = true;
            connected
        })
    }

    fn is_writer(&self, id: u64) -> bool {
        self.0.borrow().viewers.iter().any(|slot| slot.id == id && slot.writer)
    }

    /// The input queue, if `id` is the writer.
    fn input_of(&self, id: u64) -> Option<mpsc::Sender<Vec<u8>>> {
        let inner = self.0.borrow();
        inner.viewers.iter().find(|slot| slot.id == id && slot.writer)?;
        inner.input.clone()
    }

    fn resized(&self, id: u64, size: (u16, u16)) {
        let mut inner = self.0.borrow_mut();
        if let Some(slot) = inner.viewers.iter_mut().find(|slot| slot.id == id) {
            slot.size = Some(size);
        }
        inner.resize();
    }

    /// Waits, no longer than `patience`, until what an emulator said before its end was read.
    pub(crate) async fn drained(&self, patience: Duration) {
        let reading = self.0.borrow_mut().reading.take();
        if let Some(reading) = reading
            && tokio::time::timeout(patience, reading).await.is_err()
        {
            tracing::warn!("the console was not read to its end");
        }
    }

    /// Nothing follows any more.
    pub(crate) fn end(&self, text: &str) {
        let mut inner = self.0.borrow_mut();
        for task in inner.tasks.drain(..) {
            task.abort();
        }
        inner.published.take().inspect(AbortHandle::abort);
        inner.log.marker(text);
        inner.tell(&Frame::End(text.to_owned()));
        inner.viewers.clear();
    }
}

impl Inner {
    /// Sends a frame to every viewer; one that lags too far behind is dropped.
    fn tell(&mut self, frame: &Frame) {
        let before = self.viewers.iter().any(|slot| slot.writer);
        self.viewers.retain(|slot| slot.frames.try_send(frame.clone()).is_ok());
        if before && !self.viewers.iter().any(|slot| slot.writer) {
            self.pass_the_keyboard();
        }
    }

    fn pass_the_keyboard(&mut self) {
        if let Some(slot) = self.viewers.iter_mut().find(|slot| slot.wants) {
            slot.writer = true;
            let _full = slot.frames.try_send(Frame::Notice("you can write now".to_owned()));
            self.resize();
        }
    }

    /// The guest's terminal has the size of the writer's window.
    fn resize(&self) {
        let size = self.viewers.iter().find(|slot| slot.writer).and_then(|slot| slot.size);
        if let (Some((rows, columns)), Some(window)) = (size, &self.window) {
            window.set(rows, columns);
        }
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hub")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> Rc<Hub> {
        let dir = std::env::temp_dir().join(format!("kxl-hub-{}", std::process::id()));
        Rc::new(Hub::new(dir, &Console::default(), None))
    }

    fn attach(write: bool, steal: bool) -> Attach {
        Attach { replay: true, write, steal, window: None }
    }

    #[test]
    fn one_viewer_writes_and_the_next_one_inherits_the_keyboard() {
        let hub = hub();
        let first = hub.attach(attach(true, false));
        let second = hub.attach(attach(true, false));
        let reader = hub.attach(attach(false, false));
        assert!(first.is_writer() && !second.is_writer() && !reader.is_writer());
        drop(first);
        let writers: Vec<u64> =
            hub.0.borrow().viewers.iter().filter(|s| s.writer).map(|s| s.id).collect();
        assert_eq!(writers, [2]);
    }

    #[test]
    fn stealing_takes_the_keyboard_from_the_writer() {
        let hub = hub();
        let _first = hub.attach(attach(true, false));
        assert!(hub.attach(attach(true, true)).is_writer());
    }

    #[test]
    fn the_keyboard_is_the_first_ones_who_types_among_those_who_came_before() {
        let hub = hub();
        let early = hub.attach(attach(false, false));
        let operator = hub.attach(attach(true, false));
        let late = hub.attach(attach(false, false));
        assert!(!late.claim(), "the operator was there before");
        assert!(early.claim() && early.claim(), "the operator has not typed yet");
        drop(early);
        assert!(hub.is_writer(operator.id()), "who asked for it is given it back");
        assert!(!hub.types(operator.id()), "there is no emulator");
        let back = hub.attach(attach(false, false));
        assert!(!back.claim() && !late.claim());
        drop(operator);
        assert!(!hub.is_writer(late.id()) && !hub.is_writer(back.id()), "neither has typed");
        assert!(back.claim() && !late.claim());
        let thief = hub.attach(attach(true, true));
        assert!(hub.is_writer(thief.id()) && !back.claim() && !late.claim());
    }

    #[test]
    fn a_viewer_that_cannot_follow_is_dropped_and_blocks_nobody() {
        let hub = hub();
        let _slow = hub.attach(attach(true, false));
        for _ in 0..=LAG {
            hub.output(b"x");
        }
        assert!(hub.0.borrow().viewers.is_empty());
    }

    #[test]
    fn the_ring_keeps_the_last_of_what_was_said() {
        let hub = hub();
        hub.output(&vec![b'a'; RING]);
        hub.output(b"end");
        let inner = hub.0.borrow();
        assert_eq!(inner.ring.len(), RING);
        assert_eq!(inner.ring.iter().rev().take(3).copied().collect::<Vec<_>>(), b"dne");
    }
}
