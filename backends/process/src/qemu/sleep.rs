//! Sleep in memory: QEMU's processors stand still, and its disks are flushed.
//!
//! QEMU itself calls that paused; that it is a sleep is remembered by whoever asked for it. A guest
//! that goes to S3 of its own accord is suspended to QEMU, and woken by another command.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use kxl_backend::{BackendError, Result};
use serde_json::{Value, json};

use super::live::Qemu;

/// How long the disks may take to write what they were given.
const FLUSH: Duration = Duration::from_secs(20);

impl Qemu {
    /// [`kxl_backend::Live::sleep`].
    pub(super) async fn sleep_in_memory(&self) -> Result<()> {
        let ran = self.run_state().await? == "running";
        // QEMU empties its own caches whenever it stops.
        self.command("stop", None).await?;
        let flushed = self.flush().await;
        if flushed.is_err() && ran {
            self.command("cont", None).await?;
        }
        flushed
    }

    /// [`kxl_backend::Live::wake`].
    pub(super) async fn wake_up(&self) -> Result<()> {
        let how = wakes_by(&self.run_state().await?);
        self.command(how, None).await.map(drop)
    }

    /// QEMU's word for where it stands.
    pub(super) async fn run_state(&self) -> Result<String> {
        let status = self.command("query-status", None).await?;
        Ok(status.get("status").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Has the host write what QEMU has given it: what did not get to a disk is told here, and
    /// nowhere else before the guest goes on.
    async fn flush(&self) -> Result<()> {
        let nodes = self.command("query-named-block-nodes", Some(json!({"flat": true}))).await?;
        let files = written(&nodes);
        let flushing = tokio::task::spawn_blocking(move || {
            files.into_iter().try_for_each(|path| {
                File::open(&path).and_then(|file| file.sync_all()).map_err(|error| {
                    BackendError::io(format!("cannot flush {}", path.display()), error)
                })
            })
        });
        match tokio::time::timeout(FLUSH, flushing).await {
            Ok(Ok(flushed)) => flushed,
            Ok(Err(error)) => {
                Err(BackendError::io("cannot flush the disks", std::io::Error::other(error)))
            }
            Err(_) => {
                let waited_for = "disks to write what they were given".to_owned();
                Err(BackendError::TimedOut { waited_for, after: FLUSH })
            }
        }
    }
}

/// What wakes a machine in this run state.
fn wakes_by(state: &str) -> &'static str {
    if state == "suspended" { "system_wakeup" } else { "cont" }
}

/// The files and devices that are written to, of what QEMU says about its disks.
fn written(nodes: &Value) -> Vec<PathBuf> {
    let is_file = |node: &&Value| matches!(node["drv"].as_str(), Some("file" | "host_device"));
    let writable = |node: &&Value| node["ro"] == false;
    let nodes = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
    let paths = nodes.iter().filter(is_file).filter(writable);
    paths.filter_map(|node| node["file"].as_str().map(PathBuf::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_went_to_sleep_by_itself_is_woken_and_one_that_was_stopped_goes_on() {
        assert_eq!(wakes_by("suspended"), "system_wakeup");
        for state in ["paused", "running"] {
            assert_eq!(wakes_by(state), "cont");
        }
    }

    #[test]
    fn only_what_is_written_to_is_flushed() {
        let nodes = json!([
            {"drv": "qcow2", "ro": false, "file": "/disks/a.qcow2"},
            {"drv": "file", "ro": false, "file": "/disks/a.qcow2"},
            {"drv": "file", "ro": true, "file": "/disks/base.img"},
            {"drv": "host_device", "ro": false, "file": "/dev/vg/lv"},
        ]);
        assert_eq!(written(&nodes), [PathBuf::from("/disks/a.qcow2"), "/dev/vg/lv".into()]);
        assert!(written(&json!([])).is_empty());
    }
}
