//! Where an image goes: temporaries that nobody takes for an image, and the step that makes one of
//! them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kxl_domain::ImageId;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, renameat2};

use super::header::{self, Locator};
use super::reserve::{Reserve, nameless, unsupported};
use super::{DEVICE_FILE, MANIFEST_FILE, MEMORY_FILE};
use crate::Result;
use crate::error::StoreError;
use crate::paths::Paths;

/// Begins the name of a directory that is being written.
pub(super) const NEW: &str = ".new-";
/// Ends the name of a file that is being written, where the file system has no nameless ones.
const PART: &str = ".kxl-part";
/// How long a sweep may take that came between a new directory and its lock.
const SWEPT: Duration = Duration::from_secs(2);

/// Where an image is to be kept.
#[derive(Clone, Debug)]
pub enum Target {
    /// In the managed store.
    Store(Paths),
    /// In a file of the user's, which gets its name at the end and at once.
    File {
        /// The file. A relative path is that of this process.
        path: PathBuf,
        /// A file that has the name by then is replaced; otherwise it stays and the commit fails.
        replace: bool,
        /// The text of the configuration block at its beginning, for tools that look into it.
        header: Vec<u8>,
    },
}

impl Target {
    /// Where the image will be found.
    pub(super) fn path(&self, id: ImageId) -> PathBuf {
        match self {
            Self::Store(paths) => paths.image_dir(id),
            Self::File { path, .. } => path.clone(),
        }
    }
}

/// A temporary, until it is committed or dropped.
#[derive(Debug)]
pub(super) struct Place {
    kind: Kind,
    /// Where it will be found.
    path: PathBuf,
    /// The directory that this is in.
    dir: PathBuf,
    done: bool,
}

#[derive(Debug)]
enum Kind {
    Store {
        temporary: PathBuf,
        /// The temporary, locked for as long as its writer lives.
        lock: File,
        memory: Option<File>,
        device: File,
    },
    File {
        file: File,
        /// Its temporary name, where it has one.
        name: Option<PathBuf>,
        /// The name to link it to before it replaces another file.
        part: PathBuf,
        head: Vec<u8>,
        memory: u64,
        replace: bool,
    },
}

impl Place {
    pub(super) fn make(target: &Target, id: ImageId, memory: u64) -> Result<Self> {
        match target {
            Target::Store(paths) => Self::in_store(paths, id),
            Target::File { path, replace, header } => {
                Self::in_file(path, *replace, header, id, memory)
            }
        }
    }

    fn in_store(paths: &Paths, id: ImageId) -> Result<Self> {
        paths.prepare()?;
        let (path, dir) = (paths.image_dir(id), paths.image_store());
        if path.exists() {
            return Err(StoreError::ImageTaken { id });
        }
        let temporary = dir.join(format!("{NEW}{id}"));
        let lock = new_dir(&temporary)?;
        let device = create(&temporary.join(DEVICE_FILE))
            .map_err(|error| StoreError::io("make an image", &temporary, error))?;
        Ok(Self {
            kind: Kind::Store { temporary, lock, memory: None, device },
            path,
            dir,
            done: false,
        })
    }

    fn in_file(path: &Path, replace: bool, text: &[u8], id: ImageId, memory: u64) -> Result<Self> {
        let head = header::head(text)
            .map_err(|fault| StoreError::Image { path: path.to_path_buf(), fault })?;
        let path = resolved(path)?;
        let dir = parent(&path);
        let part = part(&dir, id);
        let (file, name) = match nameless(&dir) {
            Ok(file) => (file, None),
            Err(error) if unsupported(&error) && error.kind() != ErrorKind::NotFound => {
                let file = create(&part)
                    .map_err(|error| StoreError::io("make a file for the image", &part, error))?;
                (file, Some(part.clone()))
            }
            Err(error) => return Err(StoreError::io("make a file for the image in", dir, error)),
        };
        // Whoever sweeps must see that its writer lives, when it has a name.
        file.lock().map_err(|error| StoreError::io("lock", &part, error))?;
        let place = Self {
            kind: Kind::File { file, name, part, head, memory, replace },
            path,
            dir,
            done: false,
        };
        place.begin_file().map_err(|error| place.failed("write the image", error))?;
        Ok(place)
    }

