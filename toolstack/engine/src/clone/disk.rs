//! A clone's own disk from the one that its image was made with.

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kxl_domain::config::model::{Disk, DiskFormat};
use kxl_domain::{Failure, Kind};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::{CloneOpts, Disks, MadeDisk, qemu_img};

/// Bytes that are copied at a time.
const PIECE: usize = 1 << 20;

/// How a disk is made from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A file of its own that shares its blocks with the old one until either is written.
    Reflink,
    /// A qcow2 file that holds only what differs; the old one must never be written again.
    Overlay,
    /// A full copy; holes stay holes.
    Copy,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reflink => "reflink",
            Self::Overlay => "overlay",
            Self::Copy => "copy",
        })
    }
}

/// Where the bytes of the image's moment are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// In the disk as it is.
    Now,
    /// In this snapshot within it.
    Snapshot(String),
}

/// One disk to be made.
pub(super) struct Job<'a> {
    pub(super) disk: &'a Disk,
    pub(super) content: Content,
    /// A domain is known that may write to the old disk again.
    pub(super) writers: bool,
    pub(super) opts: &'a CloneOpts,
}

impl Job<'_> {
    /// Makes the disk; nothing is left behind after a failure.
    pub(super) fn make(&self, moved: &mut dyn FnMut(u64) -> bool) -> Result<MadeDisk, Failure> {
        let vdev = self.disk.vdev.clone();
        let named = |failure: Failure| {
            let causes = std::iter::once(failure.text).chain(failure.causes).collect();
            Failure { text: format!("cannot make disk {vdev}"), causes, ..failure }
        };
        let made = self.try_make(moved).map_err(named)?;
        Ok(MadeDisk { vdev: self.disk.vdev.clone(), path: made.0, how: made.1 })
    }

    fn try_make(&self, moved: &mut dyn FnMut(u64) -> bool) -> Result<(PathBuf, How), Failure> {
        let Some(old) = self.disk.target.as_deref() else {
            return Err(Failure::new(Kind::Internal, "it has no medium"));
        };
        let cannot = |error: &io::Error| {
            Failure::because(Kind::Failed, format!("cannot read {}", old.display()), error)
        };
        let source = File::open(old).map_err(|e| cannot(&e))?;
        let about = source.metadata().map_err(|e| cannot(&e))?;
        if let Content::Snapshot(snapshot) = &self.content {
            return self.snapshot(old, snapshot, &about);
        }
        let reflink = matches!(self.opts.disks, Disks::Auto | Disks::Only(How::Reflink));
        if reflink && about.is_file() {
            match self.reflink(old, &source, &about) {
                Err(failure) if self.opts.disks == Disks::Auto && failure.kind != Kind::Usage => {
                    tracing::debug!(%failure, "no reflink");
                }
                made => return made,
            }
        }
        match self.opts.disks {
            Disks::Only(How::Reflink) => Err(Failure::new(
                Kind::Failed,
                format!("{} is a device, which cannot share its blocks", old.display()),
            )
            .hint("use --disks=overlay or --disks=copy")),
            Disks::Only(How::Overlay) => self.overlay(old, &about),
            // A disk of its own format is read by whoever read the old one.
            Disks::Auto if self.disk.format == DiskFormat::Qcow2 && !self.writers => {
                self.overlay(old, &about)
            }
            Disks::Auto | Disks::Only(How::Copy) => self.copy(old, &source, &about, moved),
        }
    }

    fn reflink(
        &self,
        old: &Path,
        source: &File,
        about: &Metadata,
    ) -> Result<(PathBuf, How), Failure> {
        let path = self.place(old, about, None)?;
        let new = create(&path, about)?;
        if let Err(error) = rustix::fs::ioctl_ficlone(&new, source) {
            discard(&path);
            let text = format!("{} cannot share its blocks", old.display());
            let failure = Failure::because(Kind::Failed, text, &io::Error::from(error));
            return Err(failure.hint(
                "reflinks need one file system that has them (btrfs, XFS); use --disks=copy",
            ));
        }
        Ok((path, How::Reflink))
    }

    fn overlay(&self, old: &Path, about: &Metadata) -> Result<(PathBuf, How), Failure> {
        let path = self.place(old, about, Some("qcow2"))?;
        // Made first, so that it is nobody else's, and with the rights of the old one.
        drop(create(&path, about)?);
        match qemu_img::overlay(old, self.disk.format, &path) {
            Ok(()) => Ok((path, How::Overlay)),
            Err(failure) => {
                discard(&path);
                Err(failure)
            }
        }
    }

    fn snapshot(
        &self,
        old: &Path,
        snapshot: &str,
        about: &Metadata,
    ) -> Result<(PathBuf, How), Failure> {
        if let Disks::Only(how @ (How::Reflink | How::Overlay)) = self.opts.disks {
            let text = format!("it has moved on, and its snapshot cannot be used by {how}");
            return Err(Failure::new(Kind::Failed, text).hint("use --disks=copy"));
        }
        let path = self.place(old, about, Some("qcow2"))?;
        drop(create(&path, about)?);
        match qemu_img::copy_snapshot(old, snapshot, &path) {
            Ok(()) => Ok((path, How::Copy)),
            Err(failure) => {
                discard(&path);
                Err(failure)
            }
        }
    }

    fn copy(
        &self,
        old: &Path,
        source: &File,
        about: &Metadata,
        moved: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(PathBuf, How), Failure> {
        let path = self.place(old, about, None)?;
        let new = create(&path, about)?;
        let copied = copy_data(source, &new, moved);
        match copied {
            Ok(true) => Ok((path, How::Copy)),
            Ok(false) => {
                discard(&path);
                Err(Failure::new(Kind::Failed, "given up"))
            }
            Err(error) => {
                discard(&path);
                let text = format!("cannot copy {} to {}", old.display(), path.display());
                Err(Failure::because(Kind::Failed, text, &error))
            }
        }
    }

    /// Where the new disk goes: beside the old one, with the clone's name in its own.
    fn place(&self, old: &Path, about: &Metadata, ext: Option<&str>) -> Result<PathBuf, Failure> {
        let dir = match (&self.opts.into, old.parent()) {
            (Some(dir), _) => dir.clone(),
            (None, Some(dir)) if about.is_file() => dir.to_owned(),
            (None, _) => {
                let what = if about.file_type().is_block_device() { "a device" } else { "no file" };
                let text = format!("{} is {what}: there is no place beside it", old.display());
                return Err(Failure::new(Kind::Usage, text).hint("--into DIR says where it goes"));
            }
        };
        let stem = old.file_stem().unwrap_or_default().to_string_lossy();
        let own = old.extension().map(|ext| ext.to_string_lossy());
        let ext = match (ext, &own) {
            (Some(ext), _) => ext,
            (None, Some(own)) => own,
            (None, None) => "img",
        };
        Ok(dir.join(format!("{stem}.{}.{ext}", self.opts.name)))
    }
}

