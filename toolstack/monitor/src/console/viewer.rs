//! One viewer of a console, on its connection.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use kxl_control::frame::{Frame, HEAD, MAX_PAYLOAD};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::Hub;
use crate::server::OpenCall;

/// How long a viewer may take to accept one frame.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many chunks a viewer may have typed ahead of the emulator.
const MOST_TYPED: usize = 4096;

/// An attached viewer; detached when dropped.
#[derive(Debug)]
pub(crate) struct Viewer {
    hub: Rc<Hub>,
    id: u64,
    writer: bool,
    frames: mpsc::Receiver<Frame>,
}

impl Viewer {
    pub(super) const fn new(
        hub: Rc<Hub>,
        id: u64,
        writer: bool,
        frames: mpsc::Receiver<Frame>,
    ) -> Self {
        Self { hub, id, writer, frames }
    }

    /// Its number; a later one has a greater one.
    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    /// Whether this viewer may write (at the moment of attaching).
    pub(crate) const fn is_writer(&self) -> bool {
        self.writer
    }

    /// What comes next for this viewer; `None` when it could not follow.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        self.frames.recv().await
    }

    /// It types, and wants the keyboard for it; whether it has it.
    pub(super) fn claim(&self) -> bool {
        self.hub.claim(self.id)
    }

    /// Where it can write, if it may at the moment.
    pub(super) fn input(&self) -> Option<mpsc::Sender<Vec<u8>>> {
        self.hub.input_of(self.id)
    }

    /// Passes frames both ways until either side hangs up or the domain ends.
    pub(crate) async fn serve(
        mut self,
        mut read: BufReader<OwnedReadHalf>,
        mut write: OwnedWriteHalf,
        _open: OpenCall,
    ) -> io::Result<()> {
        let (hub, id) = (Rc::clone(&self.hub), self.id);
        tokio::select! {
            done = outwards(&mut self.frames, &mut write) => done,
            done = inwards(&hub, id, &mut read) => done,
        }
    }
}

async fn outwards(
    frames: &mut mpsc::Receiver<Frame>,
    write: &mut OwnedWriteHalf,
) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        send(write, &frame).await?;
        if matches!(frame, Frame::End(_)) {
            return Ok(());
        }
    }
    let text = "detached: this viewer could not follow the output".to_owned();
    send(write, &Frame::End(text)).await
}

async fn send(write: &mut OwnedWriteHalf, frame: &Frame) -> io::Result<()> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    tokio::time::timeout(PATIENCE, write.write_all(&frame.encode())).await.map_err(late)?
}

/// Takes what the viewer types and passes it on as fast as the emulator takes it. Goes on reading
/// meanwhile: a viewer that hangs up is noticed also while the emulator stands still.
async fn inwards(hub: &Hub, id: u64, read: &mut BufReader<OwnedReadHalf>) -> io::Result<()> {
    let mut buffer = Vec::new();
    let mut chunk = [0u8; 1024];
    let mut typed: VecDeque<Vec<u8>> = VecDeque::new();
    loop {
        let input = if typed.is_empty() { None } else { hub.input_of(id) };
        tokio::select! {
            count = read.read(&mut chunk) => match count? {
                0 => return Ok(()),
                n => buffer.extend(&chunk[..n]),
            },
            room = room(input.as_ref()) => match (room, typed.pop_front()) {
                (Some(room), Some(bytes)) => room.send(bytes),
                _ => typed.clear(),
            },
        }
        while let Some(frame) = Frame::take(&mut buffer)? {
            match frame {
                // Typing by somebody who may only read goes nowhere.
                Frame::Data(bytes) if hub.types(id) => typed.push_back(bytes),
                Frame::Window(rows, columns) => hub.resized(id, (rows, columns)),
                Frame::Data(_) | Frame::Notice(_) | Frame::End(_) => {}
            }
        }
        if typed.len() > MOST_TYPED || buffer.len() > MAX_PAYLOAD + HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// Room for one more chunk in the emulator's input; `None` when that emulator is gone.
pub(super) async fn room(
    input: Option<&mpsc::Sender<Vec<u8>>>,
) -> Option<mpsc::Permit<'_, Vec<u8>>> {
    match input {
        Some(input) => input.reserve().await.ok(),
        None => std::future::pending().await,
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.hub.detach(self.id);
    }
}
