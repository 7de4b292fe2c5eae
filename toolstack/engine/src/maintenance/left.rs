//! Filling a host: what maintenance has left to be brought back, what starts with the host, and
//! the work on single domains.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kxl_domain::config::{Defaults, Rules};
use kxl_domain::image::Purpose;
use kxl_domain::{
    DomainConfig, DomainName, DomainUuid, Failure, ImageId, Kind, State, Wanted, config,
};
use kxl_store::ListRow;
use kxl_store::image::{self, Facts, Image};

use super::fill::BootNotes;
use super::hands::stands;
use super::journal::{Entry, Journal, Left};
use super::order::Rank;
use super::plan::Way;
use crate::host::{Host, stored};

/// How a domain comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bring {
    /// It is registered and suspended, and resumed.
    Resume,
    /// It is made from this image in the store.
    Image(ImageId),
    /// It is made from the image in this file, which stays.
    File(PathBuf),
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
    /// `after=` and `requires=`.
    pub after: Vec<DomainName>,
    /// `requires=`.
    pub requires: Vec<DomainName>,
    /// How.
    pub bring: Bring,
    /// Leave it paused.
    pub paused: bool,
    /// Where it comes from, for people.
    pub from: String,
    /// What the notes of this boot call it, for what starts with the host.
    pub(super) note: Option<String>,
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
            Bring::Resume | Bring::Image(_) | Bring::File(_) => Way::Restore,
            Bring::Start | Bring::Create(_) => Way::Start,
        }
    }

    /// A registered domain that somebody starts.
    #[must_use]
    pub fn start(uuid: DomainUuid, config: &DomainConfig, paused: bool) -> Self {
        Self { paused, ..Self::new(Some(uuid), config, Bring::Start, "") }
    }

    fn new(uuid: Option<DomainUuid>, config: &DomainConfig, bring: Bring, from: &str) -> Self {
        Self {
            uuid,
            name: config.name.clone(),
            priority: config.maintenance.priority,
            after: config.maintenance.predecessors().cloned().collect(),
            requires: config.maintenance.requires.clone(),
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
            self.stored_images(&mut found)?;
            if let Some(directory) = &settings.from {
                self.files_in(directory, &mut found)?;
            }
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

    /// The images that maintenance has put into the store. They are found without any journal.
    fn stored_images(&mut self, found: &mut Found<'_>) -> Result<(), Failure> {
        let images = image::list(&self.paths).map_err(|e| stored("cannot read the images", &e))?;
        for listed in images {
            let facts = match listed {
                Ok(listed) if listed.spent.is_some() => continue,
                Ok(listed) => listed.facts,
                Err((id, error)) => {
                    let failure = stored(format!("image {id} cannot be read"), &error);
                    found.failures.push(failure.hint("kxl image rm throws it away"));
                    continue;
                }
            };
            if facts.purpose != Purpose::Maintenance || found.is_live(facts.uuid) {
                continue;
            }
            let bring = match found.rows.iter().find(|row| row.uuid == facts.uuid) {
                Some(_) => {
                    let managed = self.store.managed(facts.uuid);
                    let managed = managed.map_err(|e| stored("cannot read the domains", &e))?;
                    // One that is not this image any more went another way since.
                    match managed.filter(|row| row.image == Some(facts.id)) {
                        Some(row) if row.state == State::Suspended => Bring::Resume,
                        _ => continue,
                    }
                }
                None => Bring::Image(facts.id),
            };
            found.put_image(&facts, bring, "image in the store");
        }
        Ok(())
    }

    /// The images in the files of a directory; files that are none are passed over.
    fn files_in(&mut self, directory: &Path, found: &mut Found<'_>) -> Result<(), Failure> {
        let attempt = || format!("cannot read {}", directory.display());
        let entries = fs::read_dir(directory)
            .map_err(|error| Failure::because(Kind::Failed, attempt(), &error))?;
        let mut files = Vec::new();
        for entry in entries {
            let path =
                entry.map_err(|error| Failure::because(Kind::Failed, attempt(), &error))?.path();
            if path.extension().is_some_and(|end| end == "kxl") && path.is_file() {
                files.push(path);
            }
        }
        files.sort();
        for file in files {
            if let Err(failure) = self.file(&file, found) {
                found.failures.push(failure);
            }
        }
        Ok(())
    }

    /// An image in a file, if it waits to come back: made by maintenance, no guest gone on from it,
    /// its domain off.
    fn file(&mut self, file: &Path, found: &mut Found<'_>) -> Result<(), Failure> {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
        let attempt = || format!("cannot restore {}", file.display());
        let image = Image::open_file(&file).map_err(|e| stored(attempt(), &e))?;
        let facts = image.facts();
        let spent = self.store.file_spent(facts.id).map_err(|e| stored(attempt(), &e))?;
        let rests = |row: &ListRow| row.uuid != facts.uuid || is_off(row.state);
        if facts.purpose == Purpose::Maintenance
            && spent.is_none()
            && found.rows.iter().all(rests)
            && !found.has(facts.uuid)
        {
            let from = file.display().to_string();
            found.put_image(facts, Bring::File(file.clone()), &from);
        }
        Ok(())
    }

    /// What an entry of the journal asks for, as things stand now.
    fn of_entry(&mut self, entry: &Entry, found: &mut Found<'_>) -> Result<(), Failure> {
        if found.has(entry.uuid) || found.is_live(entry.uuid) || entry.wanted == Wanted::Halted {
            return Ok(());
        }
        if let Some(file) = &entry.file
            && file.exists()
        {
            if let Err(failure) = self.file(file, found) {
                found.failures.push(failure);
                // Started without its state it could never have it back.
                return Ok(());
            }
            // It is that image: nothing else is to be done for it.
            if found.has(entry.uuid) {
                return Ok(());
            }
        }
        if let Left::Image(..) = entry.left {
            // The image is gone, or a guest went on from it.
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
            // Its wish was put back when it was off: this is a later one.
            if entry.left != Left::Begun && row.wanted == Wanted::Halted {
                return Ok(());
            }
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
            match read_config(&file, &self.conf.defaults) {
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
        let configs: Vec<_> =
            files.iter().filter_map(|file| read_config(file, &self.conf.defaults).ok()).collect();
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

    /// Of several images of one domain the newest counts; they come oldest first.
    fn put_image(&mut self, facts: &Facts, bring: Bring, from: &str) {
        self.items.retain(|item| item.uuid != Some(facts.uuid));
        let mut item = Item::new(Some(facts.uuid), &facts.config, bring, from);
        item.name = facts.name.clone();
        item.paused = facts.wanted == Wanted::Paused;
        self.items.push(item);
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
fn read_config(file: &Path, defaults: &Defaults) -> Result<DomainConfig, Failure> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::because(Kind::Failed, format!("cannot read {name}"), &error))?;
    let mut parsed = config::parse_with(defaults, Rules::Kxl, &name, &text, &[])
        .map_err(|errors| Failure::new(Kind::Usage, errors.to_string().trim_end().to_owned()))?;
    parsed.config.resolve_paths(file.parent().unwrap_or(Path::new("/")));
    Ok(parsed.config)
}
