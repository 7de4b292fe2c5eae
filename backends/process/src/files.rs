//! Looking at files that a configuration names, before an emulator does.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kxl_backend::BackendError;

/// What a file must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    Regular,
    /// A regular file or a block device.
    Storage,
}

/// Checks that `path` is absolute, of this kind, and can be opened as asked.
///
/// # Errors
/// [`BackendError::Config`] naming `key` and the path.
pub(crate) fn check(
    key: &str,
    path: &PathBuf,
    kind: Kind,
    write: bool,
) -> Result<(), BackendError> {
    if !path.is_absolute() {
        return Err(BackendError::file(key, path, "expected an absolute path"));
    }
    let meta = fs::metadata(path).map_err(|error| BackendError::file(key, path, error))?;
    let what = meta.file_type();
    if !(what.is_file() || kind == Kind::Storage && what.is_block_device()) {
        let expected = match kind {
            Kind::Regular => "expected a regular file",
            Kind::Storage => "expected a regular file or a block device",
        };
        return Err(BackendError::file(key, path, format!("is {}, {expected}", named(what))));
    }
    // Without O_NONBLOCK an odd device could hold the open up; the flag means nothing for files.
    fs::OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map(drop)
        .map_err(|error| {
            let wish = if write { "written" } else { "read" };
            BackendError::file(key, path, format!("cannot be {wish}: {error}"))
        })
}

fn named(what: fs::FileType) -> &'static str {
    if what.is_dir() {
        "a directory"
    } else if what.is_block_device() {
        "a block device"
    } else if what.is_char_device() {
        "a character device"
    } else if what.is_fifo() {
        "a fifo"
    } else if what.is_socket() {
        "a socket"
    } else {
        "something else"
    }
}

/// Opens the emulator's log for appending; one that has grown past `limit` bytes is first renamed
/// to `NAME.1`. Returns the file and the offset at which this start's text begins.
///
/// # Errors
/// When it cannot be opened.
pub(crate) fn open_log(path: &Path, limit: u64) -> Result<(File, u64), BackendError> {
    let failed = |error| BackendError::io(format!("cannot open {}", path.display()), error);
    if fs::metadata(path).is_ok_and(|meta| meta.len() > limit) {
        let mut older = path.as_os_str().to_owned();
        older.push(".1");
        fs::rename(path, &older).map_err(failed)?;
    }
    let log =
        fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(failed)?;
    let offset = log.metadata().map_err(failed)?.len();
    Ok((log, offset))
}

/// What was written to the log from `offset` on, at most the last 64 KiB of it.
#[must_use]
pub(crate) fn log_since(path: &Path, offset: u64) -> String {
    use std::io::{Read, Seek, SeekFrom};
    const MOST: u64 = 64 << 10;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(offset.max(length.saturating_sub(MOST))))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(path: &str, kind: Kind, write: bool) -> String {
        check("kernel", &path.into(), kind, write).unwrap_err().to_string()
    }

    #[test]
    fn files_are_checked_for_what_they_are() {
        check("kernel", &"/proc/version".into(), Kind::Regular, false).unwrap();
        assert!(error("/nonexistent", Kind::Regular, false).contains("No such file"));
        assert!(error("/etc", Kind::Storage, false).contains("is a directory, expected"));
        assert!(error("/dev/null", Kind::Storage, false).contains("a character device"));
        assert!(error("-drive", Kind::Regular, false).contains("expected an absolute path"));
        assert!(error("/nonexistent", Kind::Regular, false).starts_with("kernel: /nonexistent: "));
    }

    #[test]
    fn the_log_is_turned_over_when_it_has_grown_and_read_from_where_a_start_began() {
        use std::io::Write;
        let dir = std::env::temp_dir().join(format!("kxl-log-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("emulator.log");
        let (mut log, offset) = open_log(&path, 10).unwrap();
        assert_eq!(offset, 0);
        write!(log, "first start").unwrap();
        let (mut log, offset) = open_log(&path, 100).unwrap();
        write!(log, " second").unwrap();
        assert_eq!((offset, log_since(&path, offset).as_str()), (11, " second"));
        assert_eq!(open_log(&path, 10).unwrap().1, 0);
        assert_eq!(fs::read_to_string(dir.join("emulator.log.1")).unwrap(), "first start second");
        fs::remove_dir_all(&dir).unwrap();
    }
}
