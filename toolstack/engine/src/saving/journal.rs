//! The journal of operations on images, by which a save that was cut off is found again.

use kxl_control::{After, Save};
use kxl_domain::image::ImagePlace;
use kxl_domain::lifecycle::rule_of;
use kxl_domain::{Failure, ImageId, Kind, Op};
use kxl_store::{ImageOp, LiveChange, StoreError};

use crate::live::LiveDomain;

impl LiveDomain {
    /// Writes the operation down, for the boot that may never end and for the one after it.
    pub(super) fn journal(&mut self, save: &Save, id: ImageId) -> Result<(), Failure> {
        let op = rule_of(save.verb).op.unwrap_or(Op::Saving);
        self.forget_earlier();
        let path = match &save.place {
            ImagePlace::Store => None,
            ImagePlace::File(path) => Some(path.clone()),
        };
        let journalled = self.store.begin_image_op(&ImageOp {
            domain: self.row.uuid,
            image: id,
            op,
            path,
            ends: save.after == After::End,
        });
        let refused = |error: &StoreError| {
            let attempt = format!("cannot {} domain \"{}\"", save.verb, self.row.name);
            Failure::because(Kind::Failed, attempt, error)
        };
        journalled.map_err(|error| refused(&error))?;
        let change = LiveChange { op: Some(Some(op)), ..LiveChange::default() };
        // Where its end could not be written either, others would take it for live beside its image.
        if let Err(error) = self.store.change_live(self.row.uuid, &change) {
            let failure = refused(&error);
            self.forget_image(id);
            return Err(failure);
        }
        self.journalled.push(id);
        self.row.op = Some(op);
        self.publish();
        Ok(())
    }

    /// The outcome of an image is recorded, or there is none.
    pub(crate) fn forget_image(&mut self, id: ImageId) {
        self.journalled.retain(|other| *other != id);
        if let Err(error) = self.store.end_image_op(id) {
            tracing::warn!(%error, "the journal keeps an operation that has ended");
        }
    }

    /// Entries of the journal that outlived their saves: nothing that is there now may be taken for
    /// the outcome of a later one.
    pub(crate) fn forget_earlier(&mut self) {
        for op in self.store.image_ops(self.row.uuid).unwrap_or_default() {
            self.forget_image(op.image);
        }
    }
}
