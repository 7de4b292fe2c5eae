//! Watching for changes of the records of domains: asleep until a writer of one of their databases
//! has ended its turn.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::Result;
use crate::db::queue_path;
use crate::error::StoreError;
use crate::facade::Store;
use crate::paths::Paths;

/// A watch on the records of all domains. Its descriptor is readable when one may have changed.
#[derive(Debug)]
pub struct RowWatch {
    watch: Inotify,
    /// The files that the writers of the two databases touch at the end of a turn.
    queues: [OsString; 2],
    paths: Paths,
}

impl RowWatch {
    fn new(paths: &Paths) -> Result<Self> {
        paths.prepare()?;
        let fail = |dir: &std::path::Path, error: Errno| {
            StoreError::io("watch", dir.to_path_buf(), error.into())
        };
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|error| fail(paths.run_dir(), error))?;
        let flags =
            AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ONLYDIR;
        for dir in [paths.run_dir(), paths.state_dir()] {
            watch.add_watch(dir, flags).map_err(|error| fail(dir, error))?;
        }
        let name = |db: std::path::PathBuf| {
            queue_path(&db).file_name().map(OsString::from).unwrap_or_default()
        };
        let queues = [name(paths.live_db()), name(paths.registry_db())];
        Ok(Self { watch, queues, paths: paths.clone() })
    }

    /// Takes the reports that are there; whether records may have changed since the last call.
    ///
    /// # Errors
    /// `Io` when they cannot be read.
    pub fn changed(&self) -> Result<bool> {
        let mut changed = false;
        loop {
            match self.watch.read_events() {
                // One without a name says that some were lost.
                Ok(reports) => {
                    changed |= reports.iter().any(|report| {
                        report.name.as_ref().is_none_or(|name| self.queues.contains(name))
                    });
                }
                Err(Errno::EAGAIN) => return Ok(changed),
                Err(Errno::EINTR) => {}
                Err(error) => {
                    return Err(StoreError::io("watch", self.paths.live_db(), error.into()));
                }
            }
        }
    }
}

impl AsFd for RowWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

impl Store {
    /// Watches for changes of the records of domains from now on.
    ///
    /// # Errors
    /// See [`Store`]; `Io` when the kernel has no inotify watch left.
    pub fn watch_rows(&self) -> Result<RowWatch> {
        self.ready_if_possible();
        RowWatch::new(&self.paths)
    }
}
