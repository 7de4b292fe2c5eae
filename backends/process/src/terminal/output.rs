//! A file that a program's output goes to, kept to its size.
//!
//! Whatever happens to the file, the program is not to notice: what cannot be written is counted
//! and thrown away, and the count is written where writing goes on.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kxl_domain::config::model::Output;

use super::regular;
use super::rights::Rights;

/// How long the next trouble with a file is kept quiet: a disk that is full again and again is one
/// thing to say.
const QUIET: Duration = Duration::from_secs(3600);

/// The file.
#[derive(Debug)]
pub(super) struct OutputFile {
    path: PathBuf,
    /// With whose rights it is made, opened and renamed.
    rights: Rights,
    /// Size at which it is turned over; 0 = never.
    maxbytes: u64,
    backups: u32,
    open: Option<Open>,
    /// Bytes that could not be written since the last that could.
    lost: u64,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
    /// Device and number, to see when somebody else turns the file over.
    node: (u64, u64),
    /// It could not be renamed: it grows on.
    stuck: bool,
}

impl OutputFile {
    /// A file of this path, not opened yet.
    pub(super) fn new(path: &Path, rules: &Output, rights: Rights) -> Self {
        let (maxbytes, backups) = (rules.maxbytes, rules.backups);
        Self { path: path.to_owned(), rights, maxbytes, backups, open: None, lost: 0, told: None }
    }

