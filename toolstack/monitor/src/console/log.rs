//! The console log: everything the guest said, capped and rotated, with a marker at each start and
//! an index of times beside it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Shortest distance of two entries of the index, in milliseconds.
const INDEX_GAP: i64 = 1000;

/// `NAME.console.log`, rotated to `.1`, `.2`, …. Beside it `NAME.console.log.idx` holds lines
/// `MILLISECONDS OFFSET`: what was written from this offset on came at that time or later
/// (`kxl console --since`).
///
/// A log that cannot be written loses lines, says so once in the monitor's log, and never stops
/// the guest.
pub(super) struct Log {
    path: PathBuf,
    cap: u64,
    keep: u32,
    open: Option<Open>,
    complained: bool,
}

struct Open {
    file: File,
    index: File,
    size: u64,
    indexed_ms: i64,
}

impl Log {
    /// A log of at most `cap` bytes a file and `keep` rotated files.
    pub(super) const fn new(path: PathBuf, cap: u64, keep: u32) -> Self {
        Self { path, cap, keep, open: None, complained: false }
    }

    /// Writes bytes of the guest.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if let Err(error) = self.try_write(bytes) {
            self.open = None;
            if !self.complained {
                tracing::warn!(%error, path = %self.path.display(), "console output is not logged");
            }
            self.complained = true;
        }
    }

    /// Writes a line of kxl's own.
    pub(super) fn marker(&mut self, text: &str) {
        self.write(format!("\r\n--- kxl: {text} ---\r\n").as_bytes());
    }

    /// The last bytes of the present file, `most` at the most.
    ///
    /// # Errors
    /// When there is no log or it cannot be read.
    pub(super) fn tail(&self, most: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(most as u64)))?;
        let mut bytes = Vec::with_capacity(most.min(usize::try_from(size).unwrap_or(most)));
        file.take(most as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|open| open.size >= self.cap) {
            self.open = None;
            self.rotate()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(Open::at(&self.path)?),
        };
        let now = kxl_store::now_ms();
        if now.saturating_sub(open.indexed_ms) >= INDEX_GAP {
            writeln!(open.index, "{now} {}", open.size)?;
            open.indexed_ms = now;
        }
        open.file.write_all(bytes)?;
        open.size += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&self) -> io::Result<()> {
        for (from, to) in
            (0..self.keep).rev().map(|n| (numbered(&self.path, n), numbered(&self.path, n + 1)))
        {
            for suffix in ["", ".idx"] {
                match fs::rename(with(&from, suffix), with(&to, suffix)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        if self.keep == 0 {
            fs::remove_file(&self.path)?;
            fs::remove_file(with(&self.path, ".idx"))?;
        }
        Ok(())
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let open = |path: &Path| File::options().create(true).append(true).mode(0o600).open(path);
        let file = open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, index: open(&with(path, ".idx"))?, size, indexed_ms: 0 })
    }
}

/// The `n`-th rotated file; 0 is the present one.
fn numbered(path: &Path, n: u32) -> PathBuf {
    if n == 0 { path.to_owned() } else { with(path, &format!(".{n}")) }
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("kxl-log-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir.join("a.console.log")
    }

    #[test]
    fn a_flood_is_capped_at_the_kept_files() {
        let path = scratch("flood");
        let mut log = Log::new(path.clone(), 1024, 2);
        for _ in 0..100 {
            log.write(&[b'x'; 512]);
        }
        let files = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(files, 6, "three logs and their indices");
        let size = fs::metadata(&path).unwrap().len();
        assert!(size <= 1024 + 512, "{size}");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn the_tail_is_what_was_written_last() {
        let path = scratch("tail");
        let mut log = Log::new(path.clone(), 1 << 20, 1);
        assert!(log.tail(4).is_err(), "nothing was logged yet");
        log.write(b"one two");
        assert_eq!(log.tail(3).unwrap(), b"two");
        assert_eq!(log.tail(100).unwrap(), b"one two");
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    #[test]
    fn the_index_tells_where_a_time_begins() {
        let path = scratch("index");
        let mut log = Log::new(path.clone(), 1 << 20, 1);
        log.write(b"one\n");
        log.write(b"two\n");
        let index = fs::read_to_string(with(&path, ".idx")).unwrap();
        assert_eq!(index.lines().count(), 1, "one entry a second");
        assert!(index.trim_end().ends_with(" 0"));
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
