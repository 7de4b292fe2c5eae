//! restore and resume, from inside the monitor: a claimed domain comes back from an image.
//!
//! Everything that can be refused is looked at before a process is made. The guest goes on only
//! after the image is durably marked as spent: old memory never meets newer disks by itself,
//! whatever dies in between. Until the live row says that the guest may have gone on, the mark can
//! be taken off again.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use kxl_backend::{MemorySource, StateSource, Watch};
use kxl_domain::config::model::DiskFormat;
use kxl_domain::image::{ClockPolicy, DiskIdentity, ImagePlace, ImageUse, MemoryLayout};
use kxl_domain::{Capability, DomainConfig, DomainUuid, Failure, Kind, Op, State, Verb, Wanted};
use kxl_store::image::{self, Facts, Image};
use kxl_store::{Event, LiveChange, Paths, Severity, Store, StoreError, now_ms};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::cut_off::place_of;
use crate::live::LiveDomain;
use crate::steps::{Step, reach};
use crate::thread::apart;
use crate::verifying::Verifier;

/// An image that was found fit to come back from, opened.
struct Opened {
    facts: Facts,
    bytes: u64,
    source: StateSource,
    /// Every chunk of it was verified already.
    verified: bool,
}

/// A guest that came back and goes on.
#[derive(Debug)]
pub struct Back {
    from: ImageUse,
    /// What is to be told of its clock.
    clock: Event,
    /// What the image takes on the disk.
    bytes: u64,
    /// Every chunk of it was verified already.
    verified: bool,
}

impl LiveDomain {
    /// Brings a claimed domain back from the image that its row names.
    pub(crate) async fn come_back(
        &mut self,
        from: ImageUse,
        watch: &Arc<Watch>,
    ) -> Result<Back, Failure> {
        let verb = if self.row.op == Some(Op::Resuming) { Verb::Resume } else { Verb::Restore };
        self.require(verb, Capability::SaveState)?;
        let attempt = format!("cannot {verb} domain \"{}\"", self.row.name);
        let opened = self.open_image(&from, watch, &attempt).await?;
        let spec = self
            .new_spec(Some(opened.source.clone()))
            .map_err(|error| self.not_started(verb, &error))?;
        self.backend.check(&spec).map_err(|error| self.not_started(verb, &error))?;
        let mark = Mark::new(&self.paths, &from, self.row.uuid);
        // The mark costs a wait for the disk, the launch one for the emulator: both at once.
        let marking = mark.put();
        let launched = self.spawn(&spec).await;
        let marked = marking.await;
        let went = match (marked, launched) {
            (Ok(()), Ok(())) => self.go_from_image(&from, &opened).await,
            (Ok(()), Err(error)) => Err(self.not_started(verb, &error)),
            (Err(failure), _) => {
                Err(Failure { text: attempt, causes: vec![failure.to_string()], ..failure })
            }
        };
        let clock = match went {
            Ok(clock) => clock,
            Err(failure) => return Err(self.take_back(verb, from, &opened, mark, failure).await?),
        };
        Ok(Back { from, clock, bytes: opened.bytes, verified: opened.verified })
    }

    /// Ends the emulator of a return that failed, and takes the mark off the image where old memory
    /// fits the disks still. Gives the failure back.
    async fn take_back(
        &mut self,
        verb: Verb,
        from: ImageUse,
        opened: &Opened,
        mark: Mark,
        failure: Failure,
    ) -> Result<Failure, Failure> {
        let stood = !self.has_gone_on() || self.stands_still().await;
        self.end_emulator(verb).await?;
        // Its record ends with it; the image is not this guest's any more.
        self.row.image = Some(from.clone());
        if stood || disks_as_saved(&from, opened).await {
            let image = Some(self.row.image.clone());
            self.change(&LiveChange { image, ..LiveChange::default() });
            mark.take_off().await;
        }
        Ok(failure)
    }

    /// Whether the emulator says, after it was asked to let the guest go, that it stands still:
    /// then it has not run.
    async fn stands_still(&mut self) -> bool {
        match self.live.as_mut() {
            Some(live) => live.query().await.is_ok_and(|report| report.state == State::Paused),
            None => false,
        }
    }

    async fn open_image(
        &self,
        from: &ImageUse,
        watch: &Arc<Watch>,
        attempt: &str,
    ) -> Result<Opened, Failure> {
        let (paths, from, watch) = (self.paths.clone(), from.clone(), Arc::clone(watch));
        let config = self.row.config.clone();
        let opened = apart("image", move || open(&paths, &from, &config, &watch)).await;
        opened.map_err(|error| Failure::because(Kind::Internal, attempt, &error))?.map_err(
            |failure| Failure {
                text: attempt.to_owned(),
                causes: std::iter::once(failure.text).chain(failure.causes).collect(),
                ..failure
            },
        )
    }

