//! Filling: the work on single domains, the journal around it, and the notes of this boot.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kxl_control::Moved;
use kxl_domain::{DomainName, Failure, Kind};
use kxl_store::{Event, Paths, Severity};

use super::hands::Stopper;
use super::journal::Journal;
use super::left::{Bring, Item, Settings};
use super::plan::Way;
use super::run::{Course, Desk, Done, Errand, Hands, News, Outcome, Pace, run};
use crate::host::Host;
use crate::resting::StartOpts;
use crate::returning::RestoreOpts;
use crate::service::{Patience, came_up};

/// How long a domain may take to be up again; it goes on coming up after that.
const UP: Duration = Duration::from_secs(60);

/// How long others wait for a domain to be RUNNING that they come after; it may become so later.
const AWAITED: Duration = Duration::from_secs(600);

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
        let (enough, waiting) = Stopper::new()?;
        let listed: HashSet<&DomainName> = items.iter().map(|item| &item.name).collect();
        let after: HashSet<&DomainName> = items.iter().flat_map(|item| &item.after).collect();
        let needed = items.iter().map(|item| after.contains(&item.name)).collect();
        let mut outside: Vec<&DomainName> = items
            .iter()
            .flat_map(|item| &item.requires)
            .filter(|name| !listed.contains(name))
            .collect();
        outside.sort_unstable();
        outside.dedup();
        let hands = Filling {
            items,
            eager: settings.eager,
            stopper: &stopper,
            enough: &enough,
            waiting: &waiting,
            needed,
            listed,
            outside,
            fates: Mutex::default(),
        };
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
    /// Nobody waits for others any more.
    enough: &'a Stopper,
    waiting: &'a OwnedFd,
    /// Which of them others come after: those are waited for until they are RUNNING.
    needed: Vec<bool>,
    /// The names of the items.
    listed: HashSet<&'a DomainName>,
    /// What is required and is none of the items.
    outside: Vec<&'a DomainName>,
    /// Which have come up, and which have not.
    fates: Mutex<HashMap<&'a DomainName, bool>>,
}

impl<'a> Filling<'a> {
    fn has_fate(&self, name: &'a DomainName, up: bool) {
        self.fates.lock().unwrap_or_else(PoisonError::into_inner).insert(name, up);
    }

    fn fate(&self, name: &DomainName) -> Option<bool> {
        self.fates.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// Whether a live domain comes up while there is somebody who waits for that.
    fn comes_up(&self, name: &DomainName) -> bool {
        let until = Instant::now() + AWAITED;
        let patience = Patience { until, sign: self.waiting, over: &|| self.enough.is_pulled() };
        let up = Host::open().and_then(|mut host| {
            let row = host.find(name.as_str())?;
            if row.domid.is_none() {
                return came_up(&row);
            }
            host.comes_up(row.uuid, &patience)
        });
        up.is_ok()
    }

    fn bring(
        &self,
        host: &mut Host,
        index: usize,
        moved: &mut dyn FnMut(Moved),
    ) -> Result<Done, Failure> {
        let item = &self.items[index];
        match item.requires.iter().find(|name| self.fate(name) == Some(false)) {
            Some(lacking) => Err(not_without(host, item, lacking)),
            None => self.launch(host, item, moved),
        }
    }
}

/// The refusal to start what requires a domain that is not up, with an alert: nobody may be there to
/// read the refusal.
fn not_without(host: &mut Host, item: &Item, lacking: &DomainName) -> Failure {
    let text = format!("it requires \"{lacking}\", which is not up");
    let mut event = Event::new(Severity::Alert, "not-started").text(&text);
    if let Some(uuid) = item.uuid {
        event = event.of(uuid, &item.name, None);
    }
    if let Err(error) = host.store.event(&event) {
        tracing::warn!(%error, "event not recorded");
    }
    let mut failure =
        Failure::new(Kind::Denied, format!("domain \"{}\" is not started", item.name));
    failure.causes.push(text);
    failure.hint(format!("kxl status {lacking} shows what is wrong with it"))
}

impl Hands for Filling<'_> {
    fn act(&self, index: usize, _: Way, moved: &mut dyn FnMut(Moved)) -> Result<Done, Failure> {
        let done = Host::open().and_then(|mut host| self.bring(&mut host, index, moved));
        let item = &self.items[index];
        // One that stands still is not waited for.
        if done.is_err() || !self.needed[index] || item.paused {
            self.has_fate(&item.name, done.is_ok());
        }
        done
    }

    fn give_up(&self) {
        self.stopper.pull();
        self.enough.pull();
    }

    fn may_begin(&self, index: usize) -> bool {
        let item = &self.items[index];
        let decided = |name: &DomainName| self.fate(name).is_some();
        let mut after = item.after.iter().filter(|name| self.listed.contains(name));
        after.all(decided) && item.requires.iter().all(decided)
    }

    fn is_awaited(&self, index: usize) -> bool {
        self.needed[index]
    }

    fn decide(&self, index: usize) {
        let name = &self.items[index].name;
        if self.fate(name).is_none() {
            self.has_fate(name, self.comes_up(name));
        }
    }

    fn outsiders(&self) -> usize {
        self.outside.len()
    }

    fn decide_outsider(&self, number: usize) {
        let name = self.outside[number];
        self.has_fate(name, self.comes_up(name));
    }

    fn enough(&self) {
        self.enough.pull();
    }
}

impl Filling<'_> {
    fn launch(
        &self,
        host: &mut Host,
        item: &Item,
        moved: &mut dyn FnMut(Moved),
    ) -> Result<Done, Failure> {
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
}
