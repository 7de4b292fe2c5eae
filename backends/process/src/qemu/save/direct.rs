//! Saving past QEMU: its guest's memory is read where it is, and QEMU is asked for the devices only.
//!
//! QEMU's own stream costs three copies of each page, and QEMU touches all memory for it: of a guest
//! that came back from an image also what it has never used since, holes too. The kernel knows what
//! exists and what was written ([`kxl_backend::tracking`]), so that a pass costs what it copies.
//!
//! QEMU tells of its devices alone by a command that was made for Xen and works for any machine.
//! What it leaves out, memory blocks beside the main one and what they are called, is put in front,
//! so that what is loaded later is a stream as QEMU itself writes it.
//!
//! Where any of this is not to be had (an older kernel, no right to trace, a machine with blocks
//! that cannot be told apart, a guest on KVM) the stream is used.

mod copy;
mod source;

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::time::Duration;

use kxl_backend::{BackendError, Result, SaveOrder, StateSink};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::super::live::{COMMAND, Qemu};
use super::super::migration::Told;
use super::{Attempt, now_ms, vdevs};
use crate::ending::LAST_MOMENTS;
pub(super) use copy::Copying;
use copy::{CopyError, Last};
pub(super) use source::Source;

/// The command that saves the devices.
const DEVICES: &str = "xen-save-devices-state";

/// How long QEMU may take for its devices, and for disks that it flushes before.
const DEVICES_TIME: Duration = Duration::from_secs(60);

impl Qemu {
    /// The memory of this guest, if it can be saved this way.
    pub(super) async fn source(&self, live: bool) -> Result<Option<Source>> {
        // Shared memory that is swapped out looks like memory that never was, written or not.
        if !self.facts.direct || (live && self.facts.memory_own) {
            return Ok(None);
        }
        let commands = self.command("query-commands", None).await?;
        let known = |command: &Value| command.get("name").and_then(Value::as_str) == Some(DEVICES);
        if !commands.as_array().is_some_and(|list| list.iter().any(known)) {
            return Ok(None);
        }
        // The command for the devices does not ask for what a migration asks for.
        let migration = self.command("query-migrate", None).await?;
        if migration.get("blocked-reasons").is_some() {
            return Ok(None);
        }
        let blocks = self.monitor_line("info ramblock").await?;
        match Source::find(&self.process, &self.facts, &blocks) {
            Ok(source) => Ok(Some(source)),
            Err(error) => {
                tracing::debug!(%error, "the guest's memory cannot be read past the emulator");
                Ok(None)
            }
        }
    }

    /// Saves the guest. Returns when it goes on already, if it does.
    pub(super) async fn save_directly(
        &self,
        order: &SaveOrder,
        ran: bool,
        machine: &str,
        (source, sink): (Source, Box<dyn StateSink>),
        attempt: &mut Attempt<'_>,
    ) -> Result<Option<i64>> {
        let mut heard = self.shared.ear.listen();
        let (watch, live) = (order.watch.clone(), ran && order.live);
        let copying = Copying::start(source, sink, watch, live, order.go_on.is_some())
            .map_err(|error| BackendError::io("cannot read the memory", error))?;
        self.shared.copying.replace(copying.alive());
        let copying = attempt.copying.insert(copying);
        if !self.unless_it_ends(order, &mut heard, copying.ready()).await? {
            return Err(self.not_copied(copying).await);
        }
        if ran {
            self.command("stop", None).await?;
        }
        self.snapshots(order, &mut attempt.snapshot, &mut attempt.taken).await?;
        let devices = self.devices(ran && order.go_on.is_none()).await?;
        self.stands_still().await?;
        copying.finish(Last {
            machine: machine.to_owned(),
            page_bits: self.facts.page_bits,
            devices,
        });
        let Some(pause) = order.go_on.as_ref().filter(|_| ran) else {
            let ended = self.unless_it_ends(order, &mut heard, copying.ended()).await?;
            return match ended {
                Ok(()) => Ok(None),
                Err(error) => Err(self.explained_copy(error).await),
            };
        };
        let seen = (pause.0)(vdevs(&attempt.taken));
        let both = async { tokio::join!(copying.copied(), seen).0 };
        if !self.unless_it_ends(order, &mut heard, both).await? {
            return Err(self.not_copied(copying).await);
        }
        self.bring(true).await?;
        let went_on_ms = now_ms();
        // All that belongs to the state was read: what becomes of the guest does not matter to it.
        tokio::select! {
            biased;
            () = order.watch.cancelled() => Err(BackendError::Cancelled),
            ended = copying.ended() => match ended {
                Ok(()) => Ok(Some(went_on_ms)),
                Err(error) => Err(self.explained_copy(error).await),
            },
        }
    }

