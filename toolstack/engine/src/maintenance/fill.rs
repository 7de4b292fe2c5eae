//! Filling: the work on single domains, the journal around it, and the notes of this boot.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use kxl_control::Moved;
use kxl_domain::Failure;
use kxl_store::Paths;

use super::hands::Stopper;
use super::journal::Journal;
use super::left::{Bring, Item, Settings};
use super::plan::Way;
use super::run::{Course, Desk, Done, Errand, Hands, News, Outcome, Pace, run};
use crate::host::Host;
use crate::resting::StartOpts;
use crate::returning::RestoreOpts;

/// How long a domain may take to be up again; it goes on coming up after that.
const UP: Duration = Duration::from_secs(60);

impl Host {
    /// Brings `items` back, by the waves of their order. What came back is taken off the journal;
    /// what failed stays and can be tried again.
    ///
    /// # Errors
    /// When nothing was begun.
    pub fn fill(
        &mut self,
        items: &[Item],
        waves: &[Vec<usize>],
        settings: &Settings,
        desk: &Desk,
        news: &mut dyn FnMut(News<'_>),
    ) -> Result<Vec<Course>, Failure> {
        let (stopper, _sign) = Stopper::new()?;
        let hands = Filling { items, eager: settings.eager, stopper: &stopper };
        let errands: Vec<_> = items.iter().map(|item| Errand { ways: vec![item.way()] }).collect();
        let pace = Pace { jobs: settings.jobs.max(1), until: None };
        let mut journal = Journal::read(&self.paths)?;
        let mut notes = BootNotes::read(&self.paths);
        let paths = self.paths.clone();
        if settings.starting {
            // That there are notes says that the host's domains were started.
            notes.write(&paths);
        }
        let mut record = |one: News<'_>| {
            if let News::Ended(index, course) = &one
                && matches!(course.outcome, Outcome::Done(..))
            {
                let item = &items[*index];
                if let Some(note) = &item.note {
                    notes.0.insert(note.clone());
                    notes.write(&paths);
                }
                if let (Some(journal), Some(uuid)) = (&mut journal, item.uuid) {
                    journal.remove(uuid);
                    if let Err(failure) = journal.write(&paths) {
                        tracing::warn!(%failure, "what came back is not written down");
                    }
                }
            }
            news(one);
        };
        Ok(run(&errands, waves, pace, desk, &hands, &mut record))
    }
}

/// What was started in this boot because the host was; so that a domain somebody has shut down
/// since stays down.
#[derive(Debug, Default)]
pub(super) struct BootNotes(pub(super) BTreeSet<String>);

impl BootNotes {
    /// Lost notes cost a start too many, never a domain.
    pub(super) fn read(paths: &Paths) -> Self {
        let text = fs::read(paths.boot_notes()).unwrap_or_default();
        Self(serde_json::from_slice(&text).unwrap_or_default())
    }

    fn write(&self, paths: &Paths) {
        let path = paths.boot_notes();
        let fresh = path.with_extension("new");
        let text = serde_json::to_vec(&self.0).unwrap_or_default();
        if let Err(error) = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &path)) {
            tracing::warn!(%error, "what was started is not written down");
        }
    }
}

/// What a thread needs to bring one domain back.
struct Filling<'a> {
    items: &'a [Item],
    eager: bool,
    stopper: &'a Stopper,
}

impl Hands for Filling<'_> {
    fn act(&self, index: usize, _: Way, moved: &mut dyn FnMut(Moved)) -> Result<Done, Failure> {
        let item = &self.items[index];
        let mut host = Host::open()?;
        let start = StartOpts { paused: item.paused, deadline: UP };
        let come_back = RestoreOpts { eager: self.eager, deadline: UP, ..RestoreOpts::default() };
        let who = item.uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
        let started = match &item.bring {
            Bring::Resume | Bring::Start => {
                let row = host.find(&who)?;
                if row.domid.is_some() {
                    return Ok(Done::Already);
                }
                if item.bring == Bring::Resume {
                    host.resume(&row, &come_back, moved)?
                } else {
                    host.start(&row, start)?
                }
            }
            Bring::Image(id) => host.restore_image(*id, &come_back, moved)?,
            Bring::File(file) => host.restore(file, &come_back, moved)?,
            Bring::Create(config) => {
                let mut config = config.as_ref().clone();
                config.uuid = config.uuid.or(item.uuid);
                host.create(config, start)?
            }
        };
        Ok(Done::Up(started.domid))
    }

    fn give_up(&self) {
        self.stopper.pull();
    }
}
