//! Images as a command sees them: what is in the store, whose it is, and what may be done to it.

use kxl_domain::image::ImagePlace;
use kxl_domain::{DomainName, Failure, ImageId, Kind, State, Verb};
use kxl_store::image::{self, Image, Listed};
use kxl_store::{ListRow, LiveRow, StoreError};

use crate::host::{Host, stored};

/// Whose an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The suspended domain that it is.
    Suspended(DomainName),
    /// A live domain that came from it, and still reads it.
    Live(DomainName),
    /// Nobody's: a checkpoint, or what maintenance, an import or a crash has left.
    Nobody,
}

/// An image in the store.
#[derive(Clone, Debug)]
pub struct StoredImage {
    /// What it says of itself, what it takes on the disk, whether a guest went on from it.
    pub listed: Listed,
    /// Whose it is.
    pub owner: Owner,
}

/// What is in the store.
#[derive(Debug, Default)]
pub struct Images {
    /// Images, the oldest first.
    pub images: Vec<StoredImage>,
    /// What cannot be read, and why.
    pub damaged: Vec<(ImageId, Failure)>,
    /// Bytes that live domains keep taken by mapping images that are removed already, by domain.
    pub pinned: Vec<(DomainName, u64)>,
}

impl Host {
    /// Everything in the store.
    ///
    /// # Errors
    /// When the store or the records cannot be read.
    pub fn images(&self) -> Result<Images, Failure> {
        let attempt = "cannot read the image store";
        let listed = image::list(&self.paths).map_err(|e| stored(attempt, &e))?;
        let live = self.store.live_rows().map_err(|e| stored(attempt, &e))?;
        let suspended = self.suspended(attempt)?;
        let mut all = Images { pinned: pinned(&live), ..Images::default() };
        for found in listed {
            match found {
                Ok(listed) => {
                    let owner = owner(listed.facts.id, &suspended, &live);
                    all.images.push(StoredImage { listed, owner });
                }
                Err((id, error)) => all.damaged.push((id, stored("it cannot be read", &error))),
            }
        }
        Ok(all)
    }

