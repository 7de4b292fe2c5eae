//! The control socket's place: taken over from a monitor that is just going.

use std::path::Path;
use std::time::Duration;

use kxl_domain::{Failure, Kind};
use kxl_store::{StoreError, socket};
use tokio::net::UnixListener;
use tokio::time::Instant;

/// How long whoever listens still may take to be gone.
const GOING: Duration = Duration::from_secs(2);

/// How soon it is looked for again: nothing tells that a process has closed a socket.
const LOOK: Duration = Duration::from_millis(2);

/// Listens where commands look for the monitor of a domain whose lock is held.
///
/// Holding the lock, nobody else has a right to the place. A monitor that was killed, or a child that
/// it had not let go yet, may listen for a moment longer than it holds its lock: which of its
/// descriptors the kernel closes first is not ours to say.
///
/// # Errors
/// When somebody listens still after 2 s, or the socket cannot be made.
pub(crate) async fn listen(path: &Path) -> Result<UnixListener, Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::because(Kind::Failed, "cannot listen on the control socket", error)
    };
    let until = Instant::now() + GOING;
    let listener = loop {
        match socket::bind(path) {
            Err(StoreError::SocketTaken { .. }) if Instant::now() < until => {
                tokio::time::sleep(LOOK).await;
            }
            other => break other.map_err(|error| failed(&error))?,
        }
    };
    listener.set_nonblocking(true).map_err(|error| failed(&error))?;
    UnixListener::from_std(listener).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_that_is_just_going_is_waited_for() {
        let dir = std::env::temp_dir().join(format!("kxl-listening-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("control.sock");
        let before = socket::bind(&path).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // Polled in this order: the place is taken when it is first tried.
            let (listener, ()) = tokio::join!(listen(&path), async { drop(before) });
            let _listens = listener.unwrap();
            socket::connect(&path).unwrap();
        });
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
