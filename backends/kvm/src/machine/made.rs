//! A file that is made for a state.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::api::control::Refusal;

/// A new file, which goes with this unless it is kept. Made and dropped on the main thread: no other
/// may remove a file.
#[derive(Debug)]
pub(super) struct Made {
    path: PathBuf,
    directory: Option<File>,
    kept: bool,
}

impl Made {
    /// Makes the file; one that is there is refused, as a machine that runs may have it mapped.
    pub(super) fn new(path: PathBuf) -> Result<(File, Self), Refusal> {
        let failed = |error| Refusal::new(format!("cannot make {}: {error}", path.display()));
        let open = File::options().write(true).create_new(true).mode(0o600).open(&path);
        let file = open.map_err(failed)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        // Where it cannot be opened its entry reaches the disk when the system sees fit.
        let directory = File::open(parent.unwrap_or(Path::new("."))).ok();
        Ok((file, Self { path, directory, kept: false }))
    }

    /// The state is whole: its name is to outlive the host's power as well.
    pub(super) fn keep(mut self) {
        self.kept = true;
        if let Some(Err(error)) = self.directory.as_ref().map(File::sync_all) {
            let path = self.path.display();
            crate::log::line(&format!("the name of {path} may not have reached the disk: {error}"));
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            let path = self.path.display();
            crate::log::line(&format!("a useless state is left in {path}: {error}"));
        }
    }
}
