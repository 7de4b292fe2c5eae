//! Where an emulator writes its log.

use std::path::{Path, PathBuf};

/// What a configuration says about the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPlace {
    /// `set session log=`: a file, or a directory in which each start makes a file of its own.
    Named(PathBuf),
    /// Nothing: a file for each start, in the directory that the emulator is started in.
    Unsaid,
}

/// The log once it is known what is a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogFiles {
    /// One file.
    File(PathBuf),
    /// A file for each start, of which [`newest_log`] is the one of now.
    Rotating(PathBuf),
}

impl LogPlace {
    /// Where the log is for an emulator that is started in `started_in`.
    #[must_use]
    pub fn resolve(&self, started_in: &Path, is_dir: impl FnOnce(&Path) -> bool) -> LogFiles {
        let Self::Named(path) = self else { return LogFiles::Rotating(started_in.to_owned()) };
        let says_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let path = started_in.join(path);
        if says_directory || is_dir(&path) {
            LogFiles::Rotating(path)
        } else {
            LogFiles::File(path)
        }
    }
}

/// What stands behind the configuration's name in the name of a log file of one start: the time
/// of the start, and a number of nine digits.
const STAMP: &str = "-0000-00-00-00-00-00-000000000.log";

/// Whether this is the name of the log file of one start of a configuration.
#[must_use]
pub fn is_rotated(configuration: &str, file: &str) -> bool {
    let Some(stamp) = file.strip_prefix(configuration) else { return false };
    stamp.len() == STAMP.len()
        && stamp.bytes().zip(STAMP.bytes()).all(|(given, form)| match form {
            b'0' => given.is_ascii_digit(),
            form => given == form,
        })
}

/// The log file of the last start among the files of a directory.
pub fn newest_log<'f>(
    configuration: &str,
    files: impl IntoIterator<Item = &'f str>,
) -> Option<&'f str> {
    // The parts of the time stand in the order of their weight.
    files.into_iter().filter(|file| is_rotated(configuration, file)).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_a_file_a_directory_or_where_the_emulator_was_started() {
        let named = |text: &str| LogPlace::Named(text.into());
        let at = Path::new("/srv");
        let file = |path: &str| LogFiles::File(path.into());
        let rotating = |path: &str| LogFiles::Rotating(path.into());
        assert_eq!(named("a.log").resolve(at, |_| false), file("/srv/a.log"));
        assert_eq!(
            named("/logs").resolve(at, |path| path == Path::new("/logs")),
            rotating("/logs")
        );
        assert_eq!(named("new/").resolve(at, |_| false), rotating("/srv/new/"));
        assert_eq!(LogPlace::Unsaid.resolve(at, |_| false), rotating("/srv"));
    }

    #[test]
    fn the_newest_log_is_the_one_of_the_last_start_of_this_configuration() {
        let files = [
            "es40-2026-01-02-03-04-05-000000002.log",
            "es40-2026-01-02-03-04-05-000000010.log",
            "es40-2025-12-31-23-59-59-000000999.log",
            "es40b-2027-01-01-00-00-00-000000001.log",
            "es40-2027-01-01-00-00-00-00000001.log",
            "es40.log",
        ];
        assert_eq!(newest_log("es40", files), Some(files[1]));
        assert_eq!(newest_log("es45", files), None);
    }
}
