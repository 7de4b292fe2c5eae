//! Reading the log of a console: the present file, the rotated ones before it, and what is added.
//!
//! Beside each file lies an index of lines `MILLISECONDS OFFSET`: what the file holds from that
//! offset on was written at that time or later.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kxl_domain::{Failure, Kind};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::out;

/// The monitor indexes at most one moment in so many milliseconds.
const INDEX_GAP: i64 = 1000;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// With the oldest byte that is kept.
    Beginning,
    /// With the last marker that a start of the guest has left.
    LastStart,
    /// With what was written at this time, in milliseconds since the epoch, or later.
    Moment(i64),
}

/// Prints the log at `path`, and with `follow` what is added until the process is ended.
///
/// # Errors
/// When there is no log, or it cannot be read.
pub(crate) fn print(path: &Path, from: From, follow: bool) -> Result<(), Failure> {
    let failed = |error: &io::Error| {
        Failure::because(Kind::Failed, format!("cannot read {}", path.display()), error)
    };
    // Before reading, so that nothing falls between.
    let watch = if follow { Some(watch(path).map_err(|e| failed(&e))?) } else { None };
    let files = files(path);
    if files.is_empty() && !follow {
        let text = format!("there is no console log at {}", path.display());
        return Err(Failure::new(Kind::Failed, text).hint("the domain has never been started"));
    }
    let starts = starts(&files, from).map_err(|e| failed(&e))?;
    for (file, offset) in starts {
        copy(&file, offset).map_err(|e| failed(&e))??;
    }
    match watch {
        Some(watch) => tail(path, &watch),
        None => Ok(()),
    }
}

/// The files of a log, oldest first.
fn files(path: &Path) -> Vec<PathBuf> {
    let mut rotated: Vec<PathBuf> =
        (1..).map(|n| with(path, format!(".{n}"))).take_while(|file| file.exists()).collect();
    rotated.reverse();
    rotated.extend(path.exists().then(|| path.to_owned()));
    rotated
}

/// From where on each file is to be printed; files before the beginning are left out.
fn starts(files: &[PathBuf], from: From) -> io::Result<Vec<(PathBuf, u64)>> {
    let whole = || files.iter().map(|file| (file.clone(), 0)).collect();
    let find = |file: &Path| match from {
        From::Beginning => Ok(None),
        From::LastStart => last_start(file),
        From::Moment(ms) => indexed(file, ms),
    };
    if from == From::Beginning {
        return Ok(whole());
    }
    // The newest file that holds the beginning; everything after it is printed whole.
    let mut newest_first: Vec<(PathBuf, u64)> = Vec::new();
    for file in files.iter().rev() {
        match (find(file)?, from) {
            (Some(offset), From::LastStart) => {
                newest_first.push((file.clone(), offset));
                break;
            }
            (Some(0), _) => newest_first.push((file.clone(), 0)),
            (Some(offset), _) => {
                newest_first.push((file.clone(), offset));
                break;
            }
            (None, From::LastStart) => newest_first.push((file.clone(), 0)),
            (None, _) => break,
        }
    }
    newest_first.reverse();
    Ok(newest_first)
}

/// The offset in `file` of what was written at `ms` or later; `None` when all of it is older.
///
/// A new entry is made when the last one is a second old, so an entry speaks for what came up to a
/// second after it.
fn indexed(file: &Path, ms: i64) -> io::Result<Option<u64>> {
    let index = match fs::read_to_string(with(file, ".idx")) {
        Ok(index) => index,
        // Without an index everything counts: too much is better than too little.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(0)),
        Err(error) => return Err(error),
    };
    let entries = index.lines().filter_map(|line| {
        let (time, offset) = line.split_once(' ')?;
        Some((time.parse::<i64>().ok()?, offset.parse::<u64>().ok()?))
    });
    Ok(entries
        .into_iter()
        .find(|(time, _)| time.saturating_add(INDEX_GAP) > ms)
        .map(|(_, offset)| offset))
}

/// The offset of the last marker of a start.
fn last_start(file: &Path) -> io::Result<Option<u64>> {
    const BEGIN: &[u8] = b"--- kxl: domain ";
    let bytes = fs::read(file)?;
    let is_start = |at: &usize| {
        let line = bytes[*at..].split(|byte| *byte == b'\r' || *byte == b'\n').next();
        line.is_some_and(|line| line.starts_with(BEGIN) && line.ends_with(b" started ---"))
    };
    let last = (0..bytes.len()).rev().filter(|at| bytes[*at] == BEGIN[0]).find(is_start);
    Ok(last.map(|at| at as u64))
}

