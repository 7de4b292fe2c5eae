//! restore and resume, from the command: what is looked at before a claim, and the claim.

use std::path::Path;
use std::time::Duration;

use kxl_control::Moved;
use kxl_domain::image::{ImagePlace, ImageUse, Purpose};
use kxl_domain::{
    Denied, DomainConfig, DomainName, DomainUuid, Failure, Kind, Op, State, Verb, Wanted,
};
use kxl_store::image::{self, Facts, Image};
use kxl_store::{ListRow, ManagedChange, StoreError};

use crate::ahead;
use crate::host::{Host, stored};
use crate::resting::{Launch, Started};
use crate::restoring::compare_disks;

/// How to come back from an image.
#[derive(Clone, Debug, Default)]
pub struct RestoreOpts {
    /// Leave the guest paused, also if it ran when it was saved.
    pub paused: bool,
    /// Run with this configuration instead of the one in the image.
    pub config: Option<DomainConfig>,
    /// Verify all of the image before the guest runs.
    pub eager: bool,
    /// Come back although disks are not what they were, or although a guest went on from this
    /// image before.
    pub force_disks: bool,
    /// Keep the domain however it ends (every on_* is preserve).
    pub preserve: bool,
    /// The image stays: a checkpoint, or the source of a clone.
    pub keep: bool,
    /// The domain is another one than the image's: its uuid and name ([`Host::restore_image`]).
    pub identity: Option<(DomainUuid, DomainName)>,
    /// How long the command waits without hearing of progress; the start goes on after it.
    pub deadline: Duration,
}

impl Host {
    /// `restore`: makes the domain of an image in a file. The file is never changed.
    ///
    /// # Errors
    /// [`Kind::Denied`] when the domain is live, or its disks have moved on; what is wrong with the
    /// file; the backend's own failures. The file can be tried again after each of them.
    pub fn restore(
        &mut self,
        path: &Path,
        opts: &RestoreOpts,
        moved: impl FnMut(Moved),
    ) -> Result<Started, Failure> {
        let attempt = format!("cannot restore {}", path.display());
        let path = std::path::absolute(path)
            .map_err(|error| Failure::because(Kind::Failed, &attempt, &error))?;
        let image = Image::open_file(&path).map_err(|error| stored(&attempt, &error))?;
        self.come_back(&image, ImagePlace::File(path), Verb::Restore, opts, moved)
    }

    /// Makes the domain of an image in the store: one that host maintenance saved, a checkpoint, or
    /// another domain from a shared one.
    ///
    /// # Errors
    /// As [`Self::restore`]; [`Kind::Denied`] for an image from which a guest went on already.
    pub fn restore_image(
        &mut self,
        image: kxl_domain::ImageId,
        opts: &RestoreOpts,
        moved: impl FnMut(Moved),
    ) -> Result<Started, Failure> {
        let attempt = format!("cannot restore image {image}");
        let image = Image::open_store(&self.paths, image).map_err(|e| stored(&attempt, &e))?;
        self.come_back(&image, ImagePlace::Store, Verb::Restore, opts, moved)
    }

    /// `resume`: brings a suspended domain back from the store.
    ///
    /// # Errors
    /// [`Kind::Denied`] when it is not suspended, or its disks have moved on; the backend's own
    /// failures. It is suspended as before after each of them.
    pub fn resume(
        &mut self,
        row: &ListRow,
        opts: &RestoreOpts,
        moved: impl FnMut(Moved),
    ) -> Result<Started, Failure> {
        let attempt = format!("cannot resume domain \"{}\"", row.name);
        let lock = self.resting_lock(row.uuid, &row.name, Verb::Resume)?;
        let managed = self.store.managed(row.uuid).map_err(|e| stored(&attempt, &e))?;
        let id = managed.and_then(|row| row.image).ok_or_else(|| {
            let text = format!("{attempt}: its record names no image");
            Failure::new(Kind::Internal, text).hint("kxl image list shows what is in the store")
        })?;
        ahead::begin(&self.paths, row.uuid, id);
        let image = Image::open_store(&self.paths, id).map_err(|e| {
            let hint = format!("kxl image rm {} throws its state away", row.name);
            stored(&attempt, &e).hint(hint)
        })?;
        let uses = self.fit(&image, ImagePlace::Store, opts, &attempt)?;
        let facts = image.facts();
        let launch = Launch {
            config: run_config(facts, opts, row.uuid, &row.name),
            uuid: row.uuid,
            managed: true,
            verb: Verb::Resume,
            op: Op::Resuming,
            wanted: wanted(facts, opts),
            image: Some(uses),
            domid: facts.domid,
            deadline: opts.deadline,
        };
        self.launch(lock, launch, moved)
    }

