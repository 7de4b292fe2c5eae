//! What the disks are at the moment that a state is of.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use kxl_backend::Pause;
use kxl_domain::image::{DiskIdentity, ImageId};
use kxl_store::image;

use super::snapshot_name;
use crate::live::LiveDomain;
use crate::thread::apart;

/// What looking at the disks comes to, on a thread of its own.
pub(super) type Look = io::Result<kxl_store::Result<Vec<DiskIdentity>>>;

/// What the disks were while the guest stood still.
#[derive(Clone, Default)]
pub(super) struct Seen(Rc<RefCell<Option<Look>>>);

impl Seen {
    /// The outcome, once.
    pub(super) fn take(&self) -> Look {
        let seen = self.0.take();
        seen.unwrap_or_else(|| Err(io::Error::other("nobody has looked at the disks")))
    }
}

impl LiveDomain {
    /// What is to be done while the guest stands still: to see what its disks are then.
    pub(super) fn look_at_disks(&self, id: ImageId, seen: &Seen) -> Pause {
        let (disks, name, seen) = (self.row.config.disks.clone(), snapshot_name(id), seen.clone());
        Pause(Rc::new(move |snapshots| {
            let (disks, name, seen) = (disks.clone(), name.clone(), seen.clone());
            let look = apart("disks", move || identities(&disks, &snapshots, &name));
            Box::pin(async move {
                seen.0.replace(Some(look.await));
            })
        }))
    }
}

/// What the disks are at this moment, in the order of the configuration.
fn identities(
    disks: &[kxl_domain::config::model::Disk],
    snapshots: &[String],
    name: &str,
) -> kxl_store::Result<Vec<DiskIdentity>> {
    let with_medium = disks.iter().filter(|disk| disk.target.is_some());
    with_medium
        .map(|disk| {
            let mut identity = image::identify(disk)?;
            if snapshots.contains(&disk.vdev) {
                identity.snapshot = Some(name.to_owned());
            }
            Ok(identity)
        })
        .collect()
}