/// A new file with the owner and the rights of the old disk.
fn create(path: &Path, like: &Metadata) -> Result<File, Failure> {
    let text = format!("cannot make {}", path.display());
    let failed = |error: &io::Error| Failure::because(Kind::Failed, &text, error);
    let new = File::options()
        .write(true)
        .create_new(true)
        .mode(if like.is_file() { like.mode() & 0o777 } else { 0o600 })
        .open(path)
        .map_err(|error| failed(&error))?;
    // Only root gives files away, and only root's emulators run as somebody else.
    if nix::unistd::geteuid().is_root()
        && let Err(error) = std::os::unix::fs::fchown(&new, Some(like.uid()), Some(like.gid()))
    {
        discard(path);
        return Err(failed(&error));
    }
    Ok(new)
}

fn discard(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(%error, path = %path.display(), "a disk that was not finished stays");
    }
}

/// Bytes that a copy of a disk is going to move; 0 where that cannot be told.
pub(super) fn content_size(disk: &Disk) -> u64 {
    let Some(source) = disk.target.as_deref().and_then(|path| File::open(path).ok()) else {
        return 0;
    };
    let size = lseek(&source, 0, Whence::SeekEnd).map_or(0, bytes);
    match source.metadata() {
        Ok(about) if about.is_file() => size.min(about.blocks() * 512),
        _ => size,
    }
}

/// Copies what is not a hole, and the size. `false`: given up.
fn copy_data(source: &File, new: &File, moved: &mut dyn FnMut(u64) -> bool) -> io::Result<bool> {
    let size = lseek(source, 0, Whence::SeekEnd)?;
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        at = match lseek(source, at, Whence::SeekData) {
            Ok(data) => data,
            // Nothing but a hole is left.
            Err(Errno::ENXIO) => break,
            // A file system that knows nothing of holes.
            Err(Errno::EINVAL) => at,
            Err(error) => return Err(error.into()),
        };
        let end = lseek(source, at, Whence::SeekHole).unwrap_or(size).min(size);
        while at < end {
            let (from, left) = (bytes(at), bytes(end - at));
            let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            source.read_exact_at(&mut piece[..length], from)?;
            new.write_all_at(&piece[..length], from)?;
            at += i64::try_from(length).unwrap_or(i64::MAX);
            if !moved(length as u64) {
                return Ok(false);
            }
        }
    }
    new.set_len(bytes(size))?;
    Ok(true)
}

