//! The emulator's side of the console: a pty master or a socket, read and written without blocking.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Weak;
use std::time::Duration;

use kxl_backend::ConsoleEnd;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::Hub;

/// A console taken apart.
pub(super) struct Split {
    pub(super) read: pipe::Receiver,
    pub(super) write: pipe::Sender,
    pub(super) pace: Option<Duration>,
    pub(super) window: Option<Window>,
}

/// The window size of a pty.
pub(super) struct Window(OwnedFd);

/// Makes the two directions of a console. `pace_ms` is the configuration's word on input pacing.
pub(super) fn split(console: ConsoleEnd, pace_ms: Option<u32>) -> io::Result<Split> {
    let (fd, profile_pace, window) = match console {
        ConsoleEnd::Pty { master, pace } => {
            let window = Window(master.try_clone()?);
            (master, pace, Some(window))
        }
        ConsoleEnd::Relay { stream, master, pace } => (stream, pace, Some(Window(master))),
        ConsoleEnd::Socket { stream, pace } => (stream, pace, None),
    };
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    // Any descriptor that can be polled will do for tokio's pipe types; they only read and write.
    Ok(Split {
        write: pipe::Sender::from_owned_fd_unchecked(fd.try_clone()?)?,
        read: pipe::Receiver::from_owned_fd_unchecked(fd)?,
        pace: pace_ms.map_or(profile_pace, |ms| Some(Duration::from_millis(u64::from(ms)))),
        window,
    })
}

/// Reads until the emulator's side is closed.
pub(super) async fn read(mut from: pipe::Receiver, hub: Weak<Hub>) {
    let mut chunk = vec![0u8; 4096];
    loop {
        match from.read(&mut chunk).await {
            // A pty whose last slave is closed answers EIO.
            Ok(0) | Err(_) => {
                if let Some(hub) = hub.upgrade() {
                    hub.closed();
                }
                return;
            }
            Ok(n) => match hub.upgrade() {
                Some(hub) => hub.output(&chunk[..n]),
                None => return,
            },
        }
    }
}

/// Writes what viewers type, a byte at a time where the guest needs that.
pub(super) async fn write(
    mut to: pipe::Sender,
    pace: Option<Duration>,
    mut input: mpsc::Receiver<Vec<u8>>,
) {
    while let Some(bytes) = input.recv().await {
        let step = if pace.is_some() { 1 } else { bytes.len().max(1) };
        for part in bytes.chunks(step) {
            if to.write_all(part).await.is_err() {
                return;
            }
            if let Some(pace) = pace {
                // Emulated UARTs have no flow control: bytes that come faster are lost.
                tokio::time::sleep(pace).await;
            }
        }
    }
}

impl Window {
    /// Sets the size; the kernel tells the emulator with SIGWINCH.
    #[allow(unsafe_code, reason = "TIOCSWINSZ has no safe wrapper")]
    pub(super) fn set(&self, rows: u16, columns: u16) {
        let size = nix::libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the request reads one winsize.
        let rc =
            unsafe { nix::libc::ioctl(self.0.as_raw_fd(), nix::libc::TIOCSWINSZ, &raw const size) };
        if rc != 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "window size not set");
        }
    }
}