    /// The head, a locator of zeros, and the length: what it is can be told from now on, and that
    /// it is not finished.
    fn begin_file(&self) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let Kind::File { file, head, memory, .. } = &self.kind else { return Ok(()) };
        file.write_all_at(head, 0)?;
        file.set_len(header::memory_at(head) + memory)
    }

    /// The directory that the image will be in.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the image will be found.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn failed(&self, attempt: &'static str, error: io::Error) -> StoreError {
        StoreError::io(attempt, &self.path, error)
    }

    /// The file for the device stream, and where in it the stream begins.
    pub(super) fn device(&self) -> io::Result<(File, u64)> {
        match &self.kind {
            Kind::Store { device, .. } => Ok((device.try_clone()?, 0)),
            Kind::File { file, head, memory, .. } => {
                Ok((file.try_clone()?, header::memory_at(head) + memory))
            }
        }
    }

    /// The file for the memory, and where in it the memory begins.
    pub(super) fn memory(&mut self, size: u64) -> io::Result<(File, u64)> {
        match &mut self.kind {
            Kind::Store { temporary, memory, .. } => {
                let file = create(&temporary.join(MEMORY_FILE))?;
                file.set_len(size)?;
                *memory = Some(file.try_clone()?);
                Ok((file, 0))
            }
            Kind::File { file, head, .. } => Ok((file.try_clone()?, header::memory_at(head))),
        }
    }

    /// A nameless file in the same file system.
    pub(super) fn scratch(&self) -> io::Result<File> {
        match nameless(&self.dir) {
            Err(error) if unsupported(&error) => {
                let path = match &self.kind {
                    Kind::Store { temporary, .. } => temporary.join("scratch"),
                    Kind::File { part, .. } => part.with_extension("kxl-scratch"),
                };
                let file = create(&path)?;
                fs::remove_file(path)?;
                Ok(file)
            }
            other => other,
        }
    }

    /// All data on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Store { memory, device, .. } => {
                memory.as_ref().map_or(Ok(()), File::sync_all)?;
                device.sync_all()
            }
            Kind::File { file, .. } => file.sync_all(),
        }
    }

    /// Adds the manifest and gives the image its name; gives the bytes that it takes on the disk.
    pub(super) fn commit(
        &mut self,
        manifest: &[u8],
        device_length: u64,
        reserve: &Reserve,
    ) -> Result<u64> {
        let written = match &self.kind {
            Kind::Store { temporary, lock, .. } => finish_store(temporary, lock, manifest, reserve),
            Kind::File { file, head, memory, .. } => {
                finish_file(file, head, *memory, device_length, manifest, reserve)
            }
        };
        written.map_err(|error| self.failed("write the manifest of", error))?;
        reserve.release();
        self.reveal()?;
        self.done = true;
        // It is there, whether its size can be told or not.
        Ok(self.on_disk().unwrap_or_else(|error| {
            tracing::warn!(path = %self.path.display(), %error, "the size of an image cannot be told");
            0
        }))
    }

    /// Gives it its name, durably. What cannot be made durable is taken back.
    fn reveal(&self) -> Result<()> {
        match &self.kind {
            Kind::Store { temporary, .. } => {
                rename_new(temporary, &self.path).map_err(|error| match error.kind() {
                    ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => self.taken(),
                    _ => self.failed("give its name to", error),
                })?;
                sync_dir(&self.dir).map_err(|error| {
                    let back = fs::rename(&self.path, temporary);
                    if let Err(error) = back {
                        tracing::error!(path = %self.path.display(), %error, "cannot take back an image that is not durable");
                    }
                    self.failed("make durable", error)
                })
            }
            Kind::File { file, name, part, replace, .. } => {
                if name.is_none() {
                    link(file, part).map_err(|error| self.failed("give its name to", error))?;
                }
                let renamed = if *replace {
                    fs::rename(part, &self.path)
                } else {
                    rename_new(part, &self.path)
                };
                renamed.map_err(|error| {
                    discard(part);
                    self.failed("give its name to", error)
                })?;
                sync_dir(&self.dir).map_err(|error| {
                    discard(&self.path);
                    self.failed("make durable", error)
                })
            }
        }
    }

    fn taken(&self) -> StoreError {
        let id = self.path.file_name().and_then(|name| name.to_str()?.parse().ok());
        id.map_or_else(
            || self.failed("give its name to", ErrorKind::AlreadyExists.into()),
            |id| StoreError::ImageTaken { id },
        )
    }

    fn on_disk(&self) -> io::Result<u64> {
        match &self.kind {
            Kind::Store { .. } => dir_bytes(&self.path),
            Kind::File { file, .. } => Ok(file.metadata()?.blocks() * 512),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        match &self.kind {
            Kind::Store { temporary, .. } => {
                if let Err(error) = fs::remove_dir_all(temporary) {
                    tracing::warn!(path = %temporary.display(), %error, "a temporary is left for the next sweep");
                }
            }
            Kind::File { name: Some(name), .. } => discard(name),
            Kind::File { .. } => {}
        }
    }
}

