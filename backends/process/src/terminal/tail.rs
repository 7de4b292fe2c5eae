//! A console that is a file which the emulator writes. Nothing can be typed there.
//!
//! What was read is given back to the file system: the file keeps its length and takes no room,
//! however much the guest prints. How far it was read stands beside it, for a later monitor.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
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

/// Makes an empty file for the emulator to write, and removes the note of what was read of it.
///
/// # Errors
/// When it cannot be made.
pub(super) fn make(path: &Path) -> io::Result<()> {
    super::save::remove(path);
    super::save::remove(&note(path));
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
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
            reader.passed_on(heard.len());
            heard.clear();
            if !open {
                // Nobody holds us up any more, and others want their turn.
                tokio::task::yield_now().await;
            }
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

/// Where the next data are, from a place on; `None` where there is nothing but a hole. A hole was
/// printed by nobody, and may be as large as a file can be.
fn data(file: &File, from: u64) -> Option<u64> {
    let offset = i64::try_from(from).ok()?;
    match nix::unistd::lseek(file, offset, nix::unistd::Whence::SeekData) {
        Ok(at) => u64::try_from(at).ok(),
        Err(nix::errno::Errno::ENXIO) => None,
        // The file system does not tell.
        Err(_) => Some(from),
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
        let Some(at) = data(file, self.at) else { return };
        self.at = at;
        into.resize(CHUNK, 0);
        let count = file.read_at(into, self.at).unwrap_or(0);
        into.truncate(count);
    }

    /// So much of what was read has been passed on: a later monitor goes on behind it.
    fn passed_on(&mut self, count: usize) {
        self.at += count as u64;
        let mut how = OpenOptions::new();
        let how = how.write(true).create(true).truncate(true).mode(0o600);
        let noted = how.open(note(&self.path));
        let noted = noted.and_then(|mut note| note.write_all(self.at.to_string().as_bytes()));
        if let Err(error) = noted {
            tracing::debug!(%error, "a later monitor repeats a part of the console");
        }
        self.give_back();
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
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::{Scratch, monitor};

    #[test]
    fn a_file_is_followed_taken_up_where_it_was_left_and_takes_no_room() {
        let scratch = Scratch::new("tail");
        let path = scratch.0.join("console");
        make(&path).unwrap();
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

    #[test]
    fn what_was_read_and_not_passed_on_is_read_again_by_the_next_monitor() {
        let scratch = Scratch::new("tail");
        let path = scratch.0.join("console");
        make(&path).unwrap();
        fs::write(&path, "first second").unwrap();
        let (mut reader, mut heard) = (Reader::new(&path), Vec::new());
        reader.read(&mut heard);
        assert_eq!(heard, b"first second");
        reader.passed_on(6);
        let mode = fs::metadata(note(&path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut reader = Reader::new(&path);
        reader.read(&mut heard);
        assert_eq!(heard, b"second");
    }

    #[test]
    fn a_hole_is_nothing_that_was_printed() {
        let scratch = Scratch::new("tail");
        let path = scratch.0.join("console");
        make(&path).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        let (mut reader, mut heard, mut all) = (Reader::new(&path), Vec::new(), Vec::new());
        let mut read_all = |reader: &mut Reader| {
            reader.read(&mut heard);
            while !heard.is_empty() {
                all.extend_from_slice(&heard);
                reader.passed_on(heard.len());
                heard.clear();
                reader.read(&mut heard);
            }
            all.iter().filter(|byte| **byte != 0).copied().collect::<Vec<u8>>()
        };
        assert_eq!(read_all(&mut reader), b"begin");
        file.set_len(1 << 40).unwrap();
        assert_eq!(read_all(&mut reader), b"begin");
        // What is written into it is found, wherever that is.
        file.write_all_at(b"middle", 1 << 30).unwrap();
        assert_eq!(read_all(&mut reader), b"beginmiddle");
        file.write_all_at(b"end", (1 << 40) - 3).unwrap();
        assert_eq!(read_all(&mut reader), b"beginmiddleend");
        assert!(all.len() < 1 << 20, "{} bytes", all.len());
    }
}
