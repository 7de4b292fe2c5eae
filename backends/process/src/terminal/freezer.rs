//! A control group of an emulator's own, in which it can be frozen: for programs that a stop signal
//! would upset, or that have children.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kxl_backend::LaunchSpec;

/// Key of the directory among [`kxl_backend::Attachments::notes`].
pub(super) const NOTE: &str = "freezer";

/// How long a freeze may take to be complete.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Freezer {
    dir: PathBuf,
}

impl Freezer {
    /// Makes the group of a domain, of the second version where there is one.
    ///
    /// # Errors
    /// When this host has no freezer, or none that we may use.
    pub(super) fn make(spec: &LaunchSpec) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mut refused = io::Error::new(io::ErrorKind::NotFound, "this host has no freezer");
        for point in points(&mounts) {
            let freezer = Self { dir: point.join("kxl").join(spec.uuid.short()) };
            match fs::create_dir_all(&freezer.dir).and_then(|()| freezer.set(false)) {
                Ok(()) => return Ok(freezer),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// The group that an earlier monitor has made.
    pub(super) fn of(dir: &str) -> Self {
        Self { dir: dir.into() }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The second version has a file for it in every group.
    fn switch(&self) -> (PathBuf, bool) {
        let unified = self.dir.join("cgroup.freeze");
        if unified.exists() { (unified, true) } else { (self.dir.join("freezer.state"), false) }
    }

    /// Freezes or thaws; whether it is complete, [`Self::frozen`] tells.
    pub(super) fn set(&self, frozen: bool) -> io::Result<()> {
        let (file, unified) = self.switch();
        let word = match (unified, frozen) {
            (true, true) => "1",
            (true, false) => "0",
            (false, true) => "FROZEN",
            (false, false) => "THAWED",
        };
        fs::write(file, word)
    }

    /// Whether everything in the group stands still.
    pub(super) fn frozen(&self) -> bool {
        let (file, unified) = self.switch();
        if unified {
            let events = fs::read_to_string(self.dir.join("cgroup.events")).unwrap_or_default();
            return events.lines().any(|line| line == "frozen 1");
        }
        fs::read_to_string(file).is_ok_and(|state| state.trim() == "FROZEN")
    }

    /// Removes the group of an emulator that has ended.
    pub(super) fn remove(&self) {
        if let Err(error) = fs::remove_dir(&self.dir) {
            tracing::debug!(%error, dir = %self.dir.display(), "the group stays");
        }
    }
}

/// The group of a start, removed when that comes to nothing.
pub(super) struct Group(pub(super) Option<Freezer>);

impl Group {
    /// The emulator is in it; whoever sees its end removes it.
    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.0.iter().for_each(Freezer::remove);
    }
}

/// Where control groups that can be frozen are mounted whole, the second version first.
fn points(mounts: &str) -> Vec<PathBuf> {
    let of_kind = |line: &str, second: bool| {
        let (place, source) = line.split_once(" - ")?;
        let mut source = source.split(' ');
        let kind = source.next()?;
        let options = source.nth(1)?;
        let fits = match (second, kind) {
            (true, "cgroup2") => true,
            (false, "cgroup") => options.split(',').any(|option| option == "freezer"),
            _ => false,
        };
        let mut place = place.split(' ').skip(3);
        (fits && place.next()? == "/").then_some(())?;
        place.next().map(PathBuf::from)
    };
    [true, false]
        .into_iter()
        .flat_map(|second| mounts.lines().filter_map(move |line| of_kind(line, second)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn the_second_version_comes_first_and_parts_of_trees_do_not_count() {
        let mounts = "\
32 23 0:28 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
31 23 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
30 23 0:26 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
33 23 0:26 /part /other rw - cgroup2 cgroup2 rw\n";
        let found = points(mounts);
        assert_eq!(
            found,
            [Path::new("/sys/fs/cgroup/unified"), Path::new("/sys/fs/cgroup/freezer")]
        );
    }

    #[test]
    fn both_versions_are_told_and_asked_in_their_own_words() {
        let scratch = Scratch::new("freezer");
        let freezer = Freezer::of(scratch.0.to_str().unwrap());
        fs::write(scratch.0.join("freezer.state"), "THAWED\n").unwrap();
        freezer.set(true).unwrap();
        assert!(freezer.frozen());
        fs::write(scratch.0.join("cgroup.freeze"), "0\n").unwrap();
        fs::write(scratch.0.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        assert!(!freezer.frozen());
        freezer.set(true).unwrap();
        assert_eq!(fs::read_to_string(scratch.0.join("cgroup.freeze")).unwrap(), "1");
        fs::write(scratch.0.join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        assert!(freezer.frozen());
    }

    #[test]
    fn the_group_of_a_start_that_comes_to_nothing_is_removed() {
        let scratch = Scratch::new("freezer");
        let dir = |name: &str| {
            let dir = scratch.0.join(name);
            fs::create_dir(&dir).unwrap();
            dir
        };
        let (failed, started) = (dir("failed"), dir("started"));
        drop(Group(Some(Freezer { dir: failed.clone() })));
        Group(Some(Freezer { dir: started.clone() })).keep();
        assert!(!failed.exists() && started.exists());
    }
}