    fn come_back(
        &mut self,
        image: &Image,
        place: ImagePlace,
        verb: Verb,
        opts: &RestoreOpts,
        moved: impl FnMut(Moved),
    ) -> Result<Started, Failure> {
        let facts = image.facts();
        let (uuid, name) = opts.identity.clone().unwrap_or_else(|| {
            let own = opts.config.as_ref();
            let uuid = own.and_then(|config| config.uuid).unwrap_or(facts.uuid);
            (uuid, own.map_or(&facts.name, |config| &config.name).clone())
        });
        let attempt = format!("cannot restore domain \"{name}\"");
        if place == ImagePlace::Store {
            // Noted of the domain that was saved: its guest is this one.
            ahead::begin(&self.paths, facts.uuid, facts.id);
        }
        self.prepare()?;
        let uses = self.fit(image, place, opts, &attempt)?;
        let lock = self.resting_lock(uuid, &name, verb)?;
        let managed = self.store.managed(uuid).map_err(|e| stored(&attempt, &e))?;
        let launch = Launch {
            config: run_config(facts, opts, uuid, &name),
            uuid,
            managed: managed.is_some(),
            verb,
            op: Op::Restoring,
            wanted: wanted(facts, opts),
            image: Some(uses),
            domid: facts.domid.filter(|_| opts.identity.is_none()),
            deadline: opts.deadline,
        };
        self.launch(lock, launch, moved)
    }

    /// Looks at what would be refused later as well, before anything is claimed.
    fn fit(
        &self,
        image: &Image,
        place: ImagePlace,
        opts: &RestoreOpts,
        attempt: &str,
    ) -> Result<ImageUse, Failure> {
        let facts = image.facts();
        // A checkpoint was made to be come back from, any number of times.
        let keep = opts.keep || facts.purpose == Purpose::Checkpoint;
        let config = opts.config.as_ref().unwrap_or(&facts.config);
        let named = |failure: Failure| Failure {
            text: attempt.to_owned(),
            causes: std::iter::once(failure.text).chain(failure.causes).collect(),
            ..failure
        };
        if !opts.force_disks {
            compare_disks(&facts.disks, config).map_err(named)?;
            let spent = image.spent().map_err(|e| stored(attempt, &e))?;
            // After a power cut a disk's times may be older than what is on it: nothing but the
            // lack of writable disks tells that they have not moved on.
            let writes = facts.disks.iter().any(|disk| disk.writable);
            if place == ImagePlace::Store && spent.is_some() && writes && !keep {
                let text = "a guest went on from this image already: its state is an old one";
                let hint = "--force-disks comes back from it all the same";
                return Err(named(Failure::new(Kind::Denied, text).hint(hint)));
            }
        }
        Ok(ImageUse {
            eager: opts.eager,
            force_disks: opts.force_disks,
            keep,
            ..ImageUse::of(facts.id, place)
        })
    }

    /// Throws the state of a suspended domain away: it is halted afterwards.
    ///
    /// # Errors
    /// [`Kind::Denied`] when it is not suspended.
    pub fn discard(&mut self, row: &ListRow) -> Result<(), Failure> {
        let attempt = format!("cannot throw the state of domain \"{}\" away", row.name);
        let refused = |reason: Denied| {
            let failure = Failure::new(Kind::Denied, format!("{attempt}: {reason}"));
            failure.hint(format!("kxl list {} shows where it stands", row.name))
        };
        let _lock = self.resting_lock_or(row.uuid, &row.name, Verb::Resume, &refused)?;
        let managed = self.store.managed(row.uuid).map_err(|e| stored(&attempt, &e))?;
        let image = managed.and_then(|row| row.image);
        // The record first: killed in between, an image that nobody is stays, and no domain
        // without its image.
        let halted = ManagedChange {
            state: Some(State::Halted),
            reason: Some(Some(kxl_domain::Reason::Destroyed)),
            wanted: Some(Wanted::Halted),
            image: Some(None),
            ..ManagedChange::default()
        };
        self.store.set_managed(row.uuid, halted).map_err(|e| stored(&attempt, &e))?;
        self.note(row.uuid, &row.name, "state-discarded", "");
        match image {
            Some(id) => match image::remove(&self.paths, id) {
                Err(StoreError::NoImage { .. }) | Ok(()) => Ok(()),
                Err(error) => Err(stored(&attempt, &error)),
            },
            None => Ok(()),
        }
    }
}

/// The configuration to run with, under the identity that the domain has here.
fn run_config(
    facts: &Facts,
    opts: &RestoreOpts,
    uuid: DomainUuid,
    name: &DomainName,
) -> DomainConfig {
    let mut config = opts.config.as_ref().unwrap_or(&facts.config).clone();
    crate::resting::settle_identity(&mut config, uuid);
    config.name = name.clone();
    if opts.preserve {
        config.preserve_always();
    }
    config
}

/// A domain that was paused comes back paused.
fn wanted(facts: &Facts, opts: &RestoreOpts) -> Wanted {
    let paused = opts.paused || !facts.moment.running || facts.wanted == Wanted::Paused;
    if paused { Wanted::Paused } else { Wanted::Running }
}
