//! One viewer of a console, on its connection.

use std::io;
use std::rc::Rc;

use kxl_control::frame::{Frame, HEAD, MAX_PAYLOAD};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::Hub;
use crate::server::OpenCall;

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

    /// Whether this viewer may write (at the moment of attaching).
    pub(crate) const fn is_writer(&self) -> bool {
        self.writer
    }

    /// Passes frames both ways until either side hangs up or the domain ends.
    pub(crate) async fn serve(
        mut self,
        mut read: BufReader<OwnedReadHalf>,
        mut write: OwnedWriteHalf,
        _open: OpenCall,
    ) -> io::Result<()> {
        let (hub, id) = (Rc::clone(&self.hub), self.id);
        let outwards = async {
            while let Some(frame) = self.frames.recv().await {
                write.write_all(&frame.encode()).await?;
                if matches!(frame, Frame::End(_)) {
                    return Ok(());
                }
            }
            let text = "detached: this viewer could not follow the output".to_owned();
            write.write_all(&Frame::End(text).encode()).await
        };
        let inwards = async {
            let mut buffer = Vec::new();
            let mut chunk = [0u8; 1024];
            loop {
                match read.read(&mut chunk).await? {
                    0 => return Ok(()),
                    n => buffer.extend(&chunk[..n]),
                }
                if buffer.len() > MAX_PAYLOAD + HEAD {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                while let Some(frame) = Frame::take(&mut buffer)? {
                    take(&hub, id, frame).await;
                }
            }
        };
        tokio::select! {
            done = outwards => done,
            done = inwards => done,
        }
    }
}

async fn take(hub: &Hub, id: u64, frame: Frame) {
    match frame {
        Frame::Data(bytes) => {
            if let Some(input) = hub.input_of(id) {
                // Waits while the emulator is slow; the domain going away ends the wait.
                let _gone = input.send(bytes).await;
            }
        }
        Frame::Window(rows, columns) => hub.resized(id, (rows, columns)),
        Frame::Notice(_) | Frame::End(_) => {}
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.hub.detach(self.id);
    }
}
