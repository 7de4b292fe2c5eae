//! What becomes of a save or a return from an image that was cut off: by the death of the monitor,
//! of the emulator, or of both. The journal and the live row tell on which side of the point of
//! no return it was.

use kxl_domain::image::{ImageId, ImagePlace, ImageUse};
use kxl_domain::lifecycle::ImageSeen;
use kxl_domain::{Failure, Op, Reason, State, Verb};
use kxl_store::{LiveChange, Severity};

use crate::live::{LiveDomain, Next};
use crate::restoring::Mark;

/// The image of an operation that was cut off.
#[derive(Debug)]
pub(crate) struct CutOff {
    pub(crate) seen: ImageSeen,
    pub(crate) image: Option<ImageId>,
    /// The journal's entries, to be removed when the outcome is recorded.
    pub(crate) journalled: Vec<ImageId>,
    /// The image that was to be come back from.
    from: Option<ImageUse>,
}

impl LiveDomain {
    /// Reads what is known of the image of the operation in the row.
    pub(crate) fn cut_off_image(&mut self) -> CutOff {
        let ops = self.store.image_ops(self.row.uuid).unwrap_or_else(|error| {
            tracing::warn!(%error, "the journal of images cannot be read");
            Vec::new()
        });
        let journalled = ops.iter().map(|op| op.image).collect();
        let from = self.row.image.clone();
        let (seen, image) = match self.row.op {
            Some(Op::Saving | Op::Suspending) => {
                let done = ops.iter().rev().find(|op| op.ends && self.store.is_complete(op));
                let seen = if done.is_some() { ImageSeen::Complete } else { ImageSeen::Nothing };
                (seen, done.map(|op| op.image))
            }
            Some(Op::Restoring | Op::Resuming) => {
                let seen = if self.has_gone_on() { ImageSeen::Spent } else { ImageSeen::Complete };
                (seen, from.as_ref().map(|from| from.id))
            }
            _ => (ImageSeen::Nothing, None),
        };
        CutOff { seen, image, journalled, from }
    }

    /// The emulator of a domain that is an image by now was killed, and took longer to end than a
    /// save waits: nothing has crashed.
    pub(crate) fn ended_as_image(&mut self) -> Option<Next> {
        let suspended = match self.row.op {
            Some(Op::Suspending) => true,
            Some(Op::Saving) => false,
            _ => return None,
        };
        let cut = self.cut_off_image();
        let image = cut.image.filter(|_| cut.seen == ImageSeen::Complete)?;
        self.event(Severity::Info, "settled", None, "its image is complete");
        self.journalled.clone_from(&cut.journalled);
        Some(self.settle_as_image(suspended, image))
    }

    pub(crate) fn has_gone_on(&self) -> bool {
        self.row.image.as_ref().is_some_and(|from| from.went_on)
    }

    pub(crate) fn forget_cut_off(&mut self, cut: &CutOff) {
        for image in &cut.journalled {
            self.forget_image(*image);
        }
    }

    /// No guest went on from it: it can be come back from again.
    pub(crate) async fn unmark(&self, cut: &CutOff) {
        if let Some(from) = cut.from.as_ref().filter(|from| !from.went_on) {
            Mark::new(&self.paths, from, self.row.uuid).take_off().await;
        }
    }

    /// The emulator lives, and stands still or runs as the save has left it.
    pub(crate) async fn after_cut_off_save(&mut self) -> Result<Next, Failure> {
        let cut = self.cut_off_image();
        let suspended = self.row.op == Some(Op::Suspending);
        if let (ImageSeen::Complete, Some(image)) = (cut.seen, cut.image) {
            self.event(Severity::Info, "adopted", None, "its image is complete: it ends as that");
            let verb = if suspended { Verb::Suspend } else { Verb::Save };
            self.end_emulator(verb).await?;
            self.journalled.clone_from(&cut.journalled);
            return Ok(self.settle_as_image(suspended, image));
        }
        let run = self.row.state == State::Running;
        let back = self.emulator()?.go_on(run).await;
        let state = match &back {
            Ok(()) => self.row.state,
            Err(_) => State::Paused,
        };
        if cut.seen != ImageSeen::Complete {
            for image in &cut.journalled {
                self.forget_snapshots(*image).await;
            }
        }
        self.forget_cut_off(&cut);
        self.rest(state, None, LiveChange::default());
        self.event(Severity::Warning, "save-failed", None, "its monitor died: the domain goes on");
        self.check_again();
        back.map_err(|error| self.cannot(Verb::Unpause, &error))?;
        Ok(Next::Continue)
    }

    /// The emulator lives and its guest never went on: it may have been loaded half. It ends, and
    /// the image can be come back from again.
    pub(crate) async fn undo_cut_off_return(&mut self) -> Result<Next, Failure> {
        let cut = self.cut_off_image();
        let resuming = self.row.op == Some(Op::Resuming);
        let verb = if resuming { Verb::Resume } else { Verb::Restore };
        self.end_emulator(verb).await?;
        self.unmark(&cut).await;
        let text = "its monitor died before the guest went on: it can be tried again";
        self.event(Severity::Warning, "start-failed", None, text);
        Ok(match cut.image.filter(|_| resuming) {
            Some(image) => {
                self.settle_with(State::Suspended, Reason::Suspended, text, None, Some(image))
            }
            None => self.settle_as_before(text),
        })
    }
}

/// The image of a use in the store, for messages.
#[must_use]
pub(crate) fn place_of(from: &ImageUse) -> String {
    match &from.place {
        ImagePlace::Store => format!("image {}", from.id),
        ImagePlace::File(path) => path.display().to_string(),
    }
}
