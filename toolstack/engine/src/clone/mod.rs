//! `image clone`: another domain from an image that stays.
//!
//! The new domain gets a uuid, a name and disks of its own and runs at once from the shared image,
//! which is mapped and never written. What the guest's memory holds is not changed: its host name
//! and the MAC addresses that its drivers use stay those of the domain that was saved, until the
//! guest itself changes them.

mod disk;
mod qemu_img;

use std::path::PathBuf;

use kxl_control::Moved;
use kxl_domain::config::model::DiskFormat;
use kxl_domain::image::DiskIdentity;
use kxl_domain::{DomainConfig, DomainName, DomainUuid, Failure, ImageId, Kind};
use kxl_store::image::{self, Facts, Image};

pub use disk::How;
use disk::{Content, Job};

use crate::host::{Host, stored};
use crate::resting::Started;
use crate::returning::RestoreOpts;

/// How the disks of a clone are to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disks {
    /// The cheapest way that is safe: sharing blocks, an overlay where nobody is left who could
    /// write to the old disk, a copy.
    #[default]
    Auto,
    /// This one, or not at all.
    Only(How),
}

/// What a clone is to be.
#[derive(Clone, Debug)]
pub struct CloneOpts {
    /// Its name.
    pub name: DomainName,
    /// Register it.
    pub managed: bool,
    /// How its disks are made.
    pub disks: Disks,
    /// The directory for them; that of each old disk where none is named.
    pub into: Option<PathBuf>,
    /// Use disks that are not what they were when the image was made.
    pub force_disks: bool,
}

/// A disk that was made for a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeDisk {
    /// The guest's name for it.
    pub vdev: String,
    /// Where it is.
    pub path: PathBuf,
    /// How it was made.
    pub how: How,
}

/// A clone whose disks are made and that has not been started. Dropping it removes the disks.
#[derive(Debug)]
pub struct Cloned {
    /// The image that it comes from.
    pub image: ImageId,
    /// Its configuration.
    pub config: DomainConfig,
    /// Its uuid.
    pub uuid: DomainUuid,
    /// Its disks.
    pub disks: Vec<MadeDisk>,
    /// Files that its state has attached for writing, and so has every other machine of it.
    pub shared: Vec<PathBuf>,
    managed: bool,
    kept: bool,
}

impl Drop for Cloned {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        for disk in &self.disks {
            if let Err(error) = std::fs::remove_file(&disk.path) {
                tracing::warn!(%error, path = %disk.path.display(), "a disk of a clone stays");
            }
        }
    }
}

impl Host {
    /// The first half of a clone: its identity and its disks. `moved` hears how much of them is
    /// copied and ends the work by `false`. Nothing runs yet.
    ///
    /// # Errors
    /// [`Kind::Failed`] when the name is taken, a disk exists already or cannot be made in the way
    /// that was asked for; [`Kind::Denied`] when a disk has moved on since the save and has no
    /// snapshot of that moment. No disk is left behind.
    pub fn prepare_clone(
        &mut self,
        id: ImageId,
        opts: &CloneOpts,
        moved: &mut dyn FnMut(Moved) -> bool,
    ) -> Result<Cloned, Failure> {
        let attempt = format!("cannot clone image {id} as \"{}\"", opts.name);
        let image = Image::open_store(&self.paths, id).map_err(|e| stored(&attempt, &e))?;
        let facts = image.facts();
        self.name_is_free(&attempt, &opts.name)?;
        let shared = attached(facts);
        if !opts.force_disks {
            knows_its_disks(&facts.config, &shared).map_err(|failure| under(&attempt, failure))?;
        }
        let uuid = DomainUuid::random();
        let mut cloned = Cloned {
            image: id,
            config: own_config(facts, &opts.name, uuid),
            uuid,
            disks: Vec::new(),
            shared,
            managed: opts.managed,
            kept: false,
        };
        let (writers, writing) = self.writers(facts.uuid)?;
        let own: Vec<_> = (0..cloned.config.disks.len())
            .filter(|at| is_written(&cloned.config.disks[*at]))
            .collect();
        let mut copied = Moved {
            done: 0,
            total: own.iter().map(|at| disk::content_size(&cloned.config.disks[*at])).sum(),
        };
        for at in own {
            let disk = &cloned.config.disks[at];
            let identity = facts.disks.iter().find(|one| one.vdev == disk.vdev);
            let content = content(identity, writing, opts.force_disks);
            let content = content.map_err(|failure| under(&attempt, failure))?;
            let job = Job { disk, content, writers, opts };
            let before = copied.done;
            let made = job.make(&mut |more| {
                copied.done += more;
                moved(copied)
            });
            let made = made.map_err(|failure| under(&attempt, failure))?;
            if copied.done == before {
                // Made without copying it here.
                copied.total -= disk::content_size(disk).min(copied.total);
            }
            let disk = &mut cloned.config.disks[at];
            if made.how == How::Overlay {
                disk.format = DiskFormat::Qcow2;
            }
            disk.target = Some(made.path.clone());
            cloned.disks.push(made);
        }
        Ok(cloned)
    }