    /// From the mark to the first instruction of the guest. Gives what is to be told of its clock.
    async fn go_from_image(&mut self, from: &ImageUse, opened: &Opened) -> Result<Event, Failure> {
        reach(Step::Spent, self.pid());
        let went_on = ImageUse { went_on: true, ..from.clone() };
        // Unwritten, a later monitor could bring the old memory back: then it does not go on.
        let written = self.store.change_live(
            self.row.uuid,
            &LiveChange { image: Some(Some(went_on.clone())), ..LiveChange::default() },
        );
        written.map_err(|error| {
            let attempt = format!("cannot bring domain \"{}\" back", self.row.name);
            Failure::because(error.kind(), attempt, &error)
        })?;
        self.row.image = Some(went_on);
        let clock = self.set_clock(opened).await;
        if self.row.wanted == Wanted::Running {
            let gone_on = self.emulator()?.unpause().await;
            gone_on.map_err(|error| self.cannot(Verb::Unpause, &error))?;
        }
        reach(Step::WentOn, self.pid());
        Ok(clock)
    }

    /// Sets the guest's clock where the configuration wants it. Gives the event that says how far
    /// behind it is.
    async fn set_clock(&mut self, opened: &Opened) -> Event {
        let behind_ms = now_ms() - opened.facts.moment.stopped_ms;
        let skew = format!(
            "its clock is {}.{:03} s behind the host's",
            behind_ms / 1000,
            behind_ms % 1000
        );
        if self.row.config.clock_after_restore == ClockPolicy::Leave {
            return self.compose(Severity::Info, "clock", Some("leave"), &skew);
        }
        let set = match self.emulator() {
            Ok(live) => live.set_clock().await.map_err(|error| error.to_string()),
            Err(failure) => Err(failure.to_string()),
        };
        match set {
            Ok(true) => self.compose(Severity::Info, "clock", Some("host"), &skew),
            Ok(false) => {
                let text = format!("{skew}, and this backend has no way to set it");
                self.compose(Severity::Warning, "clock", Some("leave"), &text)
            }
            Err(why) => {
                let text = format!("{skew}, and it could not be set: {why}");
                self.compose(Severity::Warning, "clock", Some("leave"), &text)
            }
        }
    }

    /// Writes down that the guest goes on, and begins to check the image.
    pub(crate) fn has_come_back(&mut self, back: Back) {
        let Back { from, clock, bytes, verified } = back;
        self.write_event(&clock);
        let stored = from.place == ImagePlace::Store;
        let pinned = if verified { 0 } else { bytes };
        self.row.image = stored.then(|| ImageUse { went_on: true, pinned, ..from.clone() });
        let image = self.row.image.clone();
        let state = if self.row.wanted == Wanted::Running { State::Running } else { State::Paused };
        self.change(&LiveChange { image: Some(image), ..LiveChange::default() });
        let what = if self.row.op == Some(Op::Resuming) { "resumed" } else { "restored" };
        self.has_started(state, what, &format!("from {}", place_of(&from)));
        self.forget_earlier();
        if stored {
            let runs = self.pid().filter(|_| self.row.managed).map(|pid| (self.row.uuid, pid));
            self.verifier = Some(Verifier::start(&self.paths, &from, verified, runs));
        }
    }
}

/// Opens an image and everything in it that a backend needs; refuses what cannot come back here.
fn open(
    paths: &Paths,
    from: &ImageUse,
    config: &DomainConfig,
    watch: &Watch,
) -> Result<Opened, Failure> {
    let image = match &from.place {
        ImagePlace::Store => Image::open_store(paths, from.id),
        ImagePlace::File(path) => Image::open_file(path),
    };
    let mut image = image.map_err(|error| told(&error))?;
    if image.facts().id != from.id {
        let text = format!("the file holds another image now ({})", image.facts().id);
        return Err(Failure::new(Kind::Failed, text));
    }
    if !from.force_disks {
        compare_disks(&image.facts().disks, config)?;
    }
    let device = Arc::new(image.device().map_err(|error| told(&error))?);
    let (memory, verified) = memory(&mut image, from, watch)?;
    let machine = image.facts().machine.clone();
    let source = StateSource { machine, device, memory };
    Ok(Opened { facts: image.facts().clone(), bytes: image.bytes().unwrap_or(0), source, verified })
}

/// The memory: the store's own file, one that shares the blocks of the user's, or a copy; and whether
/// it was verified on the way.
fn memory(
    image: &mut Image,
    from: &ImageUse,
    watch: &Watch,
) -> Result<(Option<MemorySource>, bool), Failure> {
    let Some(layout) = image.memory() else { return Ok((None, true)) };
    let shares = !from.eager && image.share_memory();
    let lazy = if from.eager { None } else { image.memory_file().map_err(|error| told(&error))? };
    if let Some(file) = lazy {
        if shares {
            // Nothing checks it later: no monitor that comes after this one could find it.
            let verified = image.verify_ahead(&mut progress(image, watch));
            verified.map_err(|error| told(&error))?;
        }
        return Ok((Some(MemorySource { layout, file: Arc::new(file), own: false }), shares));
    }
    let file = copied(image, &layout, watch)?;
    Ok((Some(MemorySource { layout, file: Arc::new(file), own: true }), true))
}