    /// Opens it, and makes it where there is none.
    ///
    /// # Errors
    /// When it is no file that could be written. A disk that is full is no error: it may have room
    /// again when there is something to write.
    pub(super) fn open(&mut self) -> io::Result<()> {
        match Open::at(&self.path, &self.rights) {
            Ok(open) => self.open = Some(open),
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Writes what a program printed; `Some` is trouble to be told of.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Option<String> {
        let lost_before = self.lost;
        match self.put(bytes) {
            Ok(()) => {
                if lost_before > 0 {
                    tracing::info!(path = %self.path.display(), lost_before, "output goes on");
                }
                None
            }
            Err((written, error)) => {
                self.lost += (bytes.len() - written) as u64;
                // Opened anew at the next try: it may be another one by then.
                self.open = None;
                let path = self.path.display();
                let text = format!(
                    "cannot write {path}: {error}; what the program prints is thrown away until \
                     it can be written again"
                );
                self.tell(text)
            }
        }
        .or_else(|| {
            let stuck = self.open.as_ref().is_some_and(|open| open.stuck);
            let path = self.path.display();
            stuck
                .then(|| format!("{path} cannot be renamed and grows beyond its size"))
                .and_then(|text| self.tell(text))
        })
    }

    /// A text to be told, unless one was told a short while ago.
    fn tell(&mut self, text: String) -> Option<String> {
        if self.told.is_some_and(|at| at.elapsed() < QUIET) {
            return None;
        }
        self.told = Some(Instant::now());
        Some(text)
    }

    /// Writes all, turning the file over on the way; the error tells how much came into the file.
    fn put(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut at = 0;
        self.follow().map_err(|error| (at, error))?;
        if self.lost > 0 {
            let note = format!("[kxl: {} bytes of output are lost here]\n", self.lost);
            self.append(note.as_bytes()).map_err(|(_, error)| (at, error))?;
            self.lost = 0;
        }
        while at < bytes.len() {
            let rest = &bytes[at..];
            let cut = self.cut(rest);
            self.append(&rest[..cut]).map_err(|(done, error)| (at + done, error))?;
            at += cut;
            if cut < rest.len() {
                self.turn_over().map_err(|error| (at, error))?;
            }
        }
        Ok(())
    }

    /// Opens the file, anew where its name belongs to another one by now.
    fn follow(&mut self) -> io::Result<()> {
        // With our rights: whatever it finds, it only tells whether to open again.
        let node = fs::symlink_metadata(&self.path).map(|meta| (meta.dev(), meta.ino()));
        let same = self.open.as_ref().is_some_and(|open| node.is_ok_and(|node| node == open.node));
        if !same {
            self.open = Some(Open::at(&self.path, &self.rights)?);
        }
        Ok(())
    }

    /// How much of what is to be written still goes into this file: whole lines, where there are.
    fn cut(&self, bytes: &[u8]) -> usize {
        let Some(open) = self.open.as_ref().filter(|open| self.maxbytes > 0 && !open.stuck) else {
            return bytes.len();
        };
        let room = usize::try_from(self.maxbytes.saturating_sub(open.size)).unwrap_or(usize::MAX);
        if bytes.len() <= room {
            return bytes.len();
        }
        match bytes[..room].iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => newline + 1,
            // A line that no file could hold is divided.
            None if open.size == 0 => room,
            None => 0,
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut done = 0;
        let open = self.open.as_mut().ok_or_else(|| (0, io::ErrorKind::NotFound.into()))?;
        while done < bytes.len() {
            match open.file.write(&bytes[done..]) {
                Ok(0) => return Err((done, io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    done += count;
                    open.size += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((done, error)),
            }
        }
        Ok(())
    }

    /// Renames the file to `NAME.1`, the older ones each a number up, and begins a new one. Without
    /// backups it is emptied.
    fn turn_over(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if self.backups == 0 {
            open.file.set_len(0)?;
            open.size = 0;
            return Ok(());
        }
        let (path, backups) = (self.path.clone(), self.backups);
        if let Err(error) = self.rights.with(move || rename(&path, backups)) {
            tracing::warn!(path = %self.path.display(), %error, "a file of output is not renamed");
            open.stuck = true;
            return Ok(());
        }
        self.open = None;
        self.open = Some(Open::at(&self.path, &self.rights)?);
        Ok(())
    }
}

/// Renames a file to `NAME.1`, and the older ones each a number up.
fn rename(path: &Path, backups: u32) -> io::Result<()> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..backups).rev() {
        let _absent = fs::rename(numbered(number), numbered(number + 1));
    }
    fs::rename(path, numbered(1))
}

impl Open {
    fn at(path: &Path, rights: &Rights) -> io::Result<Self> {
        let (path, foreign) = (path.to_owned(), rights.user().is_some());
        let (file, meta) = rights.with(move || {
            let file = regular::output(&path, foreign)?;
            let meta = file.metadata()?;
            Ok((file, meta))
        })?;
        Ok(Self { file, size: meta.len(), node: (meta.dev(), meta.ino()), stuck: false })
    }
}

/// Whether there may be room, or a disk, again by itself.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded) || error.raw_os_error() == Some(libc::EIO)
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::terminal::rights;
    use crate::testing::Scratch;

    fn rules(maxbytes: u64, backups: u32) -> Output {
        Output { to: None, maxbytes, backups }
    }

    fn read(path: &Path, end: &str) -> String {
        fs::read_to_string(format!("{}{end}", path.display())).unwrap_or_default()
    }

    #[test]
    fn rotation_keeps_every_line_whole_and_in_order() {
        let scratch = Scratch::new("output");
        let path = scratch.0.join("out");
        let mut file = OutputFile::new(&path, &rules(100, 1000), Rights::ours());
        let lines: Vec<String> = (0..200).map(|n| format!("line {n:04}\n")).collect();
        // In pieces that end anywhere.
        for piece in lines.concat().as_bytes().chunks(17) {
            assert_eq!(file.write(piece), None);
        }
        let count = fs::read_dir(&scratch.0).unwrap().count();
        let mut all = String::new();
        for number in (1..count).rev() {
            let part = read(&path, &format!(".{number}"));
            assert!(part.len() <= 100, "{number} has {} bytes", part.len());
            all.push_str(&part);
        }
        all.push_str(&read(&path, ""));
        assert_eq!(all, lines.concat());
    }

    #[test]
    fn the_oldest_files_go_and_without_backups_the_file_is_emptied() {
        let scratch = Scratch::new("output");
        let path = scratch.0.join("out");
        let mut file = OutputFile::new(&path, &rules(4, 2), Rights::ours());
        for line in ["a\n", "b\n", "c\n", "d\n", "e\n", "f\n", "g\n"] {
            file.write(line.as_bytes());
        }
        let ends = ["", ".1", ".2", ".3"].map(|end| read(&path, end));
        assert_eq!(ends, ["g\n", "e\nf\n", "c\nd\n", ""]);
        let path = scratch.0.join("bare");
        let mut file = OutputFile::new(&path, &rules(4, 0), Rights::ours());
        file.write(b"a\nb\nc\n");
        assert_eq!([read(&path, ""), read(&path, ".1")], ["c\n", ""]);
    }

    #[test]
    fn a_line_longer_than_the_file_is_divided_and_not_lost() {
        let scratch = Scratch::new("output");
        let path = scratch.0.join("out");
        let mut file = OutputFile::new(&path, &rules(4, 9), Rights::ours());
        file.write(b"0123456789\n");
        let parts = [".2", ".1", ""].map(|end| read(&path, end));
        assert_eq!(parts, ["0123", "4567", "89\n"]);
    }

    #[test]
    fn what_another_program_renamed_or_removed_is_begun_anew() {
        let scratch = Scratch::new("output");
        let path = scratch.0.join("out");
        let mut file = OutputFile::new(&path, &rules(0, 0), Rights::ours());
        file.write(b"one\n");
        fs::rename(&path, scratch.0.join("theirs")).unwrap();
        file.write(b"two\n");
        fs::remove_file(&path).unwrap();
        file.write(b"three\n");
        assert_eq!(read(&scratch.0.join("theirs"), ""), "one\n");
        assert_eq!(read(&path, ""), "three\n");
    }

    #[test]
    fn what_cannot_be_written_is_counted_told_once_and_marked_in_the_file() {
        let scratch = Scratch::new("output");
        let dir = scratch.0.join("dir");
        let path = dir.join("out");
        let mut file = OutputFile::new(&path, &rules(0, 0), Rights::ours());
        let told = file.write(b"12345\n").unwrap();
        assert!(told.contains("cannot write") && told.contains("No such file"), "{told}");
        assert_eq!(file.write(b"6\n"), None, "said already");
        fs::create_dir(&dir).unwrap();
        assert_eq!(file.write(b"here\n"), None);
        assert_eq!(read(&path, ""), "[kxl: 8 bytes of output are lost here]\nhere\n");
    }

    /// A file system of 64 KiB, in a mount namespace of this thread; `false` where this user may
    /// make none.
    fn small(dir: &Path) -> bool {
        let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(none, "/", none, private, none))
            .and_then(|()| {
                let options = Some("size=64k,mode=0755");
                mount(Some("kxl-test"), dir, Some("tmpfs"), MsFlags::empty(), options)
            })
            .inspect_err(|errno| crate::testing::skip(&format!("no full disk: {errno}")))
            .is_ok()
    }

