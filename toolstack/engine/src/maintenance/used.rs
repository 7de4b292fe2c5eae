//! Files of maintenance that are not needed any more: a guest went on from each. Nobody but the
//! administrator removes them, for what is outside the store is not kxl's; the next
//! `host save --to` of the same directory writes over them.

use std::path::PathBuf;

use kxl_domain::image::Purpose;
use kxl_domain::{DomainName, Failure, ImageId};
use kxl_store::image::Image;

use crate::host::{Host, stored};

/// A file whose image has been brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedFile {
    /// The domain that came back from it.
    pub name: DomainName,
    /// The image in it.
    pub image: ImageId,
    /// Where it is.
    pub file: PathBuf,
}

impl Host {
    /// The files that `host save --to` has written, that are still there, and that nothing needs.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn used_files(&self) -> Result<Vec<UsedFile>, Failure> {
        let spent = self.store.spent_files();
        let spent = spent.map_err(|e| stored("cannot read the records of images", &e))?;
        let there = spent.into_iter().filter_map(|(image, file)| {
            let found = Image::open_file(&file).ok()?;
            let facts = found.facts();
            // Another one may have been written over it since.
            let same = facts.id == image && facts.purpose == Purpose::Maintenance;
            same.then(|| UsedFile { name: facts.name.clone(), image, file })
        });
        Ok(there.collect())
    }
}
