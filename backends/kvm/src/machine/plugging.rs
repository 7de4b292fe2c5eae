//! Devices that come and go while the machine runs.

use std::fs::File;
use std::io;

use super::Machine;
use crate::api::control::{NewDisk, NewNic, NewTap, Outcome, Place, Refusal};
use crate::api::notices::What;
use crate::config::Vhost;
use crate::virtio::block::{self, Disk, DiskError};
use crate::virtio::net::tap::{self, Tap, TapError};

/// The index of a free slot: the one that is asked for, or the first.
fn free(wanted: Option<usize>, taken: &[bool], what: &str) -> Result<usize, Refusal> {
    let none = || {
        let reserved = taken.len();
        Refusal::new(format!(
            "no slot for another {what} is free: {reserved} were reserved by -hotplug"
        ))
    };
    match wanted {
        None => taken.iter().position(|taken| !taken).ok_or_else(none),
        Some(slot) => match taken.get(slot) {
            None => Err(none()),
            Some(true) => Err(Refusal::new(format!("slot {slot} for a {what} is in use"))),
            Some(false) => Ok(slot),
        },
    }
}

/// How a confined machine comes by a file.
const FILES: &str = "start it with -hotplug-dir, or pass the file with add-fd";

/// How a confined machine comes by a tap.
const TAPS: &str = "make the tap before and let it belong to nobody or to the machine's user, or pass \
                    it with getfd, and that name to netdev_add as fd";

fn denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

impl Machine {
    /// A refusal to open something that a confined machine cannot open, with the way around it.
    fn around(&self, shut: bool, refusal: Refusal, way: &str) -> Refusal {
        if !shut || !self.config.sandbox {
            return refusal;
        }
        let text = format!("{}; the machine is confined: {way}", refusal.text);
        Refusal { text, ..refusal }
    }

    /// A tap by name: through a device that was opened in time, as long as there is one.
    fn tap(&mut self, name: &str) -> Result<Tap, Refusal> {
        let tap = match self.board.slots_mut().taps.pop() {
            Some(device) => tap::attach(device, name),
            None => tap::open(name),
        };
        tap.map_err(|error| {
            let (TapError::Open { source, .. } | TapError::Attach { source, .. }) = &error else {
                return error.into();
            };
            let shut = denied(source);
            self.around(shut, error.into(), TAPS)
        })
    }

    /// Refuses an id that a device has.
    fn unused(&self, id: &str) -> Outcome {
        let slots = self.board.slots();
        let disks = slots.disks.iter().filter_map(|slot| Some(slot.holds.as_ref()?.0.as_str()));
        let nics = slots.nics.iter().filter_map(|slot| slot.holds.as_deref());
        if disks.chain(nics).any(|other| other == id) {
            return Err(Refusal::new(format!("there is a device '{id}' already")));
        }
        Ok(())
    }

    pub(super) fn plug_in_disk(&mut self, new: NewDisk) -> Outcome {
        self.unused(&new.id)?;
        let taken: Vec<bool> =
            self.board.slots().disks.iter().map(|slot| slot.holds.is_some()).collect();
        let index = free(new.slot, &taken, "disk")?;
        let (path, disk) = match new.source {
            Place::Path(path) => {
                let disk = block::open(&path, new.readonly).map_err(|error| {
                    let shut = matches!(&error, DiskError::Open { source, .. } if denied(source));
                    self.around(shut, error.into(), FILES)
                })?;
                (Some(path), disk)
            }
            Place::Fd(fd) => (None, Disk::new(File::from(fd), &new.id, new.readonly)?),
        };
        let slot = &mut self.board.slots_mut().disks[index];
        slot.handle.plug(disk.with_id(&new.id))?;
        slot.holds = Some((new.id, path, new.readonly));
        Ok(())
    }

    pub(super) fn plug_in_nic(&mut self, new: NewNic) -> Outcome {
        self.unused(&new.id)?;
        let taken: Vec<bool> =
            self.board.slots().nics.iter().map(|slot| slot.holds.is_some()).collect();
        let index = free(new.slot, &taken, "interface")?;
        let tap = match new.tap {
            NewTap::Name(name) => self.tap(&name)?,
            NewTap::Fd(fd) => tap::inherited(fd, &new.id)?,
        };
        let slot = &mut self.board.slots_mut().nics[index];
        if new.mac.is_some_and(|mac| mac != slot.mac) {
            let known = slot.mac.map(|byte| format!("{byte:02x}")).join(":");
            let text = format!("the guest knows this slot as {known}: give no mac, or this one");
            return Err(Refusal::new(text));
        }
        let vhost = match (new.vhost, slot.spare.take()) {
            (Vhost::On, None) => {
                let text =
                    "there was no /dev/vhost-net when the machine was started: say vhost=off";
                return Err(Refusal::new(text));
            }
            (Vhost::Off, spare) => {
                slot.spare = spare;
                None
            }
            (_, spare) => spare,
        };
        slot.handle.plug(tap, vhost)?;
        slot.holds = Some(new.id);
        Ok(())
    }

    pub(super) fn pull_out(&mut self, id: &str) -> Outcome {
        let slots = self.board.slots_mut();
        let holds_disk =
            |holds: &Option<(String, _, _)>| holds.as_ref().is_some_and(|it| it.0 == id);
        if let Some(slot) = slots.disks.iter_mut().find(|slot| holds_disk(&slot.holds)) {
            slot.handle.unplug()?;
            slot.holds = None;
        } else if let Some(slot) =
            slots.nics.iter_mut().find(|slot| slot.holds.as_deref() == Some(id))
        {
            slot.handle.unplug()?;
            slot.holds = None;
        } else {
            return Err(Refusal::no_device(id));
        }
        self.notices.post(What::DeviceDeleted(id.to_owned()));
        Ok(())
    }
}
