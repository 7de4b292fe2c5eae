//! The state that a QEMU begins with instead of booting.

use std::os::fd::OwnedFd;
use std::time::Duration;

use kxl_backend::StateSource;
use kxl_qmp::{Client, QmpError};
use nix::unistd::{Whence, lseek};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// How long QEMU may take over a device stream: some hundred kilobytes, and a screen's memory.
const LOADING: Duration = Duration::from_secs(60);

/// Between two questions. QEMU loads in one go and answers nobody meanwhile, so that a second one
/// is asked only by who comes before it has begun; it tells of the end only those who have asked
/// for that beforehand, and it does not wait for them.
const AGAIN: Duration = Duration::from_millis(1);

/// Waits until QEMU has loaded the state that its command line names; it stands still afterwards,
/// and nothing of the guest has run.
///
/// # Errors
/// [`QmpError::Closed`] when the state cannot be loaded: QEMU writes the reason into its log and
/// ends.
pub(super) async fn loaded(client: &Client) -> Result<(), QmpError> {
    let until = Instant::now() + LOADING;
    loop {
        let answer = client.execute("query-status", None, LOADING).await?;
        if answer.get("status").and_then(Value::as_str) != Some("inmigrate") {
            return Ok(());
        }
        if Instant::now() > until {
            let command = "migrate-incoming".to_owned();
            return Err(QmpError::TimedOut { command, after: LOADING });
        }
        sleep(AGAIN).await;
    }
}

/// The device stream at its start, whoever read it before.
pub(super) fn stream(source: &StateSource) -> std::io::Result<OwnedFd> {
    let stream = source.device.try_clone()?;
    lseek(&stream, 0, Whence::SeekSet)?;
    Ok(stream)
}
