//! Filling a host: what maintenance has left to be brought back, what starts with the host, and
//! the work on single domains.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kxl_control::Moved;
use kxl_domain::{DomainConfig, DomainName, DomainUuid, Failure, Kind, State, Wanted, config};
use kxl_store::{ListRow, Paths};

use super::hands::{Stopper, stands};
use super::journal::{Entry, Journal, Left};
use super::order::Rank;
use super::plan::Way;
use super::run::{Course, Desk, Done, Errand, Hands, News, Outcome, Pace, run};
use crate::host::{Host, stored};
use crate::resting::StartOpts;

/// How long a domain may take to be up again; it goes on coming up after that.
const UP: Duration = Duration::from_secs(60);

/// How a domain comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bring {
    /// It is registered, and started.
    Start,
    /// It is made anew from this configuration.
    Create(Box<DomainConfig>),
}

/// A domain to be brought back or started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Durable identity; a domain of a configuration file gets it when it is created.
    pub uuid: Option<DomainUuid>,
    /// Name.
    pub name: DomainName,
    /// `priority=`.
    pub priority: u32,
    /// `after=`.
    pub after: Vec<DomainName>,
    /// How.
    pub bring: Bring,
    /// Leave it paused.
    pub paused: bool,
    /// Where it comes from, for people.
    pub from: String,
    /// What the notes of this boot call it, for what starts with the host.
    note: Option<String>,
}

impl Item {
    /// Its rank among the others.
    #[must_use]
    pub fn rank(&self) -> Rank<'_> {
        Rank { name: &self.name, priority: self.priority, after: &self.after }
    }

    /// What is done to it.
    #[must_use]
    pub const fn way(&self) -> Way {
        match self.bring {
            Bring::Start | Bring::Create(_) => Way::Start,
        }
    }

    fn new(uuid: Option<DomainUuid>, config: &DomainConfig, bring: Bring, from: &str) -> Self {
        Self {
            uuid,
            name: config.name.clone(),
            priority: config.maintenance.priority,
            after: config.maintenance.after.clone(),
            bring,
            paused: false,
            from: from.to_owned(),
            note: None,
        }
    }
}

/// Where the configurations are that start with the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auto {
    /// In the directory for it.
    #[default]
    Usual,
    /// In this one.
    In(PathBuf),
    /// There are none.
    Nowhere,
}

/// What is looked for, and how it is brought back.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Only these, by name or uuid; empty = all.
    pub names: Vec<String>,
    /// A directory with image files to look through as well.
    pub from: Option<PathBuf>,
    /// What maintenance took away.
    pub restoring: bool,
    /// What starts with the host and was not started in this boot yet.
    pub starting: bool,
    /// Of that, also what was started in this boot before.
    pub again: bool,
    /// Where the configurations are that start with the host.
    pub auto: Auto,
    /// Verify all of each image before its guest runs.
    pub eager: bool,
    /// How many at once.
    pub jobs: usize,
}

impl Host {
    /// What there is to bring back. Failures of single ones (a file that is no configuration) are
    /// given beside, and stop nobody.
    ///
    /// # Errors
    /// When the records cannot be read; [`Kind::NoSuchDomain`] for a name that waits for nothing.
    pub fn left(&mut self, settings: &Settings) -> Result<(Vec<Item>, Vec<Failure>), Failure> {
        let rows = self.store.list().map_err(|e| stored("cannot read the domains", &e))?;
        let journal = Journal::read(&self.paths)?;
        let mut found = Found { rows: &rows, items: Vec::new(), failures: Vec::new() };
        if settings.restoring {
            for entry in journal.iter().flat_map(|journal| &journal.entries) {
                self.of_entry(entry, &mut found)?;
            }
        }
        if settings.starting {
            self.starting(settings, &mut found)?;
        }
        let Found { mut items, failures, .. } = found;
        for name in &settings.names {
            let meant = |item: &Item| {
                item.name.as_str() == name
                    || item.uuid.is_some_and(|uuid| uuid.to_string() == *name)
            };
            if !items.iter().any(meant) {
                let text = format!("nothing of domain \"{name}\" waits to be brought back");
                return Err(
                    Failure::new(Kind::NoSuchDomain, text).hint("kxl host status shows what does")
                );
            }
        }
        if !settings.names.is_empty() {
            items.retain(|item| {
                settings.names.iter().any(|name| {
                    item.name.as_str() == name
                        || item.uuid.is_some_and(|uuid| uuid.to_string() == *name)
                })
            });
        }
        items.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((items, failures))
    }

    /// What an entry of the journal asks for, as things stand now.
    fn of_entry(&mut self, entry: &Entry, found: &mut Found<'_>) -> Result<(), Failure> {
        if found.has(entry.uuid) || found.is_live(entry.uuid) || entry.wanted == Wanted::Halted {
            return Ok(());
        }
        let why = match entry.left {
            Left::Destroyed => "destroyed by host maintenance",
            _ => "shut down by host maintenance",
        };
        let attempt = || format!("cannot read domain \"{}\"", entry.name);
        let item = if entry.managed {
            let managed = self.store.managed(entry.uuid).map_err(|e| stored(attempt(), &e))?;
            // Unregistered since, or suspended by a person: not ours any more.
            let Some(row) = managed.filter(|row| is_off(row.state)) else { return Ok(()) };
            Item::new(Some(entry.uuid), &row.config, Bring::Start, why)
        } else {
            let Some(config) = &entry.config else { return Ok(()) };
            Item::new(Some(entry.uuid), config, Bring::Create(config.clone()), why)
        };
        found.items.push(Item { paused: stands(entry.wanted, entry.state), ..item });
        Ok(())
    }