/// Prints a file from an offset on.
fn copy(file: &Path, offset: u64) -> io::Result<Result<(), Failure>> {
    let mut file = File::open(file)?;
    file.seek(SeekFrom::Start(offset))?;
    drain(&mut file)
}

/// Prints what a file still has; the inner result is that of standard output.
fn drain(file: &mut File) -> io::Result<Result<(), Failure>> {
    let mut chunk = vec![0u8; 64 * 1024];
    loop {
        let n = file.read(&mut chunk)?;
        if n == 0 {
            return Ok(Ok(()));
        }
        if let Err(failure) = out::print_bytes(&chunk[..n]) {
            return Ok(Err(failure));
        }
    }
}

fn watch(path: &Path) -> io::Result<Inotify> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let watch = Inotify::init(InitFlags::IN_CLOEXEC)?;
    watch.add_watch(
        dir,
        AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO,
    )?;
    Ok(watch)
}

/// Prints what is added from now on, asleep in between; a rotation changes to the new file after
/// the rest of the old one.
fn tail(path: &Path, watch: &Inotify) -> Result<(), Failure> {
    let failed = |error: &io::Error| {
        Failure::because(Kind::Failed, format!("cannot follow {}", path.display()), error)
    };
    let mut open = at_its_end(path).map_err(|e| failed(&e))?;
    loop {
        if let Some(file) = &mut open {
            drain(file).map_err(|e| failed(&e))??;
        }
        if replaced(path, open.as_ref()).map_err(|e| failed(&e))? {
            if let Some(file) = &mut open {
                drain(file).map_err(|e| failed(&e))??;
            }
            open = optional(path).map_err(|e| failed(&e))?;
            continue;
        }
        loop {
            let events = watch.read_events().map_err(|error| failed(&error.into()))?;
            if events.iter().any(|event| event.name.as_deref() == path.file_name()) {
                break;
            }
        }
    }
}

fn at_its_end(path: &Path) -> io::Result<Option<File>> {
    let mut open = optional(path)?;
    if let Some(file) = &mut open {
        file.seek(SeekFrom::End(0))?;
    }
    Ok(open)
}

fn optional(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether `path` is another file by now than the open one.
fn replaced(path: &Path, open: Option<&File>) -> io::Result<bool> {
    let now = match fs::metadata(path) {
        Ok(now) => now,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let Some(open) = open else { return Ok(true) };
    Ok(open.metadata()?.ino() != now.ino())
}

fn with(path: &Path, suffix: impl AsRef<OsStr>) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("kxl-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn log(&self) -> PathBuf {
            self.0.join("web.console.log")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    /// Three files of ten bytes, written in the seconds from 1000, 5000, 9000 and, for the last half,
    /// 12000 on.
    fn three(name: &str) -> Scratch {
        let scratch = Scratch::new(name);
        let log = scratch.log();
        for (suffix, index) in [(".2", "1000 0\n"), (".1", "5000 0\n"), ("", "9000 0\n12000 5\n")] {
            fs::write(with(&log, suffix), "0123456789").unwrap();
            fs::write(with(&log, format!("{suffix}.idx")), index).unwrap();
        }
        scratch
    }

    #[test]
    fn the_oldest_file_comes_first() {
        let scratch = three("order");
        let log = scratch.log();
        assert_eq!(files(&log), [with(&log, ".2"), with(&log, ".1"), log.clone()]);
        assert_eq!(starts(&files(&log), From::Beginning).unwrap().len(), 3);
    }

    #[test]
    fn a_moment_begins_where_the_index_says() {
        let scratch = three("moment");
        let log = scratch.log();
        let from = |ms| starts(&files(&log), From::Moment(ms)).unwrap();
        assert_eq!(from(0).len(), 3);
        assert_eq!(from(1999).len(), 3, "the first entry speaks for a second");
        assert_eq!(from(2000), [(with(&log, ".1"), 0), (log.clone(), 0)]);
        assert_eq!(from(11_000), [(log.clone(), 5)]);
        assert_eq!(from(20_000), []);
    }

    #[test]
    fn the_last_start_is_found_by_its_marker() {
        let scratch = Scratch::new("marker");
        let log = scratch.log();
        let text = "\r\n--- kxl: domain web (domid 1) started ---\r\nold\r\n\
                    --- kxl: domain web (domid 2) started ---\r\nnew\r\n--- kxl: domain web ended ---";
        fs::write(&log, text).unwrap();
        let [(_, offset)] = starts(&files(&log), From::LastStart).unwrap()[..] else {
            panic!("one file, one place");
        };
        let rest = &text[usize::try_from(offset).unwrap()..];
        assert!(rest.starts_with("--- kxl: domain web (domid 2) started"));
        assert!(!rest.contains("old"));
    }
}