/// Tells how much of the image was read, and ends that when it was given up.
fn progress<'a>(image: &Image, watch: &'a Watch) -> impl FnMut(u64) -> bool + use<'a> {
    watch.expect(image.bytes().unwrap_or(0));
    |bytes| {
        watch.moved(bytes);
        !watch.is_cancelled()
    }
}

fn copied(image: &Image, layout: &MemoryLayout, watch: &Watch) -> Result<OwnedFd, Failure> {
    let made = memfd_create(c"kxl-memory", MFdFlags::MFD_CLOEXEC);
    let file = made.map(File::from).and_then(|file| {
        nix::unistd::ftruncate(&file, i64::try_from(layout.size).unwrap_or(i64::MAX))?;
        Ok(file)
    });
    let file = file.map_err(|error| {
        Failure::because(Kind::Failed, "cannot make memory for the guest", &error)
    })?;
    image.copy_memory(&file, &mut progress(image, watch)).map_err(|error| told(&error))?;
    Ok(file.into())
}

/// Whether a guest that may have run has left its disks as they were saved: within a boot a disk's
/// times tell of every write. Old memory fits them still then. A wish to come back whatever the
/// disks are does not make them so.
async fn disks_as_saved(from: &ImageUse, opened: &Opened) -> bool {
    if from.force_disks {
        return false;
    }
    let facts = opened.facts.clone();
    let compared = apart("disks", move || compare_disks(&facts.disks, &facts.config)).await;
    matches!(compared, Ok(Ok(())))
}

/// Refuses an image whose disks are not what they were, naming each.
pub(crate) fn compare_disks(disks: &[DiskIdentity], config: &DomainConfig) -> Result<(), Failure> {
    let (mut moved, mut back) = (Vec::new(), Vec::new());
    for disk in disks {
        if disk.vdev.is_empty() {
            // Opened by the emulator's own commands: the configuration does not know it.
            let change = image::changed(disk).map_err(|error| told(&error))?;
            moved.extend(change.map(|change| format!("file {} {change}", disk.path.display())));
            continue;
        }
        let here = config.disks.iter().find(|other| other.vdev == disk.vdev);
        let change = match here.and_then(|other| other.target.as_ref()) {
            Some(path) if *path == disk.path => {
                image::changed(disk).map_err(|error| told(&error))?
            }
            Some(path) => Some(format!("is {} now", path.display())),
            None => Some("is not in the configuration".to_owned()),
        };
        if let Some(change) = change {
            moved.push(format!("disk {} ({}): {change}", disk.vdev, disk.path.display()));
            if let Some(name) = disk.snapshot.as_ref().filter(|_| disk.format == DiskFormat::Qcow2)
            {
                let path = disk.path.display();
                back.push(format!("qemu-img snapshot -a {name} {path} puts it back; "));
            }
        }
    }
    if moved.is_empty() {
        return Ok(());
    }
    let hint = format!(
        "{}--force-disks comes back all the same: the guest's memory may not fit what is on the disk",
        back.concat()
    );
    let mut failure = Failure::new(Kind::Denied, "its disks have moved on since it was saved");
    failure.causes = moved;
    Err(failure.hint(hint))
}

fn told(error: &StoreError) -> Failure {
    let mut failure = Failure::because(error.kind(), "", error);
    failure.text = failure.causes.remove(0);
    failure
}

/// The durable mark that a guest is about to go on from an image.
#[derive(Clone)]
pub(crate) struct Mark {
    paths: Paths,
    from: ImageUse,
    domain: DomainUuid,
}

impl Mark {
    pub(crate) fn new(paths: &Paths, from: &ImageUse, domain: DomainUuid) -> Self {
        Self { paths: paths.clone(), from: from.clone(), domain }
    }

    /// Begins at once; on the disk when the future is done. A checkpoint and the source of a clone
    /// are never spent: they are made to be come back from many times.
    fn put(&self) -> impl Future<Output = Result<(), Failure>> + use<> {
        let Self { paths, from, domain } = self.clone();
        let marking = (!from.keep).then(|| {
            apart("mark", move || match &from.place {
                ImagePlace::Store => Image::open_store(&paths, from.id)?.mark_spent(domain),
                ImagePlace::File(path) => {
                    Store::open(&paths)?.mark_file_spent(from.id, path, domain)
                }
            })
        });
        async move {
            let Some(marking) = marking else { return Ok(()) };
            marking
                .await
                .map_err(|error| Failure::because(Kind::Internal, "cannot mark the image", &error))?
                .map_err(|error| told(&error))
        }
    }

    /// Failing, it keeps the image from coming back by itself, and nothing else.
    pub(crate) async fn take_off(self) {
        let off = apart("mark", move || match &self.from.place {
            ImagePlace::Store => Image::open_store(&self.paths, self.from.id)?.unmark_spent(),
            ImagePlace::File(_) => Store::open(&self.paths)?.unmark_file_spent(self.from.id),
        });
        match off.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the image stays marked as spent"),
            Err(error) => tracing::warn!(%error, "the image stays marked as spent"),
        }
    }
}
