//! Doing something to files with the rights of the program's user instead of our own.
//!
//! The user may own the directories on the way to a file and put links there whenever it likes: no
//! look beforehand helps, only having no more rights than it has.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use kxl_backend::Result;
use kxl_backend::spawn::{Account, Attributes};
use kxl_domain::DomainConfig;

/// How long a file system may take: it may be one that the user itself serves.
const DEADLINE: Duration = Duration::from_secs(10);

/// Room for the calls of one file, not for more.
const STACK: usize = 128 << 10;

/// Whose rights.
#[derive(Clone, Debug)]
pub(super) struct Rights {
    whose: Whose,
    /// A thread is on its way, perhaps one that nobody waits for any longer.
    busy: Arc<AtomicBool>,
}

#[derive(Clone, Debug)]
enum Whose {
    Ours,
    Theirs(Account),
    /// The user is gone since the program was made; why.
    Nobodys(String),
}

impl Rights {
    /// The rights that the program of this configuration will have.
    ///
    /// # Errors
    /// [`kxl_backend::BackendError::Config`] for a user that we cannot become.
    pub(super) fn of(config: &DomainConfig) -> Result<Self> {
        Ok(Self::new(Attributes::of(config)?.user.map_or(Whose::Ours, Whose::Theirs)))
    }

    /// The same for a program that runs: where its user cannot be found any longer, nothing is
    /// allowed.
    pub(super) fn of_running(config: &DomainConfig) -> Self {
        Self::of(config).unwrap_or_else(|error| Self::new(Whose::Nobodys(error.to_string())))
    }

    fn new(whose: Whose) -> Self {
        Self { whose, busy: Arc::default() }
    }

    /// Our own rights.
    #[cfg(test)]
    pub(super) fn ours() -> Self {
        Self::new(Whose::Ours)
    }

    /// The user, where it is not ours.
    pub(super) fn user(&self) -> Option<&Account> {
        match &self.whose {
            Whose::Theirs(account) => Some(account),
            Whose::Ours | Whose::Nobodys(_) => None,
        }
    }

    /// Does something with these rights: another user's are taken on by a thread that lives no
    /// longer than that.
    ///
    /// # Errors
    /// Its own; when the rights cannot be had; `TimedOut` when it takes too long, and for as long
    /// as such a one has not come back.
    pub(super) fn with<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let account = match &self.whose {
            Whose::Ours => return act(),
            Whose::Theirs(account) => account.clone(),
            Whose::Nobodys(why) => {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why.clone()));
            }
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "its file system does not answer");
        if self.busy.swap(true, Ordering::Relaxed) {
            return Err(late());
        }
        let name = account.name.clone();
        let (busy, (tell, told)) = (Arc::clone(&self.busy), mpsc::sync_channel(1));
        let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || {
            let done = assume(&account).and_then(|()| act());
            busy.store(false, Ordering::Relaxed);
            let _nobody_waits = tell.send(done);
        });
        if let Err(error) = thread {
            self.busy.store(false, Ordering::Relaxed);
            return Err(error);
        }
        match told.recv_timeout(DEADLINE) {
            Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                let text = format!(
                    "{error}: the user \"{name}\" of the program may not; give it the file, or a \
                     directory of its own for it"
                );
                Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
            }
            Ok(done) => done,
            Err(RecvTimeoutError::Timeout) => Err(late()),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("a thread has panicked")),
        }
    }
}

/// The calls with room for every id; those without the ending are older there.
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
const CALLS: [libc::c_long; 3] =
    [libc::SYS_setgroups32, libc::SYS_setresgid32, libc::SYS_setresuid32];
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
const CALLS: [libc::c_long; 3] = [libc::SYS_setgroups, libc::SYS_setresgid, libc::SYS_setresuid];

/// Gives this thread alone the rights of a user, for good: the calls of the C library would
/// change every thread. Only the effective ids change (and with them those for files, and every
/// capability goes out of effect); by the real and the saved one it stays ours, so that the user
/// can neither signal nor trace it.
fn assume(account: &Account) -> io::Result<()> {
    let done = |rc: libc::c_long| if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let [setgroups, setresgid, setresuid] = CALLS;
    // SAFETY: the first call reads as many ids as it is told, the others take numbers; they change
    // the credentials of this thread, which runs nothing but what these are meant for.
    unsafe {
        done(libc::syscall(setgroups, account.groups.len(), account.groups.as_ptr()))?;
        done(libc::syscall(setresgid, libc::gid_t::MAX, account.gid, libc::gid_t::MAX))?;
        done(libc::syscall(setresuid, libc::uid_t::MAX, account.uid, libc::uid_t::MAX))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::testing::Scratch;

    /// The rights of nobody, and a directory of its own; `None` for others than root, who can take
    /// on no rights at all.
    pub(in super::super) fn nobody(scratch: &Scratch) -> Option<(Rights, std::path::PathBuf)> {
        let mut config = scratch.spec().config;
        config.process.user = Some("nobody".into());
        let rights = match Rights::of(&config) {
            Ok(rights) => rights,
            Err(error) => {
                assert!(!nix::unistd::geteuid().is_root(), "{error}");
                crate::testing::skip(&error.to_string());
                return None;
            }
        };
        let dir = scratch.0.join("theirs");
        fs::create_dir(&dir).unwrap();
        let user = rights.user().unwrap();
        std::os::unix::fs::chown(&dir, Some(user.uid), Some(user.gid)).unwrap();
        Some((rights, dir))
    }

    #[test]
    fn with_a_users_rights_only_what_is_that_users_can_be_had() {
        let scratch = Scratch::new("rights");
        let Some((rights, dir)) = nobody(&scratch) else { return };
        let ours = scratch.0.join("secret");
        fs::write(&ours, "secret").unwrap();
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o640)).unwrap();
        let path = ours.clone();
        let error = rights.with(move || fs::read(path)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("\"nobody\""), "{error}");
        let path = dir.join("file");
        let status = rights.with(move || {
            fs::write(path, "")?;
            fs::read_to_string("/proc/thread-self/status")
        });
        let status = status.unwrap();
        let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(line("CapEff").split_whitespace().nth(1), Some("0000000000000000"));
        let user = rights.user().unwrap();
        // Real, effective, saved, and that for files.
        assert_eq!(line("Uid"), format!("Uid:\t0\t{0}\t0\t{0}", user.uid));
        let groups: Vec<String> = user.groups.iter().map(u32::to_string).collect();
        assert_eq!(line("Groups").trim_end(), format!("Groups:\t{}", groups.join(" ")));
        assert_eq!(fs::metadata(dir.join("file")).unwrap().uid(), user.uid);
        assert_eq!(fs::read_to_string(ours).unwrap(), "secret", "this thread is as it was");
    }

    #[test]
    fn a_user_that_is_gone_has_no_rights_and_not_ours() {
        let mut config = Scratch::new("rights").spec().config;
        config.process.user = Some("nosuchuser".into());
        let error = Rights::of_running(&config).with(|| Ok(())).unwrap_err();
        assert!(error.to_string().contains("nosuchuser"), "{error}");
    }

    #[test]
    fn a_file_system_that_does_not_come_back_holds_up_nobody_twice() {
        let scratch = Scratch::new("rights");
        let Some((rights, _dir)) = nobody(&scratch) else { return };
        rights.busy.store(true, Ordering::Relaxed);
        assert_eq!(rights.with(|| Ok(())).unwrap_err().kind(), io::ErrorKind::TimedOut);
        rights.busy.store(false, Ordering::Relaxed);
        rights.with(|| Ok(())).unwrap();
        rights.with(|| Ok(())).unwrap();
    }
}