    #[test]
    fn a_full_disk_is_trouble_and_no_end() {
        let scratch = Scratch::new("output");
        let dir = scratch.0.clone();
        // The namespace ends with its thread.
        let thread = std::thread::spawn(move || {
            if !small(&dir) {
                return;
            }
            let path = dir.join("out");
            let mut file = OutputFile::new(&path, &rules(0, 0), Rights::ours());
            assert_eq!(file.write(b"before\n"), None);
            let full = fs::write(dir.join("fill"), vec![0; 1 << 20]).unwrap_err();
            assert_eq!(full.kind(), io::ErrorKind::StorageFull);
            let line = [b'z'; 8191].iter().chain(b"\n").copied().collect::<Vec<_>>();
            let told = file.write(&line).unwrap();
            assert!(told.contains("cannot write") && told.contains("No space left"), "{told}");
            assert_eq!(file.write(&line), None, "told once");
            // A new one cannot be made either, and that is no refusal.
            let mut other = OutputFile::new(&dir.join("other"), &rules(0, 0), Rights::ours());
            other.open().unwrap();
            fs::remove_file(dir.join("fill")).unwrap();
            assert_eq!(file.write(b"after\n"), None);
            let text = read(&path, "");
            let kept = text.bytes().filter(|byte| *byte == b'z').count();
            let lost = 2 * line.len() - kept;
            let note = format!("[kxl: {lost} bytes of output are lost here]\nafter\n");
            assert!(text.starts_with("before\n") && text.ends_with(&note), "{text}");
        });
        thread.join().unwrap();
    }

    #[test]
    fn only_what_may_pass_by_itself_is_taken_for_a_full_disk() {
        let mut file = OutputFile::new(Path::new("/dev/full"), &rules(0, 0), Rights::ours());
        let error = file.open().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "only regular files are written to");
        assert!(!is_passing(&error));
        assert!(!is_passing(&io::Error::from_raw_os_error(libc::EACCES)));
    }

    #[test]
    fn a_link_is_not_followed() {
        let scratch = Scratch::new("output");
        let path = scratch.0.join("out");
        std::os::unix::fs::symlink(scratch.0.join("elsewhere"), &path).unwrap();
        let mut file = OutputFile::new(&path, &rules(0, 0), Rights::ours());
        assert!(file.open().unwrap_err().to_string().contains("symbolic link"));
        assert!(!scratch.0.join("elsewhere").exists());
    }

    #[test]
    fn a_users_files_are_made_and_renamed_with_that_users_rights_alone() {
        let scratch = Scratch::new("output");
        let Some((rights, dir)) = rights::tests::nobody(&scratch) else { return };
        let (logs, moved, ours) = (dir.join("logs"), dir.join("moved"), scratch.0.join("ours"));
        let uid = rights.user().unwrap().uid;
        rights
            .with({
                let logs = logs.clone();
                move || fs::create_dir(logs)
            })
            .unwrap();
        let path = logs.join("cron");
        let mut file = OutputFile::new(&path, &rules(4, 2), rights);
        file.open().unwrap();
        assert_eq!(file.write(b"a\nb\nc\n"), None);
        assert_eq!([read(&path, ""), read(&path, ".1")], ["c\n", "a\nb\n"]);
        let owner = |path: &Path| fs::metadata(path).map(|meta| meta.uid()).unwrap();
        assert_eq!([owner(&path), owner(&logs.join("cron.1"))], [uid, uid]);
        // What the user can do at any time: put a link to a directory of ours in its place.
        fs::create_dir(&ours).unwrap();
        fs::write(ours.join("cron.1"), "precious").unwrap();
        fs::rename(&logs, &moved).unwrap();
        std::os::unix::fs::symlink(&ours, &logs).unwrap();
        let told = file.write(b"d\ne\nf\ng\n").unwrap();
        assert!(told.contains("the user \"nobody\" of the program may not"), "{told}");
        let names: Vec<_> = fs::read_dir(&ours).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(
            (names, read(&ours.join("cron"), ".1").as_str()),
            (vec!["cron.1".into()], "precious")
        );
        // The directory back in its place, it goes on.
        fs::remove_file(&logs).unwrap();
        fs::rename(&moved, &logs).unwrap();
        file.write(b"h\n");
        assert!(read(&path, "").ends_with("h\n"));
    }
}
