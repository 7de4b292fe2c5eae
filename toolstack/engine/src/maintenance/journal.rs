//! What maintenance has taken away and has to bring back, kept in a small file that is replaced as
//! a whole and is on the disk before anything is done.
//!
//! It holds wishes, not states: whether a domain runs, is an image or is off is read off the
//! registry, the store and the host each time. So a journal that was left by a killed command is
//! as good as one that was ended well.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use kxl_domain::image::ImagePlace;
use kxl_domain::{DomainConfig, DomainName, DomainUuid, Failure, ImageId, Kind, State, Wanted};
use kxl_store::Paths;
use serde::{Deserialize, Serialize};

/// Version of the file.
const VERSION: u32 = 1;

/// What maintenance has to bring back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    version: u32,
    /// When the emptying began; milliseconds since 1970.
    pub began_ms: i64,
    /// The boot in which it began.
    pub boot_id: String,
    /// The domains, in no order.
    pub entries: Vec<Entry>,
}

/// One domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Durable identity.
    pub uuid: DomainUuid,
    /// Name.
    pub name: DomainName,
    /// Whether it is registered.
    pub managed: bool,
    /// The wish before maintenance.
    pub wanted: Wanted,
    /// The state before maintenance: running or paused.
    pub state: State,
    /// The configuration of one that is not registered: nothing else remembers it.
    pub config: Option<Box<DomainConfig>>,
    /// The file that its state goes to, where that is not the store.
    pub file: Option<PathBuf>,
    /// What is known to have been done.
    pub left: Left,
}

/// What was done to a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Left {
    /// It was begun, and nobody wrote how it ended.
    Begun,
    /// Its state is this image.
    Image(ImageId, ImagePlace),
    /// It was shut down.
    Off,
    /// The power was taken away.
    Destroyed,
}

impl Journal {
    /// An empty one of this moment.
    #[must_use]
    pub fn new(boot_id: &str) -> Self {
        Self {
            version: VERSION,
            began_ms: kxl_store::now_ms(),
            boot_id: boot_id.to_owned(),
            entries: Vec::new(),
        }
    }

    /// The journal of this host; `None` when there is nothing to bring back.
    ///
    /// # Errors
    /// When it cannot be read, or is of a newer version.
    pub fn read(paths: &Paths) -> Result<Option<Self>, Failure> {
        let path = paths.maintenance_journal();
        let attempt = || format!("cannot read {}", path.display());
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Failure::because(Kind::Failed, attempt(), &error)),
        };
        let hint = "move it away to go on without it: images in the store are found all the same";
        let journal: Self = serde_json::from_slice(&text)
            .map_err(|error| Failure::because(Kind::Failed, attempt(), &error).hint(hint))?;
        if journal.version != VERSION {
            let text = format!("{}: it is of version {}", attempt(), journal.version);
            return Err(Failure::new(Kind::Failed, text).hint(hint));
        }
        Ok(Some(journal))
    }

    /// Writes it, on the disk when this returns; one without entries is removed.
    ///
    /// # Errors
    /// No space, or the system's refusal; the file is as it was before.
    pub fn write(&self, paths: &Paths) -> Result<(), Failure> {
        let path = paths.maintenance_journal();
        self.put(&path).map_err(|error| {
            let attempt = format!("cannot write {}", path.display());
            Failure::because(Kind::Failed, attempt, &error)
        })
    }

    fn put(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        if self.entries.is_empty() {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => return File::open(directory)?.sync_all(),
            }
        }
        let fresh = path.with_extension("new");
        let written = self.put_whole(&fresh).and_then(|()| fs::rename(&fresh, path));
        if written.is_err() {
            // What there is of it is of no use, and takes room where there is little.
            drop(fs::remove_file(&fresh));
        }
        written?;
        File::open(directory)?.sync_all()
    }

    fn put_whole(&self, path: &Path) -> io::Result<()> {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .open(path)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()
    }

    /// The entry of a domain.
    #[must_use]
    pub fn find(&self, uuid: DomainUuid) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.uuid == uuid)
    }

    /// Puts an entry in, in place of an older one of the same domain.
    pub fn put_entry(&mut self, entry: Entry) {
        self.remove(entry.uuid);
        self.entries.push(entry);
    }

    /// Takes the entry of a domain out.
    pub fn remove(&mut self, uuid: DomainUuid) {
        self.entries.retain(|entry| entry.uuid != uuid);
    }
}

/// The right to empty or fill this host: one command at a time.
#[derive(Debug)]
pub struct MaintenanceLock {
    _file: File,
}

/// How long somebody who only looks may be in the way.
const LOOKED_AT: Duration = Duration::from_millis(500);