    /// The second half: the clone runs, from the image.
    ///
    /// # Errors
    /// As [`Host::restore_image`]; its disks and its registration are removed then, but not after
    /// [`Kind::TimedOut`]: it goes on starting.
    pub fn start_clone(
        &mut self,
        mut cloned: Cloned,
        opts: &RestoreOpts,
        moved: impl FnMut(Moved),
    ) -> Result<Started, Failure> {
        let name = cloned.config.name.clone();
        if cloned.managed {
            self.define(cloned.config.clone())?;
        }
        let opts = RestoreOpts {
            config: Some(cloned.config.clone()),
            identity: Some((cloned.uuid, name)),
            keep: true,
            // The disks are new ones, and were looked at when they were made.
            force_disks: true,
            ..opts.clone()
        };
        let started = self.restore_image(cloned.image, &opts, moved);
        match &started {
            Ok(_) => cloned.kept = true,
            Err(failure) if failure.kind == Kind::TimedOut => cloned.kept = true,
            Err(_) if cloned.managed => {
                let gone = self.find(&cloned.uuid.to_string()).and_then(|row| self.delete(&row));
                if let Err(error) = gone {
                    tracing::warn!(%error, "the clone stays registered");
                    cloned.kept = true;
                }
            }
            Err(_) => {}
        }
        started
    }

    fn name_is_free(&mut self, attempt: &str, name: &DomainName) -> Result<(), Failure> {
        let rows = self.store.list().map_err(|e| stored(attempt, &e))?;
        if rows.iter().all(|row| row.name != *name) {
            return Ok(());
        }
        let failure = Failure::new(Kind::Failed, format!("{attempt}: the name is taken"));
        Err(failure.hint("choose another name"))
    }

    /// Whether the domain that the image was made of may write to its disks again, and whether it
    /// may be doing so at this moment.
    fn writers(&mut self, uuid: DomainUuid) -> Result<(bool, bool), Failure> {
        let rows = self.store.list().map_err(|e| stored("cannot read the domains", &e))?;
        let row = rows.iter().find(|row| row.uuid == uuid);
        Ok((row.is_some(), row.is_some_and(|row| row.domid.is_some())))
    }
}

/// Whether a clone needs a disk of its own for this one.
fn is_written(disk: &kxl_domain::config::model::Disk) -> bool {
    !disk.cdrom && disk.readwrite && disk.target.is_some()
}

/// The configuration of the clone. What can be only once on a host is made anew: MAC addresses,
/// names of interfaces, the number of a screen.
fn own_config(facts: &Facts, name: &DomainName, uuid: DomainUuid) -> DomainConfig {
    let mut config = facts.config.clone();
    config.name = name.clone();
    config.uuid = Some(uuid);
    for (index, nic) in config.nics.iter_mut().enumerate() {
        nic.mac = Some(uuid.mac(u8::try_from(index).unwrap_or(u8::MAX)));
        nic.vifname = None;
    }
    if config.display.vncdisplay.take().is_some() {
        config.display.vncunused = Some(true);
    }
    config
}

/// Files that the emulator had open for writing beside the disks of the configuration: those that a
/// simulator attaches by its own commands.
fn attached(facts: &Facts) -> Vec<PathBuf> {
    let own = |disk: &DiskIdentity| facts.config.disks.iter().any(|one| one.vdev == disk.vdev);
    let files = facts.disks.iter().filter(|disk| disk.writable && !own(disk));
    files.map(|disk| disk.path.clone()).collect()
}

/// Refuses a machine that is set up by a command file: what that attaches is in the state as well,
/// and a clone would write to the very same disks.
fn knows_its_disks(config: &DomainConfig, attached: &[PathBuf]) -> Result<(), Failure> {
    let Some(ini) = &config.ini else { return Ok(()) };
    let ini = ini.display();
    let (text, hint) = if attached.is_empty() {
        (
            format!("its disks are those that {ini} attaches, and cannot be changed"),
            "--force-disks clones it all the same: for a machine that has no disks",
        )
    } else {
        let files: Vec<_> = attached.iter().map(|path| path.display().to_string()).collect();
        let files = files.join(", ");
        (
            format!("it would write to {files} as the old one does: {ini} attaches that"),
            "--force-disks clones it all the same: never let two of them run, or they ruin it",
        )
    };
    Err(Failure::new(Kind::Denied, text).hint(hint))
}

/// Where the bytes of that moment are. `writing`: a guest may write to the disk at this moment.
fn content(
    identity: Option<&DiskIdentity>,
    writing: bool,
    force: bool,
) -> Result<Content, Failure> {
    let Some(identity) = identity else { return Ok(Content::Now) };
    let read = format!("cannot look at disk {}", identity.vdev);
    let change = image::changed(identity).map_err(|e| stored(read, &e))?;
    let in_use = writing.then(|| "the domain runs and may write to it".to_owned());
    let Some(change) = change.or(in_use) else { return Ok(Content::Now) };
    if let Some(snapshot) = &identity.snapshot {
        return Ok(Content::Snapshot(snapshot.clone()));
    }
    if force {
        return Ok(Content::Now);
    }
    let text = format!(
        "disk {} ({}) is not as it was when the image was made: {change}",
        identity.vdev,
        identity.path.display()
    );
    Err(Failure::new(Kind::Denied, text)
        .hint("--force-disks uses it as it is: the guest's memory may not fit what is on it"))
}

/// A failure as the cause of this attempt.
fn under(attempt: &str, failure: Failure) -> Failure {
    let causes = std::iter::once(failure.text).chain(failure.causes).collect();
    Failure { text: attempt.to_owned(), causes, ..failure }
}
