//! Throw-away hosts: a `KXL_ROOT` each, under one directory that goes with this process.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kxl_backend::{Identity, Process};
use kxl_domain::DomainUuid;
use kxl_store::{Paths, ProcessRow, Store};
use nix::sys::signal::Signal;

use crate::args::Rounds;
use crate::error::BenchError;
use crate::run::{self, Run};

/// How many domains one command line names.
const CHUNK: usize = 50;

/// How long ended processes may take to let go of their directories.
const PATIENCE: Duration = Duration::from_secs(10);

/// What all figures share.
#[derive(Debug)]
pub(crate) struct Lab {
    /// How often to measure.
    pub(crate) rounds: Rounds,
    programs: PathBuf,
    top: PathBuf,
}

/// The guest that is started for real.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// Its kernel.
    pub(crate) kernel: PathBuf,
    /// Its first file system.
    pub(crate) ramdisk: PathBuf,
}

impl Guest {
    /// Its memory in MiB.
    pub(crate) const MEMORY: u32 = 160;
    /// Its kernel's command line.
    pub(crate) const CMDLINE: &str = "console=ttyS0 quiet";

    /// A configuration for it.
    pub(crate) fn config(&self) -> String {
        self.config_of("guest", Self::MEMORY, Self::CMDLINE)
    }

    /// The same with another name, another size (in MiB) and another command line.
    pub(crate) fn config_of(&self, name: &str, memory: u32, cmdline: &str) -> String {
        format!(
            "name = \"{name}\"\nbackend = \"qemu\"\narch = \"x86_64\"\ntype = \"pvh\"\n\
             memory = {memory}\nvcpus = 1\nkernel = \"{}\"\nramdisk = \"{}\"\ncmdline = \"{cmdline}\"\n",
            self.kernel.display(),
            self.ramdisk.display(),
        )
    }
}

impl Lab {
    /// Finds the programs and makes the directory.
    ///
    /// # Errors
    /// When a program is missing, naming the remedy.
    pub(crate) fn new(rounds: Rounds) -> Result<Self, BenchError> {
        let own = || std::env::current_exe().ok()?.parent().map(Path::to_owned);
        let programs = std::env::var_os("KXL_BUILT").map(PathBuf::from).or_else(own);
        // Relative to where make was called; domains are started from elsewhere.
        let programs = programs
            .and_then(|dir| dir.canonicalize().ok())
            .ok_or_else(|| BenchError::wrong("KXL_BUILT names no directory"))?;
        for program in ["kxl", "kxl-monitor", "kxl-mock"] {
            if !programs.join(program).is_file() {
                let text = format!("{program} is not in {}: make build", programs.display());
                return Err(BenchError::Wrong(text));
            }
        }
        let top = std::env::temp_dir().join(format!("kxl-bench-{}", std::process::id()));
        fs::create_dir(&top).map_err(BenchError::io(format!("make {}", top.display())))?;
        // Emulators run as another user when root starts them, and read their kernel here.
        fs::set_permissions(&top, fs::Permissions::from_mode(0o755))
            .map_err(BenchError::io("open the scratch directory to emulators"))?;
        Ok(Self { rounds, programs, top })
    }

    /// A program that was built beside the others, if it was.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let program = self.programs.join(name);
        program.is_file().then_some(program)
    }

    /// A new empty host.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub(crate) fn host(&self, name: &str) -> Result<Host, BenchError> {
        let root = self.dir(name)?;
        Ok(Host { programs: self.programs.clone(), paths: Paths::under(&root), root })
    }

    /// A new directory.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn dir(&self, name: &str) -> Result<PathBuf, BenchError> {
        let dir = self.top.join(name);
        fs::create_dir(&dir).map_err(BenchError::io(format!("make {}", dir.display())))?;
        Ok(dir)
    }

    /// The test guest that `make guest` builds, copied to where every user may read it; `None`
    /// with the reason where it is not built.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub(crate) fn guest(&self) -> Result<Result<Guest, String>, BenchError> {
        let names = ["vmlinuz", "initramfs.cpio.gz"];
        let built = Self::built().unwrap_or_default();
        if let Some(missing) = names.iter().find(|name| !built.join(name).is_file()) {
            return Ok(Err(format!("target/guest/{missing} is not built: make guest")));
        }
        let mut copies = self.copies(&names)?;
        let ramdisk = copies.pop().unwrap_or_default();
        Ok(Ok(Guest { kernel: copies.pop().unwrap_or_default(), ramdisk }))
    }

    /// Where `make guest` leaves what it builds, if it has built anything.
    pub(crate) fn built() -> Option<PathBuf> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest");
        dir.is_dir().then_some(dir)
    }

    /// Copies of files of the test guests.
    ///
    /// # Errors
    /// When one cannot be copied.
    pub(crate) fn copies(&self, names: &[&str]) -> Result<Vec<PathBuf>, BenchError> {
        let built =
            Self::built().ok_or_else(|| BenchError::wrong("no guest is built: make guest"))?;
        let copy = |name: &&str| {
            let from = built.join(name);
            // One directory for all: the architecture becomes part of the name.
            let to = self.top.join(name.replace('/', "-"));
            let attempt = format!("copy {}", from.display());
            fs::copy(&from, &to).map_err(BenchError::io(attempt))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o644))
                .map_err(BenchError::io("set a mode"))?;
            Ok(to)
        };
        names.iter().map(copy).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        remove(&self.top);
    }
}

