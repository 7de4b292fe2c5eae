//! The background check of an image that a guest runs from, and the removal of what is used up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use kxl_domain::Wanted;
use kxl_domain::image::{ImagePlace, ImageUse};
use kxl_domain::{DomainUuid, Failure, State};
use kxl_store::image::{self, Image};
use kxl_store::{LiveChange, Paths, Severity, StoreError};
use tokio::sync::oneshot;

use crate::ahead;
use crate::live::LiveDomain;

/// How long the guest has the disk to itself before all of its image is read.
const HEAD_START: Duration = Duration::from_secs(1);

/// After how long what the guest has touched is what a return of it needs first.
const FIRST_STEPS: Duration = Duration::from_millis(150);

/// A check that goes on; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Verifier {
    pub(crate) done: oneshot::Receiver<Result<(), StoreError>>,
    stop: Arc<AtomicBool>,
    /// Sent to, or dropped: the head start is over.
    hurry: std::sync::mpsc::Sender<()>,
}

impl Verifier {
    /// Begins to check every chunk of a store image; of one that was `verified` nothing is left
    /// to do.
    ///
    /// What the guest of a managed domain touches first in the emulator `runs` is noted on the way.
    pub(crate) fn start(
        paths: &Paths,
        from: &ImageUse,
        verified: bool,
        runs: Option<(DomainUuid, i32)>,
    ) -> Self {
        let (tell, done) = oneshot::channel();
        let (hurry, hurried) = std::sync::mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (paths, id, stopped) = (paths.clone(), from.id, Arc::clone(&stop));
        let check = move || {
            if verified {
                return Ok(());
            }
            // Opened at once: what is open stays readable when somebody removes it, as the domain
            // does that shares the image and is done with it.
            let image = match Image::open_store(&paths, id) {
                // An earlier monitor removed it and died before it could write that down, or
                // somebody else did who may: there is nothing left to compare.
                Err(StoreError::NoImage { .. }) => {
                    tracing::warn!(%id, "the image is gone, and what is left of the check with it");
                    return Ok(());
                }
                opened => opened?,
            };
            let waited = |time| hurried.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
            if waited(FIRST_STEPS) {
                if let Some((domain, pid)) = runs {
                    ahead::note(&paths, domain, id, pid);
                }
                let _over = waited(HEAD_START);
            }
            image.verify_shared(&mut |_| !stopped.load(Ordering::Relaxed)).map(drop)
        };
        let thread = std::thread::Builder::new().name("verify".into());
        let started = thread.spawn(move || {
            let _nobody_waits = tell.send(check());
        });
        if let Err(error) = started {
            tracing::warn!(%error, "the image is not verified; a later monitor tries again");
        }
        Self { done, stop, hurry }
    }

    /// Ends the head start: somebody waits for the outcome.
    pub(crate) fn hurry(&self) {
        let _over = self.hurry.send(());
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl LiveDomain {
    /// Returns when the check of the image that the guest came from has ended; never when there
    /// is none. Cancel-safe.
    ///
    /// # Errors
    /// What is wrong with the image.
    pub(crate) async fn checked(&mut self) -> Result<(), StoreError> {
        let Some(verifier) = self.verifier.as_mut() else { return std::future::pending().await };
        match (&mut verifier.done).await {
            Ok(outcome) => outcome,
            // It could not be started.
            Err(_) => std::future::pending().await,
        }
    }

    /// Follows the end of the check. An image that passed is removed, unless it is kept: the
    /// emulator still maps it, and its space is free when that ends. A damaged one pauses the
    /// domain: what the guest has not read yet is not what was saved.
    ///
    /// # Errors
    /// When the domain could not be paused.
    pub async fn image_checked(&mut self, outcome: Result<(), StoreError>) -> Result<(), Failure> {
        self.verifier = None;
        let Some(from) = self.row.image.clone() else { return Ok(()) };
        match outcome {
            // A monitor that died between the removal and the record of it had checked it all.
            Ok(()) | Err(StoreError::NoImage { .. }) => {
                let (keep, id) = (from.keep || outcome.is_err(), from.id);
                let pinned = if keep { 0 } else { from.pinned };
                self.row.image = Some(ImageUse { done: true, pinned, ..from });
                let image = self.row.image.clone();
                if !keep && let Err(error) = image::remove(&self.paths, id) {
                    tracing::warn!(%error, %id, "a spent image stays in the store");
                }
                self.change(&LiveChange { image: Some(image), ..LiveChange::default() });
                Ok(())
            }
            Err(error) => {
                let text = format!("image {}: {error}; the image is kept", from.id);
                // Told once; and it stays, whatever becomes of the domain.
                self.row.image = Some(ImageUse { keep: true, done: true, ..from });
                let image = Some(self.row.image.clone());
                let Some(live) = self.live.as_mut() else {
                    self.change(&LiveChange { image, ..LiveChange::default() });
                    let text = format!("{text}; what was saved from its guest is no better");
                    self.event(Severity::Alert, "image-damaged", None, &text);
                    return Ok(());
                };
                let paused = live.pause().await;
                if paused.is_ok() {
                    self.row.wanted = Wanted::Paused;
                    let wanted = Some(Wanted::Paused);
                    let more = LiveChange { image, wanted, ..LiveChange::default() };
                    self.rest(State::Paused, self.row.reason, more);
                } else {
                    self.change(&LiveChange { image, ..LiveChange::default() });
                }
                self.event(Severity::Alert, "image-damaged", Some("pause"), &text);
                paused.map_err(|error| self.cannot(kxl_domain::Verb::Pause, &error))
            }
        }
    }

    /// Waits for the check of the image that the guest came from: what is saved from such a guest
    /// is only as good as that image. Nothing to wait for when it was checked already.
    pub(crate) async fn finish_check(&mut self) {
        let Some(verifier) = &self.verifier else { return };
        verifier.hurry();
        let outcome = self.checked().await;
        if let Err(failure) = self.image_checked(outcome).await {
            tracing::warn!(%failure, "the domain of a damaged image is not paused");
        }
    }

    /// The guest that came from an image has ended, or boots anew. Its image is of no use any more,
    /// but after a crash: then it stays, spent, for a person to decide.
    pub(crate) fn leave_image(&mut self, crashed: bool) {
        self.verifier = None;
        let Some(from) = self.row.image.take() else { return };
        let used_up = from.went_on && !from.done && !from.keep && !crashed;
        if used_up
            && from.place == ImagePlace::Store
            && let Err(error) = image::remove(&self.paths, from.id)
        {
            tracing::warn!(%error, id = %from.id, "a spent image stays in the store");
        }
    }

    /// Takes up the check that an earlier monitor did not finish.
    pub(crate) fn check_again(&mut self) {
        let unfinished = self.row.image.as_ref().filter(|from| from.went_on && !from.done);
        match unfinished {
            Some(from) if from.place == ImagePlace::Store => {
                self.verifier = Some(Verifier::start(&self.paths, from, false, None));
            }
            // What came from a file was checked before it ran, and maps nothing of it.
            Some(_) => {
                self.row.image = None;
                self.change(&LiveChange { image: Some(None), ..LiveChange::default() });
            }
            None => {}
        }
    }
}