    /// The images in the store that were made of a domain, by its uuid or its name of then; the
    /// oldest first. Those that cannot be read tell of no domain.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn images_made_of(&self, domain: &str) -> Result<Vec<ImageId>, Failure> {
        let listed = image::list(&self.paths);
        let listed = listed.map_err(|e| stored("cannot read the image store", &e))?;
        let of = |Listed { facts, .. }: Listed| {
            let meant = facts.uuid.to_string() == domain || facts.name.as_str() == domain;
            meant.then_some(facts.id)
        };
        Ok(listed.into_iter().filter_map(|found| of(found.ok()?)).collect())
    }

    /// `delete --with-image`: removes a registered domain that is off or suspended, and every image
    /// in the store that was made of it. Its record goes last: killed in between, this can be
    /// repeated.
    ///
    /// # Errors
    /// As [`Self::delete`]; [`Kind::Denied`], and nothing is done, while a live domain reads one of
    /// the images.
    pub fn delete_with_images(&mut self, row: &ListRow) -> Result<(), Failure> {
        let attempt = format!("cannot delete domain \"{}\" with its images", row.name);
        let live = self.store.live_rows().map_err(|e| stored(&attempt, &e))?;
        let uuid = row.uuid.to_string();
        for id in self.images_made_of(&uuid)? {
            if let Owner::Live(name) = owner(id, &[], &live)
                // That this domain runs itself is told below.
                && name != row.name
            {
                let mut failure = Failure::new(Kind::Denied, attempt);
                failure.causes.push(format!(
                    "domain \"{name}\" comes from image {id} and has not read all of it"
                ));
                return Err(failure.hint("it lets the image go when it has; run this again then"));
            }
        }
        if row.state == State::Suspended {
            self.discard(row)?;
        }
        let lock = self.resting_lock(row.uuid, &row.name, Verb::Delete)?;
        for id in self.images_made_of(&uuid)? {
            match image::remove(&self.paths, id) {
                Ok(()) | Err(StoreError::NoImage { .. }) => {}
                Err(error) => return Err(stored(&attempt, &error)),
            }
        }
        self.undefine(lock, row)
    }

    fn suspended(&self, attempt: &str) -> Result<Vec<(DomainName, ImageId)>, Failure> {
        let rows = self.store.list().map_err(|e| stored(attempt, &e))?;
        let mut found = Vec::new();
        for row in rows.into_iter().filter(|row| row.state == State::Suspended) {
            let managed = self.store.managed(row.uuid).map_err(|e| stored(attempt, &e))?;
            found.extend(managed.and_then(|row| row.image).map(|id| (row.name, id)));
        }
        Ok(found)
    }

    /// The image of this id, of an unambiguous beginning of one, or of the suspended domain of this
    /// name.
    ///
    /// # Errors
    /// [`Kind::NoSuchDomain`] when there is none, [`Kind::Usage`] when there are several.
    pub fn image_id(&mut self, text: &str) -> Result<ImageId, Failure> {
        if let Ok(row) = self.find(text) {
            return self.image_of(&row);
        }
        let listed = image::list(&self.paths);
        let listed = listed.map_err(|e| stored("cannot read the image store", &e))?;
        let ids = listed.into_iter().map(|found| match found {
            Ok(listed) => listed.facts.id,
            Err((id, _)) => id,
        });
        let mut fitting = ids.filter(|id| id.to_string().starts_with(text));
        match (fitting.next(), fitting.next()) {
            (Some(id), None) => Ok(id),
            (Some(_), Some(_)) => {
                let failure = Failure::new(
                    Kind::Usage,
                    format!("\"{text}\" begins more than one image's id"),
                );
                Err(failure.hint("kxl image list shows them"))
            }
            (None, _) => {
                let text = format!("there is no image or suspended domain \"{text}\"");
                Err(Failure::new(Kind::NoSuchDomain, text).hint("kxl image list shows them"))
            }
        }
    }

    fn image_of(&self, row: &ListRow) -> Result<ImageId, Failure> {
        let attempt = format!("cannot read domain \"{}\"", row.name);
        let managed = self.store.managed(row.uuid).map_err(|e| stored(attempt, &e))?;
        if let Some(id) = managed.and_then(|row| row.image) {
            return Ok(id);
        }
        let text = format!("domain \"{}\" is {} and no image", row.name, row.state);
        let made = self.images_made_of(&row.uuid.to_string())?;
        let hint = if let Some(last) = made.last() {
            format!("the last image that was made of it is {last}; kxl image list shows them all")
        } else if matches!(row.state, State::Running | State::Paused) {
            format!("kxl suspend {} makes it one", row.name)
        } else {
            "kxl image list shows what there is".to_owned()
        };
        Err(Failure::new(Kind::Denied, text).hint(hint))
    }

    /// Opens an image of the store.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn image(&self, id: ImageId) -> Result<Image, Failure> {
        Image::open_store(&self.paths, id)
            .map_err(|e| stored(format!("cannot open image {id}"), &e))
    }

    /// Removes an image that is nobody's. The one that a suspended domain is goes by
    /// [`discard`](Self::discard).
    ///
    /// # Errors
    /// [`Kind::Denied`] while a live domain reads it or it is a suspended one.
    pub fn remove_image(&mut self, id: ImageId) -> Result<(), Failure> {
        let attempt = format!("cannot remove image {id}");
        let live = self.store.live_rows().map_err(|e| stored(&attempt, &e))?;
        let suspended = self.suspended(&attempt)?;
        let denied = |why: String, hint: String| {
            let mut failure = Failure::new(Kind::Denied, &attempt).hint(hint);
            failure.causes.push(why);
            Err(failure)
        };
        match owner(id, &suspended, &live) {
            Owner::Suspended(name) => denied(
                format!("suspended domain \"{name}\" is this image"),
                format!("kxl image rm {name} throws its state away"),
            ),
            Owner::Live(name) => denied(
                format!("domain \"{name}\" comes from it and has not read all of it"),
                "it goes by itself when that is done".to_owned(),
            ),
            Owner::Nobody => image::remove(&self.paths, id).map_err(|e| stored(&attempt, &e)),
        }
    }
}

fn owner(id: ImageId, suspended: &[(DomainName, ImageId)], live: &[LiveRow]) -> Owner {
    if let Some((name, _)) = suspended.iter().find(|(_, of)| *of == id) {
        return Owner::Suspended(name.clone());
    }
    let reads = |row: &&LiveRow| {
        let from = row.image.as_ref();
        from.is_some_and(|from| from.id == id && from.place == ImagePlace::Store && !from.done)
    };
    live.iter().find(reads).map_or(Owner::Nobody, |row| Owner::Live(row.name.clone()))
}

fn pinned(live: &[LiveRow]) -> Vec<(DomainName, u64)> {
    let done = live.iter().filter_map(|row| {
        let from = row.image.as_ref().filter(|from| from.done && from.pinned > 0)?;
        Some((row.name.clone(), from.pinned))
    });
    done.collect()
}
