//! The one place that knows where everything is.
//!
//! | | root | `KXL_ROOT` | other users |
//! |---|---|---|---|
//! | config | `/etc/kxl` | `ROOT/etc/kxl` | `$XDG_CONFIG_HOME/kxl`, `~/.config/kxl` |
//! | state | `/var/lib/kxl` | `ROOT/var/lib/kxl` | `$XDG_STATE_HOME/kxl`, `~/.local/state/kxl` |
//! | logs | `/var/log/kxl` | `ROOT/var/log/kxl` | state `/log` |
//! | runtime | `/run/kxl` | `ROOT/run/kxl` | `$XDG_RUNTIME_DIR/kxl` |

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kxl_domain::{DomainName, DomainUuid, ImageId};

use crate::error::StoreError;

/// Where everything is. Making one touches nothing on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    conf: PathBuf,
    state: PathBuf,
    log: PathBuf,
    run: PathBuf,
    /// Mode of directories made on the way to ours.
    parents: u32,
    /// Settings in another file than that of the place.
    settings: Option<PathBuf>,
}

impl Paths {
    /// The places of this process: by `KXL_ROOT`, else by its user.
    ///
    /// # Errors
    /// `Place`, saying what to set: `KXL_ROOT` is not an absolute path, or a user other than root
    /// has no `XDG_RUNTIME_DIR` or `HOME`.
    pub fn from_env() -> Result<Self, StoreError> {
        let root = nix::unistd::geteuid().is_root();
        Self::resolve(|name| std::env::var_os(name), root)
    }

    /// The tree under a root of its own, as `KXL_ROOT` makes it. `root` has to be absolute.
    #[must_use]
    pub fn under(root: &Path) -> Self {
        Self {
            conf: root.join("etc/kxl"),
            state: root.join("var/lib/kxl"),
            log: root.join("var/log/kxl"),
            run: root.join("run/kxl"),
            parents: 0o755,
            settings: None,
        }
    }

    pub(crate) fn resolve(
        env: impl Fn(&str) -> Option<OsString>,
        root: bool,
    ) -> Result<Self, StoreError> {
        let settings = env("KXL_CONF").map(PathBuf::from);
        if let Some(file) = settings.as_ref().filter(|file| !file.is_absolute()) {
            let problem = format!(
                "KXL_CONF is \"{}\"; set it to the absolute path of a file or unset it",
                file.display()
            );
            return Err(StoreError::Place { problem });
        }
        Ok(Self { settings, ..Self::places(env, root)? })
    }

    fn places(env: impl Fn(&str) -> Option<OsString>, root: bool) -> Result<Self, StoreError> {
        // An empty KXL_ROOT is a mistake of a script: taking it for "not set" would let a test
        // act on the real host.
        if let Some(tree) = env("KXL_ROOT") {
            let tree = PathBuf::from(tree);
            if !tree.is_absolute() {
                let problem = format!(
                    "KXL_ROOT is \"{}\"; set it to an absolute path or unset it",
                    tree.display()
                );
                return Err(StoreError::Place { problem });
            }
            return Ok(Self::under(&tree));
        }
        if root {
            return Ok(Self::under(Path::new("/")));
        }
        // The XDG rules: a path that is empty or not absolute counts as not set.
        let dir = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = |name, rest: &str| {
            dir(name).or_else(|| dir("HOME").map(|home| home.join(rest))).ok_or_else(|| {
                StoreError::Place { problem: format!("neither {name} nor HOME is set; set HOME") }
            })
        };
        let state = home("XDG_STATE_HOME", ".local/state")?.join("kxl");
        let run = dir("XDG_RUNTIME_DIR").ok_or_else(|| StoreError::Place {
            problem: "XDG_RUNTIME_DIR is not set; log in through pam_systemd, or set it to a \
                      directory of yours that is emptied at boot, or set KXL_ROOT"
                .into(),
        })?;
        Ok(Self {
            conf: home("XDG_CONFIG_HOME", ".config")?.join("kxl"),
            log: state.join("log"),
            state,
            run: run.join("kxl"),
            parents: 0o700,
            settings: None,
        })
    }