/// One host. Its domains end with it.
#[derive(Debug)]
pub(crate) struct Host {
    /// Its `KXL_ROOT`.
    pub(crate) root: PathBuf,
    paths: Paths,
    programs: PathBuf,
}

impl Host {
    /// A command of this host.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(self.programs.join("kxl"));
        command.args(args).env("KXL_ROOT", &self.root).env("KXL_LIBEXEC", &self.programs);
        for name in ["KXL_FAULT", "KXL_BOOT_ID", "KXL_LOG"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs `kxl` to its end.
    ///
    /// # Errors
    /// When it does not succeed.
    pub(crate) fn kxl<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Run, BenchError> {
        run::timed(&mut self.command(args))
    }

    /// Writes a configuration beside the databases.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<PathBuf, BenchError> {
        let path = self.root.join(name);
        fs::write(&path, text).map_err(BenchError::io(format!("write {}", path.display())))?;
        Ok(path)
    }

    /// Puts a script among the hooks, whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn hook(&self, name: &str, script: &str) -> Result<(), BenchError> {
        let dir = self.paths.hooks_dir();
        let new = self.file("new-hook", script)?;
        let put = || {
            fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
            fs::create_dir_all(&dir)?;
            fs::rename(&new, dir.join(name))
        };
        put().map_err(BenchError::io(format!("write {}", dir.join(name).display())))
    }

    /// Its databases, read and written directly.
    ///
    /// # Errors
    /// When the boot id cannot be read.
    pub(crate) fn store(&self) -> Result<Store, BenchError> {
        Ok(Store::open(&self.paths)?)
    }

    /// Creates `count` transient domains called PREFIX1 and on, from a file, two at a time.
    ///
    /// # Errors
    /// The first failure.
    pub(crate) fn create_many(
        &self,
        file: &Path,
        prefix: &str,
        count: u32,
        more: &[&str],
    ) -> Result<(), BenchError> {
        let create = |first: u32| {
            (first..=count).step_by(2).try_for_each(|number| {
                let mut command = self.command(["create", "-q"]);
                command.args(more).arg(file).arg(format!("name=\"{prefix}{number}\""));
                run::timed(&mut command).map(drop)
            })
        };
        both(|| create(1), || create(2))
    }

    /// The emulator of a live domain.
    ///
    /// # Errors
    /// When there is no such domain, or it has none.
    pub(crate) fn emulator(&self, name: &str) -> Result<ProcessRow, BenchError> {
        let row = self.store()?.find(name)?;
        row.and_then(|row| row.process)
            .ok_or_else(|| BenchError::wrong(format!("{name} has no emulator")))
    }

    /// Ends every domain through `kxl`; what it leaves is killed.
    ///
    /// # Errors
    /// When something was left.
    pub(crate) fn clear(&self) -> Result<(), BenchError> {
        let rows = self.store()?.live_rows()?;
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        let (left, right) = names.split_at(names.len() / 2);
        let destroy = |names: &[&str]| {
            names.chunks(CHUNK).try_for_each(|chunk| {
                run::unchecked(self.command(["destroy"]).args(chunk)).map(drop)
            })
        };
        let ended = both(|| destroy(left), || destroy(right));
        let mut left = 0;
        for row in self.store()?.live_rows()? {
            left += 1;
            if let Some(process) = row.process {
                kill(&process);
            }
        }
        ended?;
        if left > 0 {
            return Err(BenchError::wrong(format!("{left} domains outlived their destroy")));
        }
        Ok(())
    }
}

impl Drop for Host {
    #[allow(clippy::print_stderr, reason = "an error on the way out has no other place")]
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("kxl-bench: {error}");
        }
        remove(&self.root);
    }
}

/// Runs both at once; the first failure of the two.
pub(crate) fn both(
    one: impl FnOnce() -> Result<(), BenchError> + Send,
    other: impl FnOnce() -> Result<(), BenchError> + Send,
) -> Result<(), BenchError> {
    std::thread::scope(|scope| {
        let second = scope.spawn(other);
        let first = one();
        let second = second.join().unwrap_or_else(|_| Err(BenchError::wrong("a thread panicked")));
        first.and(second)
    })
}

/// A uuid whose runtime directory no other number has.
pub(crate) fn uuid(number: u32) -> DomainUuid {
    format!("{number:08x}-0000-4000-8000-000000000000")
        .parse()
        .expect("eight hexadecimal digits and the rest of a version 4 uuid")
}

/// Ends a process by force, if it is still the one of the record.
fn kill(row: &ProcessRow) {
    let identity =
        Identity { pid: row.pid, start_time: row.start_time, boot_id: row.boot_id.clone() };
    if let Ok(process) = Process::open(identity) {
        // Gone in the meantime is as good.
        let _gone = process.signal(Signal::SIGKILL);
    }
}

/// Removes a tree, also while the last monitors leave it.
#[allow(clippy::print_stderr, reason = "an error on the way out has no other place")]
fn remove(dir: &Path) {
    let until = Instant::now() + PATIENCE;
    while let Err(error) = fs::remove_dir_all(dir) {
        if error.kind() == std::io::ErrorKind::NotFound {
            return;
        }
        if Instant::now() > until {
            eprintln!("kxl-bench: {} stays: {error}", dir.display());
            return;
        }
        // A monitor writes its last lines after the command that ended its domain has returned.
        std::thread::sleep(Duration::from_millis(20));
    }
}