impl MaintenanceLock {
    /// Takes it, or says who has it. A full disk keeps nobody from it: a host is to be shut down
    /// whatever its disks are like.
    ///
    /// # Errors
    /// [`Kind::Denied`] when another command is at it.
    pub fn take(paths: &Paths) -> Result<Self, Failure> {
        paths.prepare().map_err(|error| {
            Failure::because(Kind::Failed, "cannot use this host's places", &error)
        })?;
        let path = paths.maintenance_lock();
        let mut file = match options().write(true).create(true).truncate(false).open(&path) {
            // No room for one more file: then its directory is what everybody locks.
            Err(error) if is_full(&error) => path.parent().map_or(Err(error), File::open),
            opened => opened,
        }
        .map_err(|error| failed(&path, &error))?;
        let until = Instant::now() + LOOKED_AT;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    // One who looks has it for microseconds, and nothing tells of its end.
                    thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => return Err(taken(&path)),
                Err(TryLockError::Error(error)) => return Err(failed(&path, &error)),
            }
        }
        // Whoever is refused reads who it is; that is a help and no condition.
        let told = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = told {
            tracing::debug!(%error, "who has the lock is not written down");
        }
        Ok(Self { _file: file })
    }

    /// Whether somebody has it, and who; writes nothing.
    #[must_use]
    pub fn holder(paths: &Paths) -> Option<Failure> {
        let path = paths.maintenance_lock();
        let look = match options().open(&path) {
            Ok(file) => file.try_lock_shared(),
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => Err(TryLockError::Error(error)),
        };
        match look {
            Ok(()) => None,
            Err(TryLockError::WouldBlock) => Some(taken(&path)),
            Err(TryLockError::Error(error)) => Some(failed(&path, &error)),
        }
    }
}

fn options() -> fs::OpenOptions {
    let mut options = File::options();
    options.read(true).mode(0o600).custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits());
    options
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::because(Kind::Failed, format!("cannot lock {}", path.display()), error)
}

fn taken(path: &Path) -> Failure {
    let pid = fs::read_to_string(path).unwrap_or_default();
    let who = pid.trim().parse::<u32>();
    let who = who.map_or_else(|_| String::new(), |pid| format!(" (pid {pid})"));
    Failure::new(Kind::Denied, format!("another host save, restore or shutdown is at work{who}"))
        .hint("kxl host status shows how far it is; run this again when it is over")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("kxl-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn paths(&self) -> Paths {
            let paths = Paths::under(&self.0);
            paths.prepare().unwrap();
            paths
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn entry(name: &str) -> Entry {
        Entry {
            uuid: DomainUuid::random(),
            name: name.parse().unwrap(),
            managed: true,
            wanted: Wanted::Running,
            state: State::Running,
            config: None,
            file: None,
            left: Left::Begun,
        }
    }

    #[test]
    fn a_journal_reads_back_and_is_gone_when_it_is_empty() {
        let tree = Tree::new("journal");
        let paths = tree.paths();
        assert_eq!(Journal::read(&paths).unwrap(), None);
        let mut journal = Journal::new("boot");
        let one = entry("a");
        journal.put_entry(one.clone());
        journal.put_entry(Entry { left: Left::Off, ..one.clone() });
        journal.write(&paths).unwrap();
        assert_eq!(Journal::read(&paths).unwrap().unwrap(), journal);
        assert_eq!(journal.find(one.uuid).unwrap().left, Left::Off);
        journal.remove(one.uuid);
        journal.write(&paths).unwrap();
        assert_eq!(Journal::read(&paths).unwrap(), None);
    }

    #[test]
    fn a_journal_that_cannot_be_put_in_its_place_leaves_nothing() {
        let tree = Tree::new("journal-in-the-way");
        let paths = tree.paths();
        let path = paths.maintenance_journal();
        fs::create_dir(&path).unwrap();
        let mut journal = Journal::new("boot");
        journal.put_entry(entry("a"));
        let failure = journal.write(&paths).unwrap_err();
        assert!(failure.text.contains(&path.display().to_string()), "{failure}");
        assert!(!path.with_extension("new").exists());
    }

    #[test]
    fn a_journal_that_is_none_is_refused_and_not_taken_for_an_empty_one() {
        let tree = Tree::new("bad-journal");
        let paths = tree.paths();
        for text in ["", "{", r#"{"version":2,"began_ms":1,"boot_id":"b","entries":[]}"#] {
            fs::write(paths.maintenance_journal(), text).unwrap();
            assert!(Journal::read(&paths).unwrap_err().hint.is_some(), "{text}");
        }
    }

    #[test]
    fn only_one_command_at_a_time_empties_a_host() {
        let tree = Tree::new("maintenance-lock");
        let paths = tree.paths();
        assert!(MaintenanceLock::holder(&paths).is_none(), "nobody was ever at it");
        let held = MaintenanceLock::take(&paths).unwrap();
        let refused = MaintenanceLock::take(&paths).unwrap_err();
        assert_eq!(refused.kind, Kind::Denied);
        assert!(refused.text.contains(&format!("pid {}", std::process::id())), "{refused}");
        assert_eq!(MaintenanceLock::holder(&paths).unwrap().text, refused.text);
        drop(held);
        assert!(MaintenanceLock::holder(&paths).is_none());
        MaintenanceLock::take(&paths).unwrap();
    }

    #[test]
    fn one_who_looks_who_empties_the_host_is_in_nobodys_way() {
        let tree = Tree::new("maintenance-look");
        let paths = tree.paths();
        drop(MaintenanceLock::take(&paths).unwrap());
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    drop(MaintenanceLock::holder(&paths));
                }
            });
            let taken: Vec<_> = (0..50).map(|_| MaintenanceLock::take(&paths).is_ok()).collect();
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(taken, [true; 50]);
        });
    }
}