    /// What starts with the host: managed domains that are set to, and the configurations in the
    /// directory for it.
    fn starting(&mut self, settings: &Settings, found: &mut Found<'_>) -> Result<(), Failure> {
        let done = if settings.again { BootNotes::default() } else { BootNotes::read(&self.paths) };
        for row in found.rows {
            if !row.managed || row.domid.is_some() || found.has(row.uuid) {
                continue;
            }
            let managed = self.store.managed(row.uuid);
            let managed = managed.map_err(|e| stored("cannot read the domains", &e))?;
            let Some(managed) = managed.filter(|managed| managed.autostart) else { continue };
            let note = managed.uuid.to_string();
            if is_off(managed.state) && !done.0.contains(&note) {
                let item = Item::new(Some(row.uuid), &managed.config, Bring::Start, "autostart");
                found.items.push(Item { note: Some(note), ..item });
            }
        }
        for file in self.auto_files(&settings.auto)? {
            let note = file.display().to_string();
            if done.0.contains(&note) {
                continue;
            }
            match read_config(&file) {
                Ok(config) if found.is_known(&config) => {}
                Ok(config) => {
                    let bring = Bring::Create(Box::new(config.clone()));
                    let item = Item::new(config.uuid, &config, bring, &note);
                    found.items.push(Item { note: Some(note), ..item });
                }
                Err(failure) => found.failures.push(failure),
            }
        }
        Ok(())
    }

    fn auto_files(&self, auto: &Auto) -> Result<Vec<PathBuf>, Failure> {
        match auto {
            Auto::Usual => configurations(&self.paths.auto_dir()),
            Auto::In(directory) => configurations(directory),
            Auto::Nowhere => Ok(Vec::new()),
        }
    }

    /// The names of the live domains that start with the host. A configuration that cannot be
    /// read names nobody.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub fn live_starters(&mut self, auto: &Auto) -> Result<Vec<String>, Failure> {
        let files = self.auto_files(auto)?;
        let configs: Vec<_> = files.iter().filter_map(|file| read_config(file).ok()).collect();
        let rows = self.store.list().map_err(|e| stored("cannot read the domains", &e))?;
        let mut names = Vec::new();
        for row in rows.iter().filter(|row| row.domid.is_some()) {
            let managed = self.store.managed(row.uuid);
            let managed = managed.map_err(|e| stored("cannot read the domains", &e))?;
            if managed.is_some_and(|managed| managed.autostart)
                || configs.iter().any(|config| config.name == row.name)
            {
                names.push(row.name.to_string());
            }
        }
        Ok(names)
    }

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
        let hands = Filling { items, stopper: &stopper };
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

/// What was found so far.
struct Found<'a> {
    rows: &'a [ListRow],
    items: Vec<Item>,
    failures: Vec<Failure>,
}

impl Found<'_> {
    fn has(&self, uuid: DomainUuid) -> bool {
        self.items.iter().any(|item| item.uuid == Some(uuid))
    }

    fn is_live(&self, uuid: DomainUuid) -> bool {
        self.rows.iter().any(|row| row.uuid == uuid && row.domid.is_some())
    }

    /// Whether a domain of this name or uuid is there already, whatever it does: it is not for a
    /// configuration file to say that it should run.
    fn is_known(&self, config: &DomainConfig) -> bool {
        self.rows.iter().any(|row| row.name == config.name || Some(row.uuid) == config.uuid)
            || self.items.iter().any(|item| item.name == config.name)
    }
}

const fn is_off(state: State) -> bool {
    matches!(state, State::Halted | State::Failed)
}

/// The configuration files in a directory, sorted; none when it is not there. Copies that editors
/// and package managers leave do not count.
fn configurations(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: &std::io::Error| {
        Failure::because(Kind::Failed, format!("cannot read {}", directory.display()), error)
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(&error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| failed(&error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let left_over = name.starts_with('.')
            || name.ends_with('~')
            || [
                ".bak",
                ".orig",
                ".rpmsave",
                ".rpmnew",
                ".rpmorig",
                ".dpkg-old",
                ".dpkg-new",
                ".dpkg-dist",
            ]
            .iter()
            .any(|end| name.ends_with(end));
        if !left_over && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads a configuration; relative paths in it are taken from its directory.
fn read_config(file: &Path) -> Result<DomainConfig, Failure> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::because(Kind::Failed, format!("cannot read {name}"), &error))?;
    let mut parsed = config::parse(&name, &text, &[])
        .map_err(|errors| Failure::new(Kind::Usage, errors.to_string().trim_end().to_owned()))?;
    parsed.config.resolve_paths(file.parent().unwrap_or(Path::new("/")));
    Ok(parsed.config)
}

/// What was started in this boot because the host was; so that a domain somebody has shut down
/// since stays down.
#[derive(Debug, Default)]
struct BootNotes(BTreeSet<String>);

impl BootNotes {
    /// Lost notes cost a start too many, never a domain.
    fn read(paths: &Paths) -> Self {
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
    stopper: &'a Stopper,
}

impl Hands for Filling<'_> {
    fn act(&self, index: usize, _: Way, _moved: &mut dyn FnMut(Moved)) -> Result<Done, Failure> {
        let item = &self.items[index];
        let mut host = Host::open()?;
        let start = StartOpts { paused: item.paused, deadline: UP };
        let started = match &item.bring {
            Bring::Start => {
                let row = host.find(&item.uuid.map(|uuid| uuid.to_string()).unwrap_or_default())?;
                if row.domid.is_some() {
                    return Ok(Done::Already);
                }
                host.start(&row, start)?
            }
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
