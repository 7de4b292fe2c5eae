//! The monitor's own log.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Size at which the log becomes `….log.1`, the only one that is kept: a guest that makes its
/// emulator complain without end must not fill the disk.
const CAP: u64 = 1 << 20;

/// Logs to the end of `path`, as much as `KXL_LOG` asks for (`info` when it is not set; the syntax
/// is `level` or `target=level,…`). A log that cannot be opened keeps nobody from running a domain.
pub(crate) fn to_file(path: &Path) {
    let filter = filter();
    let Ok(log) = Capped::open(path) else { return };
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Mutex::new(log));
    tracing_subscriber::registry().with(filter).with(lines).init();
}

/// Logs to standard error, as much as [`to_file`] does.
pub(crate) fn to_stderr() {
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(io::stderr);
    tracing_subscriber::registry().with(filter()).with(lines).init();
}

fn filter() -> Targets {
    let asked = std::env::var("KXL_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    asked.unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO))
}

struct Capped {
    path: PathBuf,
    file: File,
    size: u64,
}

impl Capped {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).mode(0o600).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size })
    }
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.size >= CAP {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            fs::rename(&self.path, old)?;
            *self = Self::open(&self.path)?;
        }
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_two_files_of_bounded_size() {
        let path = std::env::temp_dir().join(format!("kxl-monitor-log-{}", std::process::id()));
        let old = path.with_extension("1");
        let mut log = Capped::open(&path.with_extension("")).unwrap();
        for _ in 0..4 {
            log.write_all(&vec![b'x'; usize::try_from(CAP).unwrap() / 2 + 1]).unwrap();
        }
        let sizes = [&path, &old].map(|path| fs::metadata(path).unwrap().len());
        assert!(sizes.iter().all(|size| *size <= CAP + CAP / 2 + 2), "{sizes:?}");
        for path in [path, old] {
            fs::remove_file(path).unwrap();
        }
    }
}
