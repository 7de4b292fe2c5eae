//! An image that is there: opened, its manifest verified, its parts within reach.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kxl_domain::ImageId;
use kxl_domain::image::{ImagePlace, MemoryLayout};
use nix::fcntl::OFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::codec::{self, Manifest};
use super::fault::ImageFault;
use super::header::{self, HEADER, LOCATOR};
use super::target::{dir_bytes, open_part};
use super::worker::reopened;
use super::{DEVICE_FILE, Facts, MANIFEST_FILE, MEMORY_FILE, index};
use crate::Result;
use crate::error::StoreError;
use crate::paths::Paths;

/// A complete image whose manifest is right. The bytes themselves are verified when they are read.
#[derive(Debug)]
pub struct Image {
    /// Its directory or file.
    pub(super) path: PathBuf,
    pub(super) place: ImagePlace,
    pub(super) manifest: Manifest,
    pub(super) device: Part,
    pub(super) memory: Option<Part>,
    /// Where its manifest is.
    pub(super) source: Part,
    pub(super) manifest_length: u64,
    /// The configuration block of a file.
    pub(super) header: Option<Vec<u8>>,
    /// The memory is in a file of its own, which shares the blocks of the user's.
    pub(super) shares: bool,
}

/// One part of an image, within a file.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: File,
    pub(super) start: u64,
}

impl Image {
    /// Opens an image of the store.
    ///
    /// # Errors
    /// `NoImage`; `Image` with what is wrong with it; `Io`.
    pub fn open_store(paths: &Paths, id: ImageId) -> Result<Self> {
        let path = paths.image_dir(id);
        if !path.is_dir() {
            return Err(StoreError::NoImage { id });
        }
        match Self::read_store(&path, id) {
            Ok(image) => Ok(image),
            // Removed while it was opened: that a part is missing is no damage.
            Err(_) if !path.is_dir() => Err(StoreError::NoImage { id }),
            Err(problem) => Err(problem.of(path)),
        }
    }

    fn read_store(path: &Path, id: ImageId) -> Result<Self, Problem> {
        let file = part_of(path, MANIFEST_FILE, "manifest", false)?;
        let length = file.metadata()?.len();
        let manifest = codec::decode(&read_range(&file, 0, length)?)?;
        if manifest.facts.id != id {
            return Err(malformed(format!("it says that it is image {}", manifest.facts.id)));
        }
        let device = part_of(path, DEVICE_FILE, "device stream", false)?;
        expect_length(&device, manifest.device.length, "the device stream")?;
        let memory = match &manifest.memory {
            Some(memory) => {
                // Writable, because QEMU asks for no less even where it maps privately.
                let file = part_of(path, MEMORY_FILE, "memory", true)?;
                expect_length(&file, memory.layout.size, "the memory")?;
                Some(Part { file, start: 0 })
            }
            None => None,
        };
        Ok(Self {
            path: path.to_path_buf(),
            place: ImagePlace::Store,
            manifest,
            device: Part { file: device, start: 0 },
            source: Part { file, start: 0 },
            manifest_length: length,
            memory,
            header: None,
            shares: false,
        })
    }

    /// Opens an image in a file of the user's. The file is never changed.
    ///
    /// # Errors
    /// `Image` with what is wrong with it, also for files of Xen's and for anything else; `Io`.
    pub fn open_file(path: &Path) -> Result<Self> {
        Self::read_file(path).map_err(|problem| problem.of(path.to_path_buf()))
    }