    /// The host's settings: the file that `KXL_CONF` names, else `kxl.conf`.
    #[must_use]
    pub fn conf_file(&self) -> PathBuf {
        self.settings.clone().unwrap_or_else(|| self.conf.join("kxl.conf"))
    }

    /// The list of the host's interfaces that emulators may have.
    #[must_use]
    pub fn nics_file(&self) -> PathBuf {
        self.conf.join("nics")
    }

    /// The common stop script.
    #[must_use]
    pub fn stop_script(&self) -> PathBuf {
        self.conf.join("stop-script")
    }

    /// Which domain each user of this host means by naming none, a file for each.
    #[must_use]
    pub fn default_domains(&self) -> PathBuf {
        self.state.join("default-domains")
    }

    /// The socket of the gate: beside the runtime directory, through which others may not pass.
    #[must_use]
    pub fn gate_socket(&self) -> PathBuf {
        self.run.with_file_name("kxl-gate").join("gate.sock")
    }

    /// The lines that were typed in `kxl shell`.
    #[must_use]
    pub fn shell_history(&self) -> PathBuf {
        self.state.join("shell.history")
    }

    /// The administrator's own profiles.
    #[must_use]
    pub fn profile_dir(&self) -> PathBuf {
        self.conf.join("profiles")
    }

    /// The programs that are told of events.
    #[must_use]
    pub fn hooks_dir(&self) -> PathBuf {
        self.conf.join("hooks.d")
    }

    /// The lock of the one process that tells hooks of events.
    #[must_use]
    pub fn hooks_lock(&self) -> PathBuf {
        self.state.join("hooks.lock")
    }

    /// Configurations of domains that are created when the host starts.
    #[must_use]
    pub fn auto_dir(&self) -> PathBuf {
        self.conf.join("auto")
    }

    /// What host maintenance has to bring back.
    #[must_use]
    pub fn maintenance_journal(&self) -> PathBuf {
        self.state.join("maintenance.json")
    }

    /// The lock of the one command that empties or fills this host.
    #[must_use]
    pub fn maintenance_lock(&self) -> PathBuf {
        self.state.join("maintenance.lock")
    }

    /// What was started in this boot because the host was started.
    #[must_use]
    pub fn boot_notes(&self) -> PathBuf {
        self.run.join("started.json")
    }

    /// What outlives a boot.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// What can be made again, such as the probed abilities of emulators.
    #[must_use]
    pub fn cache_dir(&self) -> PathBuf {
        self.state.join("cache")
    }

    /// The managed store of images.
    #[must_use]
    pub fn image_store(&self) -> PathBuf {
        self.state.join("images")
    }

    /// An image in the store; there only when it is complete.
    #[must_use]
    pub fn image_dir(&self, image: ImageId) -> PathBuf {
        self.image_store().join(image.to_string())
    }

    /// Managed domains.
    #[must_use]
    pub fn registry_db(&self) -> PathBuf {
        self.state.join("registry.db")
    }

    /// Live domains.
    #[must_use]
    pub fn live_db(&self) -> PathBuf {
        self.run.join("live.db")
    }

    /// The boot that the live domains are of.
    #[must_use]
    pub fn live_boot(&self) -> PathBuf {
        self.run.join("live.boot")
    }

    /// Events.
    #[must_use]
    pub fn events_db(&self) -> PathBuf {
        self.state.join("events.db")
    }

    /// The lock under which names are claimed.
    #[must_use]
    pub fn names_lock(&self) -> PathBuf {
        self.state.join("names.lock")
    }

    /// Logs.
    #[must_use]
    pub fn log_dir(&self) -> &Path {
        &self.log
    }

    /// What the emulator of a domain printed.
    #[must_use]
    pub fn emulator_log(&self, name: &DomainName) -> PathBuf {
        self.log.join(format!("{name}.emulator.log"))
    }

    /// What the guest printed on its console.
    #[must_use]
    pub fn console_log(&self, name: &DomainName) -> PathBuf {
        self.log.join(format!("{name}.console.log"))
    }