/// An offset, which is never negative.
fn bytes(offset: i64) -> u64 {
    u64::try_from(offset).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kxl_domain::DomainConfig;

    use super::*;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("kxl-clone-{name}-{}", std::process::id()));
            fs::create_dir(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn disk(path: &Path, format: &str) -> Disk {
        let disk = format!("{},{format},xvda,rw", path.display());
        let text = format!("name = \"x\"\nbackend = \"mock\"\ndisk = [ \"{disk}\" ]\n");
        let parsed = kxl_domain::config::parse("test", &text, &[]).unwrap();
        let config: DomainConfig = parsed.config;
        config.disks.into_iter().next().unwrap()
    }

    fn opts(disks: Disks) -> CloneOpts {
        CloneOpts {
            name: "two".parse().unwrap(),
            managed: false,
            disks,
            into: None,
            force_disks: false,
        }
    }

    #[test]
    fn a_copy_has_the_bytes_and_the_holes_of_the_old_disk() {
        let place = Place::new("copy");
        let old = place.0.join("disk.img");
        let file = File::create(&old).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"first", 0).unwrap();
        file.write_all_at(b"last", (40 << 20) + 5).unwrap();
        let (disk, opts) = (disk(&old, "raw"), opts(Disks::Only(How::Copy)));
        let job = Job { disk: &disk, content: Content::Now, writers: true, opts: &opts };
        let mut seen = 0;
        let made = job
            .make(&mut |more| {
                seen += more;
                true
            })
            .unwrap();
        assert_eq!(made.path, place.0.join("disk.two.img"));
        assert_eq!(fs::read(&made.path).unwrap(), fs::read(&old).unwrap());
        assert!(fs::metadata(&made.path).unwrap().blocks() * 512 < 4 << 20, "holes were filled");
        assert!(seen < 8 << 20, "holes were copied");
        assert_eq!(content_size(&disk), seen, "what is going to be moved is told before");
        // The name is taken now.
        let again = job.make(&mut |_| true).unwrap_err();
        assert!(again.to_string().contains("disk.two.img"), "{again}");
    }

    #[test]
    fn a_copy_that_is_given_up_leaves_nothing() {
        let place = Place::new("given-up");
        let old = place.0.join("disk.img");
        fs::write(&old, vec![7; 3 << 20]).unwrap();
        let (disk, opts) = (disk(&old, "raw"), opts(Disks::Only(How::Copy)));
        let job = Job { disk: &disk, content: Content::Now, writers: true, opts: &opts };
        job.make(&mut |_| false).unwrap_err();
        assert_eq!(fs::read_dir(&place.0).unwrap().count(), 1);
    }

    #[test]
    fn an_overlay_is_chosen_only_where_nobody_writes_to_the_old_disk() {
        let place = Place::new("overlay");
        let old = place.0.join("disk.qcow2");
        let made = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&old)
            .arg("1M")
            .status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("skipped: qemu-img is not installed");
            return;
        }
        let (disk, opts) = (disk(&old, "qcow2"), opts(Disks::Auto));
        let how = |writers| {
            let job = Job { disk: &disk, content: Content::Now, writers, opts: &opts };
            let made = job.make(&mut |_| true).unwrap();
            fs::remove_file(&made.path).unwrap();
            made.how
        };
        // Where the file system has reflinks they come first.
        let expected = |how, other| if how == How::Reflink { How::Reflink } else { other };
        let (alone, shared) = (how(false), how(true));
        assert_eq!(alone, expected(alone, How::Overlay));
        assert_eq!(shared, expected(shared, How::Copy));
    }

    #[test]
    fn a_device_needs_a_place_for_its_copy() {
        let place = Place::new("device");
        let (mut disk, mut opts) = (disk(&place.0, "raw"), opts(Disks::Auto));
        disk.target = Some("/dev/zero".into());
        let job = Job { disk: &disk, content: Content::Now, writers: true, opts: &opts };
        let refused = job.make(&mut |_| true).unwrap_err();
        assert!(refused.hint.unwrap().contains("--into"));
        opts.into = Some(place.0.clone());
        let job = Job { disk: &disk, content: Content::Now, writers: true, opts: &opts };
        let at = job.place(Path::new("/dev/vg/lv"), &fs::metadata("/dev/zero").unwrap(), None);
        assert_eq!(at.unwrap(), place.0.join("lv.two.img"));
    }
}