    /// The devices' state: a stream of its own, without memory. With `release` QEMU also writes all
    /// that it holds of its disks, and does not touch them any more until the guest goes on; it
    /// must have run before.
    async fn devices(&self, release: bool) -> Result<Vec<u8>> {
        let io = |error: std::io::Error| BackendError::io("cannot hold the devices' state", error);
        let mut devices = match self.shared.devices.take() {
            Some(devices) => devices,
            None => self.devices_file().await?,
        };
        devices.clear().map_err(io)?;
        let filename = format!("/dev/fdset/{}", devices.set);
        let order = json!({"filename": filename, "live": release});
        let saved = self.client.execute(DEVICES, Some(order), DEVICES_TIME).await;
        if let Err(error) = saved {
            return Err(self.explained(error).await);
        }
        self.shared.released.set(release);
        let bytes = devices.read().map_err(io)?;
        self.shared.devices.set(Some(devices));
        Ok(bytes)
    }

    /// Gives QEMU a file for its devices, for the rest of its life: before 9.1 it closes one that is
    /// taken back only while the guest runs.
    async fn devices_file(&self) -> Result<Devices> {
        let io = |error: std::io::Error| BackendError::io("cannot hold the devices' state", error);
        let made = memfd_create(c"devices", MFdFlags::MFD_CLOEXEC);
        let from = File::from(made.map_err(|error| io(error.into()))?);
        // QEMU takes only what was opened in the very way that it wants to write.
        let path = format!("/proc/self/fd/{}", from.as_raw_fd());
        let to = OpenOptions::new().write(true).open(path).map_err(io)?;
        let given = to.try_clone().map_err(io)?;
        match self.client.execute_with_fd("add-fd", None, given.into(), COMMAND).await {
            Ok(added) => {
                let set = added.get("fdset-id").and_then(Value::as_u64).unwrap_or_default();
                Ok(Devices { set, to, from })
            }
            Err(error) => Err(self.explained(error).await),
        }
    }

    /// A guest may come to its end at the very moment at which it is stopped.
    async fn stands_still(&self) -> Result<()> {
        let answer = self.command("query-status", None).await?;
        match answer.get("status").and_then(Value::as_str).unwrap_or_default() {
            "paused" | "prelaunch" | "io-error" => Ok(()),
            _ => Err(came_to_its_end()),
        }
    }

    /// Waits for something, as long as the guest and its emulator live and nobody gives up.
    async fn unless_it_ends<T>(
        &self,
        order: &SaveOrder,
        heard: &mut mpsc::UnboundedReceiver<Told>,
        wanted: impl Future<Output = T>,
    ) -> Result<T> {
        let (mut exit, mut listening) = (self.exit.clone(), true);
        let mut wanted = std::pin::pin!(wanted);
        loop {
            tokio::select! {
                biased;
                told = heard.recv(), if listening => match told {
                    Some(Told::GuestEnded) => return Err(came_to_its_end()),
                    Some(_) => {}
                    None => listening = false,
                },
                gone = exit.wait_for(Option::is_some) => {
                    let exit = gone.ok().and_then(|exit| exit.clone());
                    let text = exit.map_or_else(String::new, |exit| exit.text);
                    return Err(BackendError::Exited { text });
                }
                () = order.watch.cancelled() => return Err(BackendError::Cancelled),
                value = &mut wanted => return Ok(value),
            }
        }
    }

    /// Why the thread ended early.
    async fn not_copied(&self, copying: &mut Copying) -> BackendError {
        match copying.ended().await {
            Err(error) => self.explained_copy(error).await,
            Ok(()) => BackendError::Control {
                command: DEVICES.into(),
                why: "the memory was read before the devices".into(),
            },
        }
    }

    async fn explained_copy(&self, error: CopyError) -> BackendError {
        let error = match error {
            CopyError::Sink(error) => return BackendError::Sink(error),
            CopyError::GivenUp => return BackendError::Cancelled,
            CopyError::Memory(error) => error,
        };
        // Most likely it is there no more.
        let mut exit = self.exit.clone();
        let gone = tokio::time::timeout(LAST_MOMENTS, exit.wait_for(Option::is_some)).await;
        match gone {
            Ok(Ok(exit)) => {
                let text = exit.as_ref().map_or_else(String::new, |exit| exit.text.clone());
                BackendError::Exited { text }
            }
            _ => BackendError::io("cannot read the guest's memory", error),
        }
    }
}

/// A file that QEMU writes its devices into.
#[derive(Debug)]
pub(in super::super) struct Devices {
    /// QEMU's number of it.
    set: u64,
    /// QEMU's own position is this one's.
    to: File,
    from: File,
}

impl Devices {
    fn clear(&mut self) -> std::io::Result<()> {
        self.from.set_len(0)?;
        self.to.rewind()
    }

    fn read(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.from.rewind()?;
        self.from.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

fn came_to_its_end() -> BackendError {
    let why = "the guest came to its end meanwhile".into();
    BackendError::Control { command: "save".into(), why }
}