    /// What the monitor of a domain has to say.
    #[must_use]
    pub fn monitor_log(&self, name: &DomainName) -> PathBuf {
        self.log.join(format!("{name}.monitor.log"))
    }

    /// What is gone at boot.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// The runtime directory of a domain; the first eight hex digits of its uuid.
    #[must_use]
    pub fn rundir(&self, uuid: DomainUuid) -> PathBuf {
        self.run.join(uuid.short())
    }

    /// The file of the domain lock.
    #[must_use]
    pub fn lock_file(&self, uuid: DomainUuid) -> PathBuf {
        self.rundir(uuid).join("lock")
    }

    /// The socket of the domain's monitor.
    #[must_use]
    pub fn control_socket(&self, uuid: DomainUuid) -> PathBuf {
        self.rundir(uuid).join("control.sock")
    }

    /// Links to runtime directories by domid.
    #[must_use]
    pub fn by_id(&self) -> PathBuf {
        self.run.join("by-id")
    }

    /// Links to runtime directories by name.
    #[must_use]
    pub fn by_name(&self) -> PathBuf {
        self.run.join("by-name")
    }

    /// The directories kept private: made by [`prepare`](Self::prepare), looked at by both.
    fn private(&self) -> [PathBuf; 7] {
        let (cache, images) = (self.cache_dir(), self.image_store());
        let (state, log, run) = (self.state.clone(), self.log.clone(), self.run.clone());
        [state, cache, images, log, run, self.by_id(), self.by_name()]
    }

    /// Makes what is missing, mode 0700 whatever the umask, and checks what is there. One stat(2)
    /// for each directory when all exist.
    ///
    /// # Errors
    /// `Unsafe` naming a directory that belongs to somebody else, that others may write, or that
    /// is none; `Io` or `NoSpace` when one cannot be made.
    pub fn prepare(&self) -> Result<(), StoreError> {
        self.private().iter().try_for_each(|dir| {
            if !is_private(dir)? {
                self.make(dir)?;
            }
            Ok(())
        })
    }

    /// Checks like [`prepare`](Self::prepare), and makes nothing.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self) -> Result<(), StoreError> {
        self.private().iter().try_for_each(|dir| is_private(dir).map(drop))
    }

    pub(crate) fn make(&self, dir: &Path) -> Result<(), StoreError> {
        if let Some(parent) = dir.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(self.parents)
                .create(parent)
                .map_err(|error| StoreError::io("make the directory", parent, error))?;
        }
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            // The umask can take bits away from the mode of a new directory.
            Ok(()) => match fs::set_permissions(dir, fs::Permissions::from_mode(0o700)) {
                // Removed by another process already: whoever needs it looks again.
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(StoreError::io("set the mode of", dir, error))
                }
                _ => Ok(()),
            },
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                is_private(dir).map(drop) // another process was faster
            }
            Err(error) => Err(StoreError::io("make the directory", dir, error)),
        }
    }
}

/// Whether the directory is there; refuses one that is not ours alone to write.
pub(crate) fn is_private(dir: &Path) -> Result<bool, StoreError> {
    let meta = match fs::metadata(dir) {
        Ok(meta) => meta,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StoreError::io("look at the directory", dir, error)),
    };
    let refuse = |problem: String| Err(StoreError::Unsafe { path: dir.to_path_buf(), problem });
    let user = nix::unistd::geteuid().as_raw();
    if !meta.is_dir() {
        refuse("is not a directory; move it away".into())
    } else if meta.uid() != user {
        refuse(format!(
            "belongs to uid {} and not to uid {user}; chown it, or move it away",
            meta.uid()
        ))
    } else if meta.mode() & 0o022 != 0 {
        refuse(format!("can be written by others (mode {:o}); chmod 0700 it", meta.mode() & 0o7777))
    } else {
        Ok(true)
    }
}

pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(StoreError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// Opens a file of ours for reading and writing, made with mode 0600 if it is missing; never
/// through a symbolic link.
pub(crate) fn open_private(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(path)
}
