//! A console that is a file which the emulator writes. Nothing can be typed there.
//!
//! What was read is given back to the file system: the file keeps its length and takes no room,
//! however much the guest prints. How far it was read stands beside it, for a later monitor.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::ear::Ear;

/// Read at once.
const CHUNK: usize = 64 << 10;

/// Room is given back in whole pieces of this size.
const PIECE: u64 = 1 << 20;

/// Makes an empty file for the emulator's user to write, and the note of what was read of it.
///
/// # Errors
/// When it cannot be made.
pub(super) fn make(path: &Path, user: Option<u32>) -> io::Result<()> {
    super::save::remove(path);
    super::save::remove(&note(path));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if let Some(user) = user {
        nix::unistd::fchown(&file, Some(nix::unistd::Uid::from_raw(user)), None)?;
    }
    Ok(())
}

fn note(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".read");
    name.into()
}

/// Reads the file as it grows and passes it on, until the emulator has ended.
pub(super) async fn follow(
    path: PathBuf,
    ours: UnixStream,
    ear: Rc<Ear>,
    over: watch::Receiver<bool>,
) {
    if let Err(error) = run(&path, ours, &ear, over).await {
        tracing::warn!(%error, path = %path.display(), "the console is not read");
    }
}

async fn run(
    path: &Path,
    mut ours: UnixStream,
    ear: &Ear,
    mut over: watch::Receiver<bool>,
) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    // The directory: an emulator may put a new file in the place of ours.
    inotify.add_watch(dir, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVED_TO)?;
    let mut changes = pipe::Receiver::from_owned_fd_unchecked(OwnedFd::from(inotify))?;
    let mut reader = Reader::new(path);
    let (mut told, mut typed) = (vec![0; 4096], vec![0; 1024]);
    let (mut heard, mut open) = (Vec::new(), true);
    loop {
        let ended = *over.borrow();
        reader.read(&mut heard);
        if !heard.is_empty() {
            ear.hear(&heard);
            // The emulator does not wait for us: the file holds what the monitor has not taken.
            if open && ours.write_all(&heard).await.is_err() {
                open = false;
            }
            heard.clear();
            continue;
        }
        if ended {
            return Ok(());
        }
        tokio::select! {
            count = changes.read(&mut told) => drop(count?),
            // There is nobody to type to.
            count = ours.read(&mut typed), if open => open = count.is_ok_and(|count| count > 0),
            ended = over.changed() => if ended.is_err() { return Ok(()) },
        }
    }
}

/// The file, and how far it was read.
struct Reader {
    path: PathBuf,
    file: Option<(File, u64)>,
    at: u64,
    given_back: u64,
}

impl Reader {
    fn new(path: &Path) -> Self {
        let noted = fs::read_to_string(note(path)).ok();
        let at = noted.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        Self { path: path.to_owned(), file: None, at, given_back: 0 }
    }

    /// Reads the next piece; nothing where there is none.
    fn read(&mut self, into: &mut Vec<u8>) {
        let Ok(node) = fs::metadata(&self.path).map(|meta| meta.ino()) else { return };
        if self.file.as_ref().is_none_or(|(_, known)| *known != node) {
            if self.file.is_some() {
                self.at = 0;
            }
            let mut how = OpenOptions::new();
            how.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
            match how.open(&self.path) {
                Ok(file) => self.file = Some((file, node)),
                Err(_) => return,
            }
        }
        let Some((file, _)) = &self.file else { return };
        let length = file.metadata().map_or(0, |meta| meta.len());
        if length < self.at {
            // Begun anew.
            (self.at, self.given_back) = (0, 0);
        }
        into.resize(CHUNK, 0);
        let count = file.read_at(into, self.at).unwrap_or(0);
        into.truncate(count);
        if count > 0 {
            self.at += count as u64;
            let _a_later_monitor_repeats = fs::write(note(&self.path), self.at.to_string());
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        let whole = self.at / PIECE * PIECE;
        let Some((file, _)) = self.file.as_ref().filter(|_| whole > self.given_back) else {
            return;
        };
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let range = (i64::try_from(self.given_back), i64::try_from(whole - self.given_back));
        if let (Ok(from), Ok(length)) = range
            && let Err(error) = fallocate(file, flags, from, length)
        {
            tracing::debug!(%error, "a console's file keeps its room");
        }
        self.given_back = whole;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::testing::{Scratch, monitor};

    #[test]
    fn a_file_is_followed_taken_up_where_it_was_left_and_takes_no_room() {
        let scratch = Scratch::new("tail");
        let path = scratch.0.join("console");
        make(&path, None).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        monitor(async {
            let (ended, over) = watch::channel(false);
            let mut whole = Vec::new();
            for part in ["first", "second"] {
                let (ours, mut theirs) = UnixStream::pair().unwrap();
                let ear = Rc::new(Ear::default());
                let task = tokio::task::spawn_local(follow(path.clone(), ours, ear, over.clone()));
                file.write_all(part.as_bytes()).unwrap();
                let mut piece = vec![0; part.len()];
                theirs.read_exact(&mut piece).await.unwrap();
                whole.extend(piece);
                task.abort();
            }
            assert_eq!(whole, b"firstsecond", "nothing twice, nothing lost");
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let ear = Rc::new(Ear::default());
            let task = tokio::task::spawn_local(follow(path.clone(), ours, ear, over.clone()));
            let much = vec![b'x'; 3 << 20];
            file.write_all(&much).unwrap();
            let mut came = vec![0; much.len()];
            theirs.read_exact(&mut came).await.unwrap();
            assert!(came == much);
            ended.send_replace(true);
            task.await.unwrap();
            assert_eq!(theirs.read(&mut came).await.unwrap(), 0, "and the console is closed");
        });
        let meta = fs::metadata(&path).unwrap();
        assert!(meta.blocks() * 512 < 2 << 20, "{} blocks", meta.blocks());
    }
}
