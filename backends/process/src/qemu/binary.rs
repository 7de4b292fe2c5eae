//! Which emulator, machine, processor model and accelerator a domain gets.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kxl_backend::BackendError;
use kxl_domain::DomainConfig;
use kxl_domain::config::model::Arch;
use serde::{Deserialize, Serialize};

use crate::program;

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accel {
    /// The host's processor.
    Kvm,
    /// Translation.
    Tcg,
}

impl Accel {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What one build of QEMU has to offer; cached, so that a start costs no extra exec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Emulator {
    /// Path, modification time and size of the file this was learnt from.
    stamp: String,
    /// The program.
    pub(crate) path: PathBuf,
    /// `7.2.22`, as it prints it.
    pub(crate) version: String,
    machines: Machines,
}

/// Machine types by name; the value is the versioned one that an alias stands for.
pub(crate) type Machines = BTreeMap<String, Option<String>>;

/// The architecture of a domain: the one it names, else the host's.
pub(crate) fn arch(config: &DomainConfig) -> Result<Arch, BackendError> {
    config.arch.or_else(|| Arch::parse(std::env::consts::ARCH)).ok_or_else(|| {
        BackendError::config("arch", "the host's is not known here; say x86_64 or aarch64")
    })
}

/// The program for a domain: its own choice, else QEMU's usual name.
pub(crate) fn path(config: &DomainConfig, arch: Arch) -> Result<PathBuf, BackendError> {
    if let Some(own) = &config.emulator {
        return program::find(own).ok_or_else(|| {
            BackendError::file("device_model_override", own, "no executable file of that name")
        });
    }
    installed(arch)
}

/// QEMU's program for an architecture.
pub(crate) fn installed(arch: Arch) -> Result<PathBuf, BackendError> {
    let name = format!("qemu-system-{arch}");
    program::find(Path::new(&name)).ok_or_else(|| {
        let package = match arch {
            Arch::X86_64 => "qemu-system-x86",
            Arch::Aarch64 => "qemu-system-arm",
        };
        BackendError::Missing { what: name, hint: format!("install the package {package}") }
    })
}

impl Emulator {
    /// What this program offers; from `cachedir` if it was asked before and has not changed since.
    pub(crate) fn of(path: &Path, cachedir: &Path) -> Result<Self, BackendError> {
        Self::known(path, cachedir, |path| {
            let version = version(&program::output(path, &["--version"])?);
            Ok((version, machines(&program::output(path, &["-machine", "help"])?)))
        })
    }

    /// The same of a program that is asked in its own way.
    pub(crate) fn known(
        path: &Path,
        cachedir: &Path,
        ask: impl FnOnce(&Path) -> Result<(String, Machines), BackendError>,
    ) -> Result<Self, BackendError> {
        let stamp = program::stamp(path).map_err(|error| {
            BackendError::io(format!("cannot look at {}", path.display()), error)
        })?;
        let file = cachedir.join(format!(
            "{}.json",
            path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()
        ));
        if let Some(known) = fs::read(&file)
            .ok()
            .and_then(|text| serde_json::from_slice::<Self>(&text).ok())
            .filter(|known| known.stamp == stamp)
        {
            return Ok(known);
        }
        let (version, machines) = ask(path)?;
        let emulator = Self { stamp, path: path.to_owned(), version, machines };
        if emulator.machines.is_empty() {
            return Err(BackendError::Launch {
                program: path.display().to_string(),
                why: "it names no machine types: is it the emulator?".into(),
            });
        }
        // A cache that cannot be written costs time, nothing else.
        if let Err(error) = emulator.store(&file) {
            tracing::warn!(%error, file = %file.display(), "cannot cache");
        }
        Ok(emulator)
    }

    fn store(&self, file: &Path) -> std::io::Result<()> {
        let new = file.with_extension(format!("{}.new", std::process::id()));
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(&new, file)
    }

    /// The last of its machines by name.
    pub(crate) fn newest(&self) -> &str {
        self.machines.keys().next_back().map_or("", String::as_str)
    }

    /// Whether it has a machine of this name, which is no alias.
    pub(crate) fn offers(&self, machine: &str) -> bool {
        self.machines.get(machine).is_some_and(Option::is_none)
    }