    fn read_file(path: &Path) -> Result<Self, Problem> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits())
            .open(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(ImageFault::BadMagic.into());
        }
        let beginning = read_file_head(&file, meta.len())?;
        let (start, length) = beginning.locator.manifest;
        if length > codec::LONGEST {
            return Err(malformed(format!("its manifest has {length} bytes")));
        }
        let manifest = codec::decode(&read_range(&file, start, length)?)?;
        let memory_length = manifest.memory.as_ref().map_or(0, |memory| memory.layout.size);
        let (device, memory) = (beginning.locator.device, beginning.locator.memory);
        if manifest.device.length != device.1 || memory_length != memory.1 {
            return Err(malformed("manifest and locator tell different lengths".into()));
        }
        let memory = match &manifest.memory {
            Some(_) => Some(Part { file: file.try_clone()?, start: memory.0 }),
            None => None,
        };
        Ok(Self {
            path: path.to_path_buf(),
            place: ImagePlace::File(path.to_path_buf()),
            manifest,
            source: Part { file: file.try_clone()?, start },
            manifest_length: length,
            device: Part { file, start: device.0 },
            memory,
            header: Some(beginning.text),
            shares: false,
        })
    }

    /// What it says of its domain.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.manifest.facts
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> ImageId {
        self.manifest.facts.id
    }

    /// Whether it is in the store or a file of the user's.
    #[must_use]
    pub fn place(&self) -> &ImagePlace {
        &self.place
    }

    /// Its directory or file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that it takes on the disk.
    ///
    /// # Errors
    /// `Io`.
    pub fn bytes(&self) -> Result<u64> {
        let bytes = match self.place {
            ImagePlace::Store => dir_bytes(&self.path),
            ImagePlace::File(_) => self.device.file.metadata().map(|meta| meta.blocks() * 512),
        };
        bytes.map_err(|error| self.failed("look at", error))
    }

    /// Bytes of its state, holes and all.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.manifest.device.length
            + self.manifest.memory.as_ref().map_or(0, |memory| memory.layout.size)
    }

    /// The text of the configuration block, of an image in a file, without its NUL.
    #[must_use]
    pub fn header(&self) -> Option<&[u8]> {
        self.header.as_deref()
    }

    /// The memory block, where the image keeps it apart.
    #[must_use]
    pub fn memory(&self) -> Option<MemoryLayout> {
        self.manifest.memory.as_ref().map(|memory| memory.layout.clone())
    }

    /// The device stream, verified, in a file of memory at its start.
    ///
    /// # Errors
    /// `Image` when it is not what was written; `Io`.
    pub fn device(&self) -> Result<OwnedFd> {
        self.read_device().map_err(|problem| problem.of(self.path.clone()))
    }

    fn read_device(&self) -> Result<OwnedFd, Problem> {
        let flags = MFdFlags::MFD_CLOEXEC;
        let mut copy = File::from(
            memfd_create("kxl-device", flags).map_err(|error| Problem::Io(error.into()))?,
        );
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; 256 << 10];
        let (mut at, end) = (self.device.start, self.device.start + self.manifest.device.length);
        while at < end {
            let length = piece.len().min(index(end - at));
            read_exact(&self.device.file, &mut piece[..length], at, "the device stream")?;
            hasher.update(&piece[..length]);
            copy.write_all(&piece[..length])?;
            at += length as u64;
        }
        if hasher.finalize() != self.manifest.device.digest {
            return Err(ImageFault::Digest("the device stream").into());
        }
        copy.seek(SeekFrom::Start(0))?;
        Ok(copy.into())
    }

    /// The memory file of an image in the store, or of one that [shares its
    /// memory](Self::share_memory), at its start, with a position of its own: open for writing,
    /// because an emulator that maps it privately asks for that, but never to be written. `None` also
    /// where it cannot be mapped safely: then its memory has to be copied.
    ///
    /// # Errors
    /// `Io`.
    pub fn memory_file(&self) -> Result<Option<OwnedFd>> {
        let alone = self.place == ImagePlace::Store || self.shares;
        let Some(part) = self.memory.as_ref().filter(|_| alone) else { return Ok(None) };
        let file = reopened(&part.file, OFlag::empty(), true)
            .map_or_else(|| open_part(&self.path.join(MEMORY_FILE), true), Ok)
            .map_err(|error| self.failed("open the memory of", error))?;
        let safely =
            holes_are_free(&file).map_err(|error| self.failed("look at the disk of", error))?;
        Ok(safely.then(|| file.into()))
    }

    pub(super) fn failed(&self, attempt: &'static str, error: io::Error) -> StoreError {
        StoreError::io(attempt, &self.path, error)
    }
}

/// Whether a hole that is read through a mapping takes no space. A tmpfs makes a page of it, and
/// kills the reader when it has no room for one: a guest would die of what others write there.
fn holes_are_free(file: &File) -> io::Result<bool> {
    Ok(nix::sys::statfs::fstatfs(file)?.filesystem_type() != nix::sys::statfs::TMPFS_MAGIC)
}

struct Beginning {
    text: Vec<u8>,
    locator: header::Locator,
}

fn read_file_head(file: &File, size: u64) -> Result<Beginning, Problem> {
    let first = read_range(file, 0, size.min(HEADER as u64))?;
    let block = header::read(&first)? as u64;
    let head_end = HEADER as u64 + block;
    if size < head_end {
        return Err(ImageFault::Truncated("the configuration").into());
    }
    let head = read_range(file, 0, head_end)?;
    let locator = read_range(file, head_end, (size - head_end).min(LOCATOR as u64))?;
    let locator = header::unseal(&head, &locator, size)?;
    let text = header::text(&head[HEADER..])
        .ok_or_else(|| malformed("its configuration block is longer than itself".into()))?;
    Ok(Beginning { text: text.to_vec(), locator })
}

/// What goes wrong while an image is opened: the system, or the image.
#[derive(Debug)]
pub(super) enum Problem {
    Io(io::Error),
    Image(ImageFault),
}

impl Problem {
    pub(super) fn of(self, path: PathBuf) -> StoreError {
        match self {
            Self::Io(error) => StoreError::io("read the image", path, error),
            Self::Image(fault) => StoreError::Image { path, fault },
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ImageFault> for Problem {
    fn from(fault: ImageFault) -> Self {
        Self::Image(fault)
    }
}

fn malformed(text: String) -> Problem {
    Problem::Image(ImageFault::Malformed(text))
}

fn part_of(dir: &Path, name: &str, what: &'static str, write: bool) -> Result<File, Problem> {
    let file = match open_part(&dir.join(name), write) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(ImageFault::Missing(what).into());
        }
        // A store on a file system mounted read-only can still be read.
        Err(error) if write && error.kind() == ErrorKind::ReadOnlyFilesystem => {
            open_part(&dir.join(name), false)?
        }
        opened => opened?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(ImageFault::Missing(what).into()) }
}

fn expect_length(file: &File, length: u64, what: &'static str) -> Result<(), Problem> {
    match file.metadata()?.len() {
        found if found < length => Err(ImageFault::Truncated(what).into()),
        found if found > length => Err(malformed(format!("{what} is longer than it was"))),
        _ => Ok(()),
    }
}

/// A range of a file, as much of it as there is: nothing is trusted to be as long as it says.
fn read_range(file: &File, start: u64, length: u64) -> Result<Vec<u8>, Problem> {
    let mut reader = file;
    reader.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    reader.take(length.min(codec::LONGEST + 1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn read_exact(
    file: &File,
    bytes: &mut [u8],
    at: u64,
    what: &'static str,
) -> Result<(), Problem> {
    match file.read_exact_at(bytes, at) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            Err(ImageFault::Truncated(what).into())
        }
        other => Ok(other?),
    }
}