/// The directory that a file is in.
pub(super) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// The temporary name of an image file.
pub(super) fn part(dir: &Path, id: ImageId) -> PathBuf {
    dir.join(format!(".{id}{PART}"))
}

/// Bytes that the files of a directory take on the disk.
pub(super) fn dir_bytes(dir: &Path) -> io::Result<u64> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.metadata()?.blocks() * 512)).sum()
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A new file of ours.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Makes the directory and locks it: as long as somebody holds the lock, its writer lives.
fn new_dir(path: &Path) -> Result<File> {
    let failed = |error| StoreError::io("make the directory", path, error);
    let end = Instant::now() + SWEPT;
    loop {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made.map_err(failed)?,
        }
        let lock = match OpenOptions::new().read(true).open(path) {
            // A sweep was faster than the lock.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened.map_err(failed)?,
        };
        match lock.try_lock() {
            Ok(()) => {}
            // A sweep has it for the time that the removal of a few files takes.
            Err(fs::TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            Err(fs::TryLockError::WouldBlock) => {
                return Err(StoreError::Busy { path: path.to_path_buf() });
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let here = fs::metadata(path).ok().zip(lock.metadata().ok());
        if here.is_none_or(|(here, mine)| (here.dev(), here.ino()) != (mine.dev(), mine.ino())) {
            continue;
        }
        // Of a writer of the same image that was killed.
        for entry in fs::read_dir(path).map_err(failed)? {
            fs::remove_file(entry.map_err(failed)?.path()).map_err(failed)?;
        }
        return Ok(lock);
    }
}

fn finish_store(dir: &Path, lock: &File, manifest: &[u8], reserve: &Reserve) -> io::Result<()> {
    let file = create(&dir.join(MANIFEST_FILE))?;
    reserve.write(&file, manifest, 0)?;
    file.sync_all()?;
    // The lock is the directory itself.
    lock.sync_all()
}

fn finish_file(
    file: &File,
    head: &[u8],
    memory: u64,
    device_length: u64,
    manifest: &[u8],
    reserve: &Reserve,
) -> io::Result<()> {
    let first = header::memory_at(head);
    let device = (first + memory, device_length);
    let locator = Locator {
        memory: (first, memory),
        device,
        manifest: (device.0 + device.1, manifest.len() as u64),
    };
    reserve.write(file, manifest, locator.manifest.0)?;
    reserve.write(file, &header::seal(head, &locator), head.len() as u64)?;
    file.sync_all()
}

/// Renames without ever replacing.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // A file system without that flag: a directory replaces an empty one only, and a file can
        // have two names for a moment.
        Err(Errno::EINVAL) if from.is_dir() => fs::rename(from, to),
        Err(Errno::EINVAL) => fs::hard_link(from, to).and_then(|()| fs::remove_file(from)),
        other => Ok(other?),
    }
}

/// Gives a nameless file a name.
fn link(file: &File, path: &Path) -> io::Result<()> {
    let from = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let flags = AtFlags::AT_SYMLINK_FOLLOW;
    match nix::unistd::linkat(AT_FDCWD, &from, AT_FDCWD, path, flags) {
        Err(Errno::EEXIST) => {
            // Of a save of the same image that was cut off right here.
            fs::remove_file(path)?;
            Ok(nix::unistd::linkat(AT_FDCWD, &from, AT_FDCWD, path, flags)?)
        }
        other => Ok(other?),
    }
}

/// The file that a path leads to: a symbolic link is followed, and only a regular file is replaced.
pub(super) fn resolved(path: &Path) -> Result<PathBuf> {
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(path.to_path_buf()),
        Err(error) => return Err(StoreError::io("look at", path, error)),
    };
    let meta = fs::metadata(&path).map_err(|error| StoreError::io("look at", &path, error))?;
    if meta.is_file() {
        return Ok(path);
    }
    let error = io::Error::new(ErrorKind::InvalidInput, "it is no regular file; name another one");
    Err(StoreError::io("save to", path, error))
}

fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a file that is no image");
    }
}

/// Opens a file of an image for reading; never waits for a pipe and never follows a link.
pub(super) fn open_part(path: &Path, write: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits())
        .open(path)
}