    /// The versioned machine type for a domain. An alias would mean another machine after an
    /// upgrade of QEMU, and an image saved before it would not come back.
    pub(crate) fn machine(
        &self,
        config: &DomainConfig,
        arch: Arch,
    ) -> Result<String, BackendError> {
        let asked = config.machine.as_deref().unwrap_or(match arch {
            Arch::X86_64 => "pc",
            Arch::Aarch64 => "virt",
        });
        match self.machines.get(asked) {
            Some(Some(resolved)) => Ok(resolved.clone()),
            Some(None) => Ok(asked.to_owned()),
            None => Err(BackendError::config(
                "machine",
                format!("{} has no machine type {asked:?}", self.path.display()),
            )),
        }
    }
}

/// `7.2.22` out of `QEMU emulator version 7.2.22 (Debian …)`.
fn version(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let word = first.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    word.unwrap_or(first).to_owned()
}

/// The list of `-machine help`: name, blanks, text, and `(alias of NAME)` in it.
fn machines(text: &str) -> Machines {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let name = line.split_whitespace().next()?;
            let alias = line.rsplit_once("(alias of ").and_then(|(_, rest)| rest.split_once(')'));
            Some((name.to_owned(), alias.map(|(target, _)| target.to_owned())))
        })
        .collect()
}

/// The best accelerator for this architecture on this host.
pub(crate) fn accelerator(arch: Arch) -> Accel {
    let native = arch.as_str() == std::env::consts::ARCH;
    // The device node alone proves nothing: containers and nested hosts show one without the means.
    let able = native && (arch == Arch::Aarch64 || processor_virtualises()) && kvm_opens().is_ok();
    if able { Accel::Kvm } else { Accel::Tcg }
}

/// Whether KVM can be asked for anything.
pub(crate) fn kvm_opens() -> std::io::Result<()> {
    fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").map(drop)
}

/// Whether this host's processor shows that it runs guests by itself.
pub(crate) fn processor_virtualises() -> bool {
    virtualises(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

fn virtualises(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|line| line.split_whitespace().any(|flag| flag == "svm" || flag == "vmx"))
}

/// The processor model. Fixed under translation: `max` changes with every release and, for Arm,
/// boots three times slower.
pub(crate) const fn cpu(arch: Arch, accel: Accel) -> &'static str {
    match (accel, arch) {
        (Accel::Kvm, _) => "host",
        // The x86-64-v2 level, which current distributions ask for.
        (Accel::Tcg, Arch::X86_64) => "Nehalem-v1",
        (Accel::Tcg, Arch::Aarch64) => "cortex-a57",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "Supported machines are:\n\
        pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)\n\
        pc-i440fx-7.2        Standard PC (i440FX + PIIX, 1996) (default)\n\
        none                 empty machine\n";

    fn emulator() -> Emulator {
        Emulator {
            stamp: String::new(),
            path: "/usr/bin/qemu".into(),
            version: "7.2.22".into(),
            machines: machines(HELP),
        }
    }

    #[test]
    fn an_alias_is_resolved_to_the_versioned_machine() {
        let mut config = DomainConfig::new("x".parse().unwrap());
        let emulator = emulator();
        assert_eq!(emulator.machine(&config, Arch::X86_64).unwrap(), "pc-i440fx-7.2");
        config.machine = Some("none".into());
        assert_eq!(emulator.machine(&config, Arch::X86_64).unwrap(), "none");
        config.machine = Some("pc,usb=on".into());
        let error = emulator.machine(&config, Arch::X86_64).unwrap_err().to_string();
        assert!(error.starts_with("machine: "), "{error}");
    }

    #[test]
    fn versions_are_read_whatever_the_distribution_adds() {
        assert_eq!(version("QEMU emulator version 7.2.22 (Debian 1:7.2)\nCopyright"), "7.2.22");
        assert_eq!(version("QEMU emulator version 10.0.0\n"), "10.0.0");
    }

    #[test]
    fn kvm_needs_a_processor_that_says_so() {
        assert!(virtualises("processor: 0\nflags\t\t: fpu vmx sse\n"));
        assert!(virtualises("flags : svm\n"));
        assert!(!virtualises("flags : fpu svm_lock vmx_x\n"));
        assert!(!virtualises(""));
    }

    #[test]
    fn a_second_look_comes_from_the_cache_until_the_program_changes() {
        let dir = std::env::temp_dir().join(format!("kxl-qemu-cache-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let script = dir.join("qemu-x");
        let write = |version: &str| {
            let text = format!(
                "#!/bin/sh\ncase $1 in --version) echo QEMU emulator version {version};; \
                 *) echo list; echo 'pc  x (alias of pc-1)'; echo pc-1;; esac\necho $1 >> {}\n",
                dir.join("runs").display()
            );
            fs::write(&script, text).unwrap();
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let runs = || fs::read_to_string(dir.join("runs")).unwrap().lines().count();
        write("1.0");
        let first = Emulator::of(&script, &dir).unwrap();
        assert_eq!((first.version.as_str(), runs()), ("1.0", 2));
        assert_eq!(Emulator::of(&script, &dir).unwrap(), first);
        assert_eq!(runs(), 2, "no exec the second time");
        write("2.0.1");
        assert_eq!(Emulator::of(&script, &dir).unwrap().version, "2.0.1");
        fs::remove_dir_all(&dir).unwrap();
    }
}
