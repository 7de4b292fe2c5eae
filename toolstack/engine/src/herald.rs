//! Starting the process that tells hooks of events, after events were recorded.
//!
//! ```text
//!   Store: events committed ──► wake: hooks or mail? ─no─► done
//!                                  │ yes: is the lock held? ─yes─► its holder looks again: done
//!                                  └─no─► kxl-hooks, detached: takes the lock, tells, lets go, looks again
//! ```
//! No event is lost between two of them: an event is committed before the lock is looked at, and
//! who lets go of the lock looks at the events after that. The lock is one of the open file
//! description (`F_OFD_SETLK`), because such a lock can be looked at without taking it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use kxl_backend::Process;
use kxl_backend::spawn::{Command, spawn};
use kxl_domain::{Failure, Kind};
use kxl_store::{Paths, Severity};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use crate::conf::Conf;
use crate::handover::ENV;
use crate::hooks;
use crate::telling::Telling;

/// The name of the program, which is kxl by another name.
pub const PROGRAM: &str = "kxl-hooks";

/// The word by which kxl is told to be that program, where the name is not installed.
pub const WORD: &str = "run-hooks";

/// Who has hooks told.
#[derive(Debug)]
pub(crate) struct Herald {
    paths: Paths,
    /// Whether mail is sent, as far as is known.
    mail: AtomicBool,
    /// Where kxl's programs are, looked up when they are still where this one came from.
    places: Vec<PathBuf>,
}

impl Herald {
    pub(crate) fn new(paths: &Paths, telling: &Telling) -> Self {
        let exe = std::env::current_exe().ok().and_then(|exe| exe.canonicalize().ok());
        let own =
            exe.as_deref().and_then(Path::parent).into_iter().flat_map(|dir| {
                [dir.to_path_buf(), dir.join("../libexec/kxl"), dir.join("../../bin")]
            });
        let places = std::env::var_os("KXL_LIBEXEC").map(PathBuf::from).into_iter().chain(own);
        Self {
            paths: paths.clone(),
            mail: AtomicBool::new(!telling.mail_to.is_empty()),
            places: places.collect(),
        }
    }

    /// Starts the runner if it has something to do after an event of this severity, or after any
    /// (`None`), and is not at work already. A failure is logged: nothing hangs on it.
    pub(crate) fn wake(&self, severity: Option<Severity>) {
        let mail = severity.is_none_or(|severity| severity == Severity::Alert) && self.mails();
        if !mail && !hooks::any(&self.paths.hooks_dir(), severity) {
            return;
        }
        if matches!(is_held(&self.paths.hooks_lock()), Ok(true)) {
            return;
        }
        if let Err(error) = self.start() {
            tracing::warn!(%error, "hooks are not told of events now");
        }
    }

    /// Whether mail is sent: a monitor lives for longer than kxl.conf stays the same. One with a
    /// mistake in it counts as it was.
    fn mails(&self) -> bool {
        match Conf::telling(&self.paths) {
            Ok(telling) => self.mail.store(!telling.mail_to.is_empty(), Ordering::Relaxed),
            Err(failure) => tracing::warn!(%failure, "whether mail is sent is as it was"),
        }
        self.mail.load(Ordering::Relaxed)
    }

    fn start(&self) -> io::Result<()> {
        let (program, word) = self.program()?;
        let null: OwnedFd = File::options().read(true).write(true).open("/dev/null")?.into();
        let mut command = Command::new(&program)?;
        if let Some(word) = word {
            command.arg(word)?;
        }
        // In a session of its own, with nothing of ours: a script that waits for the end of a
        // command's output must not wait for hooks.
        command.fd(null.try_clone()?, 0).fd(null.try_clone()?, 1).fd(null, 2);
        command.clear_env();
        for key in ENV {
            if let Some(value) = std::env::var_os(key) {
                let mut entry = std::ffi::OsString::from(key);
                entry.push("=");
                entry.push(value);
                command.env(entry)?;
            }
        }
        reap(spawn(command)?.open()?);
        Ok(())
    }

