//! What a child takes on before it becomes the program: priority, limits, user, rights, directory.

use std::ffi::CString;
use std::io;

use thiserror::Error;

/// What a program runs with, resolved against this host; nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// The user to become.
    pub user: Option<Account>,
    /// Nice value.
    pub nice: Option<i8>,
    /// Number of a limit, soft and hard value; `u64::MAX` is unlimited.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// Numbers of the capabilities that are kept by another user than root.
    pub capabilities: Vec<u32>,
    /// Mode bits that new files do not get.
    pub umask: Option<u16>,
    /// Where it runs.
    pub directory: Option<CString>,
}

/// A user of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Id of its own group.
    pub gid: u32,
    /// All its groups.
    pub groups: Vec<u32>,
    /// Its home.
    pub home: std::path::PathBuf,
}

/// A key that the system did not let the child carry out.
#[derive(Debug, Error)]
#[error("{key}: {source}")]
pub struct Refused {
    /// The configuration key.
    pub key: &'static str,
    /// The system's error.
    pub source: io::Error,
}

/// The steps that can fail, in the order of their numbers; the first is exec itself.
const KEYS: [&str; 6] = ["exec", "nice", "rlimits", "user", "capabilities", "directory"];

/// The number of a step in what the child says.
pub(super) type Step = u8;

/// The error that a child has told.
pub(super) fn told(errno: i32, step: Step) -> io::Error {
    let source = io::Error::from_raw_os_error(errno);
    match KEYS.get(usize::from(step)) {
        None | Some(&"exec") => source,
        Some(key) => io::Error::new(source.kind(), Refused { key, source }),
    }
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION: u32 = 0x2008_0522;

/// What the child needs, laid out before the fork.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The nice value as text, for the group that the scheduler makes of a session.
    autogroup: Option<CString>,
}

impl Prepared {
    pub(super) fn new(attributes: &Attributes) -> Self {
        let text = attributes.nice.and_then(|nice| CString::new(nice.to_string()).ok());
        Self { autogroup: text }
    }

    /// Takes everything on, the user last but for what that user has to be able to do.
    ///
    /// # Errors
    /// The step at which errno was set.
    ///
    /// # Safety
    /// Only in a freshly forked child: system calls on prepared memory.
    pub(super) unsafe fn take_on(&self, own: &Attributes) -> Result<(), Step> {
        let done = |step: Step, rc: libc::c_int| if rc < 0 { Err(step) } else { Ok(()) };
        // SAFETY: system calls on constants and on memory that outlives the exec.
        unsafe {
            if let Some(nice) = own.nice {
                done(1, libc::setpriority(libc::PRIO_PROCESS, 0, nice.into()))?;
                self.session();
            }
            for (resource, soft, hard) in &own.rlimits {
                let both = libc::rlimit { rlim_cur: *soft, rlim_max: *hard };
                done(2, libc::setrlimit(*resource as _, &raw const both))?;
            }
            if let Some(who) = &own.user {
                let keep = libc::c_ulong::from(!own.capabilities.is_empty());
                done(4, libc::prctl(libc::PR_SET_KEEPCAPS, keep, 0, 0, 0))?;
                done(3, libc::setgroups(who.groups.len(), who.groups.as_ptr()))?;
                done(3, libc::setgid(who.gid))?;
                done(3, libc::setuid(who.uid))?;
                done(4, keep_only(&own.capabilities))?;
            }
            if let Some(mask) = own.umask {
                libc::umask(mask.into());
            }
            if let Some(directory) = &own.directory {
                done(5, libc::chdir(directory.as_ptr()))?;
            }
        }
        Ok(())
    }

    /// Gives the session the same weight: where the scheduler groups by session, a nice value
    /// counts inside of it only. Best effort: a kernel may have no such groups.
    unsafe fn session(&self) {
        let Some(text) = &self.autogroup else { return };
        let flags = libc::O_WRONLY | libc::O_CLOEXEC;
        // SAFETY: a constant path and a prepared text.
        unsafe {
            let fd = libc::open(c"/proc/self/autogroup".as_ptr(), flags);
            if fd >= 0 {
                libc::write(fd, text.as_ptr().cast(), text.as_bytes().len());
                libc::close(fd);
            }
        }
    }
}

/// Keeps these capabilities of those permitted, also through exec.
unsafe fn keep_only(numbers: &[u32]) -> libc::c_int {
    if numbers.is_empty() {
        return 0;
    }
    let mut sets = [Sets { effective: 0, permitted: 0, inheritable: 0 }; 2];
    for number in numbers {
        let (word, bit) = ((number / 32) as usize, 1 << (number % 32));
        if let Some(set) = sets.get_mut(word) {
            *set = Sets {
                effective: set.effective | bit,
                permitted: set.permitted | bit,
                inheritable: set.inheritable | bit,
            };
        }
    }
    let header = Header { version: VERSION, pid: 0 };
    // SAFETY: the kernel reads both structures, which are of the version told.
    unsafe {
        if libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) < 0 {
            return -1;
        }
        let raise = libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong;
        for number in numbers {
            let number = libc::c_ulong::from(*number);
            if libc::prctl(libc::PR_CAP_AMBIENT, raise, number, 0, 0) < 0 {
                return -1;
            }
        }
    }
    0
}
