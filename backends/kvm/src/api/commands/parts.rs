//! What devices are made of: files (`blockdev-add`) and taps (`netdev_add`), kept under their names
//! from the one command until the other takes them away. A device has its own descriptor of them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use kxl_qmp::server::ErrorClass;

use crate::api::control::{NewTap, Outcome, Place, Refusal};
use crate::config::Vhost;

/// Files, and taps, that can wait for a device.
const MOST: usize = 32;

/// A file.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) source: Kept,
    pub(super) readonly: bool,
}

/// Where a file or a tap comes from, as often as a device is made of it.
#[derive(Debug)]
pub(super) enum Kept {
    Name(String),
    Fd(OwnedFd),
}

impl Kept {
    pub(super) fn place(&self) -> Outcome<Place> {
        Ok(match self {
            Self::Name(name) => Place::Path(PathBuf::from(name)),
            Self::Fd(fd) => Place::Fd(fd.try_clone()?),
        })
    }

    pub(super) fn tap(&self) -> Outcome<NewTap> {
        Ok(match self {
            Self::Name(name) => NewTap::Name(name.clone()),
            Self::Fd(fd) => NewTap::Fd(fd.try_clone()?),
        })
    }
}

/// A tap.
#[derive(Debug)]
pub(super) struct Netdev {
    pub(super) tap: Kept,
    pub(super) vhost: Vhost,
}

/// Parts of one kind, and the device that is made of each.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    /// What the parts are called in messages.
    kind: &'static str,
    parts: BTreeMap<String, (T, Option<String>)>,
}

impl<T> Shelf<T> {
    const fn new(kind: &'static str) -> Self {
        Self { kind, parts: BTreeMap::new() }
    }

    /// Whether a part of this name can be added.
    pub(super) fn room(&self, id: &str) -> Outcome {
        let kind = self.kind;
        if self.parts.contains_key(id) {
            return Err(Refusal::new(format!("there is a {kind} '{id}' already")));
        }
        if self.parts.len() >= MOST {
            return Err(Refusal::new(format!("there are {MOST} of a {kind} already")));
        }
        Ok(())
    }

    pub(super) fn add(&mut self, id: String, part: T) -> Outcome {
        self.room(&id)?;
        self.parts.insert(id, (part, None));
        Ok(())
    }

    pub(super) fn remove(&mut self, id: &str) -> Outcome {
        match self.parts.get(id) {
            None => Err(self.none(id)),
            Some((_, Some(device))) => {
                let text = format!("device '{device}' uses it; remove that with device_del before");
                Err(Refusal::new(text))
            }
            Some((_, None)) => {
                self.parts.remove(id);
                Ok(())
            }
        }
    }

    /// A part that no device uses.
    pub(super) fn free(&self, id: &str) -> Outcome<&T> {
        match self.parts.get(id) {
            None => Err(self.none(id)),
            Some((_, Some(device))) => {
                Err(Refusal::new(format!("device '{device}' uses {} '{id}'", self.kind)))
            }
            Some((part, None)) => Ok(part),
        }
    }

    pub(super) fn used(&mut self, id: &str, device: &str) {
        if let Some((_, user)) = self.parts.get_mut(id) {
            *user = Some(device.to_owned());
        }
    }

    fn released(&mut self, device: &str) {
        for (_, user) in self.parts.values_mut() {
            user.take_if(|user| user == device);
        }
    }

    fn none(&self, id: &str) -> Refusal {
        let text = format!("there is no {} '{id}'", self.kind);
        Refusal { class: ErrorClass::DeviceNotFound, text }
    }
}

/// All parts.
#[derive(Debug)]
pub(in crate::api) struct Parts {
    pub(super) nodes: Shelf<Node>,
    pub(super) netdevs: Shelf<Netdev>,
}

impl Default for Parts {
    fn default() -> Self {
        Self { nodes: Shelf::new("block node"), netdevs: Shelf::new("netdev") }
    }
}

impl Parts {
    /// A device is gone.
    pub(in crate::api) fn released(&mut self, device: &str) {
        self.nodes.released(device);
        self.netdevs.released(device);
    }
}
