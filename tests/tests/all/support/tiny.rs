//! The guest of a few hundred bytes that kxl-vmm is tested with, as a domain.

#[allow(dead_code, reason = "its own tests use all of it")]
#[path = "../../../../backends/kvm/tests/tiny/code.rs"]
mod code;
#[allow(dead_code, reason = "its own tests use all of it")]
#[path = "../../../../backends/kvm/tests/tiny/guest.rs"]
mod guest;

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many pages it works on, and of how many of them it writes some.
const PAGES: u32 = 500;
const SOME: u32 = 50;

/// Its kernel, which is gone with this.
pub(crate) struct Tiny(PathBuf);

impl Tiny {
    /// Writes it, where there is a KVM that it could run on.
    pub(crate) fn new() -> Result<Self, String> {
        let opened = File::options().read(true).write(true).open("/dev/kvm");
        opened.map_err(|error| format!("cannot open /dev/kvm: {error}"))?;
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let (pid, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("kxl-test-{pid}-tiny-{number}.elf"));
        fs::write(&path, guest::counting(PAGES, SOME)).unwrap();
        Ok(Self(path))
    }

    /// A domain of backend `kvm` with it.
    pub(crate) fn config(&self, name: &str) -> String {
        format!(
            "name = \"{name}\"\nbackend = \"kvm\"\nkernel = \"{}\"\nmemory = 32\nvcpus = 1\n",
            self.0.display()
        )
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}
