//! The domains that are driven.

use std::path::Path;

use crate::console::Dialect;
use crate::host::Guest;

/// Which machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Linux on QEMU x86_64, 64 MiB of its memory random.
    Linux,
    /// The same on QEMU aarch64.
    Aarch64,
    /// A PDP-11 on SIMH.
    Pdp11,
}

impl Kind {
    /// The one of that name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Linux, Self::Aarch64, Self::Pdp11].into_iter().find(|kind| kind.name() == text)
    }

    /// Its name, which is that of its domain.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Aarch64 => "aarch64",
            Self::Pdp11 => "pdp11",
        }
    }

    /// Whether the Linux test guest runs on it.
    pub(crate) const fn is_linux(self) -> bool {
        matches!(self, Self::Linux | Self::Aarch64)
    }

    /// How it counts.
    pub(crate) const fn dialect(self) -> Dialect {
        if self.is_linux() { Dialect::Linux } else { Dialect::Pdp11 }
    }

    /// Milliseconds between two of its counts.
    pub(crate) const fn tick_ms(self) -> u64 {
        if self.is_linux() { 50 } else { 200 }
    }

    /// The program that it needs.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Linux => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
            Self::Pdp11 => "pdp11",
        }
    }

    /// The files of its guest below `target/guest`.
    pub(crate) const fn files(self) -> &'static [&'static str] {
        match self {
            Self::Linux => &["vmlinuz", "initramfs.cpio.gz"],
            Self::Aarch64 => &["aarch64/vmlinuz", "aarch64/initramfs.cpio.gz"],
            Self::Pdp11 => &["pdp11-counter.ini"],
        }
    }

    /// Its configuration; `files` are copies of [`Kind::files`]. The whole console is one log, so
    /// that it can be followed, and a crash is followed by a boot.
    pub(crate) fn config(self, files: &[std::path::PathBuf]) -> String {
        let path = |number: usize| files.get(number).map(|path| path.display().to_string());
        let first = path(0).unwrap_or_default();
        let common = "console_log = 1048576\non_crash = \"restart\"\non_poweroff = \"destroy\"\n";
        let name = self.name();
        let (arch, console) = match self {
            Self::Pdp11 => {
                return format!(
                    "name = \"{name}\"\nbackend = \"simh\"\nmachine = \"pdp11\"\nstart = \"1000\"\n\
                     ini = \"{first}\"\nmemory = 4\nconsole_pace = 40\n{common}"
                );
            }
            Self::Linux => ("x86_64", "ttyS0"),
            Self::Aarch64 => ("aarch64", "ttyAMA0"),
        };
        let cmdline = format!("console={console} quiet tick={} touch=64", self.tick_ms());
        format!(
            "name = \"{name}\"\nbackend = \"qemu\"\narch = \"{arch}\"\ntype = \"pvh\"\n\
             memory = {}\nvcpus = 1\nkernel = \"{first}\"\nramdisk = \"{}\"\n\
             cmdline = \"{cmdline}\"\n{common}",
            Guest::MEMORY,
            path(1).unwrap_or_default(),
        )
    }

    /// Whether the host has what it needs; the reason where it has not.
    pub(crate) fn missing(self, built: &Path) -> Option<String> {
        if crate::libvirt::program(self.program()).is_none() {
            return Some(format!("{} is not installed", self.program()));
        }
        let missing = self.files().iter().find(|name| !built.join(name).is_file())?;
        Some(format!("target/guest/{missing} is not built: make guest"))
    }
}
