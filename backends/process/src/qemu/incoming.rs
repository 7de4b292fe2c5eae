//! The state that a QEMU begins with instead of booting.

use std::os::fd::OwnedFd;
use std::time::Duration;

use kxl_backend::StateSource;
use kxl_qmp::{Client, Event, QmpError};
use nix::unistd::{Whence, lseek};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::live::COMMAND;
use super::migration::{self, Status};
use crate::ending::LAST_MOMENTS;

/// The name under which QEMU gets the device stream.
const STREAM_NAME: &str = "state";

/// How long QEMU may take over a device stream: some hundred kilobytes, and a screen's memory.
const LOADING: Duration = Duration::from_secs(60);

/// Has QEMU load the state; it stands still afterwards, and nothing of the guest has run. Events
/// that are not about this are given back, in order.
pub(super) async fn load(
    client: &Client,
    events: &mut mpsc::UnboundedReceiver<Event>,
    source: &StateSource,
) -> Result<Vec<Event>, QmpError> {
    let wanted = migration::capabilities(&[("events", true)]);
    client.execute("migrate-set-capabilities", Some(wanted), COMMAND).await?;
    let name = json!({"fdname": STREAM_NAME});
    client.execute_with_fd("getfd", Some(name), stream(source)?, COMMAND).await?;
    let uri = format!("fd:{STREAM_NAME}");
    client.execute("migrate-incoming", Some(json!({ "uri": uri })), COMMAND).await?;
    let mut others = Vec::new();
    let loaded = timeout(LOADING, async {
        while let Some(event) = events.recv().await {
            if event.name != "MIGRATION" {
                others.push(event);
                continue;
            }
            let word = event.data.get("status").and_then(Value::as_str).unwrap_or_default();
            match Status::of(word) {
                Status::Completed => return Ok(()),
                Status::Failed => return Err(failed(client, events).await),
                _ => {}
            }
        }
        Err(None)
    });
    let command = || "migrate-incoming".to_owned();
    match loaded.await {
        Ok(Ok(())) => Ok(others),
        // It writes the reason into its log and ends.
        Ok(Err(None)) => Err(QmpError::Closed { command: command() }),
        Ok(Err(Some(desc))) => {
            Err(QmpError::Refused { command: command(), class: "GenericError".into(), desc })
        }
        Err(_) => Err(QmpError::TimedOut { command: command(), after: LOADING }),
    }
}

/// Why it failed: `None` where QEMU ends, which it does after writing the reason into its log.
async fn failed(client: &Client, events: &mut mpsc::UnboundedReceiver<Event>) -> Option<String> {
    let end = async { while events.recv().await.is_some() {} };
    if timeout(LAST_MOMENTS, end).await.is_ok() {
        return None;
    }
    let answer = client.execute("query-migrate", None, COMMAND).await;
    let why = answer.ok().and_then(|answer| migration::progress(&answer).1);
    Some(why.unwrap_or_else(|| "the state cannot be loaded".into()))
}

/// The device stream at its start, whoever read it before.
fn stream(source: &StateSource) -> std::io::Result<OwnedFd> {
    let stream = source.device.try_clone()?;
    lseek(&stream, 0, Whence::SeekSet)?;
    Ok(stream)
}
