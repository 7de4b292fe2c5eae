//! The monitor's end of a guest's console.

use std::os::fd::OwnedFd;
use std::time::Duration;

/// A byte stream to and from the guest's console, non-blocking.
#[derive(Debug)]
pub enum ConsoleEnd {
    /// The master of a pty whose slave is the emulator's terminal.
    Pty {
        /// The master.
        master: OwnedFd,
        /// Pause between two bytes of input; `None` = none.
        pace: Option<Duration>,
    },
    /// A socket behind which the backend reads along before it passes the pty's bytes on.
    Relay {
        /// The socket to read and write.
        stream: OwnedFd,
        /// The pty's master, for its window size only.
        master: OwnedFd,
        /// Pause between two bytes of input; `None` = none.
        pace: Option<Duration>,
    },
    /// The connected socket of an emulator's character device.
    Socket {
        /// The socket.
        stream: OwnedFd,
        /// Pause between two bytes of input; `None` = none.
        pace: Option<Duration>,
    },
}
