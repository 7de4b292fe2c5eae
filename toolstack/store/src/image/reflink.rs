//! The memory of an image in a file, in a file of its own without a copy: both share the blocks of
//! the disk (ioctl_ficlonerange(2); btrfs and XFS can).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use kxl_domain::image::ImagePlace;
use nix::fcntl::OFlag;

use super::open::{Image, Part};

impl Image {
    /// Has the memory of an image in a file mapped like one of the store, where the file system can
    /// share its blocks with another file: from now on it is read from there, and nothing that
    /// becomes of the user's file changes it. Returns whether that is so.
    ///
    /// The other file has no name, and is gone with the last who has it open.
    pub fn share_memory(&mut self) -> bool {
        let (ImagePlace::File(path), Some(memory)) = (&self.place, &self.memory) else {
            return false;
        };
        let size = self.manifest.memory.as_ref().map_or(0, |memory| memory.layout.size);
        match shared(path, memory, size) {
            Ok(file) => {
                self.memory = Some(Part { file, start: 0 });
                self.shares = true;
                true
            }
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "its blocks cannot be shared");
                false
            }
        }
    }
}

fn shared(path: &Path, memory: &Part, size: u64) -> io::Result<File> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_TMPFILE.bits())
        .mode(0o600)
        .open(dir)?;
    file.set_len(size)?;
    let range = CloneRange {
        from: i64::from(memory.file.as_raw_fd()),
        start: memory.start,
        length: size,
        to: 0,
    };
    // SAFETY: the kernel reads one record of ours, whose descriptor is open.
    unsafe { kernel::clone_range(file.as_raw_fd(), &raw const range) }?;
    Ok(file)
}

/// `struct file_clone_range` of include/uapi/linux/fs.h.
#[repr(C)]
struct CloneRange {
    from: i64,
    start: u64,
    length: u64,
    to: u64,
}

mod kernel {
    nix::ioctl_write_ptr!(clone_range, 0x94, 13, super::CloneRange);
}
