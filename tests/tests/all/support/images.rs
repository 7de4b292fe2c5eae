//! What a host keeps of saved states: its image store, the journal of saves, and what a killed
//! writer may have left in a directory.

use std::fs;
use std::path::{Path, PathBuf};

use kxl_store::{ImageOp, Paths, Store};
use serde_json::Value;

use super::Host;
use super::process::Role;

impl Host {
    /// The directory of the image store.
    pub(crate) fn image_store(&self) -> PathBuf {
        Paths::under(&self.root).image_store()
    }

    /// The images of the store, by `kxl image list`; also those that cannot be read.
    pub(crate) fn images(&self) -> Vec<Value> {
        let text = self.kxl(["image", "list", "--json"]).stdout;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The id of the one image in the store.
    pub(crate) fn only_image(&self) -> String {
        let images = self.images();
        assert_eq!(images.len(), 1, "{images:?}");
        images[0]["image"].as_str().unwrap().to_owned()
    }

    /// Saves that have begun and whose outcome is not recorded.
    pub(crate) fn journal(&self) -> Vec<ImageOp> {
        Store::open(&Paths::under(&self.root)).unwrap().all_image_ops().unwrap()
    }

    /// What is in the image store, or beside a file, and is no image: temporaries of writers.
    pub(crate) fn temporaries(&self) -> Vec<String> {
        [self.image_store(), self.scratch().to_owned()]
            .iter()
            .flat_map(|dir| names(dir))
            .filter(|name| {
                [".new-", ".gone-"].iter().any(|begin| name.starts_with(begin))
                    || [".kxl-part", ".kxl-scratch"].iter().any(|end| name.ends_with(end))
            })
            .collect()
    }

    /// Waits until no temporary is left and nothing in the journal: a monitor removes the image that
    /// its guest came from while the guest runs on.
    pub(crate) fn nothing_is_left(&self, case: &str) {
        let left = || (self.temporaries(), self.journal());
        let end = std::time::Instant::now() + super::wait::SOON;
        while left() != (Vec::new(), Vec::new()) {
            assert!(std::time::Instant::now() < end, "{case}: {:?} are left", left());
            std::thread::sleep(std::time::Duration::from_millis(15));
        }
    }

    /// What a boot of the host does: every process is gone at once, and so is the runtime
    /// directory; from now on every command is one of another boot.
    pub(crate) fn reboot(&self) {
        for role in [Role::Command, Role::Monitor, Role::Emulator] {
            self.processes().iter().filter(|one| one.role == role).for_each(|one| one.kill());
        }
        let run = self.root.join("run");
        fs::remove_dir_all(&run).unwrap_or_else(|error| panic!("{}: {error}", run.display()));
        self.next_boot();
    }
}

/// The names in a directory; none where there is none.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