    fn program(&self) -> io::Result<(PathBuf, Option<&'static str>)> {
        let look = |name| self.places.iter().map(|dir| dir.join(name)).find(|path| path.is_file());
        let by_name = look(PROGRAM).map(|path| (path, None));
        by_name.or_else(|| look("kxl").map(|path| (path, Some(WORD)))).ok_or_else(|| {
            let places: Vec<_> = self.places.iter().map(|dir| dir.display().to_string()).collect();
            let text = format!("neither {PROGRAM} nor kxl is in {}", places.join(", "));
            io::Error::new(io::ErrorKind::NotFound, text)
        })
    }
}

/// Waits for the end of a runner on a thread, which ends with it or with this process: a monitor
/// would keep its remains for as long as its domain lives.
fn reap(process: Process) {
    let wait = move || {
        let _reaped = waitid(Id::PIDFd(process.pidfd()), WaitPidFlag::WEXITED);
    };
    let thread = std::thread::Builder::new().name("hooks".into()).stack_size(64 * 1024);
    if let Err(error) = thread.spawn(wait) {
        tracing::debug!(%error, "the remains of a runner stay until this process ends");
    }
}

/// A lock of this kind on the whole file.
fn whole(kind: i32) -> libc::flock {
    let short = |number: i32| libc::c_short::try_from(number).unwrap_or_default();
    libc::flock {
        l_type: short(kind),
        l_whence: short(libc::SEEK_SET),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Whether somebody holds the lock; looking does not take it.
fn is_held(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut lock = whole(libc::F_WRLCK);
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// The right to tell hooks of events; given back when dropped, or by the death of its holder.
#[derive(Debug)]
pub struct HooksLock {
    file: File,
}

impl HooksLock {
    /// Takes the lock, if nobody holds it.
    ///
    /// # Errors
    /// [`Kind::Failed`] when the file cannot be made or locked.
    pub fn try_take(paths: &Paths) -> Result<Option<Self>, Failure> {
        let path = paths.hooks_lock();
        let failed = |error: io::Error| {
            Failure::because(Kind::Failed, format!("cannot lock {}", path.display()), &error)
        };
        paths.prepare().map_err(|error| crate::host::stored("cannot tell hooks", &error))?;
        let file = open(&path).map_err(failed)?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK))) {
            Ok(_) => Ok(Some(Self { file })),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
}

impl Drop for HooksLock {
    /// Unlocked, not merely closed: a child that was just forked may hold a copy.
    fn drop(&mut self) {
        if let Err(error) = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&whole(libc::F_UNLCK))) {
            tracing::warn!(%error, "cannot unlock; the lock ends with this process");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_sent_mail_is_looked_up_when_there_is_something_to_send() {
        let root = std::env::temp_dir().join(format!("kxl-herald-mail-{}", std::process::id()));
        let paths = Paths::under(&root);
        let conf = |text: &str| {
            std::fs::create_dir_all(paths.conf_file().parent().unwrap()).unwrap();
            std::fs::write(paths.conf_file(), text).unwrap();
        };
        let herald = Herald::new(&paths, &Telling::default());
        assert!(!herald.mails(), "there is no kxl.conf");
        conf("alert_mail = \"root\"\n");
        assert!(herald.mails());
        conf("alert_mail = \"root\"\nno_such_key = 1\n");
        assert!(herald.mails(), "a mistake turns nothing off");
        conf("");
        assert!(!herald.mails());
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_lock_is_seen_without_being_taken_and_taken_by_one() {
        let root = std::env::temp_dir().join(format!("kxl-herald-{}", std::process::id()));
        let paths = Paths::under(&root);
        assert!(!is_held(&paths.hooks_lock()).unwrap(), "there is no such file");
        let lock = HooksLock::try_take(&paths).unwrap().unwrap();
        assert!(is_held(&paths.hooks_lock()).unwrap());
        assert!(HooksLock::try_take(&paths).unwrap().is_none());
        drop(lock);
        assert!(!is_held(&paths.hooks_lock()).unwrap());
        assert!(HooksLock::try_take(&paths).unwrap().is_some());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
